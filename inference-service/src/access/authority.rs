//! The decision: by what the call needs, what the connection's certificate says
//! and which token came with the call. Every refusal is counted and told once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flatframe_shared::clock;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::CameraId;
use flatframe_shared::refusals::{Reason, Refusals};
use flatframe_shared::renewal::{FileError, NamedFile, Renewable, Renewing};
use flatframe_shared::serve::Connection;
use flatframe_shared::tls::PeerCertificate;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Status;

use super::config::AuthConfig;
use super::identities::{Allowance, Identities, Identity, TooMuch};
use super::rules::{Need, Role, need};
use super::tokens::TokenSet;

/// When to try again after too many calls.
const CALLS_RETRY: Duration = Duration::from_secs(1);
/// When to try again after too many connections: others must end first.
const CONNECTIONS_RETRY: Duration = Duration::from_secs(5);

/// Who may call what.
pub struct Authority {
    /// `None`: clients need no token.
    tokens: Option<Renewing<TokenSet>>,
    /// Whether cameras need a certificate.
    cameras_are_known: bool,
    config: AuthConfig,
    identities: Arc<Identities>,
    refusals: Arc<Refusals>,
}

/// Who a call is of, once it was let in; in the extensions of its request.
#[derive(Debug, Clone)]
pub struct Caller {
    certificate: Option<Arc<PeerCertificate>>,
    refusals: Arc<Refusals>,
}

impl Caller {
    /// Whether it may publish as `camera`: anyone where no certificates are
    /// asked for, else whom the certificate names.
    ///
    /// # Errors
    /// The status to refuse with.
    pub fn may_publish(&self, camera: &CameraId) -> Result<(), Status> {
        let Some(certificate) = &self.certificate else { return Ok(()) };
        if certificate.cameras.binary_search(camera).is_ok() {
            return Ok(());
        }
        let who = certificate.describe();
        let why = format!("{who} may not publish as camera {camera}: give it a certificate of its own");
        self.refusals.refuse(Reason::CameraForeign, &who, &why);
        Err(ErrorKind::Denied.status(why))
    }
}

impl Authority {
    /// Reads the tokens; `cameras_are_known`: cameras must show a certificate.
    ///
    /// # Errors
    /// When the file of tokens cannot be used.
    pub fn new(config: AuthConfig, cameras_are_known: bool, refusals: Arc<Refusals>) -> Result<Self, FileError> {
        let tokens = if config.is_on() {
            let file = NamedFile::new("auth.tokens", &config.tokens);
            let read = file.clone();
            Some(Renewing::begin("tokens", &[&file], move || TokenSet::read(&read))?)
        } else {
            None
        };
        Ok(Self { tokens, cameras_are_known, config, identities: Arc::default(), refusals })
    }

    /// How often the tokens were read anew, and how often that failed; `None`:
    /// there are none.
    pub fn renewals(&self) -> Option<(u64, u64)> {
        self.tokens.as_ref().map(Renewing::counts)
    }

    /// Those who take something.
    pub fn identities(&self) -> &Arc<Identities> {
        &self.identities
    }

    /// Whether the method at `path` may be called with `headers` on
    /// `connection`.
    ///
    /// # Errors
    /// The status to refuse with; it is counted and told already.
    pub fn judge(&self, path: &str, headers: &HeaderMap, connection: &Connection) -> Result<Caller, Status> {
        let mut caller = Caller { certificate: None, refusals: self.refusals.clone() };
        let peer = connection.peer.ip();
        match need(path) {
            None => return Err(Status::unimplemented("there is no such method here")),
            Some(Need::Nothing) => {}
            Some(Need::Camera) if self.cameras_are_known => {
                caller.certificate = Some(self.camera(connection, peer)?);
            }
            Some(Need::Camera) => {}
            Some(Need::Role(role)) => {
                if let Some(tokens) = &self.tokens {
                    self.client(&tokens.current(), role, headers, connection, peer)?;
                }
            }
        }
        Ok(caller)
    }

    fn camera(&self, connection: &Connection, peer: IpAddr) -> Result<Arc<PeerCertificate>, Status> {
        let Some(certificate) = &connection.certificate else {
            let why = "cameras must show a certificate here: set server.cert and server.key of ingest-service";
            return Err(self.refuse(Reason::CertificateMissing, &peer.to_string(), why.to_owned()));
        };
        // Each camera has one for live frames and one for late ones, and a new one before the old one is gone.
        let connections = 4 * certificate.cameras.len().max(1) + 1;
        let identity = Identity::Certificate(identity_of(certificate).into());
        self.take(&identity, connection, connections, &certificate.describe())?;
        Ok(certificate.clone())
    }

    fn client(
        &self,
        tokens: &TokenSet,
        role: Role,
        headers: &HeaderMap,
        connection: &Connection,
        peer: IpAddr,
    ) -> Result<(), Status> {
        let peer = peer.to_string();
        let Some(shown) = bearer(headers) else {
            let why = "a token is needed here: send it as \"authorization: Bearer TOKEN\"";
            return Err(self.refuse(Reason::TokenMissing, &peer, why.to_owned()));
        };
        let Some(token) = tokens.find(shown) else {
            return Err(self.refuse(Reason::TokenUnknown, &peer, "the token is not known here".to_owned()));
        };
        let name = format!("token {}", token.id.name);
        if token.is_expired(SystemTime::now()) {
            let why = format!("{name} has expired: have the operator make another");
            return Err(self.refuse(Reason::TokenExpired, &name, why));
        }
        if token.id.role < role {
            let why = format!("{name} has the role {}, and this needs {}", token.id.role.as_str(), role.as_str());
            self.refusals.refuse(Reason::RoleTooLow, &name, &why);
            return Err(ErrorKind::Denied.status(why));
        }
        self.take(&Identity::Token(token.id.clone()), connection, self.config.max_connections, &name)
    }

