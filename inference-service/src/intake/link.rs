//! What all streams share, and one stream as its task, its frames in work and
//! the pacing see it: sends to the camera without ever waiting for it. Reads
//! nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flatframe_shared::convert;
use flatframe_shared::frame::{CameraHello, Pace, PictureSize, ServerWelcome};
use flatframe_shared::r#gen::v1;
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::rate_log::RateLog;
use flatframe_shared::serve::Connection;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::credits::{Credits, NoCredit, usable_window};
use super::dispatch::Dispatch;
use super::late::Late;
use super::openings::Openings;
use crate::cameras::{Camera, Cameras};
use crate::config::Limits;
use crate::results::archive::Archive;
use crate::results::bus::Bus;

/// After the announcement to drain, streams end within this.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(4);
/// Most streams that may be without a hello at once.
pub const MAX_OPENINGS: usize = 8;
/// Messages to a camera besides outcomes and credits that may wait: welcome,
/// pace, drain.
const OTHER_MESSAGES: usize = 8;

/// What all streams share.
pub struct Intake {
    /// Limits of the configuration.
    pub limits: Limits,
    /// Largest picture accepted.
    pub max_size: PictureSize,
    /// Where jobs go.
    pub dispatch: Arc<Dispatch>,
    /// Says when memory is short.
    pub memory: Arc<MemoryWatch>,
    /// Who is connected.
    pub cameras: Arc<Cameras>,
    /// Where results go.
    pub bus: Arc<Bus>,
    /// Where results and counts are kept.
    pub archive: Archive,
    /// Whether the newest picture of each camera is kept for people to see.
    pub keeps_pictures: bool,
    /// Names of the models, for results.
    pub detector: Arc<str>,
    /// Name of the gender classifier; `None` when switched off.
    pub gender_model: Option<Arc<str>>,
    /// What streams of late frames share.
    pub late: Arc<Late>,
    /// Streams that have not said hello yet.
    pub openings: Arc<Openings>,
    /// One permit for each stream; a permit is the memory of its window.
    pub slots: Arc<Semaphore>,
    /// Holds back warnings about the engine.
    pub warnings: RateLog,
    /// The pace that a new stream starts with.
    pub first_pace: Mutex<Pace>,
    /// Cancelled when the service stops.
    pub shutdown: CancellationToken,
    /// Owns the task of every stream.
    pub tasks: TaskTracker,
}

impl Intake {
    /// Streams open or answering.
    pub fn streams(&self) -> usize {
        self.limits.max_streams - self.slots.available_permits()
    }
}

/// One stream.
pub struct StreamLink {
    /// Its camera.
    pub camera: Arc<Camera>,
    /// What it said when it opened.
    pub hello: CameraHello,
    /// What it shares with the others.
    pub intake: Arc<Intake>,
    connection: Connection,
    out: mpsc::Sender<Result<v1::PublishResponse, Status>>,
    credits: Mutex<Credits>,
    /// Told whenever a frame is answered.
    answered: Notify,
    /// Cancelled to end the stream.
    ended: CancellationToken,
    /// Freed when the last frame of the stream is answered and the camera has
    /// taken the answers.
    _slot: Arc<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for StreamLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamLink").field("camera", &self.camera.id).finish_non_exhaustive()
    }
}

/// Messages to one camera, as its call's answer yields them.
pub type Outbound = mpsc::Receiver<Result<v1::PublishResponse, Status>>;

impl StreamLink {
    /// A stream of `camera` on `connection` that holds `slot`, and what is to
    /// be sent on it.
    pub fn new(
        intake: Arc<Intake>,
        camera: Arc<Camera>,
        hello: CameraHello,
        connection: Connection,
        slot: Arc<OwnedSemaphorePermit>,
    ) -> (Arc<Self>, Outbound) {
        // Every answer and every credit it allows fit at once: a stream that
        // fills this up does not read.
        let (out, outbound) = mpsc::channel(2 * intake.limits.window as usize + OTHER_MESSAGES);
        let link = Self {
            camera,
            hello,
            connection,
            out,
            credits: Mutex::new(Credits::new(intake.limits.window)),
            answered: Notify::new(),
            ended: CancellationToken::new(),
            _slot: slot,
            intake,
        };
        (Arc::new(link), outbound)
    }

    /// Sends the welcome and the first credits.
    pub fn welcome(&self, pace: Pace) {
        let limits = &self.intake.limits;
        let welcome = ServerWelcome {
            max_frame_bytes: limits.max_frame_bytes,
            max_size: self.intake.max_size,
            window: limits.window,
            pace,
            software: flatframe_shared::SOFTWARE.into(),
            late_after_unix_us: None,
        };
        self.send(v1::publish_response::Message::Welcome(convert::welcome_to_wire(&welcome)));
        self.grant();
    }

    /// Takes the credit of a frame that came.
    ///
    /// # Errors
    /// [`NoCredit`]: the frame has no memory reserved.
    pub fn spend_credit(&self) -> Result<(), NoCredit> {
        lock(&self.credits).spend()
    }

    /// Its credits at this instant.
    pub fn credits(&self) -> Credits {
        lock(&self.credits).clone()
    }

    /// A frame is answered: sends its outcome, and the credits that the load
    /// allows now.
    pub fn answer(&self, outcome: v1::FrameOutcome, had_credit: bool) {
        self.send(v1::publish_response::Message::Outcome(outcome));
        if had_credit {
            lock(&self.credits).answered();
            self.answered.notify_waiters();
        }
        self.grant();
    }

    /// Asks the camera for another pace.
    pub fn tell_pace(&self, pace: Pace) {
        self.send(v1::publish_response::Message::Pace(convert::pace_to_wire(pace)));
    }

    /// Tells the camera that no more credits will come, and why.
    pub fn announce_drain(&self, reason: &str) {
        self.close_credits();
        self.send(v1::publish_response::Message::Drain(v1::Drain {
            deadline_ms: convert::millis_u32(DRAIN_DEADLINE),
            reason: reason.into(),
        }));
    }

    /// Grants no more credits.
    pub fn close_credits(&self) {
        lock(&self.credits).close();
    }

    /// Waits until every frame of the stream is answered, at most `limit`.
    pub async fn all_answered(&self, limit: Duration) {
        let all_answered = async {
            loop {
                let answered = self.answered.notified();
                if lock(&self.credits).in_server() == 0 {
                    return;
                }
                answered.await;
            }
        };
        let _ = tokio::time::timeout(limit, all_answered).await;
    }

    /// Ends the stream from outside.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Waits until the stream is ended from outside.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Waits until the camera no longer listens.
    pub async fn vanished(&self) {
        self.out.closed().await;
    }

    /// Sends the status that the stream ends with.
    pub fn say_last(&self, status: Status) {
        // Dropped when the camera is gone or does not read: it is cut anyway.
        let _ = self.out.try_send(Err(status));
    }

    /// Grants what the load allows.
    fn grant(&self) {
        let dispatch = &self.intake.dispatch;
        let (streams, window) = (self.intake.streams(), self.intake.limits.window);
        let usable = if self.intake.memory.is_pressed() {
            1
        } else {
            usable_window(window, self.hello.ttl, streams, dispatch.service(), dispatch.workers())
        };
        let frames = lock(&self.credits).grant(usable);
        if frames > 0 {
            self.send(v1::publish_response::Message::Credit(v1::Credit { frames }));
        }
    }

    /// Sends without waiting; a camera that does not read what it asked for is
    /// cut.
    fn send(&self, message: v1::publish_response::Message) {
        match self.out.try_send(Ok(v1::PublishResponse { message: Some(message) })) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => self.connection.cut.cancel(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
