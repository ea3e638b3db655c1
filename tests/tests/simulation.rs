//! The flow-control core in simulated time: real senders and a real server on
//! simulated hosts, links and clocks, hundreds of seeds, each with cameras,
//! delays and faults of its own. The laws are checked at every step.
//!
//! `FLATFRAME_SEED=n` replays one seed, `FLATFRAME_SEEDS=n` runs so many.

#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/flooder.rs"]
mod flooder;
#[path = "simulation/laws.rs"]
mod laws;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/scenario.rs"]
mod scenario;
#[path = "simulation/sender.rs"]
mod sender;
#[path = "simulation/server.rs"]
mod server;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use flatframe_shared::outcome::{DropReason, Outcome};
use run::{Replay, run};
use scenario::Scenario;

/// Seeds of a run that does not say how many.
const SEEDS: u64 = 200;
/// With so many seeds, everything that is common has happened.
const SEEDS_FOR_ALL: u64 = 200;
/// Failures after which no more seeds are begun.
const ENOUGH_FAILURES: usize = 5;

#[test]
fn every_law_holds_for_every_seed() {
    run::count_panics();
    if let Some(seed) = number("FLATFRAME_SEED") {
        println!("{:#?}", Scenario::draw(seed));
        let replay = run(seed).unwrap_or_else(|broken| panic!("{}", failure(seed, &broken)));
        return println!("{replay:#?}");
    }
    let seeds = number("FLATFRAME_SEEDS").unwrap_or(SEEDS);
    let (next, failures, total) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Replay::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds || failures.lock().expect("no panic").len() >= ENOUGH_FAILURES {
                        return;
                    }
                    match run(seed) {
                        Ok(replay) => add(&mut total.lock().expect("no panic"), &replay),
                        Err(broken) => {
                            let failure = failure(seed, &broken);
                            // Told at once: the other seeds may take long.
                            eprintln!("{failure}");
                            failures.lock().expect("no panic").push(failure);
                        }
                    }
                }
            });
        }
    });
    let (failures, total) = (failures.into_inner().expect("no panic"), total.into_inner().expect("no panic"));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{seeds} seeds: {total:#?}");
    if seeds >= SEEDS_FOR_ALL {
        assert_everything_happened(&total);
    }
}

/// The same seed, the same counters at every step.
#[test]
fn a_seed_replays_exactly() {
    // Apart from the others: two runs on one thread, and one on another.
    for seed in [1, 2, 3] {
        let first = run(seed).expect("holds");
        let again = std::thread::spawn(move || run(seed)).join().expect("no panic").expect("holds");
        assert_eq!(first, again, "seed {seed}");
        assert_eq!(first, run(seed).expect("holds"), "seed {seed}");
        assert!(first.captured > 0 && first.answered[Outcome::Analyzed.index()] > 0, "{first:?}");
    }
    assert_ne!(run(1), run(2), "seeds differ");
}

/// 1,000 cameras and 20 replicas: a power cut, a lost zone, a rolling update.
#[test]
fn a_fleet_finds_its_way() {
    run::count_panics();
    let seed = number("FLATFRAME_SEED").unwrap_or(1);
    fleet::run(seed).unwrap_or_else(|broken| panic!("{}", failure(seed, &broken)));
}

/// A simulation in which nothing is dropped, lost or answered late shows
/// nothing. `shed` is not asked for: credits leave hardly a frame to shed.
fn assert_everything_happened(total: &Replay) {
    for reason in [DropReason::Superseded, DropReason::Paced, DropReason::Offline, DropReason::Shutdown] {
        assert!(total.dropped[reason.index()] > 0, "nothing was dropped as {reason}: {total:?}");
    }
    for outcome in [Outcome::Analyzed, Outcome::Expired, Outcome::Failed, Outcome::Draining] {
        assert!(total.answered[outcome.index()] > 0, "nothing was answered {outcome}: {total:?}");
    }
    assert!(total.lost > 0, "nothing was lost: {total:?}");
}

fn add(total: &mut Replay, replay: &Replay) {
    total.steps += replay.steps;
    total.captured += replay.captured;
    total.sent += replay.sent;
    total.lost += replay.lost;
    total.recovery = Duration::max(total.recovery, replay.recovery);
    total.dropped.iter_mut().zip(replay.dropped).for_each(|(sum, count)| *sum += count);
    total.answered.iter_mut().zip(replay.answered).for_each(|(sum, count)| *sum += count);
}

fn failure(seed: u64, broken: &str) -> String {
    format!("FLATFRAME_SEED={seed} cargo test --workspace --test simulation\n    {broken}")
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text:?}: use a whole number")))
}
