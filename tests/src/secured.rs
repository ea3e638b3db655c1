//! An inference-service with TLS, certificates of cameras and tokens of clients,
//! all made as an operator makes them, in a folder of its own; and clients that
//! show what a test wants them to show.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::refusals::Reason;
use flatframe_shared::renewal::NamedFile;
use flatframe_shared::tls::{ClientTls, ClientTlsFiles};
use inference_service::access::rules::Role;
use inference_service::access::tokens::TokenFile;
use inference_service::certs::{Authority, Issued, Purpose};
use inference_service::config::Config;
use ingest_service::config::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::pair::{Inference, stub_config};

/// How long certificates are good.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What certificates and tokens are made of.
pub struct Secrets {
    folder: tempfile::TempDir,
    authority: Authority,
    /// The server's.
    pub server: Issued,
}

impl Secrets {
    /// A new authority with a server's certificate, and no tokens.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::init(&folder.path().join("certs"))?;
        let server = authority.issue("server", &server_names(), DAY)?;
        let secrets = Self { folder, authority, server };
        TokenFile::default().write(&secrets.tokens())?;
        Ok(secrets)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    /// The file of tokens.
    pub fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens.toml")
    }

    /// A certificate of a box with `cameras`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cameras(&self, name: &str, cameras: &[&str]) -> anyhow::Result<Issued> {
        Ok(self.authority.issue(name, &purpose(cameras)?, DAY)?)
    }

    /// As [`Secrets::cameras`], but its time is over.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn expired(&self, name: &str, cameras: &[&str]) -> anyhow::Result<Issued> {
        let now = SystemTime::now();
        Ok(self.authority.issue_between(name, &purpose(cameras)?, (now - 3 * DAY, now - 2 * DAY))?)
    }

    /// The server's certificate, made anew in the same files.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn renew_server(&self) -> anyhow::Result<()> {
        self.authority.issue("server", &server_names(), DAY)?;
        Ok(())
    }

    /// A new token of a client.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn token(&self, name: &str, role: Role) -> anyhow::Result<String> {
        self.change_tokens(|file| file.add(name, role, None)).map(|secret| secret.reveal().to_owned())
    }

    /// As [`Secrets::token`], but its time is over.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn expired_token(&self, name: &str, role: Role) -> anyhow::Result<String> {
        let token = self.token(name, role)?;
        self.change_tokens(|file| {
            let entry = file.token.iter_mut().find(|entry| entry.name == name).ok_or("the token is there")?;
            entry.expires = Some("2020-01-01T00:00:00Z".to_owned());
            Ok(())
        })?;
        Ok(token)
    }

    /// Takes a token away.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remove_token(&self, name: &str) -> anyhow::Result<()> {
        self.change_tokens(|file| {
            file.token.retain(|entry| entry.name != name);
            Ok(())
        })
    }

    fn change_tokens<T>(&self, change: impl FnOnce(&mut TokenFile) -> Result<T, String>) -> anyhow::Result<T> {
        let mut file = TokenFile::read(&NamedFile::new("tokens", self.tokens()))?;
        let changed = change(&mut file).map_err(anyhow::Error::msg)?;
        file.write(&self.tokens())?;
        Ok(changed)
    }

    /// A configuration with everything that protects it.
    pub fn config(&self) -> Config {
        let mut config = stub_config(1000, true);
        config.tls.cert = self.server.cert.clone();
        config.tls.key = self.server.key.clone();
        config.tls.client_ca = self.ca();
        config.auth.tokens = self.tokens();
        config
    }

    /// Starts a service with all that, changed by `change`.
    ///
    /// # Errors
    /// As the service's own start.
    pub async fn start(&self, change: impl FnOnce(&mut Config)) -> anyhow::Result<Inference> {
        let mut config = self.config();
        change(&mut config);
        Inference::start(config).await
    }

    /// A client that trusts this authority and shows `identity`.
    ///
    /// # Errors
    /// When its files cannot be used.
    pub fn client(&self, identity: Option<&Issued>) -> anyhow::Result<ClientTls> {
        let identity = identity.map(|issued| (issued.cert.clone(), issued.key.clone()));
        Ok(ClientTls::load(ClientTlsFiles::new(self.ca(), identity))?)
    }

    /// A connection to `service` that shows `identity`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(&self, service: &Inference, identity: Option<&Issued>) -> anyhow::Result<Channel> {
        self.connect_to(service.address, identity).await
    }

    /// As [`Secrets::connect`], to what listens at `address`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect_to(&self, address: SocketAddr, identity: Option<&Issued>) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(https(address))?;
        Ok(endpoint.connect_with_connector(self.client(identity)?.connect()).await?)
    }

    /// Where an ingest-service sends, showing `identity`.
    pub fn server_config(&self, service: &Inference, identity: &Issued) -> ServerConfig {
        ServerConfig {
            ca: self.ca(),
            cert: identity.cert.clone(),
            key: identity.key.clone(),
            ..ServerConfig::at(https(service.address))
        }
    }

    /// A raw connection by TLS to `address` that speaks `protocol` and shows no
    /// certificate.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn raw(&self, address: SocketAddr, protocol: &[u8]) -> anyhow::Result<Raw> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca())?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(address).await?;
        Ok(TlsConnector::from(Arc::new(config)).connect("localhost".try_into()?, socket).await?)
    }
}

/// A client of results that shows a token.
pub type Results = ResultServiceClient<InterceptedService<Channel, Bearer>>;

/// Shows a token with every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A client of results on `channel` that shows `token`.
///
/// # Errors
/// When it cannot be a header.
pub fn results(channel: Channel, token: &str) -> anyhow::Result<Results> {
    let bearer = Bearer(format!("Bearer {token}").parse()?);
    Ok(ResultServiceClient::new(InterceptedService::new(channel, bearer)))
}

/// A connection by TLS.
pub type Raw = TlsStream<TcpStream>;

/// The certificate that the server showed on `raw`.
///
/// # Errors
/// When it showed none.
pub fn leaf(raw: &Raw) -> anyhow::Result<CertificateDer<'static>> {
    let shown = raw.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.context("the server showed a certificate")?.clone().into_owned())
}

/// How often `service` refused someone for `reason`.
pub fn refused(service: &Inference, reason: Reason) -> u64 {
    service.sources.security.refusals.count(reason)
}

/// `address` as the server's certificate has it.
pub fn https(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}

fn server_names() -> Purpose {
    Purpose::Server(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
}

fn purpose(cameras: &[&str]) -> anyhow::Result<Purpose> {
    let cameras: Result<Vec<_>, _> = cameras.iter().map(|id| CameraId::parse(id)).collect();
    Ok(Purpose::Cameras(cameras?))
}