    fn take(&self, identity: &Identity, connection: &Connection, connections: usize, who: &str) -> Result<(), Status> {
        let allowance = Allowance { connections, calls_per_s: self.config.calls_per_s };
        let taken = self.identities.take(identity, connection, allowance, clock::now());
        let (reason, retry_after, why) = match taken {
            Ok(()) => return Ok(()),
            Err(TooMuch::Calls) => {
                let why =
                    format!("{who} calls more often than {} times a second (auth.calls_per_s)", allowance.calls_per_s);
                (Reason::TooManyCalls, CALLS_RETRY, why)
            }
            Err(TooMuch::Connections) => {
                let key = if matches!(identity, Identity::Token(_)) { " (auth.max_connections)" } else { "" };
                let why = format!("{who} has {connections} connections, which is the limit{key}");
                (Reason::TooManyConnections, CONNECTIONS_RETRY, why)
            }
            Err(TooMuch::Identities) => {
                (Reason::TooManyConnections, CONNECTIONS_RETRY, "too many identities at once".to_owned())
            }
        };
        self.refusals.refuse(reason, who, &why);
        Err(ErrorKind::Exhausted { retry_after }.status(why))
    }

    fn refuse(&self, reason: Reason, who: &str, why: String) -> Status {
        self.refusals.refuse(reason, who, &why);
        ErrorKind::Unauthenticated.status(why)
    }

    /// Closes the connections whose token is good no longer: a stream would go
    /// on for ever. All are compared with what is true now, not with a change: a
    /// call that was judged just before one takes its place just after it.
    fn close_ended(&self) {
        let Some(tokens) = &self.tokens else { return };
        let (tokens, now) = (tokens.current(), SystemTime::now());
        let closed = self.identities.close_where(|identity| match identity {
            Identity::Token(id) => !tokens.is_good(id, now),
            Identity::Certificate(_) => false,
        });
        if closed > 0 {
            tracing::info!(closed, "connections closed: their tokens are good no longer");
        }
    }
}

impl Renewable for Authority {
    fn look(&self) {
        if self.tokens.as_ref().is_some_and(Renewing::look) {
            // At once: the next tick may be a second away.
            self.close_ended();
        }
    }

    fn tick(&self) {
        self.close_ended();
    }
}

/// The token in `headers`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The same for every certificate of the same cameras.
fn identity_of(certificate: &PeerCertificate) -> String {
    let names: Vec<_> = certificate.cameras.iter().map(CameraId::as_str).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::identities::tests::connection;
    use super::super::tokens::TokenFile;
    use super::*;

    /// A call is judged, the tokens change, and only then the call takes its
    /// place.
    #[test]
    fn who_was_let_in_by_the_tokens_before_is_closed_with_the_next_tick() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.toml");
        let mut file = TokenFile::default();
        let leaving = file.add("leaving", Role::Admin, None).expect("added");
        let staying = file.add("staying", Role::Admin, None).expect("added");
        file.write(&path).expect("written");
        let config = AuthConfig { tokens: path.clone(), ..AuthConfig::default() };
        let authority = Authority::new(config, false, Arc::default()).expect("can be read");
        let before = authority.tokens.as_ref().expect("tokens are asked for").current();
        file.token.retain(|token| token.name != "leaving");
        // Under the same name, with less: as bad as none.
        file.add("leaving", Role::Read, None).expect("added");
        file.write(&path).expect("written");
        authority.look();
        let [gone, stays] = [leaving, staying].map(|secret| {
            let (mut headers, connection) = (HeaderMap::new(), connection());
            let shown = HeaderValue::try_from(format!("Bearer {}", secret.reveal())).expect("a header");
            headers.insert(AUTHORIZATION, shown);
            let peer = connection.peer.ip();
            authority.client(&before, Role::Read, &headers, &connection, peer).expect("was good a moment ago");
            connection
        });
        assert!(!gone.close.is_cancelled());
        authority.tick();
        assert!(gone.close.is_cancelled() && !stays.close.is_cancelled());
    }

    #[test]
    fn a_certificate_has_two_connections_for_each_way_of_each_camera() {
        let cameras = ["door", "yard"].map(|id| CameraId::parse(id).expect("an id"));
        let certificate = Arc::new(PeerCertificate { cameras: cameras.into() });
        let authority = Authority::new(AuthConfig::default(), true, Arc::default()).expect("needs no file");
        let connections: Vec<_> =
            (0..10).map(|_| Connection { certificate: Some(certificate.clone()), ..connection() }).collect();
        let let_in = connections.iter().filter(|one| authority.camera(one, one.peer.ip()).is_ok()).count();
        assert_eq!(let_in, 9);
    }
}
