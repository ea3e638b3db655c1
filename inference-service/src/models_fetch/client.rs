//! HTTP and HTTPS GET with a bound on every wait: one connection for each
//! request, a few redirects, no cookies, no proxy.
//!
//! Knows no model and writes no file.

use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HOST, LOCATION, RANGE, USER_AGENT};
use http::uri::{Scheme, Uri};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::WaitLimits;

/// Most redirects that are followed; file hosts use one or two.
const MAX_REDIRECTS: usize = 5;
/// Largest head of an answer, in bytes; file hosts sign long addresses.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be used.
    #[error("{url:?} is no address that can be fetched: {reason}")]
    Address {
        /// As given.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The name has no address.
    #[error("{host} could not be found ({error}): there is no network, no name service, or no such host")]
    Name {
        /// The host.
        host: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Nobody takes the connection.
    #[error("no connection to {host} ({error}): there is no network, or the server is down")]
    Connect {
        /// The host.
        host: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// It takes too long.
    #[error("{host}: no {what} within {waited:?}")]
    Late {
        /// The host.
        host: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: std::time::Duration,
    },
    /// The server does not prove who it is.
    #[error("{host}: no secure connection ({error})")]
    Tls {
        /// The host.
        host: String,
        /// What TLS said.
        error: std::io::Error,
    },
    /// It does not speak HTTP, or breaks off.
    #[error("{host} gave no proper answer ({error})")]
    Protocol {
        /// The host.
        host: String,
        /// What is wrong.
        error: hyper::Error,
    },
    /// Redirects lead nowhere.
    #[error("{url} redirects more than {MAX_REDIRECTS} times")]
    Redirects {
        /// Where it began.
        url: String,
    },
    /// A redirect that would give up encryption.
    #[error("{url} redirects from https to {to}, which is not followed")]
    Downgrade {
        /// Where it began.
        url: String,
        /// Where it leads.
        to: String,
    },
}

/// Gets files.
pub struct Client {
    waits: WaitLimits,
    tls: TlsConnector,
}

impl Client {
    /// Trusts the certificate authorities that Mozilla trusts, which are part
    /// of the binary.
    pub fn new(waits: WaitLimits) -> Self {
        Self::trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, waits)
    }

    /// Trusts `roots` only.
    pub fn trusting(roots: RootCertStore, waits: WaitLimits) -> Self {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has all that the default versions need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { waits, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// The longest waits.
    pub const fn waits(&self) -> &WaitLimits {
        &self.waits
    }

    /// The head of the answer for `url` from byte `from` on, redirects
    /// followed.
    ///
    /// # Errors
    /// [`HttpError`]; an answer with an error status is an answer.
    pub async fn get(&self, url: &str, from: u64) -> Result<Reply, HttpError> {
        let mut at = Target::parse(url)?;
        for _ in 0..=MAX_REDIRECTS {
            let reply = self.get_once(at, from).await?;
            let Some(location) = reply.redirect() else { return Ok(reply) };
            let next = reply.target.follow(location)?;
            if reply.target.is_secure && !next.is_secure {
                return Err(HttpError::Downgrade { url: url.into(), to: next.uri.to_string() });
            }
            at = next;
        }
        Err(HttpError::Redirects { url: url.into() })
    }

    async fn get_once(&self, target: Target, from: u64) -> Result<Reply, HttpError> {
        let (host, waits) = (target.host.clone(), self.waits);
        let late = |what, waited| HttpError::Late { host: host.clone(), what, waited };
        let stream = timeout(waits.connect, self.connect(&target));
        let stream = stream.await.map_err(|_| late("connection", waits.connect))??;
        let ask = async {
            let (mut sender, connection) =
                http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            Ok((sender.send_request(target.request(from)).await?, driver))
        };
        let asked: Result<_, hyper::Error> = timeout(waits.head, ask).await.map_err(|_| late("answer", waits.head))?;
        let (response, driver) = asked.map_err(|error| HttpError::Protocol { host: host.clone(), error })?;
        Ok(Reply { response, target, _driver: driver })
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, HttpError> {
        let host = &target.host;
        let found = tokio::net::lookup_host((host.as_str(), target.port)).await;
        let addresses: Vec<_> = found.map_err(|error| HttpError::Name { host: host.clone(), error })?.collect();
        let tcp = TcpStream::connect(addresses.as_slice()).await;
        let tcp = tcp.map_err(|error| HttpError::Connect { host: host.clone(), error })?;
        if !target.is_secure {
            return Ok(Box::new(tcp));
        }
        let refused = |error| HttpError::Tls { host: host.clone(), error };
        let name = ServerName::try_from(host.clone())
            .map_err(|error| refused(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
        Ok(Box::new(self.tls.connect(name, tcp).await.map_err(refused)?))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The head of an answer, and its body to come.
pub struct Reply {
    response: Response<Incoming>,
    target: Target,
    /// Moves the bytes; ends with this.
    _driver: JoinSet<hyper::Result<()>>,
}

impl Reply {
    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The address that answered.
    pub fn url(&self) -> String {
        self.target.uri.to_string()
    }

    /// Bytes of the body, where the server says so.
    pub fn content_bytes(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// First byte of a partial answer: `Content-Range: bytes FIRST-LAST/ALL`.
    pub fn range_start(&self) -> Option<u64> {
        self.header(CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
    }

    /// The body.
    pub fn body(&mut self) -> &mut Incoming {
        self.response.body_mut()
    }

    /// Where it redirects to, if it does.
    fn redirect(&self) -> Option<&str> {
        use StatusCode as S;
        let moved = [S::MOVED_PERMANENTLY, S::FOUND, S::SEE_OTHER, S::TEMPORARY_REDIRECT, S::PERMANENT_REDIRECT];
        if moved.contains(&self.status()) { self.header(LOCATION) } else { None }
    }

    fn header(&self, name: http::HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }
}

/// An address, taken apart.
struct Target {
    uri: Uri,
    host: String,
    port: u16,
    is_secure: bool,
}

impl Target {
    fn parse(url: &str) -> Result<Self, HttpError> {
        let refuse = |reason| HttpError::Address { url: url.into(), reason };
        let uri: Uri = url.parse().map_err(|_| refuse("it is not a URL"))?;
        let is_secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(refuse("only https:// and http:// are known")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("names and passwords are not sent"));
        }
        // Brackets belong to the notation of IPv6 addresses, not to the name.
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self { host, port, is_secure, uri })
    }

    /// Where a redirect from here leads; RFC 9110, 10.2.2: the location may be
    /// relative. `..` in it is left to the server.
    fn follow(&self, location: &str) -> Result<Self, HttpError> {
        let scheme = if self.is_secure { "https" } else { "http" };
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let url = if location.contains("://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            let folder = self.uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        Self::parse(url.split('#').next().unwrap_or(&url))
    }

    fn request(&self, from: u64) -> Request<Empty<Bytes>> {
        let mut headers = HeaderMap::new();
        let value = |text: &str| HeaderValue::from_str(text).expect("parts of a URI and numbers are visible ASCII");
        headers.insert(HOST, value(self.uri.authority().map_or("", |authority| authority.as_str())));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("flatframe/", env!("CARGO_PKG_VERSION"))));
        // The hash is of the plain file.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if from > 0 {
            headers.insert(RANGE, value(&format!("bytes={from}-")));
        }
        let mut request = Request::new(Empty::new());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().expect("it was part of a URI");
        *request.headers_mut() = headers;
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_by_table() {
        for (url, expected) in [
            ("https://a.example/x", Ok(("a.example", 443, true))),
            ("http://a.example:8080/x?y=1", Ok(("a.example", 8080, false))),
            ("http://[::1]:81/x", Ok(("::1", 81, false))),
            ("ftp://a.example/x", Err("only https")),
            ("/x", Err("only https")),
            ("https://me:secret@a.example/x", Err("passwords")),
            ("http://a b/", Err("not a URL")),
        ] {
            match (Target::parse(url), expected) {
                (Ok(found), Ok(expected)) => assert_eq!((found.host.as_str(), found.port, found.is_secure), expected),
                (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{url}: {found}"),
                (found, expected) => panic!("{url}: {:?}, expected {expected:?}", found.map(|target| target.uri)),
            }
        }
    }

    #[test]
    fn redirects_by_table() {
        let from = Target::parse("https://a.example:444/dir/file?q=1").expect("an address");
        for (location, expected) in [
            ("https://b.example/x?y", "https://b.example/x?y"),
            ("//b.example/x", "https://b.example/x"),
            ("/x/y", "https://a.example:444/x/y"),
            ("y", "https://a.example:444/dir/y"),
            ("/x#part", "https://a.example:444/x"),
        ] {
            let to = from.follow(location).unwrap_or_else(|error| panic!("{location}: {error}"));
            assert_eq!(to.uri.to_string(), expected);
        }
        assert!(from.follow("https://a b/").is_err());
    }
}
