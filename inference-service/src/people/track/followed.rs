//! One face followed: what is known of it, and how likely it is to be seen.

use std::time::Instant;

use flatframe_shared::frame::PictureSize;

use super::motion::Motion;
use super::sight::{Shape, Sight, Spot};
use super::{Ended, FaceTrack, TrackId};
use crate::people::vote::GenderVote;
use crate::vision::Point;

/// What a visit that is not seen costs: logarithm of the odds that the
/// detector finds a face that is there. Visits come before tracks that may be
/// flicker.
const SEEN_ODDS: f64 = 2.0;
/// By how much these odds fall per second out of sight: who is hidden comes
/// back soon or has left.
const GONE_PER_S: f64 = 0.7;
/// By how much they fall where the picture ends.
const LEFT_ODDS: f64 = 2.0;
/// Difference of two shapes (root of the mean square, in box sizes) that says
/// nothing, and the most that shape can say either way: it tells how a head is
/// turned, not whose it is.
const SHAPE_NEUTRAL: f64 = 0.08;
const MAX_SHAPE_GAIN: f64 = 1.5;
/// Time in which what is known of a head's turn loses its worth.
const SHAPE_MEMORY_S: f64 = 1.0;

/// One face followed.
#[derive(Debug, Clone)]
pub(super) struct Track {
    pub(super) id: TrackId,
    pub(super) motion: Motion,
    /// The smoothed box when last seen.
    pub(super) last_spot: Spot,
    pub(super) shape: Option<Shape>,
    pub(super) vote: GenderVote,
    pub(super) first_seen: Instant,
    pub(super) last_seen: Instant,
    pub(super) frames: u32,
    /// Frames since it was last seen.
    pub(super) missed: u32,
    /// Sum of its gains; counts until it is confirmed.
    pub(super) evidence: f64,
    pub(super) confirmed: bool,
}

impl Track {
    pub(super) fn ended(&self) -> Ended {
        Ended {
            id: self.id,
            confirmed: self.confirmed,
            gender: self.vote.gender(),
            female: self.vote.female(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            frames: self.frames,
        }
    }

    /// Logarithm of the odds that the detector finds it now.
    pub(super) fn seen_odds(&self, now: Instant) -> f64 {
        let gap_s = now.saturating_duration_since(self.last_seen).as_secs_f64();
        let left = if self.motion.spot().is_inside() { 0.0 } else { LEFT_ODDS };
        SEEN_ODDS - GONE_PER_S * gap_s - left
    }

    /// What the shape says for or against a face, 0 when it says nothing.
    pub(super) fn shape_gain(&self, sight: &Sight, now: Instant) -> f64 {
        let (Some(own), Some(seen)) = (&self.shape, &sight.shape) else { return 0.0 };
        let worth = (-now.saturating_duration_since(self.last_seen).as_secs_f64() / SHAPE_MEMORY_S).exp();
        worth * (1.0 - own.difference(seen) / SHAPE_NEUTRAL.powi(2)).max(-1.0) * MAX_SHAPE_GAIN
    }

    /// It was seen.
    pub(super) fn follow(&mut self, sight: &Sight, now: Instant, min_gender_probability: f32) {
        self.motion.correct(&sight.spot);
        self.last_spot = self.motion.spot();
        match (&mut self.shape, &sight.shape) {
            (Some(own), Some(seen)) => own.follow(seen),
            (own, seen) => *own = seen.or(*own),
        }
        if let Some(estimate) = sight.gender {
            self.vote.add(now, estimate, sight.quality, min_gender_probability);
        }
        self.last_seen = now;
        self.frames = self.frames.saturating_add(1);
        self.missed = 0;
    }
}

/// It as others see it.
pub(super) fn face_track(track: &Track, newly_confirmed: bool, from: Option<Point>, size: PictureSize) -> FaceTrack {
    FaceTrack {
        id: track.id,
        confirmed: track.confirmed,
        newly_confirmed,
        gender: track.vote.gender(),
        female: track.vote.female(),
        first_seen: track.first_seen,
        from,
        to: track.last_spot.centre(size),
    }
}
