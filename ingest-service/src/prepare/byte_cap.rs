//! Keeps the bytes per second of one camera below a cap: says how large the next
//! frame may be and with which of the steps of quality and size to begin. Goes
//! down at once, comes back slowly. Pure: the caller brings time and bytes.

use std::time::{Duration, Instant};

/// After so long without trouble the next better step is tried.
const RECOVERY: Duration = Duration::from_secs(10);
/// Longest pause that counts as the time between two frames: it saves up what
/// one frame may take at once.
const MOST_SAVED: Duration = Duration::from_secs(1);

/// The controller of one camera. Over any time t at most cap x (t + 1 s) bytes
/// are allowed.
#[derive(Debug, Clone)]
pub struct ByteCap {
    bytes_per_s: f64,
    /// What may be sent now, at most what the cap gives in a second.
    saved_bytes: f64,
    /// Usual time between two frames, in seconds.
    period_s: f64,
    last: Option<Instant>,
    step: usize,
    /// Since when the step was enough.
    calm_since: Option<Instant>,
}

/// What the next frame may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Most bytes.
    pub bytes: usize,
    /// Step to begin with; 0 is the best.
    pub step: usize,
}

impl ByteCap {
    /// A cap for a camera of `fps` frames per second.
    pub fn new(bytes_per_s: u64, fps: f32) -> Self {
        let bytes_per_s = bytes_per_s as f64;
        let period_s = (1.0 / f64::from(fps)).min(MOST_SAVED.as_secs_f64());
        Self { bytes_per_s, saved_bytes: bytes_per_s, period_s, last: None, step: 0, calm_since: None }
    }

    /// What the frame of `now` may be.
    pub fn allow(&mut self, now: Instant) -> Allowance {
        if let Some(last) = self.last.replace(now) {
            let passed_s = now.saturating_duration_since(last).min(MOST_SAVED).as_secs_f64();
            self.saved_bytes = (self.saved_bytes + passed_s * self.bytes_per_s).min(self.bytes_per_s);
            // Over about eight frames: one late frame does not count.
            self.period_s += (passed_s - self.period_s) / 8.0;
        }
        let share = self.bytes_per_s * self.period_s;
        Allowance { bytes: self.saved_bytes.min(share) as usize, step: self.step }
    }

    /// A frame of so many bytes was made, with that step.
    pub fn made(&mut self, now: Instant, bytes: usize, step: usize) {
        self.saved_bytes -= bytes as f64;
        if step > self.step {
            (self.step, self.calm_since) = (step, Some(now));
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if self.step > 0 && now.saturating_duration_since(since) >= RECOVERY {
            (self.step, self.calm_since) = (self.step - 1, Some(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes of a frame at each step.
    const SIZES: [usize; 4] = [40_000, 25_000, 12_000, 4_000];

    /// Bytes made and steps used, frame by frame.
    fn run(cap: &mut ByteCap, start: Instant, at_ms: impl Iterator<Item = u64>) -> Vec<(u64, usize, usize)> {
        let frames = at_ms.filter_map(|ms| {
            let now = start + Duration::from_millis(ms);
            let allowed = cap.allow(now);
            let step = (allowed.step..SIZES.len()).find(|&step| SIZES[step] <= allowed.bytes)?;
            cap.made(now, SIZES[step], step);
            Some((ms, SIZES[step], step))
        });
        frames.collect()
    }

    #[test]
    fn goes_down_at_once_and_comes_back_slowly() {
        let (start, mut cap) = (Instant::now(), ByteCap::new(130_000, 10.0));
        // 13 kB a frame at 10 frames per second.
        let busy = run(&mut cap, start, (0..300).map(|n| n * 100));
        assert!(busy.iter().all(|&(.., step)| step == 2), "{busy:?}");
        // At 2 frames per second there is room for the best; it is not found at
        // once.
        let calm = run(&mut cap, start, (0..100).map(|n| 30_000 + n * 500));
        let first = |wanted: usize| calm.iter().find(|&&(.., step)| step == wanted).map(|&(ms, ..)| ms - 30_000);
        assert_eq!(calm.last().map(|&(.., step)| step), Some(0), "{calm:?}");
        let (better, best) = (first(1).expect("better"), first(0).expect("best"));
        assert!(best >= better + 10_000, "{better} {best}");
    }

    proptest! {
        /// Whatever the times, no second and no minute gives more than the cap
        /// and what one second saves.
        #[test]
        fn the_cap_holds(pauses in prop::collection::vec(0u64..2000, 1..200), cap in 1_000u64..500_000, fps in 0.1f32..60.0) {
            let times = pauses.iter().scan(0, |at, pause| { *at += pause; Some(*at) });
            let made = run(&mut ByteCap::new(cap, fps), Instant::now(), times);
            for (index, &(from, ..)) in made.iter().enumerate() {
                let mut bytes = 0;
                for &(ms, more, _) in &made[index..] {
                    bytes += more;
                    let most = cap as f64 * ((ms - from) as f64 / 1000.0 + 1.0);
                    prop_assert!(bytes as f64 <= most + 1.0, "{} bytes from {} to {} ms", bytes, from, ms);
                }
            }
        }
    }
}
