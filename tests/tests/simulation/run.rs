//! One seed from start to end: the hosts, the faults at their times, the laws
//! at every step, the recovery, the stop.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use flatframe_shared::outcome::{DropReason, Outcome};
use flatframe_shared::shutdown::SHUTDOWN_DEADLINE;
use turmoil::Sim;

use crate::flooder;
use crate::laws::Laws;
use crate::network::{SERVER, SimDial};
use crate::scenario::{Fault, FaultKind, STEP, Scenario};
use crate::sender::{SenderSite, Way};
use crate::server::ServerSite;

/// After the last fault, every camera gets results again within this.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(10);
/// Every camera gets a result at least so often when nothing is wrong.
const CALM: Duration = Duration::from_secs(5);
/// Much longer than any seed takes.
const LONGEST: Duration = Duration::from_secs(600);

thread_local! {
    /// Panics on this thread: in a task they would go unnoticed.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Makes panics in tasks known.
pub fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            before(panic);
        }));
    });
}

/// Panics on this thread so far.
pub fn panics() -> usize {
    PANICS.with(Cell::get)
}

/// What a seed came to. Equal for two runs of one seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Of every counter at every step.
    pub hash: u64,
    /// Steps taken.
    pub steps: u64,
    /// Time from the last fault to a result for every camera.
    pub recovery: Duration,
    /// Frames captured.
    pub captured: u64,
    /// Frames dropped, by reason.
    pub dropped: [u64; DropReason::COUNT],
    /// Answers, by outcome.
    pub answered: [u64; Outcome::COUNT],
    /// Frames sent.
    pub sent: u64,
    /// Frames lost.
    pub lost: u64,
}

/// Runs a seed.
///
/// # Errors
/// What did not hold, and when.
pub fn run(seed: u64) -> Result<Replay, String> {
    let scenario = Arc::new(Scenario::draw(seed));
    let run = AssertUnwindSafe(|| {
        let mut world = World::new(scenario.clone());
        let ended = world.live();
        ended.map_err(|broken| format!("at {:?}: {broken}", world.sim.elapsed()))
    });
    std::panic::catch_unwind(run).unwrap_or_else(|_| Err("a panic".into()))
}

struct World {
    sim: Sim<'static>,
    scenario: Arc<Scenario>,
    server: Arc<ServerSite>,
    senders: Vec<Arc<SenderSite>>,
    laws: Laws,
    hasher: DefaultHasher,
    steps: u64,
    panics_before: usize,
    /// Sites told to stop, and when.
    server_stops: Option<Duration>,
    sender_stops: Vec<Option<Duration>>,
}

impl World {
    fn new(scenario: Arc<Scenario>) -> Self {
        // All that is random in the services, too.
        fastrand::seed(scenario.seed);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(scenario.seed)
            .epoch(SystemTime::UNIX_EPOCH)
            .tick_duration(STEP)
            .simulation_duration(LONGEST)
            .min_message_latency(scenario.latency.start)
            .max_message_latency(scenario.latency.end)
            .tcp_capacity(1024);
        if scenario.shuffle_hosts {
            builder.enable_random_order();
        }
        let mut sim = builder.build();
        let server = ServerSite::new(scenario.server.clone());
        sim.host(SERVER, {
            let server = server.clone();
            move || server.clone().run()
        });
        let sites = scenario.cameras.iter().enumerate();
        let senders: Vec<_> = sites
            .map(|(number, draw)| {
                let way: Way = Box::new(|_, _, connections| Box::new(SimDial::new(connections)));
                SenderSite::new(number, draw.clone(), way)
            })
            .collect();
        for sender in &senders {
            let site = sender.clone();
            sim.host(sender.name.as_str(), move || site.clone().run());
        }
        if let Some(draw) = scenario.flooder {
            sim.host(flooder::NAME, move || flooder::run(draw));
        }
        Self {
            sim,
            server,
            sender_stops: vec![None; senders.len()],
            senders,
            laws: Laws::default(),
            hasher: DefaultHasher::new(),
            steps: 0,
            panics_before: panics(),
            server_stops: None,
            scenario,
        }
    }

