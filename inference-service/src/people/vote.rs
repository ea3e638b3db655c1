//! The gender of a track: a vote over its life. Knows one face; holds a few
//! numbers whatever their count.
//!
//! Each estimate counts with its log-odds `l = ln(p / (1 - p))`, clamped, and a
//! weight `w = quality * fresh`, where `fresh = 1 - exp(-dt / 0.5 s)` is what a
//! frame can say that the one before it has not said: the errors of frames that
//! follow each other closely are the same errors (autocorrelation that decays
//! exponentially), so that evidence grows with time and not with the frame
//! rate. With `W = sum(w)` and `m = sum(w * l) / W` the vote is
//!
//! ```text
//! log-odds = m * W / (1 + W * RHO)
//! ```
//!
//! which is the sum of independent estimates (naive Bayes) while there are few,
//! and ends at `m / RHO`: estimates of one face stay correlated however long
//! one looks, some people are ambiguous for good. It is the effective size of a
//! cluster of samples with the intraclass correlation RHO (design effect, Kish
//! 1965, "Survey Sampling", section 5.4) with `W` for `n - 1`, so that the first
//! estimate counts a little less than in full.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::track::carry::age_us;
use crate::vision::{Gender, GenderEstimate, Point};

/// Correlation of estimates of one face; the vote ends at `1 / RHO` times the
/// mean log-odds: 0.6 for ever is 0.73, 0.75 for ever is 0.94.
const RHO: f64 = 0.4;
/// Time after which an estimate's error is another one.
const FRESH_S: f64 = 0.5;
/// One estimate says no more than 19 to 1, whatever it claims: ln(19).
const MAX_LOG_ODDS: f64 = 2.944;
/// Least weight of all estimates before a gender is named: one frame, however
/// good, never does.
const MIN_WEIGHT: f64 = 1.0;
/// A named gender stays until its log-odds fall below this share of those at
/// which it was named.
const STAY_SHARE: f64 = 0.4;

/// A face of this size is worth half of a large one: half of the 48 px that
/// the classifier looks at are made up then.
const HALF_WORTH_PX: f32 = 24.0;
/// Worth of a face seen from the side.
const PROFILE_WORTH: f32 = 0.3;
/// Worth of a face without landmarks, which may be turned any way.
const UNKNOWN_POSE_WORTH: f32 = 0.7;

/// How far a face looks at the camera, 0 (profile) to 1: where the nose lies
/// between the eyes, measured along the line through them, so that a tilted
/// head counts in full. 0 too when the eyes are one point.
pub fn frontality(landmarks: &[Point; 5]) -> f32 {
    let [left, right, nose, ..] = landmarks;
    let (x, y) = (right.x - left.x, right.y - left.y);
    let along = ((nose.x - left.x) * x + (nose.y - left.y) * y) / (x * x + y * y);
    let frontal = 1.0 - 2.0 * (along - 0.5).abs();
    if frontal.is_finite() { frontal.clamp(0.0, 1.0) } else { 0.0 }
}

/// What an estimate is worth, 0 to 1, by the shorter side of the face in pixels
/// and its [`frontality`], if known.
pub fn quality(side_px: f32, frontality: Option<f32>) -> f32 {
    let size = side_px.powi(2) / (side_px.powi(2) + HALF_WORTH_PX.powi(2));
    let pose = frontality.map_or(UNKNOWN_POSE_WORTH, |frontal| PROFILE_WORTH + (1.0 - PROFILE_WORTH) * frontal);
    let worth = size * pose;
    if worth.is_finite() { worth.clamp(0.0, 1.0) } else { 0.0 }
}

/// The vote of one track.
#[derive(Debug, Clone, Copy)]
pub struct GenderVote {
    /// Sum of the weights.
    weight: f64,
    /// Weighted sum of the log-odds.
    sum: f64,
    last: Option<Instant>,
    named: Gender,
}

impl Default for GenderVote {
    fn default() -> Self {
        Self { weight: 0.0, sum: 0.0, last: None, named: Gender::Unknown }
    }
}

