//! Where the service may listen without TLS and authentication: on this machine
//! alone, unless an operator insists with `--insecure`. The admin port is no
//! part of this: it shows neither pictures nor results.

use std::net::SocketAddr;

use flatframe_shared::config::ConfigError;

use crate::config::Config;

/// A port that other machines reach without what should protect it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    key: &'static str,
    address: SocketAddr,
    /// The configuration keys that are not set.
    missing: Vec<&'static str>,
}

/// The ports of `config` that are exposed.
fn exposed(config: &Config) -> Vec<Exposed> {
    let no_tls = config.tls.files().is_none();
    let no_cameras = !config.tls.knows_cameras();
    let no_tokens = !config.auth.is_on();
    let mut found = Vec::new();
    let mut look = |key, address: SocketAddr, lacks: &[(bool, &'static str)]| {
        let missing: Vec<_> = lacks.iter().filter(|(is_missing, _)| *is_missing).map(|(_, what)| *what).collect();
        if !address.ip().is_loopback() && !missing.is_empty() {
            found.push(Exposed { key, address, missing });
        }
    };
    let (tls, tokens) = ((no_tls, "tls.cert and tls.key"), (no_tokens, "auth.tokens"));
    look("listen.grpc", config.listen.grpc, &[tls, (no_cameras, "tls.client_ca"), tokens]);
    if let Some(page) = config.listen.page {
        look("listen.page", page, &[tls, tokens]);
    }
    found
}

/// Refuses a configuration that exposes a port, unless `is_insecure`; then what
/// is exposed is returned, to be told loudly.
///
/// # Errors
/// [`ConfigError::NotAllowed`], saying what to do.
pub fn check(config: &Config, is_insecure: bool) -> Result<Vec<Exposed>, ConfigError> {
    let exposed = exposed(config);
    match exposed.first() {
        Some(Exposed { key, address, missing }) if !is_insecure => {
            let allowed = format!(
                "other machines would reach it unprotected: set {} (docs/security.md says how), listen on 127.0.0.1, \
                 or start with --insecure in a network that you trust",
                missing.join(", ")
            );
            Err(ConfigError::not_allowed(*key, address, allowed))
        }
        _ => Ok(exposed),
    }
}

impl Exposed {
    /// Tells the log.
    pub fn warn(&self) {
        let (listens, missing) = (format!("{} = {}", self.key, self.address), self.missing.join(", "));
        tracing::warn!(listens, missing, "INSECURE: anyone who reaches this port may use it (--insecure)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(grpc: &str, page: &str) -> Config {
        let mut config = Config::default();
        config.listen.grpc = grpc.parse().expect("an address");
        config.listen.page = (!page.is_empty()).then(|| page.parse().expect("an address"));
        config.listen.admin = ([0, 0, 0, 0], 9464).into();
        config
    }

    #[test]
    fn this_machine_needs_nothing() {
        for (grpc, page) in [("127.0.0.1:1", "127.0.0.1:2"), ("[::1]:1", ""), ("127.0.5.5:1", "[::1]:2")] {
            assert!(check(&config(grpc, page), false).is_ok_and(|exposed| exposed.is_empty()), "{grpc} {page}");
        }
    }

    #[test]
    fn other_machines_need_tls_and_authentication() {
        for (grpc, page, key) in [
            ("0.0.0.0:1", "", "listen.grpc"),
            ("[::]:1", "", "listen.grpc"),
            ("192.168.1.5:1", "127.0.0.1:2", "listen.grpc"),
            ("127.0.0.1:1", "0.0.0.0:2", "listen.page"),
        ] {
            let mut config = config(grpc, page);
            let keys = ["tls.cert", "tls.client_ca", "auth.tokens", "--insecure"];
            let error = check(&config, false).expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
            for word in keys.into_iter().filter(|word| key == "listen.grpc" || *word != "tls.client_ca") {
                assert!(error.contains(word), "{word}: {error}");
            }
            assert!(check(&config, true).is_ok_and(|exposed| exposed.len() == 1), "{grpc} {page}");
            // Half of it is not enough.
            (config.tls.cert, config.tls.key) = ("cert".into(), "key".into());
            assert!(check(&config, false).is_err());
            config.auth.tokens = "tokens".into();
            assert_eq!(check(&config, false).is_err(), key == "listen.grpc");
            config.tls.client_ca = "ca".into();
            assert!(check(&config, false).is_ok_and(|exposed| exposed.is_empty()), "{grpc} {page}");
        }
    }
}
