//! Lets a warning through at most once a period and counts what it held back.
//! Does not log itself: the caller's line keeps its own fields and location.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A gate for one log line.
#[derive(Debug)]
pub struct RateLog {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl RateLog {
    /// Lets one line through every `period`.
    pub fn new(period: Duration) -> Self {
        Self { period, state: Mutex::default() }
    }

    /// `Some(held_back)` when the line may be logged now, with the number of
    /// lines held back since the last one.
    pub fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < self.period) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

impl Default for RateLog {
    /// Once a second, the house rule for warnings.
    fn default() -> Self {
        Self::new(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_period() {
        let gate = RateLog::default();
        let start = Instant::now();
        assert_eq!(gate.allow(start), Some(0));
        assert_eq!(gate.allow(start + Duration::from_millis(10)), None);
        assert_eq!(gate.allow(start + Duration::from_millis(999)), None);
        assert_eq!(gate.allow(start + Duration::from_millis(1000)), Some(2));
    }
}
