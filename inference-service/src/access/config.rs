//! The tables `[tls]` and `[auth]`.

use std::path::PathBuf;

use flatframe_shared::config::{ConfigError, in_range, is_set};
use flatframe_shared::tls::ServerTlsFiles;
use serde::{Deserialize, Serialize};

/// Settings of the table `[tls]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The server's certificate with its chain, PEM; empty, with `key`: no TLS.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authority of the cameras' certificates, PEM; empty: cameras show
    /// none.
    pub client_ca: PathBuf,
}

/// Settings of the table `[auth]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// File with the clients' tokens; empty: clients need none.
    pub tokens: PathBuf,
    /// Most connections at once of one token, 1 to 10000.
    pub max_connections: usize,
    /// Most calls in a second of one token or certificate, 0.1 to 100000; for a
    /// moment twice as many.
    pub calls_per_s: f64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { tokens: PathBuf::new(), max_connections: 32, calls_per_s: 50.0 }
    }
}

impl TlsConfig {
    /// Where the server's side of TLS comes from; `None`: there is none.
    pub fn files(&self) -> Option<ServerTlsFiles> {
        is_set(&self.cert).then(|| ServerTlsFiles {
            cert: self.cert.clone(),
            key: self.key.clone(),
            client_ca: Some(self.client_ca.clone()).filter(|path| is_set(path)),
        })
    }

    /// Whether cameras must show a certificate.
    pub fn knows_cameras(&self) -> bool {
        is_set(&self.client_ca)
    }

    /// Checks that what belongs together is there.
    ///
    /// # Errors
    /// [`ConfigError::NotAllowed`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let shown = |path: &PathBuf| format!("{:?}", path.display().to_string());
        if is_set(&self.cert) != is_set(&self.key) {
            let allowed = "set tls.cert and tls.key both, or neither for no TLS";
            return Err(ConfigError::not_allowed("tls.key", shown(&self.key), allowed));
        }
        if is_set(&self.client_ca) && !is_set(&self.cert) {
            let allowed = "certificates of cameras need TLS: set tls.cert and tls.key too";
            return Err(ConfigError::not_allowed("tls.client_ca", shown(&self.client_ca), allowed));
        }
        Ok(())
    }
}

impl AuthConfig {
    /// Whether clients need a token.
    pub fn is_on(&self) -> bool {
        is_set(&self.tokens)
    }

    /// Checks every value that can be judged without the file.
    ///
    /// # Errors
    /// [`ConfigError::NotAllowed`].
    pub fn check(&self) -> Result<(), ConfigError> {
        in_range("auth.max_connections", self.max_connections, 1..=10_000)?;
        in_range("auth.calls_per_s", self.calls_per_s, 0.1..=100_000.0)
    }
}
