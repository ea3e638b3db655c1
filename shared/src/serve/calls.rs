//! The calls of one connection: tells each on which connection it came, counts
//! those that live, and notices when there was none for long and when a client
//! does not take an answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
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

/// Between two looks for an answer that is not taken.
const LOOK: Duration = Duration::from_secs(1);

/// The service of one connection.
pub(super) struct Calls {
    routes: TowerToHyperService<Routes>,
    connection: Connection,
    ledger: Arc<CallLedger>,
}

/// The calls that live.
struct CallLedger {
    live: watch::Sender<usize>,
    next: AtomicU64,
    /// Calls with data that the transport took last and has not asked on for,
    /// and since when: it asks again as soon as the client's window has room.
    unread: Mutex<HashMap<u64, Instant>>,
}

impl CallLedger {
    fn unread(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// Calls of `connection` to `routes`.
    pub(super) fn new(routes: Routes, connection: Connection) -> Self {
        let ledger = CallLedger { live: watch::Sender::new(0), next: AtomicU64::new(0), unread: Mutex::default() };
        Self { routes: TowerToHyperService::new(routes), connection, ledger: Arc::new(ledger) }
    }

    /// What knows when the connection should end.
    pub(super) fn watch(&self) -> CallWatch {
        CallWatch(self.ledger.clone())
    }
}

/// Notices what the calls of a connection do not do.
pub(super) struct CallWatch(Arc<CallLedger>);

impl CallWatch {
    /// Returns when there was no call for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        let mut live = self.0.live.subscribe();
        // The sender lives as long as this does.
        while live.wait_for(|calls| *calls == 0).await.is_ok() {
            if tokio::time::timeout(limit, live.wait_for(|calls| *calls > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Returns when an answer was not taken for `limit`.
    pub(super) async fn unread_for(&self, limit: Duration) {
        loop {
            tokio::time::sleep(LOOK.min(limit)).await;
            let now = clock::now();
            if self.0.unread().values().any(|since| now.duration_since(*since) >= limit) {
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
        let (call, answering) = (Call::begin(&self.ledger), self.routes.call(request));
        Box::pin(async move {
            Ok(answering.await?.map(|body| {
                call.wait_for_reader();
                Answer { body, call }
            }))
        })
    }
}

/// A call that lives: until its answer is read to the end or dropped.
struct Call {
    id: u64,
    ledger: Arc<CallLedger>,
}

impl Call {
    fn begin(ledger: &Arc<CallLedger>) -> Self {
        ledger.live.send_modify(|calls| *calls += 1);
        Self { id: ledger.next.fetch_add(1, Relaxed), ledger: ledger.clone() }
    }

    /// From here on the client must make room.
    fn wait_for_reader(&self) {
        self.ledger.unread().insert(self.id, clock::now());
    }

    /// The client has made room.
    fn reader_came(&self) {
        self.ledger.unread().remove(&self.id);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.reader_came();
        self.ledger.live.send_modify(|calls| *calls -= 1);
    }
}

/// The body of an answer. The transport (hyper 1.12) takes a piece of it, waits
/// until the client's window is open, hands the piece to its send buffer, and
/// only then asks for the next.
pub(super) struct Answer {
    body: Body,
    call: Call,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.call.reader_came();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(_)) = &polled {
            self.call.wait_for_reader();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
