//! How long a frame travels: half of the smallest round trip of late, less the
//! time the server had it. The smallest, because everything above it is
//! waiting, which may differ in the two directions. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples older than this count no more: routes change.
const WINDOW: Duration = Duration::from_secs(10);
/// Most samples kept.
const MAX_SAMPLES: usize = 64;

/// A sliding minimum of the transit time.
#[derive(Debug, Default)]
pub struct Transit {
    samples: VecDeque<(Instant, Duration)>,
}

impl Transit {
    /// Counts one answered frame: `round_trip` from sending to the answer, of
    /// which the server had it for `at_server`.
    pub fn count(&mut self, now: Instant, round_trip: Duration, at_server: Duration) {
        while self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, round_trip.saturating_sub(at_server) / 2));
    }

    /// The estimate at `now`; zero before the first answer. The newest sample
    /// counts however old it is.
    pub fn estimate(&self, now: Instant) -> Duration {
        let recent = self.samples.iter().filter(|(at, _)| now.saturating_duration_since(*at) <= WINDOW);
        recent
            .map(|(_, transit)| *transit)
            .min()
            .or(self.samples.back().map(|(_, transit)| *transit))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_late() {
        let ms = Duration::from_millis;
        let (mut transit, start) = (Transit::default(), Instant::now());
        assert_eq!(transit.estimate(start), Duration::ZERO);
        transit.count(start, ms(30), ms(10));
        transit.count(start + ms(1000), ms(90), ms(10));
        assert_eq!(transit.estimate(start + ms(1000)), ms(10));
        assert_eq!(transit.estimate(start + ms(10_500)), ms(40), "the first is too old");
        assert_eq!(transit.estimate(start + ms(60_000)), ms(40), "the last still counts");
        transit.count(start + ms(60_000), ms(5), ms(8));
        assert_eq!(transit.estimate(start + ms(60_000)), Duration::ZERO, "a lying server cannot make it negative");
        for i in 0..1000 {
            transit.count(start + ms(i), ms(1), ms(0));
        }
        assert_eq!(transit.samples.len(), MAX_SAMPLES);
    }
}
