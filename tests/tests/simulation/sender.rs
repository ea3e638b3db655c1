//! A camera's host: the real capture, pace, mailbox and uplink behind a camera
//! that is simulated. Preparing takes simulated time instead of a thread, and
//! looks into no picture.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraHello, PictureSize, SessionId};
use flatframe_shared::ledger::{IngestCounts, IngestLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::outcome::{DropReason, Outcome};
use ingest_service::CameraConfig;
use ingest_service::config::LimitsConfig;
use ingest_service::frame::{CapturedFrame, Picture, PreparedFrame};
use ingest_service::plan::CameraPlan;
use ingest_service::prepare::RawSlot;
use ingest_service::send::Outbox;
use ingest_service::send::dial::Dial;
use ingest_service::send::mailbox::Mailbox;
use ingest_service::send::uplink::{Deadlines, Uplink};
use ingest_service::source::capture::Capture;
use ingest_service::source::status::StatusCell;
use ingest_service::terms::TermsCell;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::scenario::CameraDraw;

/// What the simulated pictures say they are.
const SIZE: PictureSize = PictureSize::new(64, 48);

/// The way of a camera to its server, for one run; what runs behind a connection
/// is spawned on the tracker.
pub type Way = Box<dyn Fn(&CameraPlan, &TermsCell, &TaskTracker) -> Box<dyn Dial> + Send + Sync>;

/// A camera's sender through all its runs.
pub struct SenderSite {
    /// Id of its camera, and name of its host where it has one of its own.
    pub name: String,
    /// What it is like.
    pub draw: CameraDraw,
    plan: CameraPlan,
    way: Way,
    runs: Mutex<Vec<Arc<SenderRun>>>,
    /// While set, the camera gives no picture.
    pub dark: AtomicBool,
}

/// One run of a sender, from start to stop or crash.
pub struct SenderRun {
    /// Told to the server.
    pub session: SessionId,
    /// Its counters.
    pub ledger: IngestLedger,
    /// Where prepared frames wait.
    pub outbox: Outbox,
    /// Where a captured frame waits.
    pub slot: Arc<RawSlot>,
    status: StatusCell,
    terms: TermsCell,
    /// Cancelled to stop it.
    pub stop: CancellationToken,
    /// It stopped as told.
    pub ended: AtomicBool,
    /// It was killed.
    pub crashed: AtomicBool,
}

impl SenderSite {
    /// Not yet started.
    pub fn new(number: usize, draw: CameraDraw, way: Way) -> Arc<Self> {
        let name = format!("camera-{number}");
        let config =
            CameraConfig { fps: draw.fps, ttl_ms: draw.ttl.as_millis() as u64, ..CameraConfig::new(&name, "pattern") };
        let plan = CameraPlan::new(&config, &LimitsConfig::default()).expect("what is drawn is allowed");
        Arc::new(Self { name, draw, plan, way, runs: Mutex::default(), dark: AtomicBool::new(false) })
    }

    /// The run that was started last.
    pub fn current(&self) -> Option<Arc<SenderRun>> {
        self.runs.lock().expect("no panic").last().cloned()
    }

    /// Counts of all runs together.
    pub fn counts(&self) -> IngestCounts {
        let mut counts = IngestCounts::default();
        self.runs.lock().expect("no panic").iter().for_each(|run| counts += run.ledger.counts());
        counts
    }

    /// Frames analysed, all runs together.
    pub fn analyzed(&self) -> u64 {
        self.counts().answered(Outcome::Analyzed)
    }

    /// One run: sends until told to stop, and stops in the order of
    /// `ingest_service::Ingest`.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        let run = Arc::new(SenderRun::new(&self.draw));
        self.runs.lock().expect("no panic").push(run.clone());
        let (capture_stop, finish, connections) =
            (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let (ledger, status, memory) = (run.ledger.clone(), run.status.clone(), Arc::new(MemoryWatch::unlimited()));
        let capture = Capture::new(&self.plan, ledger, status, run.slot.clone(), run.terms.clone(), memory);
        let capturing = tokio::spawn(capture_stop.clone().run_until_cancelled_owned(self.clone().capture(capture)));
        let preparing = tokio::spawn(prepare(run.clone(), self.draw.look, self.draw.prepare));
        let uplink = Uplink {
            server: (self.way)(&self.plan, &run.terms, &connections),
            hello: self.hello(run.session),
            outbox: run.outbox.clone(),
            terms: run.terms.clone(),
            status: run.status.clone(),
            ledger: run.ledger.clone(),
            latency: Arc::default(),
            max_in_flight: self.draw.max_in_flight,
            deadlines: Deadlines::default(),
        };
        let uplink = tokio::spawn(uplink.run(finish.clone()));

        run.stop.cancelled().await;
        capture_stop.cancel();
        capturing.await?;
        run.slot.close();
        run.outbox.close();
        preparing.await?;
        finish.cancel();
        uplink.await?;
        run.ended.store(true, Relaxed);
        Ok(())
    }

    /// The camera: pictures at its rate, with jitter, until stopped.
    async fn capture(self: Arc<Self>, mut capture: Capture) {
        let period = self.plan.period();
        capture.opened();
        loop {
            sleep(period.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
            if self.dark.load(Relaxed) {
                continue;
            }
            if fastrand::u32(..self.draw.broken_every) == 0 {
                capture.broken(DropReason::Corrupt);
            } else {
                capture.jpeg(Bytes::from(vec![0; fastrand::usize(self.draw.jpeg_bytes.clone())]));
            }
        }
    }

    fn hello(&self, session: SessionId) -> CameraHello {
        CameraHello {
            camera: self.plan.id.clone(),
            session,
            software: "simulation".into(),
            rotation: self.plan.rotation,
            wanted_fps: self.plan.fps,
            ttl: self.plan.ttl,
            display_name: String::new(),
            late: false,
        }
    }
}

impl SenderRun {
    fn new(draw: &CameraDraw) -> Self {
        Self {
            session: SessionId(fastrand::u64(..)),
            ledger: IngestLedger::new(),
            outbox: Outbox::new(Mailbox::new(draw.mailbox_frames, draw.mailbox_bytes)),
            slot: Arc::default(),
            status: StatusCell::new(),
            terms: TermsCell::default(),
            stop: CancellationToken::new(),
            ended: AtomicBool::new(false),
            crashed: AtomicBool::new(false),
        }
    }

    /// Whether it runs, or stops, or has stopped as told.
    pub fn is_alive(&self) -> bool {
        !self.crashed.load(Relaxed)
    }
}

/// As the thread of `ingest_service::prepare`, one picture at a time.
async fn prepare(run: Arc<SenderRun>, look: Duration, time: Duration) {
    while !run.stop.is_cancelled() {
        // Nobody else takes, so that this does not wait.
        let taken = (run.slot.live() > 0).then(|| run.slot.take()).flatten();
        let Some(CapturedFrame { birth, ticket, picture: Picture::Jpeg(jpeg), .. }) = taken else {
            sleep(look).await;
            continue;
        };
        if run.terms.get().is_none() {
            ticket.drop_as(DropReason::Offline);
        } else if birth.expired(clock::now()) {
            ticket.drop_as(DropReason::Expired);
        } else {
            sleep(time).await;
            run.outbox.put(PreparedFrame { birth, ticket, jpeg, size: SIZE }, clock::now());
        }
    }
}
