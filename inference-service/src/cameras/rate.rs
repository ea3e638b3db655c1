//! The rate of something, lately. Pure: the caller brings the time.

use std::time::Instant;

use flatframe_shared::clock;

/// Span of the rates shown.
const RATE_WINDOW_S: usize = 5;

/// Counts events in whole seconds; the rate is over the last
/// [`RATE_WINDOW_S`] complete ones.
#[derive(Debug)]
pub(super) struct Rate {
    start: Instant,
    /// Second of the newest bucket, counted from `start`.
    second: u64,
    buckets: [u32; RATE_WINDOW_S + 1],
}

impl Default for Rate {
    fn default() -> Self {
        Self { start: clock::now(), second: 0, buckets: [0; RATE_WINDOW_S + 1] }
    }
}

impl Rate {
    /// An event.
    pub(super) fn count(&mut self, now: Instant) {
        self.advance(now);
        self.buckets[0] += 1;
    }

    /// Events per second, lately.
    pub(super) fn per_second(&mut self, now: Instant) -> f32 {
        self.advance(now);
        let seconds = (self.second as usize).clamp(1, RATE_WINDOW_S);
        self.buckets[1..].iter().sum::<u32>() as f32 / seconds as f32
    }

    fn advance(&mut self, now: Instant) {
        // A worker reads the clock before it gets here: another may overtake it.
        let second = now.duration_since(self.start).as_secs().max(self.second);
        let count = self.buckets.len();
        let steps = usize::try_from(second - self.second).unwrap_or(usize::MAX).min(count);
        self.buckets.rotate_right(steps % count);
        self.buckets[..steps].fill(0);
        self.second = second;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rate_over_whole_seconds() {
        let mut rate = Rate::default();
        let at = |ms: u64| rate_start(&rate) + Duration::from_millis(ms);
        let times: Vec<_> = (0..40).map(|n| at(n * 100)).collect();
        let (four_s, later) = (at(4000), at(20_000));
        for time in times {
            rate.count(time);
        }
        assert_eq!(rate.per_second(four_s), 10.0);
        assert_eq!(rate.per_second(later), 0.0);
    }

    /// The worker that read the clock first may come last.
    #[test]
    fn an_event_of_the_second_before_counts() {
        let mut rate = Rate::default();
        let at = |ms: u64| rate_start(&rate) + Duration::from_millis(ms);
        let (later, earlier, end) = (at(1001), at(999), at(2000));
        rate.count(later);
        rate.count(earlier);
        assert_eq!(rate.per_second(end), 1.0, "two in two seconds");
    }

    fn rate_start(rate: &Rate) -> Instant {
        rate.start
    }
}
