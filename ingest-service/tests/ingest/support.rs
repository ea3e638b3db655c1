//! A server that does what a test tells it, and small parts for tests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::frame_service_server::{FrameService, FrameServiceServer};
use flatframe_shared::r#gen::v1::publish_request::Message as Up;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use flatframe_shared::r#gen::v1::{self, Outcome};
use flatframe_shared::jpeg;
use flatframe_shared::serve::{ConnectionCounts, ConnectionLimits, Protocol, serve};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// Nothing in a test takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test, however often it is held up.
pub const FAR: Duration = Duration::from_secs(24 * 3600);

/// `future`, or a panic that says what was waited for.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

/// Pause between two looks at what nothing announces.
const PAUSE: Duration = Duration::from_millis(2);

/// Looks again and again until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    answered(what, async || condition().then_some(())).await;
}

/// Asks again and again until there is an answer.
pub async fn answered<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain until: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A real JPEG, as large as a camera's of a lively scene; different for each
/// `seed`.
pub fn picture(size: PictureSize, seed: u8) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let rgb: Vec<u8> = (0..size.height_px)
        .flat_map(|y| (0..size.width_px).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            let wave = 100.0 + 60.0 * (f64::from(x + 10 * u32::from(seed)) / 31.0).sin() * (f64::from(y) / 17.0).cos();
            let noise = random.u8(0..24);
            [0, 20, 40].map(|shade| wave as u8 + noise + shade)
        })
        .collect();
    let mut out = Vec::new();
    jpeg::encode_rgb(&rgb, size, 80, &mut out).expect("encode");
    out
}

/// A server whose streams are handed to the test.
pub struct FakeServer {
    pub address: SocketAddr,
    streams: mpsc::Receiver<FakeStream>,
    refusals: Arc<Mutex<Vec<Status>>>,
    _stop: tokio_util::sync::DropGuard,
}

/// One stream, after its hello.
pub struct FakeStream {
    pub hello: v1::Hello,
    pub inbound: Streaming<v1::PublishRequest>,
    pub statuses: Vec<v1::CameraStatus>,
    out: mpsc::Sender<Result<v1::PublishResponse, Status>>,
}

struct Service {
    streams: mpsc::Sender<FakeStream>,
    refusals: Arc<Mutex<Vec<Status>>>,
}

#[tonic::async_trait]
impl FrameService for Service {
    type PublishStream = ReceiverStream<Result<v1::PublishResponse, Status>>;

    async fn publish(
        &self,
        request: Request<Streaming<v1::PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let refusal = self.refusals.lock().expect("not poisoned").pop();
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let mut inbound = request.into_inner();
        let Some(v1::PublishRequest { message: Some(Up::Hello(hello)) }) = inbound.message().await? else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (out, responses) = mpsc::channel(256);
        let stream = FakeStream { hello, inbound, statuses: Vec::new(), out };
        self.streams.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

impl FakeServer {
    pub async fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.expect("a free port")).await
    }