/// A vote on its way to another replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CarriedVote {
    weight: f64,
    sum: f64,
    last_us: Option<u64>,
    /// Named female, or male; absent: neither.
    female: Option<bool>,
}

impl GenderVote {
    /// It as it is `now`.
    pub fn carry(&self, now: Instant) -> CarriedVote {
        let female = match self.named {
            Gender::Female => Some(true),
            Gender::Male => Some(false),
            Gender::Unknown => None,
        };
        CarriedVote { weight: self.weight, sum: self.sum, last_us: self.last.map(|last| age_us(last, now)), female }
    }

    /// One that another held at `then`; without a sound weight nothing was said
    /// yet.
    pub fn adopt(carried: CarriedVote, then: Instant) -> Self {
        let CarriedVote { weight, sum, last_us, female } = carried;
        if !(weight.is_finite() && weight >= 0.0 && sum.is_finite()) {
            return Self::default();
        }
        let named = female.map_or(Gender::Unknown, |female| if female { Gender::Female } else { Gender::Male });
        Self { weight, sum, last: last_us.and_then(|age| then.checked_sub(Duration::from_micros(age))), named }
    }

    /// Counts an estimate of the given [`quality`]. A gender is named from
    /// `min_probability` on, above 0.5 and below 1.
    pub fn add(&mut self, at: Instant, estimate: GenderEstimate, quality: f32, min_probability: f32) {
        if !(0.0..=1.0).contains(&estimate.female) {
            return;
        }
        let since = self.last.map_or(Duration::MAX, |last| at.saturating_duration_since(last));
        self.last = Some(at);
        let weight = f64::from(quality) * (1.0 - (-since.as_secs_f64() / FRESH_S).exp());
        let female = f64::from(estimate.female);
        self.weight += weight;
        self.sum += weight * (female / (1.0 - female)).ln().clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS);
        self.name(f64::from(min_probability));
    }

    /// Names what is clear, keeps what is not yet unclear.
    fn name(&mut self, min_probability: f64) {
        let odds = self.log_odds();
        let clear = (min_probability / (1.0 - min_probability)).ln();
        let side = if odds > 0.0 { Gender::Female } else { Gender::Male };
        let needed = if self.named == side { clear * STAY_SHARE } else { clear };
        self.named = if odds.abs() >= needed && self.weight >= MIN_WEIGHT { side } else { Gender::Unknown };
    }

    fn log_odds(&self) -> f64 {
        // The mean times the effective weight; without weight it is 0.
        self.sum / (1.0 + self.weight * RHO)
    }

    /// Voted probability that the person is female, 0 to 1; 0.5 without
    /// estimates.
    pub fn female(&self) -> f32 {
        (1.0 / (1.0 + (-self.log_odds()).exp())) as f32
    }

    /// The voted gender; unknown until it is clear.
    pub fn gender(&self) -> Gender {
        self.named
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLEAR: f32 = 0.8;

    fn estimate(female: f32) -> GenderEstimate {
        GenderEstimate::new(female, CLEAR)
    }

    /// A vote over `frames` frames at `fps`, each saying the same.
    fn vote(female: f32, frames: u32, fps: u32) -> GenderVote {
        let (mut vote, start) = (GenderVote::default(), Instant::now());
        for frame in 0..frames {
            vote.add(start + Duration::from_secs(1) / fps * frame, estimate(female), 0.8, CLEAR);
        }
        vote
    }

    #[test]
    fn frontality_by_table() {
        let face = |nose: (f32, f32)| {
            let mut points = [Point::default(); 5];
            points[1].x = 10.0;
            points[2] = Point { x: nose.0, y: nose.1 };
            points
        };
        for (nose, expected) in [((5.0, 6.0), 1.0), ((2.5, 6.0), 0.5), ((0.0, 6.0), 0.0), ((-4.0, 6.0), 0.0)] {
            assert_eq!(frontality(&face(nose)), expected, "{nose:?}");
        }
        // Tilted by 45 degrees, nose straight below the middle of the eyes.
        let tilted = [(0.0, 0.0), (10.0, 10.0), (0.0, 10.0), (0.0, 0.0), (0.0, 0.0)].map(|(x, y)| Point { x, y });
        assert_eq!(frontality(&tilted), 1.0);
        assert_eq!(frontality(&[Point::default(); 5]), 0.0);
        assert_eq!(frontality(&[Point { x: f32::INFINITY, y: f32::NAN }; 5]), 0.0);
    }

    #[test]
    fn larger_and_straighter_is_worth_more() {
        let worths =
            [quality(20.0, Some(0.0)), quality(20.0, None), quality(20.0, Some(1.0)), quality(90.0, Some(1.0))];
        assert!(worths.is_sorted(), "{worths:?}");
        for hostile in [f32::NAN, f32::INFINITY, -5.0, f32::MAX] {
            assert!((0.0..=1.0).contains(&quality(hostile, None)), "{hostile}");
        }
    }

    #[test]
    fn unknown_until_clear() {
        for (female, frames, fps, expected) in [
            (0.99, 1, 10, Gender::Unknown),
            (0.99, 2, 2, Gender::Female),
            (0.01, 2, 2, Gender::Male),
            // Alike frames in a tenth of a second are one frame.
            (0.99, 3, 30, Gender::Unknown),
            (0.75, 100, 10, Gender::Female),
            (0.6, 10_000, 10, Gender::Unknown),
            (0.5, 100, 10, Gender::Unknown),
        ] {
            let vote = vote(female, frames, fps);
            assert_eq!(vote.gender(), expected, "{female} x {frames}: {}", vote.female());
        }
        assert_eq!(GenderVote::default().gender(), Gender::Unknown);
        assert_eq!(GenderVote::default().female(), 0.5);
    }

    #[test]
    fn evidence_grows_with_time_and_not_with_frames() {
        let (slow, fast) = (vote(0.8, 20, 5), vote(0.8, 120, 30));
        assert!((slow.female() - fast.female()).abs() < 0.03, "{} {}", slow.female(), fast.female());
        assert!(vote(0.999, 100_000, 10).female() < 0.9995, "never certain");
    }

    /// Once named, estimates around the threshold do not switch it on and off.
    #[test]
    fn does_not_flap() {
        let (mut vote, start) = (GenderVote::default(), Instant::now());
        let (mut changes, mut before) = (0, Gender::Unknown);
        for frame in 0..400u32 {
            let female = if frame % 2 == 0 { 0.9 } else { 0.36 };
            vote.add(start + Duration::from_millis(200) * frame, estimate(female), 0.8, CLEAR);
            changes += u32::from(vote.gender() != before);
            before = vote.gender();
        }
        assert!(changes <= 1, "{changes}");
    }

    #[test]
    fn a_wrong_beginning_is_corrected() {
        let (mut vote, start) = (GenderVote::default(), Instant::now());
        let mut seen = Vec::new();
        for frame in 0..60u32 {
            let female = if frame < 4 { 0.95 } else { 0.05 };
            vote.add(start + Duration::from_millis(500) * frame, estimate(female), 0.8, CLEAR);
            if seen.last() != Some(&vote.gender()) {
                seen.push(vote.gender());
            }
        }
        assert_eq!(seen, [Gender::Unknown, Gender::Female, Gender::Unknown, Gender::Male]);
    }

    proptest! {
        /// Whatever comes, the vote is a probability, and females and males
        /// are treated alike.
        #[test]
        fn stays_a_probability(estimates in prop::collection::vec((any::<f32>(), 0u64..3000, 0f32..=1.0), 0..50)) {
            let (mut vote, mut mirrored, mut at) = (GenderVote::default(), GenderVote::default(), Instant::now());
            for (female, wait_ms, quality) in estimates {
                at += Duration::from_millis(wait_ms);
                let female = if female.abs() <= 1.0 { female.abs() } else { female };
                vote.add(at, GenderEstimate { gender: Gender::Unknown, female }, quality, CLEAR);
                mirrored.add(at, GenderEstimate { gender: Gender::Unknown, female: 1.0 - female }, quality, CLEAR);
                prop_assert!((0.0..=1.0).contains(&vote.female()));
                prop_assert!((vote.female() + mirrored.female() - 1.0).abs() < 1e-3);
            }
        }
    }
}
