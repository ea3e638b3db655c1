//! When connections are closed, with raw clients and with tonic's.

use std::pin::Pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::connection::PREFACE;
use super::*;
use crate::r#gen::v1::frame_service_client::FrameServiceClient;
use crate::r#gen::v1::frame_service_server::{FrameService, FrameServiceServer};
use crate::r#gen::v1::publish_response::Message;
use crate::r#gen::v1::{Drain, PublishRequest, PublishResponse};

const PATIENCE: Duration = Duration::from_secs(60);
/// A limit that passes by itself, where it may do so at any moment.
const SHORT: Duration = Duration::from_millis(100);
/// A limit that passes when the test lets it, however often the machine stands
/// still before.
const LONG: Duration = Duration::from_secs(600);
/// Passes never.
const FAR: Duration = Duration::from_secs(30 * 86_400);
/// More than tonic gathers before it hands data on: each message is its own.
const MESSAGE_BYTES: usize = 40_000;

/// A service whose answers begin with `messages` of `message_bytes`, and end
/// when the client has ended its half.
#[derive(Clone)]
struct Answering {
    messages: usize,
    message_bytes: usize,
    /// Kept for each answer until it is taken.
    kept: Arc<()>,
    /// Held by each answer's stream.
    bodies: Arc<()>,
}

const ENDLESS: fn(usize) -> Answering =
    |messages| Answering { messages, message_bytes: MESSAGE_BYTES, kept: Arc::default(), bodies: Arc::default() };

#[tonic::async_trait]
impl FrameService for Answering {
    type PublishStream = Pin<Box<dyn Stream<Item = Result<PublishResponse, Status>> + Send>>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(self.messages.max(1));
        for _ in 0..self.messages {
            let drain = Drain { reason: "x".repeat(self.message_bytes), ..Default::default() };
            let _ = sender.try_send(Ok(PublishResponse { message: Some(Message::Drain(drain)) }));
        }
        tokio::spawn(async move {
            // Lives as long as the client's half of the stream.
            let mut inbound = request.into_inner();
            while let Ok(Some(_)) = inbound.message().await {}
            drop(sender);
        });
        let held = self.bodies.clone();
        let answer = ReceiverStream::new(receiver).map(move |message| {
            let _held = &held;
            message
        });
        let mut response: Response<Self::PublishStream> = Response::new(Box::pin(answer));
        response.extensions_mut().insert(KeptUntilTaken::new(self.kept.clone()));
        Ok(response)
    }
}

struct Rig {
    address: SocketAddr,
    counts: Arc<ConnectionCounts>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Rig {
    async fn start(limits: ConnectionLimits, service: Answering) -> Self {
        Self::start_with(Protocol::Grpc, limits, service).await
    }

    async fn start_with(protocol: Protocol, limits: ConnectionLimits, service: Answering) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (counts, stop) = (Arc::<ConnectionCounts>::default(), CancellationToken::new());
        let routes = Routes::new(FrameServiceServer::new(service));
        // Nothing but what a test is about ends a connection.
        let limits = ConnectionLimits { preface_deadline: FAR, ping_interval: FAR, ..limits };
        let serving =
            tokio::spawn(serve(listener, protocol, routes, limits, counts.clone(), stop.clone(), Duration::ZERO));
        Self { address, counts, stop, serving }
    }

    fn endpoint(&self) -> Endpoint {
        Channel::from_shared(format!("http://{}", self.address)).expect("a URL")
    }

    async fn until(&self, what: &str, is_so: impl Fn(&ConnectionCounts) -> bool) {
        until(what, || is_so(&self.counts)).await;
    }

    /// As [`Self::until`], while time flies.
    async fn until_later(&self, what: &str, is_so: impl Fn(&ConnectionCounts) -> bool) {
        let begun = std::time::Instant::now();
        while !is_so(&self.counts) {
            assert!(begun.elapsed() < PATIENCE, "not {what} in time");
            pass(LONG).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.serving).await.expect("ends in time").expect("no panic");
        assert_eq!(self.counts.open.load(Relaxed), 0);
    }
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looks = async {
        while !is_so() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    assert!(timeout(PATIENCE, looks).await.is_ok(), "not {what} in time");
}

/// Lets `time` pass at once, for all that goes by the runtime's clock.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn idle() -> ConnectionLimits {
    ConnectionLimits { idle_deadline: LONG, unread_deadline: FAR, ..ConnectionLimits::default() }
}

