//! How long to wait before trying again: exponential, capped, jittered. Pure;
//! the caller sleeps and listens to shutdown meanwhile.

use std::time::Duration;

/// Delays that double from `first` to `cap`, each drawn evenly from the upper
/// half of its step ("equal jitter"), so that many senders do not return
/// together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    step: Duration,
}

impl Backoff {
    /// Starts at `first`, never exceeds `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, step: first }
    }

    /// The next delay: between half and all of the current step.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.step.min(self.cap);
        self.step = step.saturating_mul(2).min(self.cap);
        step.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// After success: start small again.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_resets() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        for step_ms in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let delay = backoff.next_delay().as_millis() as u64;
            assert!((step_ms / 2..=step_ms).contains(&delay), "{delay} for {step_ms}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(200));
    }
}
