//! Accepts connections of gRPC, or of browsers, and owns every one of them:
//! capped in number before its handshake of TLS, cut when that or the first
//! bytes do not come, when a ping is not
//! answered, when an answer is not taken or when a handler says so, closed when
//! no call comes or when another needs the place, joined at shutdown within a
//! deadline. Knows no service.
//!
//! tonic's own accept loop waits for ever at shutdown, has no cap and no way
//! to cut one connection; hyper underneath is the same.

mod calls;
mod connection;
mod roster;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use self::calls::Calls;
pub use self::calls::KeptUntilTaken;
use self::roster::Roster;
use crate::clock;
use crate::rate_log::RateLog;
use crate::tls::{PeerCertificate, ServerTls};

/// Data that the peer does not take for so long ends the connection.
const UNSENT_DEADLINE: Duration = Duration::from_secs(8);
/// A connection that was silent so long is probed by the system; together with
/// the probes that go unanswered, a dead peer is cut within 7 s.
const PROBE_AFTER: Duration = Duration::from_secs(4);
/// Between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Probes that go unanswered until the peer counts as dead.
const PROBES: u32 = 3;
/// Wait before accepting again when the process has no file descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC: HTTP/2 from the first byte.
    Grpc,
    /// What browsers are answered in: HTTP/1.1.
    Web,
}

/// What a listener speaks, and whether encrypted.
#[derive(Clone)]
pub struct Speaks {
    protocol: Protocol,
    tls: Option<Arc<ServerTls>>,
}

impl Speaks {
    /// `protocol`, within TLS if there is some.
    pub fn new(protocol: Protocol, tls: Option<Arc<ServerTls>>) -> Self {
        Self { protocol, tls }
    }
}

impl From<Protocol> for Speaks {
    fn from(protocol: Protocol) -> Self {
        Self { protocol, tls: None }
    }
}

/// Limits of all connections of one listener.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Most connections at once. For one more, the connection that is longest
    /// without a call gives way; when all carry calls, it is closed at once.
    pub max_connections: usize,
    /// Most concurrent calls on one connection of gRPC; the web has one.
    pub max_calls_per_connection: u32,
    /// Flow-control window of one connection and of each call on it, bytes:
    /// the most that waits unread. Not used for the web, which reads a request
    /// piece by piece.
    pub window_bytes: u32,
    /// Most bytes that wait to be sent on one call.
    pub send_buffer_bytes: usize,
    /// Time until the preface of gRPC must have come; and, before it, until the
    /// handshake of TLS must be done.
    pub preface_deadline: Duration,
    /// A connection without a call for so long is closed, also when a browser
    /// has not sent the whole header of one: clients open another when they
    /// need it.
    pub idle_deadline: Duration,
    /// A client that does not take an answer for so long is cut.
    pub unread_deadline: Duration,
    /// A connection of gRPC that was silent so long is pinged.
    pub ping_interval: Duration,
    /// A ping must be answered within this.
    pub ping_deadline: Duration,
    /// Largest header list accepted, bytes.
    pub max_header_bytes: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 128,
            max_calls_per_connection: 64,
            window_bytes: 64 * 1024,
            send_buffer_bytes: 64 * 1024,
            preface_deadline: Duration::from_secs(5),
            idle_deadline: Duration::from_secs(60),
            unread_deadline: Duration::from_secs(8),
            // Together with the deadline: a dead peer is cut within 7 s.
            ping_interval: Duration::from_secs(4),
            ping_deadline: Duration::from_secs(3),
            // What other gRPC implementations accept.
            max_header_bytes: 8 * 1024,
        }
    }
}

/// Counters of a listener.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Open now.
    pub open: AtomicU64,
    /// Accepted since start.
    pub accepted: AtomicU64,
    /// Handshakes of TLS that were done.
    pub secured: AtomicU64,
    /// Closed at once because the cap was reached and all others carry calls.
    pub refused: AtomicU64,
    /// Closed without a call because the cap was reached and another came.
    pub gave_way: AtomicU64,
    /// Cut because the first bytes did not come or were another protocol's.
    pub no_preface: AtomicU64,
    /// Closed because no call came.
    pub idle: AtomicU64,
    /// Cut because the client did not read.
    pub cut: AtomicU64,
}

/// The connection a call came on; in the extensions of every request.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The other side.
    pub peer: SocketAddr,
    /// The certificate that it showed in the handshake of TLS, verified.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// What is kept for as long as the connection is open, for those who judge
    /// its calls.
    pub kept: Arc<Mutex<http::Extensions>>,
    /// Cancel it to close the connection with all its calls, for a client that
    /// may not have it any longer.
    pub close: CancellationToken,
    /// Cancel it to end the connection with all its calls, for a client that
    /// stopped reading: HTTP/2 offers no gentler way, since a call whose
    /// window is closed is not asked for its end.
    pub cut: CancellationToken,
}

