//! One stream of late frames: opened when the history is there to keep their
//! results, one credit at a time when the gate lets it through, and a frame
//! taken only if it is newer than every late result of its camera. Never waits
//! for a worker and never for a sender that does not read.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flatframe_shared::clock;
use flatframe_shared::convert;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::{CameraHello, FrameNumber, Pace, ServerWelcome};
use flatframe_shared::r#gen::v1;
use flatframe_shared::outcome::Outcome;
use flatframe_shared::serve::Connection;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tonic::{Status, Streaming};
use tracing::Span;

use super::reply::LateReply;
use super::{LatePlace, NoStream};
use crate::history::{History, QueryError};
use crate::intake::job::{Answer, Job};
use crate::intake::link::{DRAIN_DEADLINE, Intake, Outbound};
use crate::intake::stream::SILENCE_DEADLINE;
use crate::results::archive::LateResult;
use crate::vision::Analysis;

/// When to try again for a stream, or for a frame that found no time.
pub const RETRY: Duration = Duration::from_secs(5);
/// The frame of a stream that is taken over must be answered within this; less
/// than the sender waits for its welcome.
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(2);
/// What the history has of the camera must be known within this; with the one
/// above still less than the sender waits.
const HISTORY_DEADLINE: Duration = Duration::from_secs(2);
/// A frame that found no free worker for so long is given back.
const TURN_DEADLINE: Duration = Duration::from_secs(10);
/// A frame from further ahead was captured with a wrong clock: taken, it would
/// make all that follow too old.
const AHEAD: Duration = Duration::from_secs(60);
/// Messages that may wait for the sender: welcome, credit, outcome, drain.
const MESSAGES: usize = 8;

/// One stream, as its task and its frame in work see it.
pub struct LateLink {
    /// What it said when it opened.
    pub hello: CameraHello,
    /// What it shares with the others.
    pub intake: Arc<Intake>,
    connection: Connection,
    out: mpsc::Sender<Result<v1::PublishResponse, Status>>,
    state: Mutex<State>,
    /// Told when the frame is answered.
    answered: Notify,
    place: LatePlace,
}

#[derive(Debug, Clone, Copy)]
struct State {
    holds_credit: bool,
    in_work: bool,
    closed: bool,
    /// Capture of the newest result, microseconds.
    newest_us: i64,
    last_number: Option<FrameNumber>,
}

/// Opens a stream of late frames: its link, and what is to be sent on it.
///
/// # Errors
/// FAILED_PRECONDITION (late frames are not taken here), ALREADY_EXISTS,
/// RESOURCE_EXHAUSTED.
pub async fn open(
    intake: &Arc<Intake>,
    hello: CameraHello,
    connection: Connection,
) -> Result<(Arc<LateLink>, Outbound), Status> {
    let refuse = |text: &str| Err(ErrorKind::Precondition.status(text));
    let Some(history) = intake.archive.history.clone() else {
        return refuse("late frames are not taken: no history is kept (history.file)");
    };
    if intake.archive.wire.withholds_faces {
        return refuse("late frames are not taken: privacy.mode = \"counts_only\" keeps no results");
    }
    if intake.late.max_streams() == 0 {
        return refuse("late frames are not taken: limits.max_late_streams = 0");
    }
    let place = intake.late.place(&hello.camera, hello.session, TAKE_OVER_DEADLINE).await;
    let place = place.map_err(|error| {
        let kind = match error {
            NoStream::InUse(_) => ErrorKind::AlreadyExists,
            NoStream::Full(_) | NoStream::Ending(_) => ErrorKind::Exhausted { retry_after: RETRY },
        };
        kind.status(error.to_string())
    })?;
    let newest_us = newest_late(history, &hello).await?.unwrap_or(0);
    let (out, outbound) = mpsc::channel(MESSAGES);
    let link = Arc::new(LateLink {
        hello,
        intake: intake.clone(),
        connection,
        out,
        state: Mutex::new(State { holds_credit: false, in_work: false, closed: false, newest_us, last_number: None }),
        answered: Notify::new(),
        place,
    });
    let limits = &intake.limits;
    let welcome = ServerWelcome {
        max_frame_bytes: limits.max_frame_bytes,
        max_size: intake.max_size,
        window: 1,
        pace: Pace { max_fps: None, max_size: intake.max_size },
        software: flatframe_shared::SOFTWARE.into(),
        late_after_unix_us: Some(newest_us),
    };
    link.send(v1::publish_response::Message::Welcome(convert::welcome_to_wire(&welcome)));
    Ok((link, outbound))
}

