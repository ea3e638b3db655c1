//! One stream to the server for one camera, opened again for ever: sends the
//! newest frames while it holds credits, spends their tickets by the answers,
//! and says `lost` when the stream breaks. The only code of this service that
//! names generated types. Never sends without a credit, keeps no picture after
//! handing it over, and retries no frame: a newer one is always better.
//! [`late`] sends what was kept during an outage, on a stream of its own.

pub mod late;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::backoff::Backoff;
use flatframe_shared::convert::{self, InvalidMessage};
use flatframe_shared::error::retry_after;
use flatframe_shared::frame::{CameraHello, Pace, ServerWelcome};
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::frame_service_client::FrameServiceClient;
use flatframe_shared::histogram::Histogram;
use flatframe_shared::ledger::IngestLedger;
use flatframe_shared::outcome::DropReason;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::send::Outbox;
use crate::send::dial::{Dial, Parting, Retry, with_causes};
use crate::send::servers::Turn;
use crate::send::uplink::stream::Stream;
use crate::source::status::StatusCell;
use crate::terms::{Terms, TermsCell};

/// Largest message taken from the server, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// Longest wait that a server's retry delay can cause.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A server that refused a camera is passed over for so long, unless it says
/// for how long.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// And never for less.
const SHORTEST_REFUSAL: Duration = Duration::from_secs(1);
/// Longest pause before another server is tried, where there is one.
const FAILOVER_JITTER: Duration = Duration::from_millis(100);
/// Messages beside frames that may wait to be written: hello or one status.
const ROOM_BESIDE_FRAMES: usize = 2;

/// How long the uplink waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Until the connection stands.
    pub connect: Duration,
    /// From there until the welcome.
    pub welcome: Duration,
    /// For an answer, beyond the frame's time to live.
    pub answer_slack: Duration,
    /// For the last answers at shutdown.
    pub last_answers: Duration,
    /// For the server to end the stream after we did.
    pub close: Duration,
    /// First and longest delay before connecting again. A server that is there
    /// again gets frames within 10 s: an attempt that began before may take
    /// 5 s, and a server that holds a dead sender's stream notices after 7 s.
    pub reconnect: (Duration, Duration),
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            welcome: Duration::from_secs(5),
            answer_slack: Duration::from_secs(5),
            last_answers: Duration::from_secs(4),
            close: Duration::from_secs(1),
            reconnect: (Duration::from_millis(200), Duration::from_millis(2500)),
        }
    }
}

/// Sends the frames of one camera.
#[derive(Debug)]
pub struct Uplink {
    /// Where to: [`super::route::Route`], unless a test has a way of its own.
    pub server: Box<dyn Dial>,
    /// What is said first.
    pub hello: CameraHello,
    /// Where frames wait.
    pub outbox: Outbox,
    /// What the server takes; written here.
    pub terms: TermsCell,
    /// What the source is doing.
    pub status: StatusCell,
    /// The camera's counters.
    pub ledger: IngestLedger,
    /// From capture to the answer `analyzed`.
    pub latency: Arc<Histogram>,
    /// Most frames sent and not yet answered.
    pub max_in_flight: usize,
    /// How long to wait for what.
    pub deadlines: Deadlines,
}

/// How a stream ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// This service is stopping.
    Finished,
    /// The server is going away.
    Drained,
    /// The camera had better be elsewhere.
    Moved,
}

/// Why a stream could not be had, or broke.
#[derive(Debug, thiserror::Error)]
enum UplinkError {
    #[error("no connection: {0}")]
    NotConnected(String),
    #[error("no welcome within {} ms", .0.as_millis())]
    NoWelcome(Duration),
    #[error("the server says {code:?}: {message}")]
    Status { code: Code, message: String, retry_after: Option<Duration> },
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    #[error("a frame was not answered in time")]
    AnswerLate,
    #[error("the server closed the stream")]
    Closed,
}

impl From<Status> for UplinkError {
    fn from(status: Status) -> Self {
        let retry_after = retry_after(&status);
        // Where the connection broke, the status is ours, and only its cause says why.
        let message = std::error::Error::source(&status).map_or_else(|| status.message().to_owned(), with_causes);
        Self::Status { code: status.code(), message: convert::short(message), retry_after }
    }
}