/// Opens a stream and returns what keeps the client's half open.
async fn open(channel: Channel) -> (tokio::sync::mpsc::Sender<PublishRequest>, Streaming<PublishResponse>) {
    let (sender, outgoing) = tokio::sync::mpsc::channel(1);
    let mut client = FrameServiceClient::new(channel);
    let opened = timeout(PATIENCE, client.publish(ReceiverStream::new(outgoing))).await.expect("in time");
    (sender, opened.expect("opens").into_inner())
}

/// A client that answers nothing, not even the ping of a graceful end.
#[tokio::test]
async fn a_silent_connection_without_calls_is_closed() {
    let rig = Rig::start(idle(), ENDLESS(0)).await;
    let mut client = TcpStream::connect(rig.address).await.expect("connects");
    // The preface and an empty SETTINGS frame: a client in order so far.
    client.write_all(PREFACE).await.expect("writes");
    client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("writes");
    rig.until_later("idle", |counts| counts.idle.load(Relaxed) == 1).await;
    rig.until_later("closed", |counts| counts.open.load(Relaxed) == 0).await;
    let mut all = Vec::new();
    // Closed or reset: either way it is over.
    let _ = timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("is closed in time");
    rig.stop().await;
}

/// A client in order, which then calls as if nothing had happened.
#[tokio::test]
async fn a_client_opens_another_connection_when_it_needs_one() {
    let rig = Rig::start(idle(), ENDLESS(1)).await;
    let channel = rig.endpoint().connect().await.expect("connects");
    drop(open(channel.clone()).await);
    rig.until_later("closed", |counts| counts.open.load(Relaxed) == 0).await;
    assert_eq!(rig.counts.idle.load(Relaxed), 1);
    let (_half, mut inbound) = open(channel).await;
    assert!(inbound.message().await.expect("is served").is_some());
    drop((_half, inbound));
    rig.stop().await;
}

/// A call keeps its connection, however quiet it is.
#[tokio::test]
async fn a_quiet_call_keeps_its_connection() {
    let limits = ConnectionLimits { unread_deadline: LONG, ..idle() };
    let rig = Rig::start(limits, ENDLESS(1)).await;
    let (half, mut inbound) = open(rig.endpoint().connect().await.expect("connects")).await;
    assert!(inbound.message().await.expect("is served").is_some());
    // Nothing comes: that is what is to be shown, for many times the limit.
    pass(10 * LONG).await;
    let quiet = timeout(SHORT, inbound.message()).await;
    assert!(quiet.is_err(), "the stream ended: {quiet:?}");
    assert_eq!((rig.counts.open.load(Relaxed), rig.counts.idle.load(Relaxed)), (1, 0));
    drop((half, inbound));
    rig.stop().await;
}

/// A client whose window is closed holds its call for ever otherwise.
#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut() {
    let limits = ConnectionLimits { unread_deadline: LONG, ..ConnectionLimits::default() };
    let rig = Rig::start(limits, ENDLESS(2)).await;
    // Room for one byte: the transport keeps the first message, and does not
    // ask for more than the second.
    let channel = rig.endpoint().initial_stream_window_size(1).connect().await.expect("connects");
    let (_half, _inbound) = open(channel).await;
    rig.until_later("cut", |counts| counts.cut.load(Relaxed) == 1).await;
    rig.stop().await;
}

/// The transport takes the last piece of an answer and lets the answer end
/// before the client has room for it: what the answer keeps must stay.
#[tokio::test]
async fn what_an_answer_keeps_is_kept_until_it_is_taken() {
    let service = Answering { messages: 1, message_bytes: 1000, ..ENDLESS(0) };
    let rig = Rig::start(ConnectionLimits::default(), service.clone()).await;
    let (kept, bodies) = (|| Arc::strong_count(&service.kept), || Arc::strong_count(&service.bodies));
    let before = (kept(), bodies());
    let channel = rig.endpoint().initial_stream_window_size(1).connect().await.expect("connects");
    let (half, mut inbound) = open(channel).await;
    drop(half);
    until("at its end", || bodies() == before.1).await;
    assert_eq!(kept(), before.0 + 1, "the client has taken one byte of it");
    assert!(inbound.message().await.expect("is served").is_some());
    until("freed", || kept() == before.0).await;
    rig.stop().await;
}

