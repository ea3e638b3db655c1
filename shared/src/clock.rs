//! The one clock of the frames' path. It is the runtime's, so that tests can
//! stop it and simulate days; without such a test, and on threads outside of a
//! runtime, it is the system's monotonic clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time now.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock now, in microseconds since the Unix epoch. It may be set at
/// any time: for what people read, never to decide by.
pub fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stands_still_with_the_runtime() {
        let before = now();
        assert_eq!(now(), before);
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        assert_eq!(now() - before, Duration::from_secs(86_400));
    }

    #[test]
    fn the_wall_clock_is_of_this_century() {
        assert!(unix_us() > 1_600_000_000_000_000);
    }

    /// Worker threads have no runtime; theirs is the system's clock.
    #[test]
    fn runs_without_a_runtime() {
        let before = Instant::now();
        let between = now();
        assert!(before <= between && between <= Instant::now());
    }
}
