//! How the connection behind an endpoint comes about ([`Connect`]): over TCP,
//! with TLS where the servers have it. The simulation has another way. Chooses
//! no server.

use std::sync::Arc;

use flatframe_shared::tls::ClientTls;
use tonic::transport::{Channel, Endpoint, Error};

use crate::send::servers::directory::Known;
use crate::source::BoxFuture;

/// Opens connections to servers.
pub trait Connect: std::fmt::Debug + Send + Sync {
    /// One attempt to connect to `server` as `endpoint` says, which has its
    /// deadline.
    fn connect<'a>(&'a self, endpoint: Endpoint, server: &'a Known) -> BoxFuture<'a, Result<Channel, Error>>;
}

/// Over TCP.
#[derive(Debug, Default)]
pub struct Tcp {
    /// Whom this service trusts and who it says it is; `None`: in clear.
    pub tls: Option<Arc<ClientTls>>,
}

impl Connect for Tcp {
    fn connect<'a>(&'a self, endpoint: Endpoint, server: &'a Known) -> BoxFuture<'a, Result<Channel, Error>> {
        Box::pin(async move {
            match &self.tls {
                None => endpoint.connect().await,
                // The certificate is for the name, whatever its address is.
                Some(tls) => endpoint.connect_with_connector(tls.connect_to(server.named.host())).await,
            }
        })
    }
}
