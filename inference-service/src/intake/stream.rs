//! One stream of one camera, as it comes in: hello, frames, status. Checks what
//! comes, counts it and hands frames to the dispatch. Never waits for a worker
//! and never for a client that does not read; what goes out is [`super::link`]'s
//! and [`super::reply`]'s.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::convert;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::{CameraHello, CameraState, FrameNumber, WireFrame};
use flatframe_shared::r#gen::v1;
use flatframe_shared::serve::{Connection, KeptUntilTaken};
use flatframe_shared::telemetry::{FRAME_TARGET, continue_trace};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, Span};

use super::job::{Answer, Job};
use super::late;
use super::link::{DRAIN_DEADLINE, Intake, Outbound, StreamLink};
use super::reply::FrameReply;
use crate::access::authority::Caller;
use crate::cameras::{OpenError, Reported};

/// A stream must say hello within this.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// The last frames of a stream that is taken over must be answered within this;
/// less than the sender waits for its welcome.
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(3);
/// A stream that sends nothing for so long is ended; senders report every 5 s.
pub(super) const SILENCE_DEADLINE: Duration = Duration::from_secs(9);
/// Why streams are drained at the end.
const STOPPING: &str = "the service is stopping";
/// By this share the age at which a stream is drained differs from the
/// configured one, up or down.
const AGE_JITTER: f64 = 0.2;
/// At a drain that is over, answers still owed may take so long.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// When to try again for a stream.
const STREAM_RETRY: Duration = Duration::from_secs(5);
/// When to try again for a frame that came without a credit.
const NO_CREDIT_RETRY: Duration = Duration::from_secs(1);

/// Messages to one sender.
type Published = Pin<Box<dyn Stream<Item = Result<v1::PublishResponse, Status>> + Send>>;

/// The service of cameras.
#[derive(Clone)]
pub struct FrameApi(pub Arc<Intake>);

#[tonic::async_trait]
impl v1::frame_service_server::FrameService for FrameApi {
    type PublishStream = Published;

    async fn publish(
        &self,
        request: Request<Streaming<v1::PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let intake = self.0.clone();
        let connection = request.extensions().get::<Connection>().cloned();
        let connection = connection.ok_or_else(|| ErrorKind::Internal.status("the connection is not known"))?;
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| ErrorKind::Internal.status("the caller is not known"))?;
        let mut inbound = request.into_inner();
        if intake.shutdown.is_cancelled() {
            return Err(ErrorKind::Unavailable.status("the service is stopping: connect to another or try later"));
        }
        if intake.memory.is_pressed() {
            return Err(ErrorKind::Exhausted { retry_after: STREAM_RETRY }
                .status("memory is short (limits.soft_memory_bytes): no new stream until there is room again"));
        }
        // Streams that have not said hello hold no slot of cameras.
        let opening = intake.openings.begin();
        let hello = tokio::select! {
            biased;
            () = opening.gives_way() => {
                let message = "too many streams are being opened at once: this one was the slowest to say hello";
                return Err(ErrorKind::Exhausted { retry_after: STREAM_RETRY }.status(message));
            }
            hello = read_hello(&mut inbound) => hello?,
        };
        drop(opening);
        caller.may_publish(&hello.camera)?;
        if hello.late {
            let (link, outbound) = late::stream::open(&intake, hello, connection).await?;
            let span = tracing::info_span!("late", camera = %link.hello.camera);
            let slot = link.slot();
            intake.tasks.spawn(late::stream::run(link, inbound).instrument(span));
            return Ok(answer_with(outbound, slot));
        }
        let slot = slot(&intake, &hello).await.ok_or_else(|| {
            let max = intake.limits.max_streams;
            ErrorKind::Exhausted { retry_after: STREAM_RETRY }
                .status(format!("{max} camera streams are open, which is the limit (limits.max_streams)"))
        })?;
        let slot = Arc::new(slot);
        let pace = *lock(&intake.first_pace);
        let taken = intake.archive.take_over(&hello).await;
        let was_just_here = intake.cameras.get(&hello.camera).is_some_and(|camera| camera.was_just_here(hello.session));
        let opened = intake.cameras.open(&hello, pace, |camera| {
            camera.take_over(&taken, was_just_here);
            let opened = StreamLink::new(intake.clone(), camera, hello.clone(), connection.clone(), slot.clone());
            // Before anyone else can send on it: the welcome comes first.
            opened.0.welcome(pace);
            opened
        });
        let (link, outbound) = opened.map_err(|error| {
            let kind = match error {
                OpenError::InUse(_) => ErrorKind::AlreadyExists,
                OpenError::Full(_) => ErrorKind::Exhausted { retry_after: STREAM_RETRY },
            };
            kind.status(error.to_string())
        })?;
        let span = tracing::info_span!("stream", camera = %hello.camera, peer = %connection.peer);
        intake.tasks.spawn(run(link, inbound).instrument(span));
        Ok(answer_with(outbound, slot))
    }
}

