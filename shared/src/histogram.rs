//! Durations counted in a fixed table: no allocation after creation, no lock,
//! quantiles within 3.2 %. Knows nothing of what it measures.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Sub-steps of each power of two; the relative error is at most 1/32.
const STEPS: u64 = 32;
/// Powers of two covered: 1 us to 2^36 us (19 hours).
const POWERS: usize = 32;
const CELLS: usize = (POWERS + 1) * STEPS as usize;

/// Upper bounds shown to Prometheus, in seconds.
pub const SHOWN_S: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// A histogram of durations.
#[derive(Debug)]
pub struct Histogram {
    cells: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(), sum_us: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.cells[cell(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.cells.iter().map(|cell| cell.load(Relaxed)).sum()
    }

    /// The duration that the share `q` (0 to 1) of all counted does not
    /// exceed; `None` when nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        Snapshot::of(self).quantile(q)
    }

    /// All counters at about one instant.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self)
    }
}

/// A copy of a histogram; two of them subtract to what was counted between.
#[derive(Debug, Clone)]
pub struct Snapshot(Vec<u64>);

impl Snapshot {
    fn of(histogram: &Histogram) -> Self {
        Self(histogram.cells.iter().map(|cell| cell.load(Relaxed)).collect())
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What was counted after `earlier`.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        Self(self.0.iter().zip(&earlier.0).map(|(now, then)| now - then).collect())
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Snapshot) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// As [`Histogram::quantile`].
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let place = self.0.iter().position(|&cell| {
            seen += cell;
            seen >= rank
        })?;
        Some(Duration::from_micros(upper_us(place)))
    }
}

/// Cell of a duration: exact below [`STEPS`], then [`STEPS`] cells for each
/// doubling.
fn cell(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let power = u64::from(us.ilog2() - STEPS.ilog2());
    let step = (us >> power) - STEPS;
    ((power + 1) * STEPS + step).min(CELLS as u64 - 1) as usize
}

/// Largest duration of a cell, in microseconds.
fn upper_us(cell: usize) -> u64 {
    let cell = cell as u64;
    if cell < STEPS {
        return cell;
    }
    let (power, step) = (cell / STEPS - 1, cell % STEPS);
    ((STEPS + step + 1) << power) - 1
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let snapshot = self.snapshot();
        let mut buckets: Vec<(f64, u64)> = SHOWN_S.iter().map(|&bound| (bound, 0)).collect();
        buckets.push((f64::MAX, 0));
        let mut count = 0;
        for (place, &cell) in snapshot.0.iter().enumerate().filter(|(_, cell)| **cell > 0) {
            let seconds = upper_us(place) as f64 / 1e6;
            let bucket = SHOWN_S.partition_point(|&bound| bound < seconds);
            buckets[bucket].1 += cell;
            count += cell;
        }
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_of_known_durations() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        for (q, ms) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = histogram.quantile(q).expect("counted").as_secs_f64() * 1e3;
            assert!((got / ms - 1.0).abs() < 0.032, "{q}: {got} ms, not {ms} ms");
        }
        assert_eq!(histogram.count(), 1000);
    }

    proptest! {
        #[test]
        fn a_cell_holds_its_durations(us in any::<u64>()) {
            let upper = upper_us(cell(us));
            prop_assert!(us > (1 << 36) || (upper >= us && upper - us <= us / 16));
        }
    }
}