/// Where connections come from: TCP, or in a simulation what stands for it.
pub trait Listener: Send + 'static {
    /// What the peer sends.
    type Reader: AsyncRead + Unpin + Send + 'static;
    /// What is sent to the peer.
    type Writer: AsyncWrite + Unpin + Send + 'static;

    /// The next connection, ready to be used, and its peer.
    ///
    /// # Errors
    /// When there is none now; the next call may succeed.
    fn accept(&self) -> impl Future<Output = std::io::Result<(Self::Reader, Self::Writer, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    async fn accept(&self) -> std::io::Result<(Self::Reader, Self::Writer, SocketAddr)> {
        let (socket, peer) = TcpListener::accept(self).await?;
        // Small answers must not wait for Nagle; if the option fails, they do.
        let _ = socket.set_nodelay(true);
        // A peer that acknowledges but takes nothing would keep a connection
        // that is closing for ever: its pings cannot even be sent.
        let options = socket2::SockRef::from(&socket);
        let _ = options.set_tcp_user_timeout(Some(UNSENT_DEADLINE));
        // HTTP/1.1 has no ping: a browser that vanished is noticed by this alone while nothing is sent.
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES);
        let _ = options.set_tcp_keepalive(&probes);
        let (reader, writer) = socket.into_split();
        Ok((reader, writer, peer))
    }
}

/// Serves `routes` on `listener` until `shutdown`, then lets calls finish for
/// at most `grace` and closes what is left. Returns when every connection is
/// closed.
pub async fn serve(
    listener: impl Listener,
    speaks: impl Into<Speaks>,
    routes: Routes,
    limits: ConnectionLimits,
    counts: Arc<ConnectionCounts>,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let speaks = speaks.into();
    let tasks = TaskTracker::new();
    let closing = CancellationToken::new();
    let roster = Roster::new(limits.max_connections);
    let (accept_errors, refusals) = (RateLog::default(), RateLog::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (reader, writer, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(held_back) = accept_errors.allow(clock::now()) {
                    tracing::warn!(%error, held_back, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        counts.accepted.fetch_add(1, Relaxed);
        let place = match roster.place() {
            Some(place) => place,
            None if roster.make_room() => {
                counts.gave_way.fetch_add(1, Relaxed);
                // Soon: one that gives way waits for nothing.
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    place = roster.place_made() => place,
                }
            }
            None => {
                counts.refused.fetch_add(1, Relaxed);
                if let Some(held_back) = refusals.allow(clock::now()) {
                    tracing::warn!(%peer, max_connections = limits.max_connections, held_back, "connection refused: the cap is reached");
                }
                continue;
            }
        };
        let open = Open::new(counts.clone());
        let (cut, gives_way) = (closing.child_token(), CancellationToken::new());
        let calls = Calls::new(
            routes.clone(),
            Connection { peer, certificate: None, kept: Arc::default(), close: gives_way.clone(), cut: cut.clone() },
        );
        let member = roster.enter(place, calls.watch(), gives_way.clone());
        let (limits, counts, speaks) = (limits.clone(), counts.clone(), speaks.clone());
        let (shutdown, closing) = (shutdown.clone(), closing.clone());
        let executor = TrackedExecutor(tasks.clone());
        tasks.spawn(async move {
            let _open = open;
            let does_not_read = tokio::select! {
                biased;
                () = cut.cancelled() => !closing.is_cancelled(),
                () = gives_way.cancelled() => false,
                does_not_read = connection::serve((reader, writer), &speaks, calls, &limits, &counts, executor, shutdown) => does_not_read,
            };
            if does_not_read {
                counts.cut.fetch_add(1, Relaxed);
                tracing::info!(%peer, "connection cut: the client stopped reading");
            }
            // Streams of this connection that a task still holds must end too.
            cut.cancel();
            // The socket is closed: the place is free.
            drop(member);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        tracing::warn!(open = counts.open.load(Relaxed), "closing connections that did not end in time");
        closing.cancel();
        tasks.wait().await;
    }
}

/// Counts a connection while it lives.
struct Open(Arc<ConnectionCounts>);

impl Open {
    fn new(counts: Arc<ConnectionCounts>) -> Self {
        counts.open.fetch_add(1, Relaxed);
        Self(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// Spawns the calls of a connection where the listener waits for them.
#[derive(Clone)]
struct TrackedExecutor(TaskTracker);

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.0.spawn(call);
    }
}
