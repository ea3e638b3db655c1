//! How a value moves over the whole life of a process, in memory of fixed size:
//! a ring of samples that thins itself out, and the straight line through them.

/// Most samples kept.
pub const SAMPLES: usize = 240;

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Where: seconds since start, or frames.
    pub x: f64,
    /// The value there.
    pub y: f64,
}

/// Samples from the first to the last, evenly spread. When they are
/// [`SAMPLES`], every second one goes and only every second new one is kept:
/// a process that runs for months has the same number, further apart.
#[derive(Debug, Clone)]
pub struct Trend {
    samples: Vec<Sample>,
    /// One of so many values is kept.
    stride: u64,
    seen: u64,
}

impl Default for Trend {
    fn default() -> Self {
        Self { samples: Vec::with_capacity(SAMPLES), stride: 1, seen: 0 }
    }
}

impl Trend {
    /// Takes the next value. `x` grows from call to call.
    pub fn push(&mut self, sample: Sample) {
        let turn = self.seen % self.stride;
        self.seen += 1;
        if turn != 0 {
            return;
        }
        if self.samples.len() == SAMPLES {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.stride *= 2;
        }
        self.samples.push(sample);
    }

    /// The samples kept, oldest first.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The line through the later half of the samples: the earlier half holds
    /// the start, when everything is filled for the first time.
    pub fn slope(&self) -> Option<Slope> {
        slope(&self.samples[self.samples.len() / 2..])
    }
}

/// The slope of a straight line, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// Change of y for each unit of x.
    pub per_x: f64,
    /// The true slope is within `per_x` plus or minus this, 19 times of 20.
    pub ci95: f64,
}

/// Least samples that say anything of a slope.
const MIN_SAMPLES: usize = 8;

/// The least-squares line through `samples`, with the 95 % confidence interval
/// of its slope; `None` for fewer than 8 samples or a single x.
///
/// Values taken shortly after one another are alike, so each says less than an
/// independent one: the interval is widened by the residuals' correlation from
/// one sample to the next, as for a first-order autoregressive process
/// (effective number of samples n (1 - r) / (1 + r); Bayley and Hammersley,
/// 1946). The quantile of Student's t is approximated by its first Cornish-Fisher term.
pub fn slope(samples: &[Sample]) -> Option<Slope> {
    let n = samples.len() as f64;
    if samples.len() < MIN_SAMPLES {
        return None;
    }
    let mean_x = samples.iter().map(|sample| sample.x).sum::<f64>() / n;
    let mean_y = samples.iter().map(|sample| sample.y).sum::<f64>() / n;
    let xx: f64 = samples.iter().map(|sample| (sample.x - mean_x).powi(2)).sum();
    let xy: f64 = samples.iter().map(|sample| (sample.x - mean_x) * (sample.y - mean_y)).sum();
    if xx <= 0.0 {
        return None;
    }
    let per_x = xy / xx;
    let residuals: Vec<f64> = samples.iter().map(|sample| sample.y - mean_y - per_x * (sample.x - mean_x)).collect();
    let squares: f64 = residuals.iter().map(|residual| residual * residual).sum();
    if squares <= 0.0 {
        return Some(Slope { per_x, ci95: 0.0 });
    }
    let neighbours: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let correlation = (neighbours / squares).clamp(0.0, 0.99);
    let effective = (n * (1.0 - correlation) / (1.0 + correlation)).max(4.0);
    let degrees = effective - 2.0;
    let error = (squares / n * effective / degrees / (xx / n * effective)).sqrt();
    let z = 1.959_964_f64;
    let t = z + (z.powi(3) + z) / (4.0 * degrees);
    Some(Slope { per_x, ci95: t * error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: usize, noise: impl Fn(usize) -> f64) -> Vec<Sample> {
        (0..n).map(|i| Sample { x: i as f64, y: 100.0 + 0.5 * i as f64 + noise(i) }).collect()
    }

    /// A generator of its own: the same noise in every run.
    fn random(seed: u64) -> impl FnMut() -> f64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        move || rng.f64() - 0.5
    }

    #[test]
    fn an_exact_line_is_found() {
        let found = slope(&line(100, |_| 0.0)).expect("enough samples");
        assert!((found.per_x - 0.5).abs() < 1e-9 && found.ci95 < 1e-6, "{found:?}");
        assert_eq!(slope(&line(MIN_SAMPLES - 1, |_| 0.0)), None);
        assert_eq!(slope(&[Sample { x: 1.0, y: 2.0 }; 20]), None, "no x, no slope");
    }

    /// The interval holds the true slope about 19 times of 20, for independent
    /// noise and for noise that remembers.
    #[test]
    fn the_interval_covers_the_truth() {
        for memory in [0.0, 0.8] {
            let covered = (0..400)
                .filter(|&seed| {
                    let (mut random, mut noise) = (random(seed), 0.0);
                    let samples: Vec<Sample> = line(200, |_| 0.0)
                        .into_iter()
                        .map(|sample| {
                            noise = memory * noise + random();
                            Sample { y: sample.y + 20.0 * noise, ..sample }
                        })
                        .collect();
                    let found = slope(&samples).expect("enough samples");
                    (found.per_x - 0.5).abs() <= found.ci95
                })
                .count();
            assert!((360..=396).contains(&covered), "{covered} of 400 with memory {memory}");
        }
    }

    #[test]
    fn the_ring_keeps_the_whole_life_in_fixed_room() {
        let mut trend = Trend::default();
        for i in 0..1_000_000u32 {
            trend.push(Sample { x: f64::from(i), y: 1.0 });
            assert!(trend.samples().len() <= SAMPLES);
        }
        let samples = trend.samples();
        assert_eq!(samples[0].x, 0.0);
        assert!(samples[samples.len() - 1].x > 990_000.0);
        let gaps: Vec<f64> = samples.windows(2).map(|pair| pair[1].x - pair[0].x).collect();
        assert!(gaps.iter().all(|gap| *gap == gaps[0]), "evenly spread");
        assert!(samples.len() >= SAMPLES / 2);
        assert_eq!(trend.samples.capacity(), SAMPLES);
    }

    /// What is filled once at the start is no slope.
    #[test]
    fn the_start_is_left_out() {
        let mut trend = Trend::default();
        for i in 0..1000u32 {
            trend.push(Sample { x: f64::from(i), y: f64::from(i.min(100)) });
        }
        assert_eq!(trend.slope().expect("enough samples").per_x, 0.0);
    }
}