/// Nobody would notice otherwise: the answer is over, the client's window shut.
#[tokio::test]
async fn a_client_that_leaves_the_last_piece_is_cut() {
    let service = Answering { messages: 1, message_bytes: 1000, ..ENDLESS(0) };
    let limits = ConnectionLimits { unread_deadline: LONG, ..ConnectionLimits::default() };
    let rig = Rig::start(limits, service.clone()).await;
    let (kept, bodies) = (|| Arc::strong_count(&service.kept), || Arc::strong_count(&service.bodies));
    let before = (kept(), bodies());
    let channel = rig.endpoint().initial_stream_window_size(1).connect().await.expect("connects");
    let (half, _inbound) = open(channel).await;
    drop(half);
    until("at its end", || bodies() == before.1).await;
    rig.until_later("cut", |counts| counts.cut.load(Relaxed) == 1).await;
    until("freed", || kept() == before.0).await;
    rig.stop().await;
}

/// At the cap a connection without a call gives way, one with a call does not.
#[tokio::test]
async fn idle_connections_give_way_to_others() {
    let rig = Rig::start(ConnectionLimits { max_connections: 2, ..ConnectionLimits::default() }, ENDLESS(1)).await;
    let (half, mut calling) = open(rig.endpoint().connect().await.expect("connects")).await;
    assert!(calling.message().await.expect("is served").is_some());
    let mut silent = TcpStream::connect(rig.address).await.expect("connects");
    rig.until("accepted", |counts| counts.open.load(Relaxed) == 2).await;
    let (other_half, mut other) = open(rig.endpoint().connect().await.expect("connects")).await;
    assert!(other.message().await.expect("is served").is_some());
    let closed = timeout(PATIENCE, silent.read(&mut [0; 1])).await.expect("gives way");
    assert!(matches!(closed, Ok(0) | Err(_)));
    assert_eq!((rig.counts.gave_way.load(Relaxed), rig.counts.refused.load(Relaxed)), (1, 0));
    // Now both carry calls.
    let mut third = TcpStream::connect(rig.address).await.expect("connects");
    let refused = timeout(PATIENCE, third.read(&mut [0; 1])).await.expect("is closed");
    assert!(matches!(refused, Ok(0) | Err(_)));
    assert_eq!((rig.counts.gave_way.load(Relaxed), rig.counts.refused.load(Relaxed)), (1, 1));
    drop((half, calling, other_half, other));
    rig.stop().await;
}

/// What a browser asks, with a request that does not end.
const ASKED: &[u8] = b"POST /flatframe.v1.FrameService/Publish HTTP/1.1\r\nhost: x\r\n\
    content-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_browser_that_takes_no_answer_is_cut() {
    let limits = ConnectionLimits { unread_deadline: SHORT, ..ConnectionLimits::default() };
    // More than the system's buffers hold.
    let rig = Rig::start_with(Protocol::Web, limits, ENDLESS(1000)).await;
    let mut browser = TcpStream::connect(rig.address).await.expect("connects");
    browser.write_all(ASKED).await.expect("writes");
    rig.until("cut", |counts| counts.cut.load(Relaxed) == 1).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_browser_that_asks_nothing_is_closed() {
    let limits = ConnectionLimits { idle_deadline: SHORT, ..ConnectionLimits::default() };
    let rig = Rig::start_with(Protocol::Web, limits, ENDLESS(0)).await;
    for asked in [&b""[..], &ASKED[..30]] {
        let mut browser = TcpStream::connect(rig.address).await.expect("connects");
        browser.write_all(asked).await.expect("writes");
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, browser.read_to_end(&mut answer)).await.expect("is closed in time");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
    }
    rig.until("closed", |counts| counts.open.load(Relaxed) == 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_browser_that_waits_keeps_its_connection() {
    let limits = ConnectionLimits { unread_deadline: LONG, ..idle() };
    let rig = Rig::start_with(Protocol::Web, limits, ENDLESS(1)).await;
    let mut browser = TcpStream::connect(rig.address).await.expect("connects");
    browser.write_all(ASKED).await.expect("writes");
    let mut taken = vec![0; MESSAGE_BYTES];
    timeout(PATIENCE, browser.read_exact(&mut taken)).await.expect("in time").expect("is served");
    assert!(taken.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&taken[..40]));
    // Nothing comes: that is what is to be shown, for many times the limit.
    pass(10 * LONG).await;
    let quiet = timeout(SHORT, async { while browser.read(&mut taken).await.is_ok_and(|bytes| bytes > 0) {} }).await;
    assert!(quiet.is_err(), "the connection ended");
    rig.stop().await;
}
