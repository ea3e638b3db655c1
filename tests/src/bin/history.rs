//! How large and how quick the history is: writes days of one camera through
//! the real writer as fast as it goes, with simulated times, then asks for
//! counts over all of it and for results of minutes at random.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use e2e::arguments;
use flatframe_shared::budget::Bytes as Shown;
use flatframe_shared::frame::CameraId;
use flatframe_shared::process;
use inference_service::history::{
    self, Change, CountQuery, History, HistorySettings, Record, ResultQuery, Surroundings,
};
use serde_json::json;

/// A Monday in 2026, 0:00 UTC, ms since the Unix epoch.
const START_MS: i64 = 1_790_553_600_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes days of history and measures what it takes to keep and to ask.
#[derive(Parser)]
struct Args {
    /// Days of results.
    #[arg(long, default_value_t = 30)]
    days: i64,
    /// Results each second.
    #[arg(long, default_value_t = 5)]
    per_second: i64,
    /// Cameras that share them.
    #[arg(long, default_value_t = 1)]
    cameras: usize,
    /// Bound of the store, MiB.
    #[arg(long, default_value_t = 2048)]
    max_mib: u64,
    /// Questions of each kind.
    #[arg(long, default_value_t = 200)]
    questions: usize,
    /// Folder of the store; without it a temporary one.
    #[arg(long)]
    folder: Option<std::path::PathBuf>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("history: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.days > 0 && args.per_second > 0 && args.cameras > 0 && args.questions > 0, "0 measures nothing");
    let folder = match &args.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let settings = HistorySettings {
        max_bytes: args.max_mib << 20,
        max_age_results: Duration::from_secs(86_400 * (args.days as u64 + 1)),
        min_free_bytes: 0,
        max_waiting_records: 40_000,
        ..HistorySettings::new(folder.path().join("history.sqlite"))
    };
    let now_ms = Arc::new(AtomicI64::new(START_MS));
    let now = Arc::clone(&now_ms);
    let surroundings = Surroundings { now_unix_ms: Arc::new(move || now.load(Relaxed)), ..Surroundings::default() };
    let (store, writer) = History::open_in(settings.clone(), surroundings)?;
    let cameras = (0..args.cameras)
        .map(|number| CameraId::parse(&format!("cam-{number}")).context("a camera id"))
        .collect::<anyhow::Result<Vec<_>>>()?;

    let (mut random, start, mut body_bytes, mut largest) = (Random(7), Instant::now(), 0, 0);
    let (mut results, end_s) = (0_u64, args.days * 86_400);
    for second in 0..end_s {
        let at_unix_s = START_MS / 1000 + second;
        now_ms.store(at_unix_s * 1000, Relaxed);
        for number in 0..args.per_second {
            let camera = cameras[results as usize % cameras.len()].clone();
            let body = body(&mut random);
            body_bytes += body.len() as u64;
            let at_unix_ms = at_unix_s * 1000 + number * 1000 / args.per_second;
            offer(&store, Record::Result { camera, at_unix_ms, position: results, late_us: None, body })?;
            results += 1;
        }
        // As a service would: coverage each ten seconds, a visit now and then.
        if second % 10 == 9 {
            for camera in &cameras {
                let (from_unix_s, to_unix_s) = (at_unix_s - 9, at_unix_s + 1);
                offer(&store, Record::Covered { camera: camera.clone(), from_unix_s, to_unix_s })?;
            }
        }
        if random.below(30) == 0 {
            let camera = cameras[random.below(cameras.len() as u64) as usize].clone();
            let (female, male) = ((second % 2) as i32, ((second + 1) % 2) as i32);
            let change = Change { female, male, unknown: 0 };
            offer(&store, Record::Count { camera, at_unix_s, counter: "visits".into(), change })?;
        }
        if second % 3600 == 0 {
            largest = largest.max(store.state().bytes);
        }
    }
    ensure!(store.flush(PATIENCE), "the writer stands still");
    let took = start.elapsed().as_secs_f64();
    let state = store.state();
    largest = largest.max(state.bytes);
    ensure!(largest <= settings.max_bytes, "{largest} bytes exceed the bound");
    let rows_per_second = results as f64 / took;
    // A bound that was reached says what fits into it.
    let rows = results - state.pruned_rows.min(results - 1);
    let row_bytes = state.bytes as f64 / rows as f64;
    println!(
        "{results} results ({:.0} B each) in {took:.1} s: {rows_per_second:.0}/s, {} commits, {} rows pruned",
        body_bytes as f64 / results as f64,
        state.commits,
        state.pruned_rows
    );
    println!("store {} of {}, {row_bytes:.1} B per row", Shown(largest), Shown(settings.max_bytes));

    let mut measured = json!({});
    for (name, bucket_s) in [("days", 86_400), ("hours", 3600), ("five_minutes", 300)] {
        measured[name] = measure(name, args.questions, || {
            let query = CountQuery {
                cameras: &cameras,
                counters: &[],
                from_unix_s: START_MS / 1000,
                to_unix_s: START_MS / 1000 + end_s,
                bucket_s,
            };
            Ok(store.query_counts(&query, Instant::now() + PATIENCE)?.buckets.len())
        })?;
    }
    measured["minute_of_results"] = measure("one minute of results", args.questions, || {
        let from_unix_ms = START_MS + random.below((end_s - 60).max(1) as u64) as i64 * 1000;
        let query = ResultQuery {
            camera: &cameras[random.below(cameras.len() as u64) as usize],
            from_unix_ms,
            to_unix_ms: from_unix_ms + 60_000,
            after: None,
            limit: 10_000,
            max_bytes: 4 << 20,
        };
        Ok(store.query_results(&query, Instant::now() + PATIENCE)?.results.len())
    })?;
    ensure!(writer.close(PATIENCE), "the writer does not end");
    drop(store);
    let reopen = Instant::now();
    let opened = History::open_in(
        settings.clone(),
        Surroundings { now_unix_ms: Arc::new(move || now_ms.load(Relaxed)), ..Surroundings::default() },
    )?;
    let reopen_ms = reopen.elapsed().as_secs_f64() * 1e3;
    drop(opened);
    let peak = process::current_use().rss_peak_bytes.context("/proc cannot be read")?;
    let bound = history::max_memory_bytes(&settings);
    println!("opened again in {reopen_ms:.1} ms; RSS peak {}, bound of the store {}", Shown(peak), Shown(bound));
    if args.json {
        let report = json!({
            "results": results, "seconds": took, "rows_per_second": rows_per_second, "store_bytes": largest,
            "max_bytes": settings.max_bytes, "row_bytes": row_bytes, "pruned_rows": state.pruned_rows,
            "body_bytes": body_bytes as f64 / results as f64, "rss_peak_bytes": peak, "memory_bound_bytes": bound,
            "reopen_ms": reopen_ms, "questions": measured,
        });
        println!("{report}");
    }
    Ok(())
}

/// Offers until there is room: this is faster than any camera.
fn offer(store: &History, record: Record) -> anyhow::Result<()> {
    while !store.offer(record.clone()) {
        ensure!(store.flush(PATIENCE), "the writer stands still");
    }
    Ok(())
}

/// Runs a question so often; its median and 99th percentile, ms.
fn measure(
    name: &str,
    questions: usize,
    mut ask: impl FnMut() -> anyhow::Result<usize>,
) -> anyhow::Result<serde_json::Value> {
    let (mut times, mut answers) = (Vec::with_capacity(questions), 0);
    for _ in 0..questions {
        let start = Instant::now();
        answers += ask()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (times[questions / 2], times[(questions * 99 / 100).min(questions - 1)]);
    println!("{name:<22} {:>7} rows each, p50 {p50:.2} ms, p99 {p99:.2} ms", answers / questions);
    Ok(json!({ "p50_ms": p50, "p99_ms": p99, "rows": answers / questions }))
}

/// A result with 0 to 3 faces, as large as the real ones: 40 bytes of its own,
/// and 40 for each face.
fn body(random: &mut Random) -> Bytes {
    let faces = random.below(4) as usize;
    let mut body = vec![0; 40 + 40 * faces];
    for part in body.chunks_mut(8) {
        part.copy_from_slice(&random.next().to_le_bytes()[..part.len()]);
    }
    body.into()
}

/// Same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}
