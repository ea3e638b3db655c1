//! The calls of one connection: tells each on which connection it came, counts
//! those that live, and knows when there was none for long.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;

use super::Connection;
use super::held_body::HeldBody;

/// The service of one connection.
pub(super) struct Calls {
    routes: TowerToHyperService<Routes>,
    connection: Connection,
    live: watch::Sender<usize>,
}

/// A call that lives: until its answer is read to the end or dropped.
pub(super) struct Call(watch::Sender<usize>);

impl Call {
    fn begin(live: &watch::Sender<usize>) -> Self {
        live.send_modify(|calls| *calls += 1);
        Self(live.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

impl Calls {
    /// Calls of `connection` to `routes`.
    pub(super) fn new(routes: Routes, connection: Connection) -> Self {
        Self { routes: TowerToHyperService::new(routes), connection, live: watch::Sender::new(0) }
    }

    /// Returns when there was no call for `limit`.
    pub(super) fn idle_for(&self, limit: Duration) -> impl Future<Output = ()> + Send + use<> {
        let mut live = self.live.subscribe();
        async move {
            // It ends with the connection, which owns the sender.
            while live.wait_for(|calls| *calls == 0).await.is_ok() {
                if tokio::time::timeout(limit, live.wait_for(|calls| *calls > 0)).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Service<Request<Incoming>> for Calls {
    type Response = Response<HeldBody<Call>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        let (call, answering) = (Call::begin(&self.live), self.routes.call(request));
        Box::pin(async move { Ok(answering.await?.map(|body: Body| HeldBody::new(body, call))) })
    }
}