    pub async fn start_on(listener: TcpListener) -> Self {
        let (sender, streams) = mpsc::channel(16);
        let refusals = Arc::<Mutex<Vec<Status>>>::default();
        let address = listener.local_addr().expect("bound");
        let service = FrameServiceServer::new(Service { streams: sender, refusals: refusals.clone() });
        let stop = CancellationToken::new();
        let serving = serve(
            listener,
            Protocol::Grpc,
            Routes::new(service.max_decoding_message_size(8 << 20)),
            // A test that is held up, or lets time pass, is no dead peer.
            ConnectionLimits {
                window_bytes: 1 << 20,
                unread_deadline: FAR,
                ping_interval: FAR,
                ..ConnectionLimits::default()
            },
            Arc::<ConnectionCounts>::default(),
            stop.clone(),
            Duration::ZERO,
        );
        tokio::spawn(serving);
        Self { address, streams, refusals, _stop: stop.drop_guard() }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next streams are refused, the last of `statuses` first.
    pub fn refuse(&self, statuses: Vec<Status>) {
        *self.refusals.lock().expect("not poisoned") = statuses;
    }

    pub async fn stream(&mut self) -> FakeStream {
        soon("a stream", self.streams.recv()).await.expect("the server runs")
    }

    /// Answers every frame of every stream as analyzed, until dropped.
    pub fn answer_all(self) -> AnsweringServer {
        let Self { address, mut streams, _stop, .. } = self;
        let task = tokio::spawn(async move {
            let mut answering = tokio::task::JoinSet::new();
            while let Some(stream) = streams.recv().await {
                answering.spawn(stream.answer_all());
            }
        });
        AnsweringServer { address, task, _stop }
    }
}

/// A server that analyses everything.
pub struct AnsweringServer {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
    _stop: tokio_util::sync::DropGuard,
}

impl AnsweringServer {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for AnsweringServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn welcome(window: u32) -> v1::Welcome {
    v1::Welcome {
        protocol_version: 1,
        max_frame_bytes: 1 << 20,
        max_width_px: 1920,
        max_height_px: 1080,
        window,
        pace: Some(v1::Pace { max_fps: 0.0, max_width_px: 640, max_height_px: 480 }),
        software: "fake".into(),
        late_after_unix_us: None,
    }
}

impl FakeStream {
    pub async fn tell(&self, message: Down) {
        self.out.send(Ok(v1::PublishResponse { message: Some(message) })).await.expect("the stream is open");
    }

    pub async fn welcome(&self, window: u32) {
        self.tell(Down::Welcome(welcome(window))).await;
    }

    pub async fn credit(&self, frames: u32) {
        self.tell(Down::Credit(v1::Credit { frames })).await;
    }

    pub async fn answer(&self, number: u64, outcome: Outcome) {
        self.tell(Down::Outcome(v1::FrameOutcome { number, outcome: outcome as i32, ..Default::default() })).await;
    }

    /// Ends the stream with an error.
    pub async fn fail(self, status: Status) {
        let _ = self.out.send(Err(status)).await;
    }

    /// The next frame; statuses before it are kept.
    pub async fn frame(&mut self) -> v1::Frame {
        loop {
            match soon("a frame", self.inbound.message()).await.expect("the stream is open") {
                Some(v1::PublishRequest { message: Some(Up::Frame(frame)) }) => return frame,
                Some(v1::PublishRequest { message: Some(Up::Status(status)) }) => self.statuses.push(status),
                other => panic!("not a frame: {other:?}"),
            }
        }
    }

    /// The next message must be a status.
    pub async fn status(&mut self) -> v1::CameraStatus {
        match soon("a status", self.inbound.message()).await.expect("the stream is open") {
            Some(v1::PublishRequest { message: Some(Up::Status(status)) }) => status,
            other => panic!("not a status: {other:?}"),
        }
    }

    /// Waits until the sender ends its half; frames before that are a defect.
    pub async fn half_closed(&mut self) {
        loop {
            match soon("the end of the stream", self.inbound.message()).await {
                Ok(None) | Err(_) => return,
                Ok(Some(v1::PublishRequest { message: Some(Up::Status(_)) })) => {}
                Ok(other) => panic!("not the end: {other:?}"),
            }
        }
    }

    async fn answer_all(mut self) {
        self.welcome(4).await;
        self.credit(4).await;
        while let Ok(Some(request)) = self.inbound.message().await {
            if let Some(Up::Frame(frame)) = request.message {
                let outcome =
                    v1::FrameOutcome { number: frame.number, outcome: Outcome::Analyzed as i32, ..Default::default() };
                for message in [Down::Outcome(outcome), Down::Credit(v1::Credit { frames: 1 })] {
                    if self.out.send(Ok(v1::PublishResponse { message: Some(message) })).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
