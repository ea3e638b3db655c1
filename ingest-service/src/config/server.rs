//! The `[server]` table: where the frames go, whom this service trusts there,
//! who it says it is, and how soon a camera goes elsewhere. Looks no name up and
//! reads no file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use flatframe_shared::config::{ConfigError, in_range, is_set};
use flatframe_shared::tls::ClientTlsFiles;
use serde::{Deserialize, Serialize};

use crate::send::servers::directory::MAX_SERVERS;
use crate::source::spec;

/// Where the frames go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the inference-service, `http://HOST:PORT` or
    /// `https://HOST:PORT`. All addresses that HOST has are used, each as a
    /// server of its own.
    pub address: String,
    /// Several servers, in place of `address`; each in the same form.
    pub addresses: Vec<String>,
    /// With `https`: the authority of the servers' certificates, PEM.
    pub ca: PathBuf,
    /// With `https`: this service's certificate with its chain, PEM; empty: it
    /// shows none.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// A camera that had to leave its server comes back to it after about so
    /// long, in seconds.
    pub return_s: u64,
    /// A server that does not answer is left after so long, in milliseconds; 0:
    /// 1500 where there is another, else 6000.
    pub dead_after_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self::at("http://127.0.0.1:50051")
    }
}

impl ServerConfig {
    /// A server at `address`, without certificates.
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            addresses: Vec::new(),
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            return_s: 60,
            dead_after_ms: 0,
        }
    }

    /// The servers as they are named, at least one.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        let one = self.addresses.is_empty().then_some(&self.address);
        one.into_iter().chain(&self.addresses).map(String::as_str)
    }

    /// Where this service's side of TLS comes from; `None`: there is none.
    pub fn tls(&self) -> Option<ClientTlsFiles> {
        let identity = is_set(&self.cert).then(|| (self.cert.clone(), self.key.clone()));
        self.is_https().then(|| ClientTlsFiles::new(&self.ca, identity))
    }

    /// The first server that frames would go to unencrypted, over a network: to
    /// be told loudly.
    pub fn unencrypted(&self) -> Option<&str> {
        self.urls().find(|url| {
            let uri: Option<http::Uri> = url.parse().ok();
            !is_https(url) && uri.is_none_or(|uri| !is_this_machine(uri.host().unwrap_or_default()))
        })
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range("server.return_s", self.return_s, 1..=86_400)?;
        if self.dead_after_ms != 0 {
            in_range("server.dead_after_ms", self.dead_after_ms, 500..=60_000)?;
        }
        self.check_urls()?;
        self.check_files()
    }

    fn check_urls(&self) -> Result<(), ConfigError> {
        if self.addresses.len() > MAX_SERVERS {
            let allowed = format!("name at most {MAX_SERVERS} servers, or one name with their addresses");
            let named = format!("{} servers", self.addresses.len());
            return Err(ConfigError::not_allowed("server.addresses", named, allowed));
        }
        let key = if self.addresses.is_empty() { "server.address" } else { "server.addresses" };
        for url in self.urls() {
            if url.contains('@') {
                // Wherever it stands, a password may be before it: nothing of the value is shown.
                let allowed = "use http://HOST:PORT or https://HOST:PORT, without a login: this service is known by \
                               its certificate (server.cert)";
                return Err(ConfigError::not_allowed(key, "\"...@...\"", allowed));
            }
            let uri: Option<http::Uri> = url.parse().ok();
            let usable = uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some_and(|host| !host.is_empty())
                    && uri.path() == "/"
            });
            if !usable {
                let allowed = "use http://HOST:PORT or https://HOST:PORT";
                return Err(ConfigError::not_allowed(key, spec::redacted(url), allowed));
            }
            if is_https(url) != self.is_https() {
                let allowed = "https:// for all servers, or for none";
                return Err(ConfigError::not_allowed(key, spec::redacted(url), allowed));
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, path: &Path, allowed: &str| {
            Err(ConfigError::not_allowed(key, format!("{:?}", path.display().to_string()), allowed))
        };
        let needs_https = "it needs server.address = \"https://HOST:PORT\"";
        match (self.is_https(), is_set(&self.ca)) {
            (true, false) => {
                let allowed = "https:// needs the authority of the server's certificate, such as ca.pem of \
                               `inference-service certs init`";
                return refuse("server.ca", &self.ca, allowed);
            }
            (false, true) => return refuse("server.ca", &self.ca, needs_https),
            _ => {}
        }
        match (is_set(&self.cert), is_set(&self.key)) {
            (true, true) if !self.is_https() => refuse("server.cert", &self.cert, needs_https),
            (true, false) | (false, true) => {
                refuse("server.key", &self.key, "set server.cert and server.key both, or neither")
            }
            _ => Ok(()),
        }
    }

    fn is_https(&self) -> bool {
        self.urls().next().is_some_and(is_https)
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_login_is_taken_or_shown() {
        for address in ["http://me:s3cret@a:1", "https://me:s3cret@a:1", "me:s3cret@a:1", "http://me:s3/cret@a:1"] {
            for server in [
                ServerConfig::at(address),
                ServerConfig { addresses: vec!["http://a:1".into(), address.into()], ..ServerConfig::default() },
            ] {
                let error = server.check().expect_err(address).to_string();
                assert!(error.contains("server.address") && error.contains("without a login"), "{error}");
                assert!(!error.contains("s3") && !error.contains("cret"), "{error}");
            }
        }
    }

    #[test]
    fn what_leaves_this_machine_unencrypted_is_known() {
        for local in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost", "https://a:1"] {
            assert_eq!(ServerConfig::at(local).unencrypted(), None);
        }
        for open in ["http://a:1", "http://10.0.0.5", "http://[fd00::1]:1", "HTTP://localhost.example:1"] {
            assert_eq!(ServerConfig::at(open).unencrypted(), Some(open));
        }
        let several = ["http://127.0.0.1:1", "http://a:1"].map(String::from).into();
        assert_eq!(ServerConfig { addresses: several, ..ServerConfig::default() }.unencrypted(), Some("http://a:1"));
    }

    #[test]
    fn what_belongs_together_is_there() {
        let server = |address: &str, ca: &str, cert: &str, key: &str| ServerConfig {
            ca: ca.into(),
            cert: cert.into(),
            key: key.into(),
            ..ServerConfig::at(address)
        };
        for good in [
            server("http://a:1", "", "", ""),
            server("https://a:1", "ca", "", ""),
            server("https://a:1", "ca", "cert", "key"),
            server("HTTPS://a:1", "ca", "cert", "key"),
            ServerConfig { addresses: vec!["http://a:1".into(), "http://b:1".into()], ..ServerConfig::default() },
        ] {
            good.check().unwrap_or_else(|error| panic!("{error}"));
        }
        for (bad, key) in [
            (server("ftp://a:1", "", "", ""), "server.address"),
            (server("https://a:1/x", "ca", "", ""), "server.address"),
            (server("https://a:1", "", "", ""), "server.ca"),
            (server("http://a:1", "ca", "", ""), "server.ca"),
            (server("http://a:1", "", "cert", "key"), "server.cert"),
            (server("https://a:1", "ca", "cert", ""), "server.key"),
            (server("https://a:1", "ca", "", "key"), "server.key"),
            (
                ServerConfig { addresses: vec!["http://a:1".into(), "https://b:1".into()], ..ServerConfig::default() },
                "server.addresses",
            ),
        ] {
            let error = bad.check().expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
