//! For which seconds of the wall clock a camera was watched. Counts of seconds
//! that were not are unknown, not zero.

use std::time::{Duration, Instant};

/// Frames analysed at most so far apart may cover the time between them.
pub const LONGEST_GAP: Duration = Duration::from_secs(5);

/// What one camera covered last.
#[derive(Debug)]
pub struct Coverage {
    longest_gap: Duration,
    last: Option<(Instant, i64)>,
}

impl Coverage {
    /// Nothing yet; frames at most `longest_gap` apart cover the time between
    /// them.
    pub fn new(longest_gap: Duration) -> Self {
        Self { longest_gap, last: None }
    }
    /// A frame captured at `at`, in second `unix_s`, was analysed: the seconds
    /// that are covered since the frame before, from and to (exclusive);
    /// `None` when they were told already.
    pub fn frame(&mut self, at: Instant, unix_s: i64) -> Option<(i64, i64)> {
        let before = self.last.replace((at, unix_s));
        let Some((before, before_s)) = before else { return Some((unix_s, unix_s + 1)) };
        let gap = at.saturating_duration_since(before);
        let seconds = unix_s - before_s;
        if seconds == 0 {
            return None;
        }
        // A wall clock that was set in between says nothing of that time.
        let clock_agrees = seconds > 0 && seconds as u64 <= gap.as_secs() + 2;
        let from = if gap <= self.longest_gap && clock_agrees { before_s + 1 } else { unix_s };
        Some((from, unix_s + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_table() {
        let start = Instant::now();
        let mut coverage = Coverage::new(LONGEST_GAP);
        for (after_ms, unix_s, expected, why) in [
            (0, 100, Some((100, 101)), "the first"),
            (200, 100, None, "the same second"),
            (1_000, 101, Some((101, 102)), "the next"),
            (4_500, 104, Some((102, 105)), "what lies between is covered"),
            (60_000, 160, Some((160, 161)), "a minute without frames is not"),
            (61_000, 3761, Some((3761, 3762)), "the clock was put forward"),
            (62_000, 162, Some((162, 163)), "and back"),
        ] {
            assert_eq!(coverage.frame(start + Duration::from_millis(after_ms), unix_s), expected, "{why}");
        }
    }
}
