//! How a camera connects to one server: deadlines, pings, windows. Dials nobody
//! and knows no stream.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tonic::transport::Endpoint;

use crate::send::servers::directory::Named;
use crate::send::uplink::Deadlines;

/// Flow-control window for what the server sends, in bytes: answers are small.
const WINDOW_BYTES: u32 = 64 * 1024;

/// How soon a server that is stopped is noticed: HTTP/2 pings after so long
/// without a word, and the time to answer them.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    ping_after: Duration,
    ping_deadline: Duration,
}

impl Liveness {
    /// Where there is no other server: in a network that stands still for a
    /// while it is better to wait than to lose what is on its way.
    pub const ALONE: Self = Self::within(Duration::from_secs(6));
    /// Where another server can take over.
    pub const WITH_OTHERS: Self = Self::within(Duration::from_millis(1500));

    /// A server that does not answer is noticed within `limit`.
    pub const fn within(limit: Duration) -> Self {
        let half = Duration::from_millis(limit.as_millis() as u64 / 2);
        Self { ping_after: half, ping_deadline: half }
    }
}

/// The server that the configuration calls `named`, at `address` where that is
/// known already, as each camera connects to it. What runs behind a connection
/// is spawned on `connections`, so that its end can be waited for.
///
/// # Errors
/// When `named` is no URL.
pub fn endpoint(
    named: &Named,
    address: Option<SocketAddr>,
    liveness: Liveness,
    connections: &TaskTracker,
) -> Result<Endpoint, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(named.url.clone())?;
    if let Some(address) = address {
        // Requests carry the name, as proxies expect it.
        let name = endpoint.uri().clone();
        endpoint = Endpoint::from_shared(format!("http://{address}"))?.origin(name);
    }
    Ok(endpoint
        .user_agent(flatframe_shared::SOFTWARE)?
        .tcp_nodelay(true)
        .connect_timeout(Deadlines::default().connect)
        .http2_keep_alive_interval(liveness.ping_after)
        .keep_alive_timeout(liveness.ping_deadline)
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
