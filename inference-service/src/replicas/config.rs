//! The table `[bus]`: where the result bus is, what it is called and how much
//! it keeps.

use std::path::PathBuf;
use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range};
use flatframe_shared::renewal::NamedFile;
use flatframe_shared::tls::check_authorities;
use serde::{Deserialize, Serialize};

/// Longest credentials, in bytes.
const MAX_CREDENTIALS_BYTES: u64 = 4096;
/// Most servers that may be named.
const MAX_SERVERS: usize = 16;
/// Longest name, of the bus or of a replica, in bytes.
const MAX_NAME_BYTES: usize = 48;

/// Settings of the table `[bus]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusConfig {
    /// The servers, such as `nats://HOST:4222`, several with commas between
    /// them; empty: there is no bus.
    pub nats: String,
    /// File with `USER:PASSWORD` or a token in its first line; empty: none is
    /// needed.
    pub credentials: PathBuf,
    /// File with the certificates (PEM) of the authorities by which `tls://`
    /// servers are known; empty: the system's.
    pub ca: PathBuf,
    /// What streams and subjects on the bus begin with: all replicas of one
    /// service have the same.
    pub name: String,
    /// Name of this replica, for people; empty takes the host's.
    pub replica: String,
    /// Results are kept for so long, in seconds, 60 to 31536000.
    pub max_age_s: u64,
    /// Most that all results may take on the bus, in bytes, 1 MiB to 1 PiB.
    pub max_bytes: u64,
    /// Most results kept of one camera, 1 to 1000000000.
    pub max_messages_per_camera: u64,
    /// On how many servers of a cluster each message is kept, 1 to 5.
    pub copies: usize,
    /// Most results that wait to be published, in bytes, 64 KiB to 1 GiB.
    pub queue_bytes: u64,
    /// A result that waited for so long is not published any more, in seconds,
    /// 1 to 3600 and at most half of `max_age_s`.
    pub late_s: u64,
    /// Most cameras of other replicas that are known, 1 to 10000.
    pub max_cameras: usize,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            nats: String::new(),
            credentials: PathBuf::new(),
            ca: PathBuf::new(),
            name: "flatframe".to_owned(),
            replica: String::new(),
            max_age_s: 24 * 3600,
            max_bytes: 1 << 30,
            max_messages_per_camera: 1_000_000,
            copies: 1,
            queue_bytes: 8 << 20,
            late_s: 300,
            max_cameras: 64,
        }
    }
}

/// A bus that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusSettings {
    /// Addresses of its servers.
    pub servers: Vec<String>,
    /// What they ask for.
    pub login: Login,
    /// Authorities in place of the system's.
    pub ca: Option<PathBuf>,
    /// What streams and subjects begin with.
    pub name: String,
    /// Name of this replica.
    pub replica: String,
    /// How long results are kept.
    pub max_age: Duration,
    /// Most bytes of results.
    pub max_bytes: u64,
    /// Most results of one camera.
    pub max_messages_per_camera: u64,
    /// Servers that keep each message.
    pub copies: usize,
    /// Most bytes that wait to be published.
    pub queue_bytes: usize,
    /// Longest wait to be published.
    pub late: Duration,
    /// Most cameras of other replicas.
    pub max_cameras: usize,
}

/// How this service proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// Not at all.
    None,
    /// By a name and a password.
    User(String, String),
    /// By a secret.
    Token(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::User(..) => "User(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}

impl BusSettings {
    /// A server on another machine that is spoken to in clear, if there is one.
    pub fn in_clear(&self) -> Option<&str> {
        let is_in_clear = |server: &&String| {
            let place = server.strip_prefix("nats://").and_then(|place| place.parse::<http::uri::Authority>().ok());
            place.is_some_and(|place| {
                let host = place.host().trim_start_matches('[').trim_end_matches(']');
                let is_here = host.parse::<std::net::IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback());
                !is_here
            })
        };
        self.servers.iter().find(is_in_clear).map(String::as_str)
    }
}

