//! Bounds the wear of the disk: so many bytes a second, on average. Pure: the
//! caller brings the time.

use std::time::{Duration, Instant};

/// What was not written for so long may be written at once: an event brings
/// the pictures before it in one go.
pub const BURST: Duration = Duration::from_secs(10);

/// Lets bytes through: over any time `t` at most `(t + BURST) x rate`.
#[derive(Debug)]
pub struct WriteRate {
    bytes_per_s: u64,
    /// Bytes that may be written now.
    room: f64,
    since: Option<Instant>,
}

impl WriteRate {
    /// So many bytes a second.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, room: 0.0, since: None }
    }

    /// Whether `bytes` may be written at `now`; they count as written then.
    pub fn allows(&mut self, bytes: u64, now: Instant) -> bool {
        let full = self.bytes_per_s as f64 * BURST.as_secs_f64();
        self.room = match self.since.replace(now) {
            None => full,
            Some(since) => {
                let gained = now.saturating_duration_since(since).as_secs_f64() * self.bytes_per_s as f64;
                full.min(self.room + gained)
            }
        };
        let fits = bytes as f64 <= self.room;
        if fits {
            self.room -= bytes as f64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Never more than the rate over any time, and all of it where less comes.
        #[test]
        fn bounded(steps in prop::collection::vec((1u64..3000, 0u64..2000), 1..300)) {
            let (mut rate, start) = (WriteRate::new(1000), Instant::now());
            let (mut now, mut written) = (start, 0);
            for (bytes, ms) in steps {
                now += Duration::from_millis(ms);
                written += if rate.allows(bytes, now) { bytes } else { 0 };
                let most = ((now - start) + BURST).as_secs_f64() * 1000.0;
                prop_assert!(written as f64 <= most + 1.0, "{} of {}", written, most);
            }
        }
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (mut rate, start) = (WriteRate::new(1000), Instant::now());
        assert!(!rate.allows(10_001, start), "more than ever fits");
        assert!(rate.allows(10_000, start) && !rate.allows(1, start));
        assert!(rate.allows(500, start + Duration::from_millis(500)));
        assert!(!rate.allows(501, start + Duration::from_millis(1000)));
    }
}
