//! A private authority in a folder, and certificates of it: for homes and
//! tests, where nobody else issues some. Only this names rcgen. Opens no
//! connection; keys are written for their owner alone.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flatframe_shared::frame::CameraId;
use flatframe_shared::tls::CAMERA_DOMAIN;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::secret_file;

/// What the authority calls itself; by this its certificates are found again.
const AUTHORITY: &str = "Flatframe private CA";
/// How long the authority is good.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates are good from so long ago: a board without a clock of its own
/// may be late when it starts.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// Letters in a line of a PEM file (RFC 7468).
const PEM_LINE: usize = 64;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The folder has an authority.
    #[error("{} is there already: use another folder (--dir), or remove it and issue every certificate anew", .0.display())]
    Exists(PathBuf),
    /// The folder has none that can be used.
    #[error("{}: {reason}: make an authority with inference-service certs init", path.display())]
    NoAuthority {
        /// What was looked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that cannot stand in a certificate, or in a file's name.
    #[error("{name:?}: {reason}")]
    Name {
        /// As given.
        name: String,
        /// What is allowed.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {reason}", path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// What it says.
        reason: std::io::Error,
    },
    /// A defect of ours, or no random bytes.
    #[error("no certificate can be made: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// What a certificate is for.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// A server under these names or addresses.
    Server(Vec<String>),
    /// A box with these cameras.
    Cameras(Vec<CameraId>),
}

impl Purpose {
    /// Checks the names, before anything is made for them.
    ///
    /// # Errors
    /// [`CertError::Name`].
    pub fn check(&self) -> Result<(), CertError> {
        let Self::Server(names) = self else { return Ok(()) };
        match names.iter().find(|name| !is_server_name(name)) {
            None => Ok(()),
            Some(name) => {
                let reason = "use a host name such as server.lan or an address such as 192.168.1.5, without http:// \
                              and port";
                Err(CertError::Name { name: name.clone(), reason: reason.to_owned() })
            }
        }
    }
}

/// Whether clients can reach a server by `name`: a host's, an address, or `*.`
/// before a domain of two labels, which is the least that rustls takes.
pub fn is_server_name(name: &str) -> bool {
    let is_good = match name.strip_prefix("*.") {
        None => ServerName::try_from(name).is_ok(),
        Some(domain) => domain.contains('.') && matches!(ServerName::try_from(domain), Ok(ServerName::DnsName(_))),
    };
    // Good in a question, but no certificate may have it.
    is_good && !name.ends_with('.')
}

/// A certificate with its key, written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// An authority in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one in `folder`, which is made too.
    ///
    /// # Errors
    /// [`CertError`]; [`CertError::Exists`] when the folder has one.
    pub fn init(folder: &Path) -> Result<Self, CertError> {
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if let Some(there) = [&cert, &key].into_iter().find(|path| path.exists()) {
            return Err(CertError::Exists(there.clone()));
        }
        std::fs::create_dir_all(folder).map_err(system(folder))?;
        let pair = KeyPair::generate()?;
        let params = authority_params();
        let made = params.self_signed(&pair)?;
        write_pair((&cert, &key), made.der(), &pair)?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, pair) })
    }

    /// The one in `folder`.
    ///
    /// # Errors
    /// [`CertError::NoAuthority`].
    pub fn open(folder: &Path) -> Result<Self, CertError> {
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        let none = |path: &Path, reason: &dyn std::fmt::Display| CertError::NoAuthority {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let der = CertificateDer::from_pem_file(&cert).map_err(|error| none(&cert, &error))?;
        let private = PrivateKeyDer::from_pem_file(&key).map_err(|_| none(&key, &"is no key that can be read"))?;
        let pair = KeyPair::try_from(&private).map_err(|_| none(&key, &"is a key of another kind"))?;
        let has = |wanted: &[u8]| der.windows(wanted.len()).any(|part| part == wanted);
        if !has(AUTHORITY.as_bytes()) || !has(pair.public_key_raw()) {
            return Err(none(&cert, &"is not of the key in ca.key, or not of inference-service"));
        }
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(authority_params(), pair) })
    }

    /// Issues `NAME.pem` and `NAME.key`, in place of what is there.
    ///
    /// # Errors
    /// [`CertError`].
    pub fn issue(&self, name: &str, purpose: &Purpose, good_for: Duration) -> Result<Issued, CertError> {
        let now = SystemTime::now();
        self.issue_between(name, purpose, (now - BACKDATED, now + good_for))
    }

    /// As [`Authority::issue`], good in the time `between`.
    ///
    /// # Errors
    /// [`CertError`].
    pub fn issue_between(
        &self,
        name: &str,
        purpose: &Purpose,
        between: (SystemTime, SystemTime),
    ) -> Result<Issued, CertError> {
        let is_own = ["ca", "server"].contains(&name);
        if CameraId::parse(name).is_err() || is_own && matches!(purpose, Purpose::Cameras(_)) {
            let reason = "use letters, digits, '.', '_' and '-', and not ca or server: files are called by it";
            return Err(CertError::Name { name: name.to_owned(), reason: reason.to_owned() });
        }
        purpose.check()?;
        let params = leaf_params(name, purpose, between)?;
        let pair = KeyPair::generate()?;
        let made = params.signed_by(&pair, &self.issuer)?;
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        let issued = Issued { cert: file("pem"), key: file("key") };
        write_pair((&issued.cert, &issued.key), made.der(), &pair)?;
        Ok(issued)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }
}