    fn live(&mut self) -> Result<Replay, String> {
        self.faults()?;
        let recovery = self.until_results(RECOVERY_DEADLINE)?;
        self.until_results(CALM)?;
        self.stop()?;
        let mut replay = Replay { hash: self.hasher.finish(), steps: self.steps, recovery, ..Replay::default() };
        for sender in &self.senders {
            let counts = sender.counts();
            replay.captured += counts.captured;
            replay.sent += counts.sent;
            replay.lost += counts.lost;
            replay.dropped.iter_mut().zip(counts.dropped).for_each(|(sum, count)| *sum += count);
            replay.answered.iter_mut().zip(counts.answered).for_each(|(sum, count)| *sum += count);
        }
        Ok(replay)
    }

    /// Until the last fault is over.
    fn faults(&mut self) -> Result<(), String> {
        let mut coming = self.scenario.faults.clone();
        coming.sort_by_key(|fault| fault.begins);
        let mut present: Vec<Fault> = Vec::new();
        while self.sim.elapsed() < self.scenario.faults_end() || !present.is_empty() {
            let now = self.sim.elapsed();
            for over in present.extract_if(.., |fault| fault.ends <= now) {
                self.end(over.kind);
            }
            for begun in coming.extract_if(.., |fault| fault.begins <= now) {
                self.begin(begun.kind);
                present.push(begun);
            }
            self.step()?;
        }
        Ok(())
    }

    fn begin(&mut self, kind: FaultKind) {
        let name = |camera: usize| self.senders[camera].name.clone();
        match kind {
            FaultKind::Hold(camera) => self.sim.hold(name(camera), SERVER),
            FaultKind::Partition(camera) => self.sim.partition(name(camera), SERVER),
            FaultKind::UpLost(camera) => self.sim.partition_oneway(name(camera), SERVER),
            FaultKind::DownLost(camera) => self.sim.partition_oneway(SERVER, name(camera)),
            FaultKind::ServerCrash => self.crash_server(),
            FaultKind::ServerStop => self.stop_server(),
            FaultKind::WorkersStall => self.server.stalled.store(true, Relaxed),
            FaultKind::SenderCrash(camera) => self.crash_sender(camera),
            FaultKind::SenderStop(camera) => self.stop_sender(camera),
            FaultKind::CameraDark(camera) => self.senders[camera].dark.store(true, Relaxed),
        }
    }

    fn end(&mut self, kind: FaultKind) {
        let name = |camera: usize| self.senders[camera].name.clone();
        match kind {
            FaultKind::Hold(camera) => self.sim.release(name(camera), SERVER),
            FaultKind::Partition(camera) => self.sim.repair(name(camera), SERVER),
            FaultKind::UpLost(camera) => self.sim.repair_oneway(name(camera), SERVER),
            FaultKind::DownLost(camera) => self.sim.repair_oneway(SERVER, name(camera)),
            FaultKind::ServerCrash | FaultKind::ServerStop => {
                // One that still stops is killed, as an impatient operator does.
                self.crash_server();
                self.sim.bounce(SERVER);
            }
            FaultKind::WorkersStall => self.server.stalled.store(false, Relaxed),
            FaultKind::SenderCrash(camera) | FaultKind::SenderStop(camera) => {
                self.crash_sender(camera);
                self.sim.bounce(self.senders[camera].name.as_str());
            }
            FaultKind::CameraDark(camera) => self.senders[camera].dark.store(false, Relaxed),
        }
    }

    fn crash_server(&mut self) {
        self.server_stops = None;
        if let Some(run) = self.server.current().filter(|run| !run.ended.load(Relaxed)) {
            run.crashed.store(true, Relaxed);
            self.sim.crash(SERVER);
        }
    }