/// What is sent to a sender; its slot stays taken until it has read it.
fn answer_with(outbound: Outbound, slot: Arc<OwnedSemaphorePermit>) -> Response<Published> {
    let mut response: Response<Published> = Response::new(Box::pin(ReceiverStream::new(outbound)));
    response.extensions_mut().insert(KeptUntilTaken::new(slot));
    response
}

/// A slot for the stream of `hello`. A sender that comes back needs no second
/// one: it gets that of its broken stream, which is ended for it.
async fn slot(intake: &Intake, hello: &CameraHello) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = intake.slots.clone().try_acquire_owned() {
        return Some(slot);
    }
    if !intake.cameras.end_previous(hello) {
        return None;
    }
    tokio::time::timeout(TAKE_OVER_DEADLINE, intake.slots.clone().acquire_owned()).await.ok()?.ok()
}

async fn read_hello(inbound: &mut Streaming<v1::PublishRequest>) -> Result<CameraHello, Status> {
    let first = tokio::time::timeout(HELLO_DEADLINE, inbound.message())
        .await
        .map_err(|_| ErrorKind::DeadlineExceeded.status(format!("no hello within {} s", HELLO_DEADLINE.as_secs())))??;
    let Some(v1::PublishRequest { message: Some(v1::publish_request::Message::Hello(hello)) }) = first else {
        return Err(ErrorKind::Invalid.status("the first message of a stream must be hello"));
    };
    if hello.protocol_version != convert::PROTOCOL_VERSION {
        return Err(ErrorKind::Precondition.status(format!(
            "protocol version {} is not spoken here, version {} is: update the older of the two",
            hello.protocol_version,
            convert::PROTOCOL_VERSION
        )));
    }
    convert::hello_from_wire(hello).map_err(|error| ErrorKind::Invalid.status(error.to_string()))
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// The sender closed its side.
    Closed,
    /// The sender is gone.
    Vanished,
    /// The same sender came back on another stream.
    Replaced,
    /// Nothing came for too long.
    Silent,
    /// The service stops, or the stream was old; with the reason.
    Drained(&'static str),
    /// The sender broke the protocol, or the transport failed.
    Broken(Status),
}

/// Reads the stream to its end; then waits for the answers still owed.
async fn run(link: Arc<StreamLink>, mut inbound: Streaming<v1::PublishRequest>) {
    tracing::info!(software = link.hello.software, fps = link.hello.wanted_fps, "camera connected");
    let mut last = None;
    let mut draining = false;
    let mut drain_reason = STOPPING;
    let (drained, old) = (tokio::time::sleep(Duration::MAX), tokio::time::sleep(longest_age(&link.intake)));
    tokio::pin!(drained, old);
    let end = loop {
        let message = tokio::select! {
            biased;
            () = link.ended() => break End::Replaced,
            () = link.vanished() => break End::Vanished,
            reason = drain_reason_of(&link.intake, old.as_mut()), if !draining => {
                draining = true;
                drain_reason = reason;
                link.announce_drain(reason);
                drained.as_mut().reset(tokio::time::Instant::now() + DRAIN_DEADLINE);
                continue;
            }
            () = drained.as_mut(), if draining => break End::Drained(drain_reason),
            message = tokio::time::timeout(SILENCE_DEADLINE, inbound.message()) => message,
        };
        match message {
            Err(_) => break End::Silent,
            Ok(Err(status)) => break End::Broken(status),
            Ok(Ok(None)) => break End::Closed,
            Ok(Ok(Some(message))) => {
                if let Err(status) = take_message(&link, message, &mut last) {
                    break End::Broken(status);
                }
            }
        }
    };
    link.close_credits();
    match end {
        End::Closed => link.all_answered(DRAIN_DEADLINE).await,
        End::Drained(_) => link.all_answered(LAST_ANSWERS).await,
        _ => {}
    }
    link.camera.close(&link);
    // Before the stream ends: its sender goes elsewhere then.
    link.intake.archive.hand_over(&link.camera).await;
    tracing::info!(end = ?end, "camera disconnected");
    if let Some(status) = last_words(end) {
        link.say_last(status);
    }
}

/// After how long a stream is drained: drawn, so that streams which were opened
/// together do not end together.
fn longest_age(intake: &Intake) -> Duration {
    match intake.limits.max_stream_age_s {
        0 => Duration::MAX,
        age_s => Duration::from_secs(age_s).mul_f64(1.0 - AGE_JITTER + 2.0 * AGE_JITTER * fastrand::f64()),
    }
}

/// Waits until the stream is to be drained: why.
async fn drain_reason_of(intake: &Intake, old: Pin<&mut tokio::time::Sleep>) -> &'static str {
    tokio::select! {
        biased;
        () = intake.shutdown.cancelled() => STOPPING,
        () = old => "the stream is old (limits.max_stream_age_s): open another",
    }
}