/// Capture of the newest late result of the camera, all that was offered to the
/// history before included.
async fn newest_late(history: History, hello: &CameraHello) -> Result<Option<i64>, Status> {
    let camera = hello.camera.clone();
    let asked = tokio::task::spawn_blocking(move || {
        if !history.flush(HISTORY_DEADLINE / 2) {
            return Err(QueryError::Busy);
        }
        history.newest_late_us(&camera, clock::now() + HISTORY_DEADLINE / 2)
    });
    match asked.await {
        Ok(Ok(newest)) => Ok(newest),
        Ok(Err(error)) => {
            let message = format!("late frames cannot be taken now: {error}");
            Err(ErrorKind::Exhausted { retry_after: RETRY }.status(message))
        }
        // Only a runtime that stops gives no answer.
        Err(_) => Err(ErrorKind::Unavailable.status("the service is stopping")),
    }
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    Closed,
    Vanished,
    Replaced,
    Silent,
    Drained,
    Broken(Status),
}

/// Reads the stream to its end; then waits for the answer still owed.
pub async fn run(link: Arc<LateLink>, mut inbound: Streaming<v1::PublishRequest>) {
    tracing::info!(software = link.hello.software, "late frames begin");
    let (mut draining, mut turn) = (false, None);
    let mut silent_at = clock::now() + SILENCE_DEADLINE;
    let drained = tokio::time::sleep(Duration::MAX);
    tokio::pin!(drained);
    let end = loop {
        if link.wants_credit() && turn.is_none() {
            turn = Some(Box::pin(link.intake.late.gate.turn()));
        }
        let message = tokio::select! {
            biased;
            () = link.place.ended.cancelled() => break End::Replaced,
            () = link.out.closed() => break End::Vanished,
            () = link.intake.shutdown.cancelled(), if !draining => {
                (draining, turn) = (true, None);
                link.announce_drain();
                drained.as_mut().reset(tokio::time::Instant::now() + DRAIN_DEADLINE);
                continue;
            }
            () = drained.as_mut(), if draining => break End::Drained,
            message = tokio::time::timeout_at(silent_at.into(), inbound.message()) => message,
            () = its_turn(&mut turn), if turn.is_some() => {
                turn = None;
                link.grant();
                continue;
            }
            () = link.answered.notified() => continue,
        };
        silent_at = clock::now() + SILENCE_DEADLINE;
        match message {
            Err(_) => break End::Silent,
            Ok(Err(status)) => break End::Broken(status),
            Ok(Ok(None)) => break End::Closed,
            Ok(Ok(Some(message))) => match message.message {
                Some(v1::publish_request::Message::Frame(frame)) => take_frame(&link, frame),
                Some(v1::publish_request::Message::Hello(_)) => {
                    break End::Broken(ErrorKind::Invalid.status("hello came twice; open another stream instead"));
                }
                Some(v1::publish_request::Message::Status(_)) | None => {}
            },
        }
    };
    drop(turn);
    link.close_credits();
    if matches!(end, End::Closed | End::Drained) {
        link.all_answered(DRAIN_DEADLINE).await;
    }
    tracing::info!(end = ?end, "late frames end");
    if let Some(status) = last_words(end) {
        // Dropped when the sender is gone or does not read.
        let _ = link.out.try_send(Err(status));
    }
    link.place.ended.cancel();
    // What still waits for a worker is nobody's now.
    link.intake.dispatch.tidy_late();
}

async fn its_turn(turn: &mut Option<Pin<Box<impl Future<Output = ()>>>>) {
    match turn {
        Some(turn) => turn.as_mut().await,
        None => std::future::pending().await,
    }
}

/// The status that a stream ends with; `None` for a good end.
fn last_words(end: End) -> Option<Status> {
    match end {
        End::Closed | End::Vanished => None,
        End::Drained => Some(ErrorKind::Unavailable.status("the service is stopping")),
        End::Replaced => Some(ErrorKind::Aborted.status("the same session opened another late stream for this camera")),
        End::Silent => Some(
            ErrorKind::DeadlineExceeded
                .status(format!("nothing came for {} s; report status at least every 5 s", SILENCE_DEADLINE.as_secs())),
        ),
        End::Broken(status) => Some(status),
    }
}

