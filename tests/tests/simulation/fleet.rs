//! A fleet in simulated time: 1,000 cameras, each in a box of its own, and 20
//! replicas in three zones, whose addresses a name gives as a cluster's does.
//! All begin at once, as after a power cut; a zone is cut off and comes back;
//! every replica is replaced, one after the other. The way to the servers, the
//! senders and the replicas are the real ones; workers take simulated time.

#[path = "fleet/phase.rs"]
mod phase;
#[path = "fleet/sites.rs"]
mod sites;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use flatframe_shared::ledger::IngestCounts;
use flatframe_shared::outcome::Outcome;
use flatframe_shared::shutdown::SHUTDOWN_DEADLINE;
use ingest_service::send::servers::{MoveReason, Servers};
use turmoil::Sim;

use self::phase::Phase;
use self::sites::{BOX_HOSTS, MAX_STREAMS, Name, RETURN, Replica, analyzed, box_host, camera, run_all, way};
use crate::network::SimConnect;
use crate::run::panics;
use crate::sender::SenderSite;

/// Cameras, each in a box of its own.
const CAMERAS: usize = 1000;
/// Replicas.
const REPLICAS: usize = 20;
/// Zones that they are spread over, in turn.
const ZONES: usize = 3;
/// Length of a simulated step.
const STEP: Duration = Duration::from_millis(10);
/// Steps between two looks at the laws.
const STEPS_TO_LAWS: u64 = 10;
/// The name says so long after a replica was lost that it is not there.
const NAME_LAGS: Duration = Duration::from_secs(10);
/// Every camera is served again within this, whatever happened to its replica.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
/// Nothing is done to the fleet for so long.
const CALM: Duration = Duration::from_secs(5);
/// Much longer than it takes.
const LONGEST: Duration = Duration::from_secs(900);
/// For each stream that has to be opened at most so many connections are tried,
/// on average.
const ATTEMPTS_PER_STREAM: u64 = 2;
/// A replica is asked for at most so many connections in a second: as many as it
/// has streams for.
const ACCEPTED_PER_SECOND: u64 = MAX_STREAMS as u64;

/// Runs the fleet; prints what each phase cost.
///
/// # Errors
/// What did not hold, and when.
pub fn run(seed: u64) -> Result<(), String> {
    let mut fleet = Fleet::new(seed);
    let ended = fleet.live();
    ended.map_err(|broken| format!("at {:?}: {broken}", fleet.sim.elapsed()))
}

struct Fleet {
    sim: Sim<'static>,
    replicas: Vec<Replica>,
    boxes: Vec<Arc<SenderSite>>,
    /// What each box knows of the servers.
    servers: Arc<Mutex<Vec<Servers>>>,
    name: Name,
    connect: Arc<SimConnect>,
    steps: u64,
    panics_before: usize,
    /// What was counted when the phase that is under way began.
    since: Since,
}

#[derive(Default)]
struct Since {
    opened: u64,
    attempts: u64,
    lost: u64,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        // All that is random in the services, too.
        fastrand::seed(seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH)
            .tick_duration(STEP)
            .simulation_duration(LONGEST)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .tcp_capacity(1024)
            .build();
        let (name, connect) = (Name::default(), Arc::new(SimConnect::default()));
        let replicas: Vec<_> = (0..REPLICAS).map(|number| Replica::start(number, &mut sim)).collect();
        replicas.iter().for_each(|replica| name.add(replica.address));
        let servers = Arc::new(Mutex::new(Vec::with_capacity(CAMERAS)));
        let boxes: Vec<_> =
            (0..CAMERAS).map(|number| SenderSite::new(number, camera(), way(&name, &connect, &servers))).collect();
        for host in 0..BOX_HOSTS {
            let of_host: Vec<_> = boxes.iter().skip(host).step_by(BOX_HOSTS).cloned().collect();
            sim.host(box_host(host), move || run_all(of_host.clone()));
        }
        Self {
            sim,
            replicas,
            boxes,
            servers,
            name,
            connect,
            steps: 0,
            panics_before: panics(),
            since: Since::default(),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.begin();
        let served = self.until_served()?;
        self.end("all begin at once", served)?;
        self.calm(CALM)?;

        self.begin();
        self.cut_off_zone();
        let served = self.until_served()?;
        self.end("a zone is cut off", served)?;
        self.calm(NAME_LAGS)?;
        self.of_zone().for_each(|number| self.name.remove(self.replicas[number].address));
        self.calm(CALM)?;

        self.begin();
        self.bring_zone_back();
        // From half to one and a half times as long, and one after the other.
        self.calm(RETURN * 2)?;
        let served = self.until_served()?;
        let phase = self.end("the zone is back", served)?;
        phase.has_lost_nothing()?;
        if phase.streams.1 == 0 {
            return Err(format!("no camera came back to some replica: {phase}"));
        }

        self.begin();
        for number in 0..REPLICAS {
            self.replace(number)?;
        }
        let served = self.until_served()?;
        let phase = self.end("each replica is replaced", served)?;
        phase.has_lost_nothing()?;
        self.stop()
    }

