//! The calls of one connection: tells each on which connection it came, counts
//! those that live, keeps what they hold until the client has taken their
//! answer, and notices when there was none for long and when an answer is not
//! taken.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;

use super::Connection;
use crate::clock;
use crate::tls::PeerCertificate;

/// Between two looks for an answer that is not taken.
const LOOK: Duration = Duration::from_secs(1);
/// An answer goes to the transport in pieces of at most this, so that a client
/// that takes a large one slowly is seen to take it: the largest frame that
/// every client accepts (RFC 9113, section 6.5.2).
const PIECE_BYTES: usize = 16 * 1024;

/// In the extensions of a response: what is kept until the client has taken the
/// whole answer, such as the reservation of the answer's memory. The end of the
/// body is too early: the transport still holds what the client's window has no
/// room for.
#[derive(Clone)]
pub struct KeptUntilTaken {
    _reservation: Arc<dyn Any + Send + Sync>,
}

impl KeptUntilTaken {
    /// Keeps `reservation`.
    pub fn new(reservation: impl Any + Send + Sync) -> Self {
        Self { _reservation: Arc::new(reservation) }
    }
}

/// The service of one connection.
pub(super) struct Calls {
    routes: TowerToHyperService<Routes>,
    connection: Connection,
    ledger: Arc<CallLedger>,
}

/// The calls that live.
struct CallLedger {
    live: watch::Sender<Live>,
    next: AtomicU64,
    /// Calls with pieces that the transport holds.
    unread: Mutex<HashMap<u64, Unread>>,
}

/// How many calls live, and when the last one ended.
struct Live {
    calls: usize,
    since: Instant,
}

/// What a client has not taken of an answer.
struct Unread {
    pieces: usize,
    /// When it took the last piece, or had none to take.
    since: Instant,
}

impl CallLedger {
    fn unread(&self) -> MutexGuard<'_, HashMap<u64, Unread>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// Calls of `connection` to `routes`.
    pub(super) fn new(routes: Routes, connection: Connection) -> Self {
        let live = watch::Sender::new(Live { calls: 0, since: Instant::now() });
        let ledger = CallLedger { live, next: AtomicU64::new(0), unread: Mutex::default() };
        Self { routes: TowerToHyperService::new(routes), connection, ledger: Arc::new(ledger) }
    }

    /// The other side.
    pub(super) fn peer(&self) -> SocketAddr {
        self.connection.peer
    }

    /// The handshake is done; `certificate` is what the peer showed.
    pub(super) fn shown(&mut self, certificate: Option<Arc<PeerCertificate>>) {
        self.connection.certificate = certificate;
    }

    /// What knows when the connection should end.
    pub(super) fn watch(&self) -> CallWatch {
        CallWatch(self.ledger.clone())
    }
}

/// Notices what the calls of a connection do not do.
#[derive(Clone)]
pub(super) struct CallWatch(Arc<CallLedger>);

impl CallWatch {
    /// Since when there is no call; `None` while there is one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let live = self.0.live.borrow();
        (live.calls == 0).then_some(live.since)
    }

    /// Returns when there was no call for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        let mut live = self.0.live.subscribe();
        // The sender lives as long as this does.
        while live.wait_for(|live| live.calls == 0).await.is_ok() {
            if tokio::time::timeout(limit, live.wait_for(|live| live.calls > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Returns when an answer was not taken for `limit`.
    pub(super) async fn unread_for(&self, limit: Duration) {
        loop {
            tokio::time::sleep(LOOK.min(limit)).await;
            let now = clock::now();
            if self.0.unread().values().any(|unread| now.duration_since(unread.since) >= limit) {
                return;
            }
        }
    }
}

impl Service<Request<Incoming>> for Calls {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        let (mut call, answering) = (Call::begin(&self.ledger), self.routes.call(request));
        Box::pin(async move {
            let mut response = answering.await?;
            call.kept = response.extensions_mut().remove();
            Ok(response.map(|body| Answer { body, rest: Bytes::new(), call: Arc::new(call) }))
        })
    }
}

/// A call that lives: until its answer is taken to the end or dropped.
struct Call {
    id: u64,
    ledger: Arc<CallLedger>,
    kept: Option<KeptUntilTaken>,
}

impl Call {
    fn begin(ledger: &Arc<CallLedger>) -> Self {
        ledger.live.send_modify(|live| live.calls += 1);
        Self { id: ledger.next.fetch_add(1, Relaxed), ledger: ledger.clone(), kept: None }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Before the connection may end for want of calls.
        drop(self.kept.take());
        self.ledger.live.send_modify(|live| *live = Live { calls: live.calls - 1, since: Instant::now() });
    }
}

/// The body of an answer.
pub(super) struct Answer {
    body: Body,
    /// What `body` gave and the transport did not get yet.
    rest: Bytes,
    call: Arc<Call>,
}

impl HttpBody for Answer {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?.map(Frame::into_data) {
                None => return Poll::Ready(None),
                Some(Ok(data)) => self.rest = data,
                Some(Err(other)) => {
                    // No data, so the type of data does not matter.
                    return Poll::Ready(other.into_trailers().ok().map(|trailers| Ok(Frame::trailers(trailers))));
                }
            }
        }
        let bytes = self.rest.len().min(PIECE_BYTES);
        let data = self.rest.split_to(bytes);
        Poll::Ready(Some(Ok(Frame::data(Piece::new(data, self.call.clone())))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// A piece of an answer. The transport drops it when it is written to the
/// socket or when its call is reset; until then it waits for the client.
pub(super) struct Piece {
    data: Bytes,
    call: Arc<Call>,
}

impl Piece {
    fn new(data: Bytes, call: Arc<Call>) -> Self {
        let mut calls = call.ledger.unread();
        calls.entry(call.id).or_insert_with(|| Unread { pieces: 0, since: Instant::now() }).pieces += 1;
        drop(calls);
        Self { data, call }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut calls = self.call.ledger.unread();
        if let Entry::Occupied(mut entry) = calls.entry(self.call.id) {
            let unread = entry.get_mut();
            unread.pieces -= 1;
            unread.since = Instant::now();
            if unread.pieces == 0 {
                entry.remove();
            }
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.data.advance(bytes);
    }
}
