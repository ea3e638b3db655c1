//! One camera, put together: source task, raw slot, prepare thread, mailbox,
//! uplink task, and the recorder where it is recorded. Cameras share nothing
//! but the runtime and the recording's thread. Starts and stops the parts in
//! their order; does none of their work.

use std::sync::Arc;
use std::thread::JoinHandle;

use flatframe_shared::budget::Place;
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraHello, CameraId, SessionId};
use flatframe_shared::histogram::Histogram;
use flatframe_shared::ledger::{IngestCounts, IngestLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use tokio::task::JoinHandle as TaskHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::LimitsConfig;
use crate::plan::CameraPlan;
use crate::prepare::look::{ConditionCell, PictureCondition};
use crate::prepare::{self, Delivery, RawSlot};
use crate::record::Recorder;
use crate::send::Outbox;
use crate::send::mailbox::Mailbox;
use crate::send::route::Route;
use crate::send::servers::Servers;
use crate::send::uplink::{Deadlines, Uplink};
use crate::source;
use crate::source::capture::Capture;
use crate::source::status::{SourceStatus, StatusCell};
use crate::terms::TermsCell;

/// What can be seen of a running camera; a cheap handle.
#[derive(Debug, Clone)]
pub struct CameraView {
    id: CameraId,
    session: SessionId,
    ledger: IngestLedger,
    status: StatusCell,
    terms: TermsCell,
    latency: Arc<Histogram>,
    slot: Arc<RawSlot>,
    condition: ConditionCell,
    outbox: Outbox,
    limits: LimitsConfig,
}

impl CameraView {
    /// Stable id.
    pub fn id(&self) -> &CameraId {
        &self.id
    }

    /// This run of the camera's sender.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// All counters at one instant.
    pub fn counts(&self) -> IngestCounts {
        self.ledger.counts()
    }

    /// What the source is doing.
    pub fn status(&self) -> SourceStatus {
        self.status.read(clock::now())
    }

    /// What its pictures look like.
    pub fn condition(&self) -> PictureCondition {
        self.condition.get()
    }

    /// Whether a server takes this camera's frames.
    pub fn connected(&self) -> bool {
        self.terms.get().is_some()
    }

    /// What the server takes.
    pub(crate) fn terms(&self) -> &TermsCell {
        &self.terms
    }

    /// From capture to the answer `analyzed`.
    pub fn latency(&self) -> &Arc<Histogram> {
        &self.latency
    }

    /// Where frames of this camera can wait, with what they hold and may hold.
    pub fn places(&self) -> Vec<Place> {
        let place = |name: &str, cap: usize, live: Box<dyn Fn(&Self) -> u64 + Send + Sync>| {
            let view = self.clone();
            Place::new(format!("{}/{name}", self.id), cap as u64, move || live(&view))
        };
        vec![
            place("raw_slot", 1, Box::new(|view| view.slot.live())),
            place("mailbox_frames", self.limits.mailbox_frames, Box::new(|view| view.outbox.frames() as u64)),
            place("mailbox_bytes", self.limits.mailbox_bytes, Box::new(|view| view.outbox.bytes() as u64)),
            place("in_flight", self.limits.max_in_flight, Box::new(|view| view.counts().in_flight)),
        ]
    }
}

/// A running camera.
#[derive(Debug)]
pub(crate) struct Camera {
    pub(crate) view: CameraView,
    closing: CloseOnDrop,
    source: TaskHandle<()>,
    preparing: JoinHandle<()>,
    uplink: TaskHandle<()>,
}

impl Camera {
    /// Starts the parts of a camera. Its source stops with `capture_stop`, its
    /// uplink with `finish`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        plan: &CameraPlan,
        limits: &LimitsConfig,
        memory: Arc<MemoryWatch>,
        mut recorder: Option<Recorder>,
        servers: Servers,
        capture_stop: CancellationToken,
        finish: CancellationToken,
    ) -> std::io::Result<Self> {
        let view = CameraView {
            id: plan.id.clone(),
            session: SessionId(fastrand::u64(..)),
            ledger: IngestLedger::new(),
            status: StatusCell::new(),
            terms: TermsCell::default(),
            latency: Arc::default(),
            slot: Arc::default(),
            condition: ConditionCell::default(),
            outbox: Outbox::new(Mailbox::new(limits.mailbox_frames, limits.mailbox_bytes)),
            limits: limits.clone(),
        };
        let (ledger, status, slot, terms) =
            (view.ledger.clone(), view.status.clone(), view.slot.clone(), view.terms.clone());
        let capture = Capture::new(plan, ledger, status, slot.clone(), terms.clone(), memory)
            .recorded_at(recorder.as_ref().map(Recorder::wants));
        let outbox = view.outbox.clone();
        let (prepare, condition) = (plan.prepare.clone(), view.condition.clone());
        let preparing = prepare::spawn(plan.id.as_str(), slot, terms, prepare, condition, move |delivery| {
            let Delivery { frame, purpose, motion } = delivery;
            if let Some(recorder) = recorder.as_mut().filter(|_| purpose.is_recorded) {
                recorder.take(&frame, motion, purpose.is_of_outage);
            }
            match purpose.unsent {
                Some(reason) => frame.ticket.drop_as(reason),
                None => outbox.put(frame, clock::now()),
            }
        })?;
        let uplink = Uplink {
            server: Box::new(Route::new(servers, plan.id.clone(), plan.fps, view.terms.clone())),
            hello: hello(plan, view.session),
            outbox: view.outbox.clone(),
            terms: view.terms.clone(),
            status: view.status.clone(),
            ledger: view.ledger.clone(),
            latency: view.latency.clone(),
            max_in_flight: limits.max_in_flight,
            deadlines: Deadlines::default(),
        };
        let span = tracing::info_span!("camera", id = %plan.id);
        let source = source::run(source::of(plan), capture, plan.no_picture, capture_stop).instrument(span.clone());
        Ok(Self {
            closing: CloseOnDrop { slot: view.slot.clone(), outbox: view.outbox.clone() },
            view,
            source: tokio::spawn(source),
            preparing,
            uplink: tokio::spawn(uplink.run(finish).instrument(span)),
        })
    }

    /// Waits until the source has released its device.
    pub(crate) async fn join_source(&mut self) {
        join(&mut self.source).await;
    }

    /// Counts what waits as `shutdown`, and what may still come; the prepare
    /// thread is then at most one picture away from its end.
    pub(crate) fn close(&self) {
        self.closing.close();
    }

    /// Waits for the prepare thread to end. Returns the uplink, which still
    /// runs.
    pub(crate) async fn join_preparing(self) -> TaskHandle<()> {
        let Self { closing, preparing, uplink, .. } = self;
        drop(closing);
        let joined = tokio::task::spawn_blocking(move || preparing.join()).await;
        if let Ok(Err(panic)) = joined {
            std::panic::resume_unwind(panic);
        }
        uplink
    }
}

/// Ends the prepare thread and counts what waits, however the camera ends.
#[derive(Debug)]
struct CloseOnDrop {
    slot: Arc<RawSlot>,
    outbox: Outbox,
}

impl CloseOnDrop {
    fn close(&self) {
        self.slot.close();
        self.outbox.close();
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits for a task; a panic in it goes on here.
pub(crate) async fn join(task: &mut TaskHandle<()>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// What the sender of the camera of `plan` says first.
pub(crate) fn hello(plan: &CameraPlan, session: SessionId) -> CameraHello {
    CameraHello {
        camera: plan.id.clone(),
        session,
        software: flatframe_shared::SOFTWARE.into(),
        rotation: plan.rotation,
        wanted_fps: plan.fps,
        ttl: plan.ttl,
        display_name: plan.name.clone(),
        late: false,
    }
}