    /// Numbers of the replicas of the zone that is lost.
    fn of_zone(&self) -> impl Iterator<Item = usize> + use<> {
        (0..REPLICAS).step_by(ZONES)
    }

    /// No message goes to or from the zone any more: connections hang.
    fn cut_off_zone(&mut self) {
        for number in self.of_zone() {
            self.replicas[number].is_cut_off = true;
            (0..BOX_HOSTS).for_each(|host| self.sim.partition(self.replicas[number].host.as_str(), box_host(host)));
        }
    }

    /// Its machines start anew.
    fn bring_zone_back(&mut self) {
        for number in self.of_zone() {
            let replica = &mut self.replicas[number];
            replica.is_cut_off = false;
            replica.site.current().inspect(|run| run.crashed.store(true, Relaxed));
            self.sim.crash(replica.host.as_str());
            (0..BOX_HOSTS).for_each(|host| self.sim.repair(replica.host.as_str(), box_host(host)));
            self.sim.bounce(replica.host.as_str());
            self.name.add(replica.address);
        }
    }

    /// As a rolling update does it: out of the name, told to stop, started anew,
    /// into the name when it is ready.
    fn replace(&mut self, number: usize) -> Result<(), String> {
        let (address, host) = (self.replicas[number].address, self.replicas[number].host.clone());
        let run = self.replicas[number].site.current().ok_or("never started")?;
        self.name.remove(address);
        run.stop.cancel();
        let told = self.sim.elapsed();
        while !run.ended.load(Relaxed) {
            self.step()?;
            if self.sim.elapsed() - told > SHUTDOWN_DEADLINE {
                return Err(format!("{host} was told to stop at {told:?} and runs on"));
            }
        }
        self.sim.bounce(host.as_str());
        self.calm(Duration::from_secs(1))?;
        self.name.add(address);
        self.calm(Duration::from_secs(2))
    }

    fn begin(&mut self) {
        self.since =
            Since { opened: self.opened(), attempts: self.connect.attempts.load(Relaxed), lost: self.counts().lost };
        self.replicas.iter_mut().for_each(|replica| replica.most_accepted = 0);
    }

    /// Ends a phase; a storm that costs too much is a broken law.
    fn end(&mut self, name: &'static str, served: [Duration; 3]) -> Result<Phase, String> {
        let streams = self.replicas.iter().filter(|replica| !replica.is_cut_off).map(Replica::streams);
        let phase = Phase {
            name,
            served,
            opened: self.opened() - self.since.opened,
            attempts: self.connect.attempts.load(Relaxed) - self.since.attempts,
            accepted_per_second: self.replicas.iter().map(|replica| replica.most_accepted).max().unwrap_or(0),
            streams: (streams.clone().max().unwrap_or(0), streams.min().unwrap_or(0)),
            lost: self.counts().lost - self.since.lost,
        };
        println!("{phase}");
        if phase.attempts > ATTEMPTS_PER_STREAM * phase.opened {
            return Err(format!("a storm: {phase}"));
        }
        if phase.accepted_per_second > ACCEPTED_PER_SECOND {
            return Err(format!("a storm at one replica: {phase}"));
        }
        Ok(phase)
    }

