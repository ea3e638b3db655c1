//! What tests with real peers share: their processes, and a camera that counts
//! and decodes what it reads.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use flatframe_shared::ledger::{IngestCounts, IngestLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::outcome::DropReason;
use ingest_service::config::CameraConfig;
use ingest_service::frame::Picture;
use ingest_service::plan::CameraPlan;
use ingest_service::prepare::RawSlot;
use ingest_service::source;
use ingest_service::source::capture::Capture;
use ingest_service::source::status::{SourceStatus, StatusCell};
use ingest_service::terms::{Terms, TermsCell};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between two looks at what was read.
pub const PAUSE: Duration = Duration::from_millis(20);
const LIMIT: PictureSize = PictureSize::new(1920, 1080);

/// A process of a peer; ended with the test.
pub struct Peer(pub Child);

impl Peer {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("it is installed"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether all programs are there; says so when not.
pub fn installed(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
        .collect();
    if !missing.is_empty() {
        skipped(test, &format!("not installed: {missing:?}"));
    }
    missing.is_empty()
}

/// Says that a test was not run; a failure where peers are required.
pub fn skipped(test: &str, why: &str) {
    // Straight to the terminal: the test runner hides what passing tests print.
    let line = format!("SKIPPED {test}: {why}\n");
    let _ = std::fs::write("/dev/tty", &line).or_else(|_| std::fs::write("/dev/stderr", &line));
    assert!(std::env::var_os("FLATFRAME_REQUIRE_PEERS").is_none(), "{line}");
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port()
}

/// A camera that reads, without a server.
pub struct Reader {
    ledger: IngestLedger,
    status: StatusCell,
    slot: Arc<RawSlot>,
    stop: CancellationToken,
    source: JoinHandle<()>,
    decoding: std::thread::JoinHandle<()>,
    decoded: Arc<AtomicU64>,
    undecodable: Arc<AtomicU64>,
}

impl Reader {
    pub fn start(config: &CameraConfig) -> Self {
        let plan = CameraPlan::new(config, &Default::default()).expect("a camera");
        let (slot, terms) = (Arc::<RawSlot>::default(), TermsCell::default());
        terms.set(Some(Terms { max_fps: None, max_size: LIMIT, max_frame_bytes: 1 << 20 }));
        let (ledger, stop) = (IngestLedger::new(), CancellationToken::new());
        let (memory, status) = (Arc::new(MemoryWatch::unlimited()), StatusCell::new());
        let capture = Capture::new(&plan, ledger.clone(), status.clone(), slot.clone(), terms, memory);
        let source = tokio::spawn(source::run(source::of(&plan), capture, plan.no_picture, stop.clone()));
        let (decoded, undecodable) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let decoding = std::thread::spawn({
            let (slot, decoded, undecodable) = (slot.clone(), decoded.clone(), undecodable.clone());
            move || {
                let mut rgb = Vec::new();
                while let Some(frame) = slot.take() {
                    let good = match &frame.picture {
                        Picture::Jpeg(jpeg) => jpeg::decode_rgb(jpeg, LIMIT, &mut rgb).is_ok(),
                        Picture::Raw(raw) => !raw.bytes.is_empty() && raw.size.fits(LIMIT),
                    };
                    if good { &decoded } else { &undecodable }.fetch_add(1, Relaxed);
                    frame.ticket.drop_as(DropReason::Superseded);
                }
            }
        });
        Self { ledger, status, slot, stop, source, decoding, decoded, undecodable }
    }

    /// Pictures read and decoded so far.
    pub fn decoded(&self) -> u64 {
        self.decoded.load(Relaxed)
    }

    pub fn status(&self) -> SourceStatus {
        self.status.read(Instant::now())
    }

    /// Waits, at most for `time`, until `condition` holds; whether it did.
    pub async fn until(&self, time: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let start = Instant::now();
        while !condition(self) && start.elapsed() < time {
            tokio::time::sleep(PAUSE).await;
        }
        condition(self)
    }

    /// Stops the camera. Returns its counts, and how many pictures were decoded
    /// and could not be.
    pub async fn stop(self) -> (IngestCounts, u64, u64) {
        self.stop.cancel();
        self.source.await.expect("no panic");
        self.slot.close();
        self.decoding.join().expect("no panic");
        let counts = self.ledger.counts();
        assert_eq!((counts.balance(), counts.waiting), (0, 0), "{counts:?}");
        (counts, self.decoded.load(Relaxed), self.undecodable.load(Relaxed))
    }
}

/// Reads `wanted` pictures, or for at most `time`.
pub async fn read(config: &CameraConfig, wanted: u64, time: Duration) -> (IngestCounts, u64, u64) {
    let reader = Reader::start(config);
    reader.until(time, |reader| reader.decoded() >= wanted).await;
    reader.stop().await
}

/// `wanted` pictures were read, and all could be decoded. How many were cut off.
pub fn judge_decoded(peer: &str, (counts, decoded, undecodable): (IngestCounts, u64, u64), wanted: u64) -> u64 {
    println!("{peer}: {decoded} pictures read and decoded, {counts:?}");
    assert!(decoded >= wanted, "{peer}: {decoded} of {wanted} pictures; {counts:?}");
    assert_eq!(undecodable, 0, "{peer}");
    counts.dropped(DropReason::Corrupt)
}

/// As [`judge_decoded`], and no more than one was cut off.
pub fn judge(peer: &str, read: (IngestCounts, u64, u64), wanted: u64) {
    // The first after a peer's start may be cut off; nothing else may.
    let cut_off = judge_decoded(peer, read, wanted);
    assert!(cut_off <= 1, "{peer}: {cut_off} pictures were cut off");
}