/// Always the same, so that the key alone makes the authority again.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = validity((now - BACKDATED, now + AUTHORITY_LIFE));
    params
}

fn leaf_params(
    name: &str,
    purpose: &Purpose,
    between: (SystemTime, SystemTime),
) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    (params.not_before, params.not_after) = validity(between);
    let dns = |text: &str| {
        let reason = "use a host name or an address".to_owned();
        let name = text.try_into().map_err(|_| CertError::Name { name: text.to_owned(), reason });
        name.map(SanType::DnsName)
    };
    let (names, usage): (Result<Vec<_>, _>, _) = match purpose {
        Purpose::Server(names) => {
            let name = |text: &String| text.parse().map(SanType::IpAddress).or_else(|_| dns(text));
            (names.iter().map(name).collect(), ExtendedKeyUsagePurpose::ServerAuth)
        }
        Purpose::Cameras(cameras) => {
            let name = |camera: &CameraId| dns(&format!("{camera}.{CAMERA_DOMAIN}"));
            (cameras.iter().map(name).collect(), ExtendedKeyUsagePurpose::ClientAuth)
        }
    };
    params.subject_alt_names = names?;
    params.extended_key_usages = vec![usage];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// As rcgen wants times, which it does not offer to make of a [`SystemTime`].
fn validity<T>((from, to): (SystemTime, SystemTime)) -> (T, T)
where
    T: From<SystemTime>,
{
    (from.into(), to.into())
}

fn write_pair((cert, key): (&Path, &Path), der: &CertificateDer<'_>, pair: &KeyPair) -> Result<(), CertError> {
    secret_file::write(key, pem("PRIVATE KEY", &pair.serialize_der()).as_bytes()).map_err(system(key))?;
    std::fs::write(cert, pem("CERTIFICATE", der)).map_err(system(cert))
}

fn system(path: &Path) -> impl FnOnce(std::io::Error) -> CertError {
    let path = path.to_owned();
    move |reason| CertError::System { path, reason }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(PEM_LINE) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn an_authority_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("certs");
        assert!(matches!(Authority::open(&folder), Err(CertError::NoAuthority { .. })));
        let made = Authority::init(&folder).expect("made");
        assert!(matches!(Authority::init(&folder), Err(CertError::Exists(_))));
        let before = std::fs::read(made.ca()).expect("read");
        let camera = CameraId::parse("door").expect("an id");
        let found = Authority::open(&folder).expect("found");
        let issued = found.issue("pi", &Purpose::Cameras(vec![camera]), DAY).expect("issued");
        assert_eq!(std::fs::read(made.ca()).expect("read"), before);
        for key in [&issued.key, &folder.join("ca.key")] {
            let mode = std::fs::metadata(key).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        }
        // Of another key.
        std::fs::copy(&issued.key, folder.join("ca.key")).expect("copied");
        assert!(matches!(Authority::open(&folder), Err(CertError::NoAuthority { .. })));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Authority::init(folder.path()).expect("made");
        for name in ["ca", "server", "", "../x", "a b"] {
            let error = made.issue(name, &Purpose::Cameras(Vec::new()), DAY).expect_err(name);
            assert!(matches!(error, CertError::Name { .. }), "{error}");
        }
        let umlaut = Purpose::Server(vec!["küche".to_owned()]);
        assert!(matches!(made.issue("server", &umlaut, DAY), Err(CertError::Name { .. })));
        for name in [
            "https://server.lan:50051",
            "server.lan:50051",
            "[::1]",
            "a b",
            "",
            "*",
            "*.",
            "*.lan",
            "*.10.0.0.1",
            "a.*",
            "a.lan.",
        ] {
            let error = made.issue("server", &Purpose::Server(vec![name.to_owned()]), DAY).expect_err(name);
            assert!(matches!(error, CertError::Name { .. }) && error.to_string().contains(name), "{error}");
        }
        assert!(!folder.path().join("server.pem").exists() && !folder.path().join("server.key").exists());
        for name in ["server.lan", "server", "my_box", "192.168.1.5", "fd00::1", "*.home.lan"] {
            made.issue("server", &Purpose::Server(vec![name.to_owned()]), DAY).expect(name);
        }
    }
}