    fn stop_server(&mut self) {
        self.server_stops = Some(self.sim.elapsed());
        self.server.current().inspect(|run| run.stop.cancel());
    }

    fn crash_sender(&mut self, camera: usize) {
        self.sender_stops[camera] = None;
        let sender = &self.senders[camera];
        if let Some(run) = sender.current().filter(|run| !run.ended.load(Relaxed)) {
            run.crashed.store(true, Relaxed);
            self.sim.crash(sender.name.as_str());
        }
    }

    fn stop_sender(&mut self, camera: usize) {
        self.sender_stops[camera] = Some(self.sim.elapsed());
        self.senders[camera].current().inspect(|run| run.stop.cancel());
    }

    /// Until every camera has new results; the time it took.
    fn until_results(&mut self, limit: Duration) -> Result<Duration, String> {
        let begun = self.sim.elapsed();
        // What was captured before does not count.
        let captured = |sender: &SenderSite| sender.current().map_or(0, |run| run.ledger.counts().captured);
        let before: Vec<(u64, u64)> = self.senders.iter().map(|sender| (captured(sender), sender.analyzed())).collect();
        loop {
            let mut senders = self.senders.iter().zip(&before);
            let missing = senders.find(|(sender, (number, analyzed))| {
                self.server.newest(sender).is_none_or(|newest| newest <= *number) || sender.analyzed() <= *analyzed
            });
            let took = self.sim.elapsed() - begun;
            match missing {
                None => return Ok(took),
                Some((sender, _)) if took > limit => {
                    return Err(format!("{}: no result within {limit:?}: {:?}", sender.name, sender.counts()));
                }
                Some(_) => self.step()?,
            }
        }
    }

    /// Stops everything as operators do, and waits for it.
    fn stop(&mut self) -> Result<(), String> {
        if self.scenario.server_stops_first {
            self.stop_server();
            self.until_stopped()?;
        }
        (0..self.senders.len()).for_each(|camera| self.stop_sender(camera));
        self.until_stopped()?;
        if !self.scenario.server_stops_first {
            self.stop_server();
            self.until_stopped()?;
        }
        Ok(())
    }

    /// Until all that were told to stop have; the laws say what must hold then,
    /// and [`Self::check_stops`] how long it may take.
    fn until_stopped(&mut self) -> Result<(), String> {
        while self.server_stops.is_some() || self.sender_stops.iter().any(Option::is_some) {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| format!("a host failed: {error}"))?;
        self.steps += 1;
        if panics() > self.panics_before {
            return Err("a task panicked".into());
        }
        self.laws.check(&self.scenario, &self.server, &self.senders)?;
        self.check_stops()?;
        self.remember();
        Ok(())
    }

    /// Whoever is told to stop has stopped within the deadline.
    fn check_stops(&mut self) -> Result<(), String> {
        let now = self.sim.elapsed();
        let late = |since: Duration| now - since > SHUTDOWN_DEADLINE;
        if let Some(since) = self.server_stops {
            if self.server.current().is_some_and(|run| run.ended.load(Relaxed)) {
                self.server_stops = None;
            } else if late(since) {
                return Err(format!("the server was told to stop at {since:?} and runs on"));
            }
        }
        for (sender, stops) in self.senders.iter().zip(&mut self.sender_stops) {
            let Some(since) = *stops else { continue };
            if sender.current().is_some_and(|run| run.ended.load(Relaxed)) {
                *stops = None;
            } else if late(since) {
                return Err(format!("{} was told to stop at {since:?} and runs on", sender.name));
            }
        }
        Ok(())
    }

    /// Adds all counters to the hash.
    fn remember(&mut self) {
        for sender in &self.senders {
            let (sent, received) = (sender.counts(), self.server.counts(&sender.name));
            (sent.captured, sent.dropped, sent.sent, sent.answered, sent.lost).hash(&mut self.hasher);
            (sent.waiting, sent.in_flight).hash(&mut self.hasher);
            (received.received, received.answered, received.queued).hash(&mut self.hasher);
        }
    }
}
