//! What a job is expected to cost: a mean over about the last ten jobs, or over
//! those of about the last second where they are fewer. Pure: the caller brings
//! the time.

use std::time::{Duration, Instant};

/// Weight of the newest job, at least.
const NEWEST_WEIGHT: f64 = 0.1;
/// A job that is so old counts 1/e, at most.
const MEMORY: Duration = Duration::from_secs(1);
/// A job counts as at most so many means. One that took longer met a machine
/// that stood still, which says nothing of what jobs cost; when jobs have
/// become dearer, a few of them tell.
const MOST_OF_MEAN: f64 = 4.0;

/// A running mean of times that forgets by number and by time: after a hiccup few
/// frames are asked for, and those few must be enough to tell that it is over.
#[derive(Debug, Clone, Copy)]
pub struct ServiceTime {
    mean_s: f64,
    /// When the newest was measured; `None`: the mean is an assumption.
    measured: Option<Instant>,
}

impl ServiceTime {
    /// `assumed` until there is a measurement.
    pub fn new(assumed: Duration) -> Self {
        Self { mean_s: assumed.as_secs_f64(), measured: None }
    }

    /// The mean.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.mean_s)
    }

    /// Measured at `now`: a job took `took`.
    pub fn record(&mut self, took: Duration, now: Instant) {
        let took_s = took.as_secs_f64();
        match self.measured {
            None => self.mean_s = took_s,
            Some(before) => {
                let since = now.saturating_duration_since(before);
                let forgotten = 1.0 - (-since.as_secs_f64() / MEMORY.as_secs_f64()).exp();
                let weight = forgotten.max(NEWEST_WEIGHT);
                self.mean_s += weight * (took_s.min(MOST_OF_MEAN * self.mean_s) - self.mean_s);
            }
        }
        self.measured = Some(self.measured.map_or(now, |before| before.max(now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Jobs of `took_ms` each, one every `every_ms`, for `for_ms`.
    fn after(time: &mut ServiceTime, now: &mut Instant, took_ms: u32, every_ms: u32, for_ms: u32) -> f64 {
        for _ in 0..for_ms / every_ms {
            *now += MS * every_ms;
            time.record(MS * took_ms, *now);
        }
        time.mean().as_secs_f64() * 1e3
    }

    #[test]
    fn the_first_replaces_the_assumption() {
        let mut time = ServiceTime::new(MS * 10);
        assert_eq!(time.mean(), MS * 10);
        time.record(MS * 80, Instant::now());
        assert_eq!(time.mean(), MS * 80);
    }

    #[test]
    fn follows_at_any_rate() {
        for every_ms in [5, 50, 500] {
            let (mut time, mut now) = (ServiceTime::new(MS), Instant::now());
            after(&mut time, &mut now, 10, every_ms, 5000);
            let dearer = after(&mut time, &mut now, 100, every_ms, 5000);
            assert!((80.0..100.1).contains(&dearer), "every {every_ms} ms: {dearer}");
            let cheaper = after(&mut time, &mut now, 10, every_ms, 5000);
            assert!((10.0..12.0).contains(&cheaper), "every {every_ms} ms: {cheaper}");
        }
    }

    /// A machine that stood still for a minute while a job was done.
    #[test]
    fn one_long_job_is_soon_forgotten() {
        let (mut time, mut now) = (ServiceTime::new(MS * 10), Instant::now());
        after(&mut time, &mut now, 10, 20, 5000);
        now += Duration::from_secs(60);
        time.record(Duration::from_secs(60), now);
        assert!(time.mean() <= MS * 40, "{:?}", time.mean());
        let mean = after(&mut time, &mut now, 10, 100, 2000);
        assert!(mean < 15.0, "{mean}");
    }

    /// What a start beside other work looks like: the first job is ten times
    /// as dear. Before a pace is made of it, or after few frames because of it.
    #[test]
    fn a_slow_first_job_is_soon_forgotten() {
        for (took_ms, every_ms, for_ms) in [(1000, 500, 4000), (100, 10, 500)] {
            let (mut time, mut now) = (ServiceTime::new(MS * 10), Instant::now());
            time.record(MS * took_ms, now);
            let mean = after(&mut time, &mut now, 10, every_ms, for_ms);
            assert!(mean < 30.0, "one every {every_ms} ms: {mean}");
        }
    }
}
