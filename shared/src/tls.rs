//! TLS of both services, from PEM files that may be exchanged while the service
//! runs: a server's side ([`ServerTls`]) with the certificates of cameras, and
//! a client's side ([`ClientTls`]). The crypto is rustls with ring.
//!
//! Resumes no session: whoever connects shows a certificate that is good now.

mod certificate;
mod client;
mod pem;
mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

pub use self::certificate::{CAMERA_DOMAIN, PeerCertificate};
pub use self::client::{ClientTls, ClientTlsFiles, TlsConnect, Trust};
pub use self::pem::check_authorities;
pub(crate) use self::server::secure;
pub use self::server::{ServerTls, ServerTlsFiles, TLS_CONNECTION_BYTES};

use crate::clock;
use crate::rate_log::RateLog;

/// Certificates that end within this are warned about, once a day.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Between two such warnings.
const WARN_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// What does the crypto.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// When certificates stop being good, by the key that names their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The configuration key.
    pub key: &'static str,
    /// Seconds since the Unix epoch.
    pub unix_s: i64,
    /// Whether they are authorities, which are trusted also after their end:
    /// rustls looks at the time of none.
    pub is_authority: bool,
}

impl Expiry {
    /// Time left; negative when it is over.
    pub fn left_s(self) -> i64 {
        self.unix_s - clock::unix_us().div_euclid(1_000_000)
    }
}

/// Warns of certificates that end soon or have ended; each file has a gate of
/// its own, so that none hides another.
#[derive(Debug, Default)]
struct ExpiryWatch(Mutex<HashMap<&'static str, RateLog>>);

impl ExpiryWatch {
    fn look(&self, expiries: &[Expiry]) {
        for expiry in self.due(expiries, clock::now()) {
            let (key, left_s) = (expiry.key, expiry.left_s());
            if left_s >= 0 {
                let days = left_s.div_euclid(24 * 3600);
                tracing::warn!(key, days, "a certificate expires soon: renew it");
            } else if expiry.is_authority {
                tracing::warn!(key, "an authority has ended: it is trusted until it is removed from the file");
            } else {
                tracing::warn!(key, "a certificate has expired: peers refuse it until it is renewed");
            }
        }
    }

    /// Those to be told of at `now`.
    fn due(&self, expiries: &[Expiry], now: Instant) -> Vec<Expiry> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = expiries.to_vec();
        due.retain(|expiry| {
            expiry.left_s() < EXPIRES_SOON.as_secs() as i64
                && gates.entry(expiry.key).or_insert_with(|| RateLog::new(WARN_AGAIN)).allow(now).is_some()
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_hides_another_and_each_is_told_of_once_a_day() {
        let ends_in = |key, left: Duration| {
            let unix_s = clock::unix_us().div_euclid(1_000_000) + left.as_secs() as i64;
            Expiry { key, unix_s, is_authority: false }
        };
        let own = ends_in("tls.cert", EXPIRES_SOON - Duration::from_secs(60));
        let ended = Expiry { key: "tls.client_ca", unix_s: 1, is_authority: true };
        let good = ends_in("server.cert", EXPIRES_SOON + Duration::from_secs(3600));
        let (watch, start) = (ExpiryWatch::default(), clock::now());
        assert_eq!(watch.due(&[ended, good], start), [ended]);
        let soon = start + Duration::from_secs(1);
        assert_eq!(watch.due(&[ended, own, good], soon), [own], "the authority was told of");
        assert_eq!(watch.due(&[ended, own, good], start + WARN_AGAIN), [ended]);
        assert_eq!(watch.due(&[ended, own, good], soon + WARN_AGAIN), [own]);
    }
}
