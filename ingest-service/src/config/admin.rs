//! The `[admin]` table: the operator's ports, and where they may be.

use std::net::SocketAddr;

use flatframe_shared::config::ConfigError;
use serde::{Deserialize, Serialize};

/// The operator's ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of `/livez`, `/readyz`, `/metrics`; empty: none.
    pub listen: String,
    /// Address of `AdminService` and `grpc.health.v1`; empty: none.
    pub grpc_listen: String,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9465".into(), grpc_listen: String::new() }
    }
}

impl AdminConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, address) in [("admin.listen", &self.listen), ("admin.grpc_listen", &self.grpc_listen)] {
            if !address.is_empty() && address.parse::<SocketAddr>().is_err() {
                return Err(ConfigError::not_allowed(key, address, "use IP:PORT, or leave it empty"));
            }
        }
        Ok(())
    }

    /// Where other machines reach `grpc_listen`, which has neither TLS nor
    /// tokens: to be told loudly. The HTTP port shows neither pictures nor
    /// results and may listen anywhere.
    ///
    /// # Errors
    /// [`ConfigError::NotAllowed`] when they do and `is_insecure` is not set.
    pub fn exposed(&self, is_insecure: bool) -> Result<Option<SocketAddr>, ConfigError> {
        let address = self.grpc_listen.parse::<SocketAddr>().ok();
        match address.filter(|address| !address.ip().is_loopback()) {
            Some(address) if !is_insecure => {
                let allowed = "it has neither TLS nor tokens: use 127.0.0.1, or start with --insecure in a network \
                               that you trust";
                Err(ConfigError::not_allowed("admin.grpc_listen", address, allowed))
            }
            exposed => Ok(exposed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_for_this_machine_unless_someone_insists() {
        let admin = |grpc: &str| AdminConfig { grpc_listen: grpc.into(), listen: "0.0.0.0:9465".into() };
        for local in ["", "127.0.0.1:9466", "[::1]:9466"] {
            assert!(admin(local).exposed(false).is_ok_and(|exposed| exposed.is_none()), "{local}");
        }
        let error = admin("0.0.0.0:9466").exposed(false).expect_err("exposed").to_string();
        assert!(error.contains("admin.grpc_listen") && error.contains("--insecure"), "{error}");
        assert!(admin("0.0.0.0:9466").exposed(true).is_ok_and(|exposed| exposed.is_some()));
    }
}