impl BusConfig {
    /// Checks every value that can be judged without the file.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.servers()?;
        is_name("name", &self.name)?;
        if !self.replica.is_empty() {
            is_name("replica", &self.replica)?;
        }
        in_range("bus.max_age_s", self.max_age_s, 60..=31_536_000)?;
        in_range("bus.max_bytes", self.max_bytes, 1 << 20..=1 << 50)?;
        in_range("bus.max_messages_per_camera", self.max_messages_per_camera, 1..=1_000_000_000)?;
        in_range("bus.copies", self.copies, 1..=5)?;
        in_range("bus.queue_bytes", self.queue_bytes, 64 << 10..=1 << 30)?;
        in_range("bus.late_s", self.late_s, 1..=3600.min(self.max_age_s / 2))?;
        in_range("bus.max_cameras", self.max_cameras, 1..=10_000)
    }

    /// The bus; `None`: there is none.
    ///
    /// # Errors
    /// As [`BusConfig::check`], and when the credentials cannot be read.
    pub fn settings(&self) -> Result<Option<BusSettings>, ConfigError> {
        let servers = self.servers()?;
        if servers.is_empty() {
            return Ok(None);
        }
        Ok(Some(BusSettings {
            servers,
            login: self.login()?,
            ca: self.ca()?,
            name: self.name.clone(),
            replica: if self.replica.is_empty() { host_name() } else { self.replica.clone() },
            max_age: Duration::from_secs(self.max_age_s),
            max_bytes: self.max_bytes,
            max_messages_per_camera: self.max_messages_per_camera,
            copies: self.copies,
            queue_bytes: self.queue_bytes as usize,
            late: Duration::from_secs(self.late_s),
            max_cameras: self.max_cameras,
        }))
    }

    fn servers(&self) -> Result<Vec<String>, ConfigError> {
        if self.nats.is_empty() {
            return Ok(Vec::new());
        }
        let allowed = "nats://HOST:PORT or tls://HOST:PORT, several with commas between them, and what they ask for in \
                       bus.credentials";
        // The value may hold a password in spite of all: it is not shown.
        let refused = || wrong("nats", "...", allowed);
        let servers: Vec<_> = self.nats.split(',').map(|one| one.trim().to_owned()).collect();
        let is_good = |server: &String| {
            let place = server.strip_prefix("nats://").or_else(|| server.strip_prefix("tls://"));
            let place = place.and_then(|place| place.parse::<http::uri::Authority>().ok());
            place.is_some_and(|place| {
                let is_host = !place.host().is_empty() && !place.as_str().contains('@');
                // What follows the host is a port or nothing.
                is_host && (place.port_u16().is_some() || place.as_str() == place.host())
            })
        };
        if servers.len() > MAX_SERVERS || !servers.iter().all(is_good) {
            return Err(refused());
        }
        Ok(servers)
    }

    fn ca(&self) -> Result<Option<PathBuf>, ConfigError> {
        if self.ca.as_os_str().is_empty() {
            return Ok(None);
        }
        // Read again at each connection; what cannot be read now is told now.
        let file = NamedFile::new("bus.ca", &self.ca);
        check_authorities(&file).map_err(|error| ConfigError::Wrong(error.to_string()))?;
        Ok(Some(file.path))
    }

    fn login(&self) -> Result<Login, ConfigError> {
        use std::io::Read;
        if self.credentials.as_os_str().is_empty() {
            return Ok(Login::None);
        }
        let refused = |allowed: &str| wrong("credentials", &self.credentials.display().to_string(), allowed);
        let mut text = String::new();
        let read = std::fs::File::open(&self.credentials)
            .and_then(|file| file.take(MAX_CREDENTIALS_BYTES).read_to_string(&mut text));
        read.map_err(|error| refused(&format!("a file that can be read ({error})")))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('-') {
            return Err(refused(
                "a file with USER:PASSWORD or a token in its first line (keys and JWTs are not spoken)",
            ));
        }
        Ok(match line.split_once(':') {
            Some((user, password)) => Login::User(user.to_owned(), password.to_owned()),
            None => Login::Token(line.to_owned()),
        })
    }
}

