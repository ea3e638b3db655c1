//! Decides by monotonic time whether a frame is wanted, before anything is
//! decoded. Pure: the caller brings the time.

use std::time::{Duration, Instant};

/// Lets frames through at no more than a given rate, evenly: the schedule runs
/// on at the period, and a frame may come up to half a period early, so that
/// the jitter of a camera does not cost frames.
#[derive(Debug, Clone, Default)]
pub struct RateGate {
    /// When the next frame is due; `None` before the first.
    due: Option<Instant>,
}

impl RateGate {
    /// Whether the frame of `now` is wanted at `fps` frames per second; `None`
    /// means every frame is. The rate may change between calls.
    pub fn wants(&mut self, now: Instant, fps: Option<f32>) -> bool {
        let Some(fps) = fps else {
            self.due = None;
            return true;
        };
        let period = Duration::from_secs_f64(1.0 / f64::from(fps).max(MIN_FPS));
        // After the rate rose, an old far-off due time must not hold it back: at
        // one rate, a frame taken early leaves at most one and a half periods.
        let due = self.due.map_or(now, |due| due.min(now + period * 3 / 2));
        if now + period / 2 < due {
            self.due = Some(due);
            return false;
        }
        self.due = Some(due.max(now) + period);
        true
    }
}

/// Rates below this count as this: one frame in 1000 s.
const MIN_FPS: f64 = 0.001;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(gate: &mut RateGate, arrivals_us: impl IntoIterator<Item = u64>, fps: f32) -> usize {
        let start = Instant::now();
        arrivals_us.into_iter().filter(|us| gate.wants(start + Duration::from_micros(*us), Some(fps))).count()
    }

    #[test]
    fn rates() {
        for (camera_fps, wanted_fps, expected) in
            [(30, 15.0, 150), (30, 10.0, 100), (30, 20.0, 200), (30, 30.0, 300), (10, 30.0, 100), (30, 0.5, 5)]
        {
            let arrivals = (0..10 * camera_fps).map(|i| i * 1_000_000 / camera_fps);
            let got = passed(&mut RateGate::default(), arrivals, wanted_fps);
            assert!(got.abs_diff(expected) <= 1, "{camera_fps} to {wanted_fps}: {got}, not {expected}");
        }
    }

    #[test]
    fn no_rate_lets_all_pass_and_a_risen_rate_acts_at_once() {
        let mut gate = RateGate::default();
        let now = Instant::now();
        assert!((0..5).all(|_| gate.wants(now, None)));
        assert!(gate.wants(now, Some(0.01)));
        assert!(!gate.wants(now + Duration::from_secs(1), Some(10.0)), "its period begins now");
        assert!(gate.wants(now + Duration::from_millis(1100), Some(10.0)));
    }

    proptest! {
        /// Never more than the rate, whatever the jitter; and with jitter below
        /// a quarter of the period, every frame of a camera at that rate.
        #[test]
        fn bounded_and_jitter_proof(fps in 1u32..60, jitter in prop::collection::vec(0u64..100, 200)) {
            let period_us = 1_000_000 / u64::from(fps);
            let steady = jitter.iter().enumerate().map(|(i, j)| i as u64 * period_us + j * period_us / 400);
            prop_assert_eq!(passed(&mut RateGate::default(), steady, fps as f32), jitter.len());

            let mut at_us = 0;
            let wild: Vec<u64> = jitter.iter().map(|j| { at_us += j * period_us / 100; at_us }).collect();
            let seconds = *wild.last().expect("not empty") as f64 / 1e6;
            let got = passed(&mut RateGate::default(), wild, fps as f32);
            prop_assert!(got as f64 <= seconds * f64::from(fps) + 2.0, "{} in {} s at {}", got, seconds, fps);
        }
    }
}
