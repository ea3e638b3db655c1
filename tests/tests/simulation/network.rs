//! The simulated network as the services see it: what stands for their TCP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flatframe_shared::serve::Listener;
use hyper_util::rt::TokioIo;
use ingest_service::send::connection::{Liveness, endpoint};
use ingest_service::send::dial::{Dial, DialError};
use ingest_service::send::servers::connect::Connect;
use ingest_service::send::servers::directory::{Known, Named};
use ingest_service::source::BoxFuture;
use tokio_util::task::TaskTracker;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Error};
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use turmoil::net::{TcpListener, TcpStream};

/// Name of the server's host, where there is one.
pub const SERVER: &str = "server";
/// The port of every server.
pub const PORT: u16 = 50_051;

/// Where the server listens.
pub struct SimListener(TcpListener);

impl SimListener {
    /// Binds the server's port on the host that runs this.
    pub async fn bind() -> io::Result<Self> {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.map(Self)
    }
}

impl Listener for SimListener {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    async fn accept(&self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf, SocketAddr)> {
        let (socket, peer) = self.0.accept().await?;
        let (reader, writer) = socket.into_split();
        Ok((reader, writer, peer))
    }
}

/// The way to the server, with all options of the real one.
#[derive(Debug)]
pub struct SimDial(Endpoint);

impl SimDial {
    /// To the server; what runs behind a connection is spawned on
    /// `connections`.
    pub fn new(connections: &TaskTracker) -> Self {
        let named = Named::parse(&format!("http://{SERVER}:{PORT}")).expect("a server");
        Self(endpoint(&named, None, Liveness::ALONE, connections).expect("the address is one"))
    }
}

impl Dial for SimDial {
    fn dial(&self) -> BoxFuture<'_, Result<Channel, DialError>> {
        Box::pin(async { Ok(connect(&self.0).await?) })
    }
}

/// How servers are reached where there are several; counts.
#[derive(Debug, Default)]
pub struct SimConnect {
    /// Connections tried.
    pub attempts: AtomicU64,
}

impl Connect for SimConnect {
    fn connect<'a>(&'a self, endpoint: Endpoint, _server: &'a Known) -> BoxFuture<'a, Result<Channel, Error>> {
        self.attempts.fetch_add(1, Relaxed);
        Box::pin(async move { connect(&endpoint).await })
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    let connect = tower::service_fn(|server: Uri| async move {
        let address = (server.host().unwrap_or_default().to_owned(), server.port_u16().unwrap_or_default());
        io::Result::Ok(TokioIo::new(TcpStream::connect(address).await?))
    });
    endpoint.connect_with_connector(connect).await
}