/// A name that is part of a subject and of a stream's name.
fn is_name(key: &str, name: &str) -> Result<(), ConfigError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_good) {
        return Ok(());
    }
    Err(wrong(key, name, "1 to 48 of a-z, A-Z, 0-9, '-' and '_'"))
}

/// The host's name as far as it is one on the bus.
fn host_name() -> String {
    // Pods have it in the environment; elsewhere the kernel knows it.
    let name = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let name = name.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok()).unwrap_or_default();
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = name.trim().chars().take(MAX_NAME_BYTES).map(letter).collect();
    if name.is_empty() { "replica".to_owned() } else { name }
}

fn wrong(key: &str, value: &str, allowed: &str) -> ConfigError {
    ConfigError::Wrong(format!("bus.{key} = {value:?}: use {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(nats: &str) -> BusConfig {
        BusConfig { nats: nats.to_owned(), ..BusConfig::default() }
    }

    #[test]
    fn buses_are_found() {
        assert_eq!(with("").settings().expect("off"), None);
        let found = with("nats://a:4222, tls://[::1]:4223,nats://c").settings().expect("good").expect("is used");
        assert_eq!(found.servers, ["nats://a:4222", "tls://[::1]:4223", "nats://c"]);
        assert!(!found.replica.is_empty());
    }

    #[test]
    fn what_others_may_read_is_noticed() {
        for (servers, expected) in [
            ("nats://127.0.0.1:4222,nats://[::1]:4222,nats://localhost", None),
            ("tls://bus:4222", None),
            ("tls://bus:4222,nats://10.0.0.5", Some("nats://10.0.0.5")),
            ("nats://bus", Some("nats://bus")),
        ] {
            let found = with(servers).settings().expect("good").expect("is used");
            assert_eq!(found.in_clear(), expected, "{servers}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_without_its_password() {
        for text in ["box", "http://box", "nats://", "nats://me:secret@box", "nats://box:port", "nats://a,,nats://b"] {
            let error = with(text).check().expect_err(text).to_string();
            assert!(
                error.contains("bus.nats") && error.contains("use nats://") && !error.contains("secret"),
                "{error}"
            );
        }
        for (key, config) in [
            ("bus.name", BusConfig { name: "a.b".to_owned(), ..with("") }),
            ("bus.replica", BusConfig { replica: "x".repeat(49), ..with("") }),
            ("bus.late_s", BusConfig { late_s: 3000, max_age_s: 3600, ..with("") }),
            ("bus.copies", BusConfig { copies: 0, ..with("") }),
        ] {
            assert!(config.check().expect_err(key).to_string().contains(key));
        }
        let missing = BusConfig { credentials: "/no/such/file".into(), ..with("nats://box") };
        assert!(missing.settings().expect_err("no file").to_string().contains("/no/such/file"));
    }

    #[test]
    fn credentials_are_read_and_never_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        for (text, expected) in [
            ("me:secret\n", Some(Login::User("me".into(), "secret".into()))),
            ("s3cr3t", Some(Login::Token("s3cr3t".into()))),
            ("-----BEGIN NATS USER JWT-----\n", None),
            ("", None),
        ] {
            let file = folder.path().join("credentials");
            std::fs::write(&file, text).expect("writes");
            let found = BusConfig { credentials: file, ..with("nats://box") }.settings();
            let found = found.map(|bus| bus.expect("is used").login);
            assert_eq!(found.as_ref().ok(), expected.as_ref());
            assert!(!format!("{found:?}").contains("secret"));
        }
    }
}
