//! Who was not let in, and why: counts every refusal by its reason and logs
//! each once. Decides nothing, and never shows a secret: what is told is who
//! asked, not what they showed.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::rate_log::RateLog;

/// Peers and reasons that are remembered as told.
const MAX_TOLD: usize = 128;
/// The same peer is told of again after this.
const TELL_AGAIN: Duration = Duration::from_secs(3600);

/// Why someone was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// What came is not TLS.
    NotTls,
    /// The handshake of TLS was not done in time.
    HandshakeLate,
    /// The handshake failed otherwise: the peer does not trust this service, or
    /// speaks another version.
    HandshakeFailed,
    /// The certificate's time is over, or has not begun.
    CertificateExpired,
    /// The certificate is of another authority.
    CertificateForeign,
    /// The certificate cannot be used for this.
    CertificateWrong,
    /// A certificate is needed and none was shown.
    CertificateMissing,
    /// The certificate names other cameras.
    CameraForeign,
    /// A token is needed and none was shown.
    TokenMissing,
    /// No such token is known.
    TokenUnknown,
    /// The token's time is over.
    TokenExpired,
    /// The token's role does not allow the call.
    RoleTooLow,
    /// Too many connections of one identity.
    TooManyConnections,
    /// Too many calls of one identity in a short time.
    TooManyCalls,
}

impl Reason {
    /// All, for metrics.
    pub const ALL: [Self; 14] = [
        Self::NotTls,
        Self::HandshakeLate,
        Self::HandshakeFailed,
        Self::CertificateExpired,
        Self::CertificateForeign,
        Self::CertificateWrong,
        Self::CertificateMissing,
        Self::CameraForeign,
        Self::TokenMissing,
        Self::TokenUnknown,
        Self::TokenExpired,
        Self::RoleTooLow,
        Self::TooManyConnections,
        Self::TooManyCalls,
    ];

    /// In metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::HandshakeLate => "handshake_late",
            Self::HandshakeFailed => "handshake_failed",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateForeign => "certificate_foreign",
            Self::CertificateWrong => "certificate_wrong",
            Self::CertificateMissing => "certificate_missing",
            Self::CameraForeign => "camera_foreign",
            Self::TokenMissing => "token_missing",
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::RoleTooLow => "role_too_low",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyCalls => "too_many_calls",
        }
    }
}

/// All refusals of a service.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
    told: Mutex<VecDeque<Told>>,
    /// However many peers there are, the log does not grow faster than this.
    lines: RateLog,
}

#[derive(Debug)]
struct Told {
    reason: Reason,
    who: String,
    at: Instant,
}

impl Refusals {
    /// How many there were for `reason`.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Relaxed)
    }

    /// Counts a refusal, and logs it unless the same was told of `who` within
    /// the hour.
    pub fn refuse(&self, reason: Reason, who: &str, detail: &dyn Display) {
        self.counts[reason as usize].fetch_add(1, Relaxed);
        if let Some(held_back) = self.tell(reason, who, clock::now()) {
            let why = crate::convert::short(detail.to_string());
            tracing::warn!(reason = reason.as_str(), who, why, held_back, "refused; not told again for an hour");
        }
    }

    /// Whether the line may be logged, with the number of lines held back.
    fn tell(&self, reason: Reason, who: &str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|one| now.duration_since(one.at) < TELL_AGAIN);
        if told.iter().any(|one| one.reason == reason && one.who == who) {
            return None;
        }
        let held_back = self.lines.allow(now)?;
        if told.len() == MAX_TOLD {
            told.pop_front();
        }
        told.push_back(Told { reason, who: who.to_owned(), at: now });
        Some(held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_counted_always() {
        let refusals = Refusals::default();
        for _ in 0..3 {
            refusals.refuse(Reason::TokenUnknown, "10.0.0.1", &"x");
        }
        assert_eq!(refusals.count(Reason::TokenUnknown), 3);
        assert_eq!(refusals.count(Reason::TokenExpired), 0);
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.tell(Reason::NotTls, "a", start), Some(0));
        // Another peer in the same second waits for its turn.
        assert_eq!(refusals.tell(Reason::NotTls, "b", start), None);
        assert_eq!(refusals.tell(Reason::NotTls, "a", start + Duration::from_secs(2)), None);
        assert_eq!(refusals.tell(Reason::NotTls, "b", start + Duration::from_secs(2)), Some(1));
        assert_eq!(refusals.tell(Reason::HandshakeLate, "a", start + Duration::from_secs(4)), Some(0));
        assert_eq!(refusals.tell(Reason::NotTls, "a", start + TELL_AGAIN), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = Refusals::default();
        let start = Instant::now();
        for peer in 0..3 * MAX_TOLD as u64 {
            let now = start + Duration::from_secs(2 * peer);
            assert!(refusals.tell(Reason::NotTls, &peer.to_string(), now).is_some());
        }
        assert_eq!(refusals.told.lock().expect("not poisoned").len(), MAX_TOLD);
    }

    #[test]
    fn reasons_are_in_their_places() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
    }
}
