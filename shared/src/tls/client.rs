//! The client's side of TLS: whom it trusts, what it shows, and connections for
//! tonic. A renewed certificate is shown at the next connection. Sends nothing
//! to a server that is not who it should be.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

use super::certificate::earliest_expiry;
use super::{Expiry, ExpiryWatch, pem, provider};
use crate::renewal::{FileError, NamedFile, Renewable, Renewing};

/// Port of `https` without one.
const HTTPS_PORT: u16 = 443;

/// Whose servers are trusted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those with a certificate of the authorities in this file.
    File(NamedFile),
    /// Those with a certificate of these authorities.
    Roots(Arc<RootCertStore>),
}

/// Where the client's side comes from.
#[derive(Debug, Clone)]
pub struct ClientTlsFiles {
    /// Whose servers are trusted.
    pub trust: Trust,
    /// Certificate with its chain, and its key, of this client; `None`: it shows
    /// none.
    pub identity: Option<(NamedFile, NamedFile)>,
}

/// The client's side, renewed when its files change.
pub struct ClientTls {
    files: Renewing<Current>,
    expiry: ExpiryWatch,
}

struct Current {
    config: Arc<ClientConfig>,
    expiries: Vec<Expiry>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`FileError`], naming key and file.
    pub fn load(files: ClientTlsFiles) -> Result<Self, FileError> {
        let mut all = Vec::new();
        if let Trust::File(file) = &files.trust {
            all.push(file.clone());
        }
        if let Some((cert, key)) = &files.identity {
            all.extend([cert.clone(), key.clone()]);
        }
        let load = move || Current::load(&files);
        let files = Renewing::begin("certificates", &all.iter().collect::<Vec<_>>(), load)?;
        Ok(Self { files, expiry: ExpiryWatch::default() })
    }

    /// When its certificates end.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.files.current().expiries.clone()
    }

    /// How often its files were read anew, and how often that failed.
    pub fn renewals(&self) -> (u64, u64) {
        self.files.counts()
    }

    /// Makes connections by what was read last. Bound the time of each: this
    /// waits as long as the network does.
    pub fn connect(&self) -> TlsConnect {
        TlsConnect { config: self.files.current().config.clone(), name: None }
    }

    /// As [`ClientTls::connect`], for an address that was looked up already:
    /// the certificate must name `host`.
    pub fn connect_to(&self, host: &str) -> TlsConnect {
        TlsConnect { name: Some(host.to_owned()), ..self.connect() }
    }
}

impl Renewable for ClientTls {
    fn look(&self) {
        self.files.look();
    }

    fn tick(&self) {
        self.expiry.look(&self.files.current().expiries);
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

impl Current {
    fn load(files: &ClientTlsFiles) -> Result<Self, FileError> {
        let roots = match &files.trust {
            Trust::File(file) => Arc::new(pem::authorities(file)?.0),
            Trust::Roots(roots) => roots.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has all that the default versions need")
            .with_root_certificates(roots);
        let mut expiries = Vec::new();
        let mut config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = pem::certificates(cert)?;
                let end = earliest_expiry(&chain);
                let unix_s = end.ok_or_else(|| cert.wrong("has a certificate whose time cannot be read"))?;
                expiries.push(Expiry { key: cert.key, unix_s, is_authority: false });
                builder.with_client_auth_cert(chain, pem::private_key(key)?).map_err(|error| {
                    key.wrong(format!("does not belong to the certificate in {} ({error})", cert.key))
                })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), expiries })
    }
}

/// Opens encrypted connections for tonic's `connect_with_connector`.
#[derive(Clone)]
pub struct TlsConnect {
    config: Arc<ClientConfig>,
    /// Whom the certificate must name; `None`: the host of the address.
    name: Option<String>,
}

impl Service<Uri> for TlsConnect {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connector = TlsConnector::from(self.config.clone());
        let name = self.name.clone();
        Box::pin(async move {
            // Without the brackets of an IPv6 address.
            let host = server.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let name = name.unwrap_or_else(|| host.clone());
            let name =
                ServerName::try_from(name.clone()).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
            let socket = TcpStream::connect((host, server.port_u16().unwrap_or(HTTPS_PORT))).await?;
            // Small messages must not wait for Nagle; if the option fails, they do.
            let _ = socket.set_nodelay(true);
            Ok(TokioIo::new(connector.connect(name, socket).await?))
        })
    }
}

impl ClientTlsFiles {
    /// As ingest-service's `[server]` has it: trusts the authorities in `ca`, and shows `identity` (certificate, key).
    pub fn new(ca: impl Into<PathBuf>, identity: Option<(PathBuf, PathBuf)>) -> Self {
        let trust = Trust::File(NamedFile::new("server.ca", ca));
        let identity =
            identity.map(|(cert, key)| (NamedFile::new("server.cert", cert), NamedFile::new("server.key", key)));
        Self { trust, identity }
    }
}