impl From<InvalidMessage> for UplinkError {
    fn from(invalid: InvalidMessage) -> Self {
        Self::Protocol(invalid.to_string())
    }
}

impl UplinkError {
    fn parting(&self) -> Parting {
        match self {
            Self::Status { code: Code::ResourceExhausted, retry_after, .. } => {
                Parting::Refused(retry_after.unwrap_or(REFUSED_FOR).clamp(SHORTEST_REFUSAL, LONGEST_RETRY_AFTER))
            }
            Self::Status { code: Code::AlreadyExists | Code::Aborted, .. } => Parting::Taken,
            Self::Status {
                code:
                    Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::Unimplemented
                    | Code::PermissionDenied
                    | Code::Unauthenticated,
                ..
            }
            | Self::Protocol(_) => Parting::Refused(REFUSED_FOR),
            Self::NotConnected(_) | Self::NoWelcome(_) | Self::Status { .. } | Self::AnswerLate | Self::Closed => {
                Parting::Gone
            }
        }
    }
}

/// Where a camera moves to: a connection to a server that takes frames.
type Next = Option<(Channel, Turn)>;

impl Uplink {
    /// Sends until `finish`, then waits a little for the last answers. Opens
    /// the stream again for ever.
    pub async fn run(self, finish: CancellationToken) {
        let (first, longest) = self.deadlines.reconnect;
        let mut backoff = Backoff::new(first, longest);
        let (mut reported, mut next) = (None, None);
        loop {
            let answered_before = self.answered();
            let ended = self.run_once(&finish, &mut reported, &mut next).await;
            let has_moved = matches!(ended, Ok(End::Moved));
            if !has_moved {
                next = None;
                self.terms.set(None);
                self.outbox.clear(DropReason::Offline);
            }
            if self.answered() > answered_before {
                backoff.reset();
            }
            let parting = match &ended {
                Ok(End::Finished) => return,
                Ok(End::Drained) => Parting::Drained,
                Ok(End::Moved) => Parting::Moved,
                Err(error) => error.parting(),
            };
            let mut retry = self.server.ended(parting);
            if has_moved {
                continue;
            }
            // A server that drains whatever comes is not asked in a circle.
            if parting == Parting::Drained && self.answered() == answered_before {
                retry = Retry::Later;
            }
            let mut delay = match retry {
                Retry::Elsewhere => FAILOVER_JITTER.mul_f64(fastrand::f64()),
                Retry::Later => backoff.next_delay(),
            };
            if let Err(error) = ended {
                if let UplinkError::Status { retry_after: Some(asked), .. } = error
                    && retry == Retry::Later
                {
                    delay = delay.max(asked.min(LONGEST_RETRY_AFTER));
                }
                report(&error, delay, &mut reported);
            }
            if finish.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    /// One stream, over the connection `next` where there is one; leaves there
    /// where the camera moves to.
    async fn run_once(
        &self,
        finish: &CancellationToken,
        reported: &mut Option<String>,
        next: &mut Next,
    ) -> Result<End, UplinkError> {
        let opening = self.open(next.take());
        let Some(opened) = finish.run_until_cancelled(opening).await else { return Ok(End::Finished) };
        let (messages, inbound, welcome) = opened?;
        self.server.opened(welcome.pace);
        *reported = None;
        tracing::info!(
            server = welcome.software,
            window = welcome.window,
            max_frame_bytes = welcome.max_frame_bytes,
            max_size = %welcome.pace.max_size,
            max_fps = welcome.pace.max_fps,
            "connected to the server"
        );
        self.take_terms(&welcome, welcome.pace);
        Stream::new(self, messages, inbound, welcome).run(finish, next).await
    }

    async fn open(&self, next: Next) -> Result<Opened, UplinkError> {
        open(&*self.server, &self.deadlines, &self.hello, self.max_in_flight + ROOM_BESIDE_FRAMES, next).await
    }

    /// Makes known what the server takes from now on.
    fn take_terms(&self, welcome: &ServerWelcome, pace: Pace) {
        let max_size = flatframe_shared::frame::PictureSize::new(
            pace.max_size.width_px.min(welcome.max_size.width_px),
            pace.max_size.height_px.min(welcome.max_size.height_px),
        );
        let max_frame_bytes = welcome.max_frame_bytes as usize;
        // After a move what waits was made for another server.
        let fits = |before: Terms| {
            before.max_frame_bytes <= max_frame_bytes
                && before.max_size.width_px <= welcome.max_size.width_px
                && before.max_size.height_px <= welcome.max_size.height_px
        };
        if self.terms.get().is_some_and(|before| !fits(before)) {
            self.outbox.clear(DropReason::Offline);
        }
        self.terms.set(Some(Terms { max_fps: pace.max_fps, max_size, max_frame_bytes }));
    }

    fn answered(&self) -> u64 {
        self.ledger.counts().answered.iter().sum()
    }
}

/// A stream that is welcome: where messages go, what comes, and the welcome.
type Opened = (mpsc::Sender<v1::PublishRequest>, Streaming<v1::PublishResponse>, ServerWelcome);

/// Connects, unless there is a connection already, says hello and waits for the
/// welcome. At most `room` messages wait to be written.
async fn open(
    server: &dyn Dial,
    deadlines: &Deadlines,
    hello: &CameraHello,
    room: usize,
    next: Next,
) -> Result<Opened, UplinkError> {
    // Kept until the welcome, so that not all cameras open at once.
    let (channel, _turn) = match next {
        Some((channel, turn)) => (channel, turn),
        None => {
            let turn = server.turn().await;
            (connect(server, deadlines).await?, turn)
        }
    };
    let (messages, to_send) = mpsc::channel(room);
    let hello = v1::publish_request::Message::Hello(convert::hello_to_wire(hello));
    messages.try_send(v1::PublishRequest { message: Some(hello) }).map_err(|_| UplinkError::Closed)?;
    let mut client = FrameServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let welcoming = async {
        let mut inbound = client.publish(ReceiverStream::new(to_send)).await?.into_inner();
        match inbound.message().await?.ok_or(UplinkError::Closed)?.message {
            Some(v1::publish_response::Message::Welcome(welcome)) => {
                Ok((inbound, convert::welcome_from_wire(welcome)?))
            }
            _ => Err(UplinkError::Protocol("the first message is not a welcome".into())),
        }
    };
    let welcomed = timeout(deadlines.welcome, welcoming).await;
    let (inbound, welcome) = welcomed.map_err(|_| UplinkError::NoWelcome(deadlines.welcome))??;
    Ok((messages, inbound, welcome))
}

async fn connect(server: &dyn Dial, deadlines: &Deadlines) -> Result<Channel, UplinkError> {
    let late = || UplinkError::NotConnected(format!("none within {} ms", deadlines.connect.as_millis()));
    let dialled = timeout(deadlines.connect, server.dial()).await.map_err(|_| late())?;
    dialled.map_err(|error| UplinkError::NotConnected(error.to_string()))
}

/// Logs a failure once, until it changes or a stream is opened.
fn report(error: &UplinkError, delay: Duration, reported: &mut Option<String>) {
    let retry_ms = delay.as_millis() as u64;
    if !is_news(error, reported) {
        tracing::debug!(%error, retry_ms, "still no stream to the server");
        return;
    }
    match error {
        UplinkError::Status { code: Code::AlreadyExists, .. } => {
            tracing::warn!(%error, retry_ms, "another sender uses this camera id: give each camera an id of its own");
        }
        UplinkError::Status { code: Code::Unauthenticated | Code::PermissionDenied, .. } => {
            tracing::warn!(%error, retry_ms, "the server does not let this camera in: look at server.cert");
        }
        _ => tracing::warn!(%error, retry_ms, "no stream to the server"),
    }
}

/// Whether this failure was not the last one that was told.
fn is_news(error: &impl std::fmt::Display, reported: &mut Option<String>) -> bool {
    let text = Some(error.to_string());
    let is_news = *reported != text;
    *reported = text;
    is_news
}
