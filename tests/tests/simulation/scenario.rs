//! What a seed decides: the cameras, the server, the network between them, and
//! what goes wrong when. Draws only; does nothing.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

/// Length of a simulated step. Messages between hosts are delivered, faults
/// begin and laws are checked at this grain; tasks of one host follow their
/// timers exactly.
pub const STEP: Duration = Duration::from_millis(5);
/// Between two looks of what is a thread in the services.
const LOOK: Duration = Duration::from_millis(1);
/// Before the first fault.
const CALM_START_MS: u64 = 1000;
/// Faults begin within this after the calm start.
const FAULTS_WITHIN_MS: u64 = 7000;
/// Most faults of one seed.
const MAX_FAULTS: usize = 6;
/// A job that is slow takes so many times the longest common one.
pub const SLOW_FACTOR: u32 = 10;

/// Everything that differs from seed to seed.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where it comes from.
    pub seed: u64,
    /// The cameras, 1 to 8, each in a box of its own.
    pub cameras: Vec<CameraDraw>,
    /// The server.
    pub server: ServerDraw,
    /// Shortest and longest time of a message on a link.
    pub latency: Range<Duration>,
    /// Whether hosts run in another order at each step.
    pub shuffle_hosts: bool,
    /// A camera that sends without credits.
    pub flooder: Option<Flooder>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Whether the server stops before the cameras do.
    pub server_stops_first: bool,
}

/// One server.
#[derive(Debug, Clone)]
pub struct ServerDraw {
    /// Its workers.
    pub workers: usize,
    /// Between two looks of a worker for a job.
    pub look: Duration,
    /// Time of a common job.
    pub service: Range<Duration>,
    /// One job in so many is slow.
    pub slow_every: u32,
    /// One job in so many fails.
    pub fail_every: u32,
    /// Most credits of a stream.
    pub window: u32,
    /// Streams that it takes at once.
    pub max_streams: usize,
    /// Cameras that it remembers.
    pub max_cameras: usize,
}

/// One camera.
#[derive(Debug, Clone)]
pub struct CameraDraw {
    /// Pictures per second.
    pub fps: f32,
    /// Age at which a frame is worthless.
    pub ttl: Duration,
    /// Sizes of its pictures, bytes.
    pub jpeg_bytes: Range<usize>,
    /// Between two looks of the preparation for a picture.
    pub look: Duration,
    /// Time to prepare a picture.
    pub prepare: Duration,
    /// Room in its mailbox.
    pub mailbox_frames: usize,
    /// Room in its mailbox, bytes.
    pub mailbox_bytes: usize,
    /// Most frames on their way.
    pub max_in_flight: usize,
    /// One picture in so many is broken.
    pub broken_every: u32,
}

/// A sender that breaks the rule of credits.
#[derive(Debug, Clone, Copy)]
pub struct Flooder {
    /// Between two frames.
    pub period: Duration,
    /// Whether it reads its answers.
    pub reads: bool,
}

/// Something goes wrong for a while.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// From when on.
    pub begins: Duration,
    /// Until when.
    pub ends: Duration,
}

/// What can go wrong. A number is a camera's place in [`Scenario::cameras`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Messages of a camera's link wait; all arrive at the end.
    Hold(usize),
    /// Messages of a camera's link are lost: connections hang for ever.
    Partition(usize),
    /// Messages to the server are lost, those from it arrive.
    UpLost(usize),
    /// Messages from the server are lost, those to it arrive.
    DownLost(usize),
    /// The server is killed, and started again at the end.
    ServerCrash,
    /// The server is told to stop, and started again at the end.
    ServerStop,
    /// No worker takes a job.
    WorkersStall,
    /// A camera's sender is killed, and started again at the end.
    SenderCrash(usize),
    /// A camera's sender is told to stop, and started again at the end.
    SenderStop(usize),
    /// A camera gives no picture.
    CameraDark(usize),
}

/// What a fault acts on; one fault at a time for each.
#[derive(PartialEq, Eq)]
enum Target {
    Link(usize),
    Server,
    Workers,
    Sender(usize),
    Camera(usize),
}

impl FaultKind {
    fn target(self) -> Target {
        match self {
            Self::Hold(camera) | Self::Partition(camera) | Self::UpLost(camera) | Self::DownLost(camera) => {
                Target::Link(camera)
            }
            Self::ServerCrash | Self::ServerStop => Target::Server,
            Self::WorkersStall => Target::Workers,
            Self::SenderCrash(camera) | Self::SenderStop(camera) => Target::Sender(camera),
            Self::CameraDark(camera) => Target::Camera(camera),
        }
    }

