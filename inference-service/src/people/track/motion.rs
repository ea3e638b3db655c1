//! Where a face will be, and how sure that is: position and size with their
//! rates of change, corrected by what was seen. Pure; knows neither tracks nor
//! pictures.
//!
//! Each coordinate is a Kalman filter (Kalman 1960) over an integrated
//! Ornstein-Uhlenbeck process: the rate decays with a time constant and is
//! renewed by noise, so that a prediction moves on at first, comes to rest, and
//! its uncertainty grows with real time, whatever the rate of frames. The exact
//! step over any time: Gillespie 1996, "Exact numerical simulation of the
//! Ornstein-Uhlenbeck process and its integral", Phys. Rev. E 54, eq. 2.47.
//!
//! Lengths are shares of the picture's width and height, so that a picture of
//! another size changes nothing; noises are shares of the face's own size.

use serde::{Deserialize, Serialize};

use super::sight::Spot;

/// How a coordinate moves of itself.
#[derive(Debug, Clone, Copy)]
struct Habit {
    /// Standard deviation of the rate, per second: face sizes for a place,
    /// natural logarithms for a size.
    rate: f64,
    /// Time in which a rate decays to 1/e, in seconds.
    memory_s: f64,
    /// Standard deviation of what the detector says, in the same units.
    noise: f64,
}

/// Sideways: people walk by at up to 1.4 m/s, a face is 0.16 m wide.
const ACROSS: Habit = Habit { rate: 4.0, memory_s: 5.0, noise: 0.06 };
/// Up and down: heads stay at their height, but come nearer.
const ALONG: Habit = Habit { rate: 0.6, memory_s: 1.5, noise: 0.06 };
/// Logarithm of a side: doubled in 1.4 s when walking up to the camera.
const SIDE: Habit = Habit { rate: 0.2, memory_s: 1.5, noise: 0.1 };

/// A face's size in the prediction stays within these shares of the picture.
const SIZE_RANGE: std::ops::RangeInclusive<f64> = 1e-4..=4.0;

/// A coordinate, its rate of change per second and their covariance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Axis {
    value: f64,
    rate: f64,
    value_variance: f64,
    covariance: f64,
    rate_variance: f64,
}

impl Axis {
    /// Seen for the first time; `unit` is what one of the habit's units is in
    /// the coordinate's.
    fn new(value: f64, habit: Habit, unit: f64) -> Self {
        Self {
            value,
            rate: 0.0,
            value_variance: (habit.noise * unit).powi(2),
            covariance: 0.0,
            rate_variance: (habit.rate * unit).powi(2),
        }
    }

    fn is_sound(&self) -> bool {
        let all = [self.value, self.rate, self.value_variance, self.covariance, self.rate_variance];
        all.iter().all(|value| value.is_finite()) && self.value_variance >= 0.0 && self.rate_variance >= 0.0
    }

    fn advance(&mut self, seconds: f64, habit: Habit, unit: f64) {
        let memory = habit.memory_s;
        let kept = (-seconds / memory).exp();
        let carried = memory * (1.0 - kept);
        let renewed = (habit.rate * unit).powi(2);
        self.value += self.rate * carried;
        self.rate *= kept;
        self.value_variance += 2.0 * carried * self.covariance
            + carried.powi(2) * self.rate_variance
            + renewed * memory.powi(2) * (2.0 * seconds / memory - (1.0 - kept) * (3.0 - kept)).max(0.0);
        self.covariance = kept * (self.covariance + carried * self.rate_variance) + renewed * carried.powi(2) / memory;
        self.rate_variance = kept.powi(2) * self.rate_variance + renewed * (1.0 - kept.powi(2));
    }

    fn correct(&mut self, seen: f64, noise_variance: f64) {
        let surprise = seen - self.value;
        let sigmas = surprise.abs() / (self.value_variance + noise_variance).sqrt();
        // A box that is far off pulls no harder than one that is a little off.
        let total = self.value_variance + noise_variance * (sigmas / USUAL_SIGMAS).max(1.0);
        let (gain, rate_gain) = (self.value_variance / total, self.covariance / total);
        self.value += gain * surprise;
        self.rate += rate_gain * surprise;
        self.rate_variance = (self.rate_variance - rate_gain * self.covariance).max(0.0);
        self.covariance *= 1.0 - gain;
        self.value_variance *= 1.0 - gain;
    }
}

/// Motion of one face's box.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Motion {
    x: Axis,
    y: Axis,
    ln_width: Axis,
    ln_height: Axis,
}

