//! The server's side of TLS: what it shows, whose certificates it takes, and
//! the handshake of one connection. Clients may come without a certificate;
//! whether one is needed is decided call by call, elsewhere.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{CertificateError, Error, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::certificate::{PeerCertificate, earliest_expiry};
use super::{Expiry, ExpiryWatch, pem, provider};
use crate::refusals::{Reason, Refusals};
use crate::renewal::{FileError, NamedFile, Renewable, Renewing};
use crate::serve::Protocol;

/// Plain bytes that wait to be encrypted, and encrypted ones that wait to be
/// sent, of one connection, each.
const BUFFER_BYTES: usize = 32 << 10;
/// Memory of one connection that TLS adds: a handshake message and the
/// certificates out of it, each at its largest (rustls, 64 KiB), a record that
/// is read, both buffers, and the keys.
pub const TLS_CONNECTION_BYTES: u64 = 2 * (64 << 10) + (18 << 10) + 2 * (BUFFER_BYTES as u64 + (18 << 10)) + (12 << 10);

/// Where the server's side comes from.
#[derive(Debug, Clone)]
pub struct ServerTlsFiles {
    /// The certificate with its chain (`tls.cert`).
    pub cert: PathBuf,
    /// Its key (`tls.key`).
    pub key: PathBuf,
    /// The authority of the cameras' certificates (`tls.client_ca`).
    pub client_ca: Option<PathBuf>,
}

/// The server's side, renewed when its files change.
pub struct ServerTls {
    files: Renewing<Current>,
    refusals: Arc<Refusals>,
    expiry: ExpiryWatch,
}

/// What was read last.
struct Current {
    grpc: Arc<ServerConfig>,
    web: Arc<ServerConfig>,
    expiries: Vec<Expiry>,
}

impl ServerTls {
    /// Reads the files; whoever fails the handshake goes to `refusals`.
    ///
    /// # Errors
    /// [`FileError`], naming key and file.
    pub fn load(files: ServerTlsFiles, refusals: Arc<Refusals>) -> Result<Self, FileError> {
        let cert = NamedFile::new("tls.cert", files.cert);
        let key = NamedFile::new("tls.key", files.key);
        let client_ca = files.client_ca.map(|path| NamedFile::new("tls.client_ca", path));
        let all: Vec<_> = [&cert, &key].into_iter().chain(client_ca.as_ref()).cloned().collect();
        let load = move || Current::load(&cert, &key, client_ca.as_ref());
        let files = Renewing::begin("certificates", &all.iter().collect::<Vec<_>>(), load)?;
        Ok(Self { files, refusals, expiry: ExpiryWatch::default() })
    }

    /// When its certificates end.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.files.current().expiries.clone()
    }

    /// How often its files were read anew, and how often that failed.
    pub fn renewals(&self) -> (u64, u64) {
        self.files.counts()
    }
}

impl Renewable for ServerTls {
    fn look(&self) {
        self.files.look();
    }

    fn tick(&self) {
        self.expiry.look(&self.files.current().expiries);
    }
}

impl Current {
    fn load(cert: &NamedFile, key: &NamedFile, client_ca: Option<&NamedFile>) -> Result<Self, FileError> {
        let chain = pem::certificates(cert)?;
        let private = pem::private_key(key)?;
        let expiry = |file: &NamedFile, certificates: &[_], is_authority| {
            let end = earliest_expiry(certificates);
            let unix_s = end.ok_or_else(|| file.wrong("has a certificate whose time cannot be read"))?;
            Ok(Expiry { key: file.key, unix_s, is_authority })
        };
        let mut expiries = vec![expiry(cert, &chain, false)?];
        let verifier = match client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(file) => {
                let (roots, certificates) = pem::authorities(file)?;
                expiries.push(expiry(file, &certificates, true)?);
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| file.wrong(format!("cannot be an authority of clients ({error})")))?
            }
        };
        let speaking = |verifier, protocol: &[u8]| {
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .expect("ring has all that the default versions need")
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain.clone(), private.clone_key())
                .map_err(|error| key.wrong(format!("does not belong to the certificate in {} ({error})", cert.key)))?;
            config.alpn_protocols = vec![protocol.to_vec()];
            // A session that is resumed would bring a certificate that was good once.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok(Arc::new(config))
        };
        // Browsers have no certificates: they are not even asked for one.
        let web = speaking(WebPkiClientVerifier::no_client_auth(), b"http/1.1")?;
        Ok(Self { grpc: speaking(verifier, b"h2")?, web, expiries })
    }
}

/// A connection that is encrypted, and what its peer showed.
pub(crate) struct Secured<IO> {
    pub(crate) reader: ReadHalf<TlsStream<IO>>,
    pub(crate) writer: WriteHalf<TlsStream<IO>>,
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
}

/// Does the handshake on `io`, within `deadline`; `None`: `who` was refused,
/// which is counted and told.
pub(crate) async fn secure<IO>(
    tls: &ServerTls,
    protocol: Protocol,
    io: IO,
    deadline: Duration,
    who: &str,
) -> Option<Secured<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let current = tls.files.current();
    let config = match protocol {
        Protocol::Grpc => &current.grpc,
        Protocol::Web => &current.web,
    };
    let accepting =
        TlsAcceptor::from(config.clone()).accept_with(io, |session| session.set_buffer_limit(Some(BUFFER_BYTES)));
    let stream = match tokio::time::timeout(deadline, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // Who leaves without a word, as a port scan or a probe does, was not refused.
            if let Some(reason) = reason_of(&error) {
                tls.refusals.refuse(reason, who, &error);
            }
            return None;
        }
        Err(_) => {
            let why = format!("no handshake within {} s", deadline.as_secs_f32());
            tls.refusals.refuse(Reason::HandshakeLate, who, &why);
            return None;
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = match shown.map(PeerCertificate::read) {
        None => None,
        Some(Some(certificate)) => Some(Arc::new(certificate)),
        Some(None) => {
            let why = "the certificate has too many names, or cannot be read";
            tls.refusals.refuse(Reason::CertificateWrong, who, &why);
            return None;
        }
    };
    let (reader, writer) = tokio::io::split(stream);
    Some(Secured { reader, writer, certificate })
}

/// Why a handshake failed; `None`: the connection ended.
fn reason_of(error: &io::Error) -> Option<Reason> {
    use CertificateError as Bad;
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidMessage(_) => Reason::NotTls,
        Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => Reason::CertificateExpired,
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => Reason::CertificateForeign,
        Error::InvalidCertificate(_) => Reason::CertificateWrong,
        _ => Reason::HandshakeFailed,
    })
}