    fn draw(rng: &mut Rng, cameras: usize) -> Self {
        let camera = rng.usize(..cameras);
        match rng.u8(..10) {
            0 => Self::Hold(camera),
            1 => Self::Partition(camera),
            2 => Self::UpLost(camera),
            3 => Self::DownLost(camera),
            4 => Self::ServerCrash,
            5 => Self::ServerStop,
            6 => Self::WorkersStall,
            7 => Self::SenderCrash(camera),
            8 => Self::SenderStop(camera),
            _ => Self::CameraDark(camera),
        }
    }
}

impl Scenario {
    /// What `seed` decides; the same for ever, as long as this file is.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let count = rng.usize(1..=8);
        let workers = rng.usize(1..=3);
        let shortest_ms = rng.u64(1..=10);
        let service = ms(shortest_ms)..ms(shortest_ms + if rng.bool() { rng.u64(1..=20) } else { rng.u64(20..=60) });
        let latency_ms = rng.u64(0..=20);
        let latency = ms(latency_ms)..ms(latency_ms + rng.u64(1..=80));
        // Frames that nobody can do in time are shed for ever, and rightly so:
        // what is drawn can be done, if not all of it, and not always just
        // after a slow job.
        let turn = service.end * (count as u32 + 1) / workers as u32;
        let least_ttl = turn * rng.u32(1..=4) + latency.end * 2 + STEP * 4 + ms(50);
        let cameras = (0..count).map(|_| CameraDraw::draw(rng, least_ttl)).collect();
        let flooder = (rng.u8(..4) == 0).then(|| Flooder { period: ms(rng.u64(2..=50)), reads: rng.bool() });
        let slow_every = if rng.bool() { 200 } else { u32::MAX };
        let fail_every = if rng.bool() { 20 } else { u32::MAX };
        let window = rng.u32(1..=4);
        // What it needs, and up to two more.
        let max_streams = count + usize::from(flooder.is_some()) + rng.usize(..=2);
        let server = ServerDraw {
            workers,
            look: LOOK,
            service,
            slow_every,
            fail_every,
            window,
            max_streams,
            max_cameras: max_streams,
        };
        Self {
            seed,
            cameras,
            server,
            latency,
            shuffle_hosts: rng.bool(),
            flooder,
            faults: faults(rng, count),
            server_stops_first: rng.bool(),
        }
    }

    /// When the last fault ends.
    pub fn faults_end(&self) -> Duration {
        self.faults.iter().map(|fault| fault.ends).max().unwrap_or(ms(CALM_START_MS))
    }
}

impl ServerDraw {
    /// The longest time of a job.
    pub fn longest_job(&self) -> Duration {
        if self.slow_every == u32::MAX { self.service.end } else { self.service.end * SLOW_FACTOR }
    }
}

impl CameraDraw {
    fn draw(rng: &mut Rng, least_ttl: Duration) -> Self {
        let largest = rng.usize(200..6000);
        Self {
            fps: rng.u32(2..=30) as f32,
            ttl: least_ttl + ms(if rng.bool() { rng.u64(..100) } else { rng.u64(..1500) }),
            jpeg_bytes: largest / 4..largest,
            look: LOOK,
            prepare: ms(rng.u64(..=15)),
            mailbox_frames: rng.usize(1..=4),
            // Room for one picture at least, not always for as many as frames.
            mailbox_bytes: largest * rng.usize(4..=16) / 4,
            max_in_flight: rng.usize(1..=5),
            broken_every: if rng.bool() { 30 } else { u32::MAX },
        }
    }
}

fn faults(rng: &mut Rng, cameras: usize) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for _ in 0..rng.usize(..=MAX_FAULTS) {
        let begins = ms(CALM_START_MS + rng.u64(..FAULTS_WITHIN_MS));
        let length_ms = match rng.u8(..8) {
            0 => rng.u64(8000..25_000),
            1 | 2 => rng.u64(2000..8000),
            _ => rng.u64(5..2000),
        };
        let fault = Fault { kind: FaultKind::draw(rng, cameras), begins, ends: begins + ms(length_ms) };
        let overlaps = |other: &Fault| {
            other.kind.target() == fault.kind.target() && other.begins <= fault.ends && fault.begins <= other.ends
        };
        if !faults.iter().any(overlaps) {
            faults.push(fault);
        }
    }
    faults
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