/// What a box is compared with: coordinates in the order x, y, logarithm of
/// width and of height.
#[derive(Debug, Clone, Copy)]
pub struct Forecast {
    /// Expected place and size.
    mean: [f64; 4],
    /// Variance of what will be seen, the detector's noise included.
    variance: [f64; 4],
    /// Farthest that place and size may be off.
    reach: [f64; 4],
    /// Logarithm of the density at the mean, per picture and per unit of the
    /// logarithms.
    peak: f64,
}

/// Errors of detectors have longer tails than the normal distribution: beyond
/// so many standard deviations unlikeliness grows with the distance and not
/// with its square (Huber 1964, "Robust estimation of a location parameter").
const USUAL_SIGMAS: f64 = 2.0;
/// A box farther off than so many standard deviations is another face.
const GATE_SIGMAS: f64 = 6.0;
/// However unsure a prediction is, a face farther off than so many face sizes
/// is another one: a look-alike elsewhere inherits nothing.
const REACH_FACES: f64 = 5.0;

impl Motion {
    /// Of a face seen for the first time.
    pub fn new(seen: &Spot) -> Self {
        Self {
            x: Axis::new(seen.x, ACROSS, seen.width),
            y: Axis::new(seen.y, ALONG, seen.height),
            ln_width: Axis::new(seen.width.ln(), SIDE, 1.0),
            ln_height: Axis::new(seen.height.ln(), SIDE, 1.0),
        }
    }

    /// Whether it can be gone on with; one from outside may hold anything.
    pub fn is_sound(&self) -> bool {
        [&self.x, &self.y, &self.ln_width, &self.ln_height].into_iter().all(Axis::is_sound)
    }

    /// The smoothed box.
    pub fn spot(&self) -> Spot {
        let side = |axis: &Axis| axis.value.exp().clamp(*SIZE_RANGE.start(), *SIZE_RANGE.end());
        Spot { x: self.x.value, y: self.y.value, width: side(&self.ln_width), height: side(&self.ln_height) }
    }

    /// So much time passes, in seconds, 0 or more.
    pub fn advance(&mut self, seconds: f64) {
        let Spot { width, height, .. } = self.spot();
        self.x.advance(seconds, ACROSS, width);
        self.y.advance(seconds, ALONG, height);
        self.ln_width.advance(seconds, SIDE, 1.0);
        self.ln_height.advance(seconds, SIDE, 1.0);
    }

    /// The face was seen here.
    pub fn correct(&mut self, seen: &Spot) {
        let Spot { width, height, .. } = self.spot();
        self.x.correct(seen.x, (ACROSS.noise * width).powi(2));
        self.y.correct(seen.y, (ALONG.noise * height).powi(2));
        self.ln_width.correct(seen.width.ln(), SIDE.noise.powi(2));
        self.ln_height.correct(seen.height.ln(), SIDE.noise.powi(2));
    }

    /// What to expect now.
    pub fn forecast(&self) -> Forecast {
        let Spot { x, y, width, height } = self.spot();
        let mean = [x, y, width.ln(), height.ln()];
        let noise = [ACROSS.noise * width, ALONG.noise * height, SIDE.noise, SIDE.noise];
        let own = [&self.x, &self.y, &self.ln_width, &self.ln_height].map(|axis| axis.value_variance);
        let most = [REACH_FACES * width, REACH_FACES * height, f64::INFINITY, f64::INFINITY];
        let mut forecast = Forecast { mean, variance: [0.0; 4], reach: [0.0; 4], peak: 0.0 };
        for at in 0..4 {
            let variance = own[at] + noise[at].powi(2);
            forecast.variance[at] = variance;
            forecast.reach[at] = (GATE_SIGMAS * variance.sqrt()).min(most[at]);
            forecast.peak -= 0.5 * (std::f64::consts::TAU * variance).ln();
        }
        forecast
    }
}

impl Forecast {
    /// Logarithm of the density of a box, if it may be this face at all.
    pub fn likelihood(&self, seen: &Seen) -> Option<f64> {
        let mut off = 0.0;
        for at in 0..4 {
            let distance = seen.0[at] - self.mean[at];
            if distance.abs() > self.reach[at] {
                return None;
            }
            let sigmas = distance.abs() / self.variance[at].sqrt();
            off +=
                if sigmas < USUAL_SIGMAS { 0.5 * sigmas.powi(2) } else { USUAL_SIGMAS * (sigmas - 0.5 * USUAL_SIGMAS) };
        }
        Some(self.peak - off)
    }
}

/// A box in the coordinates of a [`Forecast`].
#[derive(Debug, Clone, Copy)]
pub struct Seen([f64; 4]);

impl From<&Spot> for Seen {
    fn from(spot: &Spot) -> Self {
        Self([spot.x, spot.y, spot.width.ln(), spot.height.ln()])
    }
}