    /// Streams opened since the start: those that moved, and the first ones.
    fn opened(&self) -> u64 {
        let servers = self.servers.lock().expect("no panic");
        let moves = |servers: &Servers| MoveReason::ALL.iter().map(|reason| servers.moves(*reason)).sum::<u64>();
        let first = servers.iter().filter(|servers| !servers.streams().is_empty()).count() as u64;
        servers.iter().map(moves).sum::<u64>() + first
    }

    fn counts(&self) -> IngestCounts {
        let mut counts = IngestCounts::default();
        self.boxes.iter().for_each(|site| counts += site.counts());
        counts
    }

    /// Until every camera has a new result from a replica that it reaches; how
    /// long it took for half, 99 % and all of them.
    fn until_served(&mut self) -> Result<[Duration; 3], String> {
        let begun = self.sim.elapsed();
        let mut waiting: Vec<_> = self.boxes.iter().map(|site| (site.clone(), site.analyzed())).collect();
        let mut took = [None; 3];
        loop {
            waiting.retain(|(site, analyzed)| site.analyzed() <= *analyzed);
            let now = self.sim.elapsed();
            for (took, left) in took.iter_mut().zip([CAMERAS / 2, CAMERAS / 100, 0]) {
                if waiting.len() <= left {
                    took.get_or_insert(now - begun);
                }
            }
            if let [Some(half), Some(most), Some(all)] = took {
                return Ok([half, most, all]);
            }
            if now - begun > SERVED_WITHIN {
                let (site, _) = &waiting[0];
                let count = waiting.len();
                return Err(format!("{count} cameras without a result, {}: {:?}", site.name, site.counts()));
            }
            self.step()?;
        }
    }

    fn calm(&mut self, time: Duration) -> Result<(), String> {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
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
        if self.steps.is_multiple_of(STEPS_TO_LAWS) {
            self.check()?;
        }
        if self.steps.is_multiple_of((1000 / STEP.as_millis()) as u64) {
            self.replicas.iter_mut().for_each(Replica::look);
        }
        Ok(())
    }

    /// What must hold at every look.
    fn check(&self) -> Result<(), String> {
        for replica in &self.replicas {
            let streams = replica.streams();
            if streams > MAX_STREAMS {
                return Err(format!("{}: {streams} streams of {MAX_STREAMS}", replica.host));
            }
        }
        for site in &self.boxes {
            let counts = site.counts();
            if counts.balance() != 0 || counts.answered(Outcome::Invalid) > 0 {
                return Err(format!("{}: {counts:?}", site.name));
            }
        }
        Ok(())
    }

    /// Stops the boxes, then the replicas, and compares what they counted.
    fn stop(&mut self) -> Result<(), String> {
        let senders: Vec<_> = self.boxes.iter().filter_map(|site| site.current()).collect();
        senders.iter().for_each(|run| run.stop.cancel());
        self.until("the boxes", || senders.iter().all(|run| run.ended.load(Relaxed)))?;
        let replicas: Vec<_> = self.replicas.iter().filter_map(|replica| replica.site.current()).collect();
        replicas.iter().for_each(|run| run.stop.cancel());
        self.until("the replicas", || replicas.iter().all(|run| run.ended.load(Relaxed)))?;
        for site in &self.boxes {
            let sent = site.counts();
            if (sent.waiting, sent.in_flight, sent.balance()) != (0, 0, 0) {
                return Err(format!("{}: {sent:?}", site.name));
            }
            let analyzed: u64 = self.replicas.iter().map(|replica| analyzed(&replica.site, &site.name)).sum();
            if sent.answered(Outcome::Analyzed) > analyzed {
                return Err(format!("{}: told of more results than there are ({analyzed}): {sent:?}", site.name));
            }
        }
        println!("{:?}", self.counts());
        Ok(())
    }

    fn until(&mut self, who: &str, done: impl Fn() -> bool) -> Result<(), String> {
        let told = self.sim.elapsed();
        while !done() {
            self.step()?;
            if self.sim.elapsed() - told > SHUTDOWN_DEADLINE {
                return Err(format!("{who} were told to stop at {told:?} and run on"));
            }
        }
        Ok(())
    }
}