fn take_frame(link: &Arc<LateLink>, frame: v1::Frame) {
    let (arrived, number) = (clock::now(), FrameNumber(frame.number));
    let taken = link.take(number);
    let reply = LateReply {
        link: link.clone(),
        number,
        captured_unix_us: frame.captured_unix_us,
        arrived,
        ticket: link.intake.late.ledger.receive(),
        had_credit: taken.is_ok(),
    };
    let newest_us = match taken {
        Ok(newest_us) => newest_us,
        Err(answer) => return reply.settle(answer),
    };
    if let Err(why) = check_time(link, frame.captured_unix_us, newest_us) {
        return reply.settle(Answer::Invalid(why));
    }
    let limits = &link.intake.limits;
    let frame = match convert::frame_from_wire(frame, limits.max_frame_bytes, link.intake.max_size) {
        Ok(frame) => frame,
        Err(error) => return reply.settle(Answer::Invalid(error.to_string())),
    };
    let deadline = arrived + TURN_DEADLINE;
    link.intake.dispatch.submit_late(Job {
        span: Span::none(),
        jpeg: frame.jpeg,
        rotation: link.hello.rotation,
        arrived,
        deadline,
        urgency: deadline,
        reply: Box::new(reply),
    });
}

/// Whether the history has no result of the frame, and would keep one.
fn check_time(link: &LateLink, captured_us: i64, newest_us: i64) -> Result<(), String> {
    if captured_us <= newest_us {
        return Err(format!(
            "frame.captured_unix_us = {captured_us} is not after {newest_us}, of which there is a late result"
        ));
    }
    let now_us = clock::unix_us();
    if captured_us > now_us.saturating_add(convert::micros_u64(AHEAD) as i64) {
        return Err(format!("frame.captured_unix_us = {captured_us} is in the future: set the sender's clock"));
    }
    let kept = link.intake.archive.history.as_ref().map(History::max_age_results).unwrap_or_default();
    if captured_us < now_us.saturating_sub_unsigned(convert::micros_u64(kept)) {
        return Err(format!("frame.captured_unix_us = {captured_us} is older than what the history keeps"));
    }
    Ok(())
}

impl LateLink {
    /// Whether nobody waits for its answers any more.
    pub fn is_over(&self) -> bool {
        self.place.ended.is_cancelled() || self.out.is_closed()
    }

    /// Kept with the answer until the sender has taken it.
    pub fn slot(&self) -> Arc<tokio::sync::OwnedSemaphorePermit> {
        self.place.slot.clone()
    }

    /// What goes into the history.
    pub fn late_result(&self, number: FrameNumber, captured_unix_us: i64, analysis: Analysis) -> LateResult {
        LateResult {
            camera: self.hello.camera.clone(),
            session: self.hello.session,
            number,
            captured_unix_us,
            analysis,
            detector: self.intake.detector.clone(),
            gender_model: self.intake.gender_model.clone(),
        }
    }

    /// The frame is answered: sends its outcome. A result that is stored makes
    /// all frames up to its time known.
    pub fn answer(&self, message: v1::FrameOutcome, captured_us: i64, outcome: Outcome, had_credit: bool) {
        {
            let mut state = self.state();
            if outcome == Outcome::Analyzed {
                state.newest_us = state.newest_us.max(captured_us);
            }
            state.in_work &= !had_credit;
        }
        self.send(v1::publish_response::Message::Outcome(message));
        self.answered.notify_one();
    }

    /// Takes the credit of a frame that came: the time after which it must be
    /// captured, or what it is answered.
    fn take(&self, number: FrameNumber) -> Result<i64, Answer> {
        let mut state = self.state();
        if !std::mem::take(&mut state.holds_credit) {
            return Err(Answer::Shed { retry_after: RETRY });
        }
        if state.last_number.is_some_and(|last| number <= last) {
            return Err(Answer::Invalid(format!("frame.number = {number} does not grow")));
        }
        state.last_number = Some(number);
        state.in_work = true;
        Ok(state.newest_us)
    }

    fn wants_credit(&self) -> bool {
        let state = self.state();
        !(state.holds_credit || state.in_work || state.closed)
    }

    fn grant(&self) {
        self.state().holds_credit = true;
        self.send(v1::publish_response::Message::Credit(v1::Credit { frames: 1 }));
    }

    fn close_credits(&self) {
        self.state().closed = true;
    }

    fn announce_drain(&self) {
        self.close_credits();
        self.send(v1::publish_response::Message::Drain(v1::Drain {
            deadline_ms: convert::millis_u32(DRAIN_DEADLINE),
            reason: "the service is stopping".into(),
        }));
    }

    async fn all_answered(&self, limit: Duration) {
        let all_answered = async {
            while self.state().in_work {
                self.answered.notified().await;
            }
        };
        let _ = tokio::time::timeout(limit, all_answered).await;
    }

    /// Sends without waiting; a sender that does not read is cut.
    fn send(&self, message: v1::publish_response::Message) {
        match self.out.try_send(Ok(v1::PublishResponse { message: Some(message) })) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => self.connection.cut.cancel(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
