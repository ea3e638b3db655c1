//! One stream to the server for one camera, opened again for ever: sends the
//! newest frames while it holds credits, spends their tickets by the answers,
//! and says `lost` when the stream breaks. The only code of this service that
//! names generated types. Never sends without a credit, keeps no picture after
//! handing it over, and retries no frame: a newer one is always better.

mod stream;

use std::fmt;
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
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::send::Outbox;
use crate::send::uplink::stream::Stream;
use crate::source::BoxFuture;
use crate::source::status::StatusCell;
use crate::terms::{Terms, TermsCell};

/// HTTP/2 pings: a server that is stopped is noticed within 6 s.
const PING_INTERVAL: Duration = Duration::from_secs(3);
const PING_DEADLINE: Duration = Duration::from_secs(3);
/// Flow-control window for what the server sends, in bytes: answers are small.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Largest message taken from the server, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// Longest wait that a server's retry delay can cause.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
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

/// Opens connections to a server.
pub trait Dial: fmt::Debug + Send + Sync {
    /// One attempt.
    fn dial(&self) -> BoxFuture<'_, Result<Channel, tonic::transport::Error>>;
}

/// Over TCP.
impl Dial for Endpoint {
    fn dial(&self) -> BoxFuture<'_, Result<Channel, tonic::transport::Error>> {
        Box::pin(self.connect())
    }
}

/// Sends the frames of one camera.
#[derive(Debug)]
pub struct Uplink {
    /// Where to: [`endpoint`], unless the network is simulated.
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
        Self::Status { code: status.code(), message: convert::short(status.message().to_owned()), retry_after }
    }
}

impl From<InvalidMessage> for UplinkError {
    fn from(invalid: InvalidMessage) -> Self {
        Self::Protocol(invalid.to_string())
    }
}

/// The server at `address`, as each camera connects to it. What runs behind a
/// connection is spawned on `connections`, so that its end can be waited for.
///
/// # Errors
/// When `address` is not `http://HOST:PORT`.
pub fn endpoint(address: &str, connections: &TaskTracker) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(address.to_owned())?
        .user_agent(flatframe_shared::SOFTWARE)?
        .tcp_nodelay(true)
        .connect_timeout(Deadlines::default().connect)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .executor(TrackedExecutor(connections.clone())))
}

/// Spawns what tonic runs behind a connection.
#[derive(Clone)]
struct TrackedExecutor(TaskTracker);

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Uplink {
    /// Sends until `finish`, then waits a little for the last answers. Opens
    /// the stream again for ever.
    pub async fn run(self, finish: CancellationToken) {
        let (first, longest) = self.deadlines.reconnect;
        let mut backoff = Backoff::new(first, longest);
        let mut reported = None;
        loop {
            let answered_before = self.answered();
            let ended = self.run_once(&finish, &mut reported).await;
            self.terms.set(None);
            self.outbox.clear(DropReason::Offline);
            if self.answered() > answered_before {
                backoff.reset();
            }
            let mut delay = backoff.next_delay();
            match ended {
                Ok(End::Finished) => return,
                Ok(End::Drained) => tracing::info!("the server drained the stream"),
                Err(error) => {
                    if let UplinkError::Status { retry_after: Some(asked), .. } = error {
                        delay = delay.max(asked.min(LONGEST_RETRY_AFTER));
                    }
                    report(&error, delay, &mut reported);
                }
            }
            if finish.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    async fn run_once(&self, finish: &CancellationToken, reported: &mut Option<String>) -> Result<End, UplinkError> {
        let Some(opened) = finish.run_until_cancelled(self.open()).await else { return Ok(End::Finished) };
        let (messages, inbound, welcome) = opened?;
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
        Stream::new(self, messages, inbound, welcome).run(finish).await
    }

    async fn open(
        &self,
    ) -> Result<(mpsc::Sender<v1::PublishRequest>, Streaming<v1::PublishResponse>, ServerWelcome), UplinkError> {
        let channel = timeout(self.deadlines.connect, self.server.dial())
            .await
            .map_err(|_| UplinkError::NotConnected(format!("none within {} ms", self.deadlines.connect.as_millis())))?
            .map_err(|error| UplinkError::NotConnected(with_causes(&error)))?;
        let (messages, to_send) = mpsc::channel(self.max_in_flight + ROOM_BESIDE_FRAMES);
        let hello = v1::publish_request::Message::Hello(convert::hello_to_wire(&self.hello));
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
        let welcomed = timeout(self.deadlines.welcome, welcoming).await;
        let (inbound, welcome) = welcomed.map_err(|_| UplinkError::NoWelcome(self.deadlines.welcome))??;
        Ok((messages, inbound, welcome))
    }

    /// Makes known what the server takes from now on.
    fn take_terms(&self, welcome: &ServerWelcome, pace: Pace) {
        let max_size = flatframe_shared::frame::PictureSize::new(
            pace.max_size.width_px.min(welcome.max_size.width_px),
            pace.max_size.height_px.min(welcome.max_size.height_px),
        );
        let max_frame_bytes = welcome.max_frame_bytes as usize;
        self.terms.set(Some(Terms { max_fps: pace.max_fps, max_size, max_frame_bytes }));
    }

    fn answered(&self) -> u64 {
        self.ledger.counts().answered.iter().sum()
    }
}

/// Logs a failure once, until it changes or a stream is opened.
fn report(error: &UplinkError, delay: Duration, reported: &mut Option<String>) {
    let text = error.to_string();
    let retry_ms = delay.as_millis() as u64;
    if reported.as_ref() == Some(&text) {
        tracing::debug!(%error, retry_ms, "still no stream to the server");
        return;
    }
    match error {
        UplinkError::Status { code: Code::AlreadyExists, .. } => {
            tracing::warn!(%error, retry_ms, "another sender uses this camera id: give each camera an id of its own");
        }
        _ => tracing::warn!(%error, retry_ms, "no stream to the server"),
    }
    *reported = Some(text);
}

/// An error and what caused it: tonic's own text is only "transport error".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