/// The status that a stream ends with; `None` for a good end.
fn last_words(end: End) -> Option<Status> {
    match end {
        End::Closed | End::Vanished => None,
        End::Drained(reason) => Some(ErrorKind::Unavailable.status(reason)),
        End::Replaced => Some(ErrorKind::Aborted.status("the same session opened another stream for this camera")),
        End::Silent => Some(
            ErrorKind::DeadlineExceeded
                .status(format!("nothing came for {} s; report status at least every 5 s", SILENCE_DEADLINE.as_secs())),
        ),
        End::Broken(status) => Some(status),
    }
}

fn take_message(
    link: &Arc<StreamLink>,
    message: v1::PublishRequest,
    last: &mut Option<(FrameNumber, Instant)>,
) -> Result<(), Status> {
    match message.message {
        Some(v1::publish_request::Message::Frame(frame)) => {
            take_frame(link, frame, last);
            Ok(())
        }
        Some(v1::publish_request::Message::Status(status)) => {
            // Offline is what this service says of a camera without a stream.
            let state = convert::state_from_wire(status.state).filter(|state| *state != CameraState::Offline);
            let state = state.ok_or_else(|| {
                ErrorKind::Invalid
                    .status(format!("status.state = {} is not a state of a streaming camera", status.state))
            })?;
            link.camera.report(Reported {
                state,
                detail: convert::short(status.detail),
                counts: status.ledger.as_ref().map(convert::ingest_counts_from_wire).unwrap_or_default(),
            });
            Ok(())
        }
        Some(v1::publish_request::Message::Hello(_)) => {
            Err(ErrorKind::Invalid.status("hello came twice; open another stream instead"))
        }
        // A message of a later version: not for us.
        None => Ok(()),
    }
}

/// Takes a frame; `last` is the number and the urgency of the one before.
fn take_frame(link: &Arc<StreamLink>, frame: v1::Frame, last: &mut Option<(FrameNumber, Instant)>) {
    let arrived = clock::now();
    let number = FrameNumber(frame.number);
    let had_credit = link.spend_credit().is_ok();
    link.camera.frame_arrived(arrived);
    let reply = FrameReply {
        link: link.clone(),
        number,
        captured_unix_us: frame.captured_unix_us,
        jpeg: link.intake.keeps_pictures.then(|| frame.jpeg.clone()),
        age: Duration::from_micros(frame.age_us),
        arrived,
        ticket: link.camera.ledger.receive(),
        had_credit,
        place: None,
    };
    if !had_credit {
        return reply.settle(Answer::Shed { retry_after: NO_CREDIT_RETRY });
    }
    if last.is_some_and(|(last, _)| number <= last) {
        return reply.settle(Answer::Invalid(format!("frame.number = {number} does not grow")));
    }
    let limits = &link.intake.limits;
    let frame = match convert::frame_from_wire(frame, limits.max_frame_bytes, link.intake.max_size) {
        Ok(frame) => frame,
        Err(error) => return reply.settle(Answer::Invalid(error.to_string())),
    };
    let deadline = arrived + frame.remaining;
    // A later frame is never more urgent: results come in the order of frames.
    let urgency = last.map_or(deadline, |(_, urgency)| urgency.max(deadline));
    *last = Some((number, urgency));
    let job = Job {
        span: frame_span(link, &frame),
        jpeg: frame.jpeg,
        rotation: link.hello.rotation,
        arrived,
        deadline,
        urgency,
        reply: Box::new(reply),
    };
    link.intake.dispatch.submit(link.camera.queue, limits.window as usize, job);
}

fn frame_span(link: &StreamLink, frame: &WireFrame) -> Span {
    let span = tracing::trace_span!(
        target: FRAME_TARGET, parent: None, "inference", camera = %link.camera.id, frame = frame.number.0
    );
    continue_trace(&span, &frame.traceparent);
    span
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
