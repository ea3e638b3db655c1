//! The same face followed through the frames of one camera.
//!
//! In reading order: what comes out ([`FrameTracks`], [`Ended`]), the
//! [`Tracker`], then its parts: `followed` (what is known of one face), `sight`
//! (a face, checked and in shares of the picture), `motion` (where a face will
//! be), `assign` (who is who).
//!
//! Holds no async, no I/O, no clock, no picture; knows neither cameras nor
//! results. All state is bounded by [`TrackSettings`]: [`Tracker::max_bytes`].
//!
//! Who is who is decided by place, size and a little by the shape of the
//! landmarks, never by looks: each pair of track and face that is possible at
//! all gains the logarithm of how much likelier it is than a face that is not
//! this track's, and the assignment with the greatest sum wins (global nearest
//! neighbour with likelihood ratios: Blackman and Popoli 1999, "Design and
//! Analysis of Modern Tracking Systems", chapter 6). The same gains, summed,
//! are the evidence that a track is no flicker of the detector (sequential
//! probability ratio, ibid.).
//!
//! # Few frames
//! Someone who walks by moves up to nine face widths in a second. Below about
//! [`MIN_FPS`] frames a second nothing tells where such a face went, and the
//! tracker does not guess: faces that stay in place are followed and counted,
//! those that walk by begin a track in each frame that is never confirmed.
//! Visits are then mostly too few. When frames are farther apart than
//! [`TrackSettings::lost_after`], no face is followed at all.

use std::time::{Duration, Instant};

use flatframe_shared::frame::PictureSize;

use super::vote::GenderVote;
use crate::vision::{Face, Gender, Point};

mod assign;
pub(super) mod carry;
mod followed;
mod motion;
mod sight;

pub use carry::CarriedTracks;

use assign::Assignment;
use followed::{Track, face_track};
use motion::Motion;
use sight::Sight;

/// Frames per second below which people who walk by are not followed.
pub const MIN_FPS: f32 = 2.0;

/// Number of a track: unique within the life of one tracker, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub u64);

/// Bounds and habits of a tracker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackSettings {
    /// Most tracks at once, those out of sight included.
    pub max_tracks: usize,
    /// Most faces of a frame that are looked at; as many as the detector may
    /// report.
    pub max_faces: usize,
    /// Time without being seen after which a track ends. The same person is a
    /// new visit then.
    pub lost_after: Duration,
    /// Frames in which a face must be seen before its track is confirmed.
    pub confirm_frames: u32,
    /// Voted probability from which a gender is named, above 0.5 and below 1.
    pub min_gender_probability: f32,
}

impl Default for TrackSettings {
    fn default() -> Self {
        Self {
            max_tracks: 64,
            max_faces: 64,
            lost_after: Duration::from_secs(2),
            confirm_frames: 3,
            min_gender_probability: 0.8,
        }
    }
}

/// The tracks of the faces of one frame.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FrameTracks {
    /// One for each face, in order. `None`: there was no room, or its box is
    /// none (not a number, without area, far outside of the picture).
    pub faces: Vec<Option<FaceTrack>>,
    /// Tracks that ended since the last frame.
    pub ended: Vec<Ended>,
    /// Whether there was no room for a face.
    pub truncated: bool,
}

/// What is known of one face of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceTrack {
    /// Whose face.
    pub id: TrackId,
    /// Whether the track is a visit; stays true once it is.
    pub confirmed: bool,
    /// Whether it became one in this frame: true exactly once for a visit.
    pub newly_confirmed: bool,
    /// Voted gender; unknown until it is clear.
    pub gender: Gender,
    /// Voted probability of female, 0 to 1; 0.5 without estimates.
    pub female: f32,
    /// Capture of the frame in which the track began.
    pub first_seen: Instant,
    /// Centre of the smoothed box when the face was last seen, in pixels of
    /// this frame's picture; `None` when the track begins.
    pub from: Option<Point>,
    /// Centre of the smoothed box now, in pixels of this frame's picture.
    pub to: Point,
}

/// A track that is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// Which.
    pub id: TrackId,
    /// Whether it was a visit.
    pub confirmed: bool,
    /// Voted gender; unknown if it never got clear.
    pub gender: Gender,
    /// Voted probability of female, 0 to 1; 0.5 without estimates.
    pub female: f32,
    /// Capture of the first frame that showed it.
    pub first_seen: Instant,
    /// Capture of the last one.
    pub last_seen: Instant,
    /// Frames that showed it, at least 1.
    pub frames: u32,
}

/// Logarithm of how many faces that are no known track's are expected in a
/// frame, per picture and per unit of the logarithms of width and height.
const LN_STRANGERS: f64 = 0.0;
/// Gain per frame that a confirmation needs on average, and the most that one
/// frame can add to it. A face seen where it was expected gains about 6; boxes
/// that turn up somewhere within a new track's wide reach gain 0 to 3.
const CONFIRM_GAIN: f64 = 3.0;
const MAX_FRAME_GAIN: f64 = 5.0;
/// A frame without it takes from the evidence.
const MISS_LOSS: f64 = 0.7;
/// An unconfirmed track ends when it was missed in more frames than this, and
/// for longer than this: a burst of misses at a high rate is one miss.
const TENTATIVE_MISSES: u32 = 1;
const TENTATIVE_GAP: Duration = Duration::from_millis(400);
/// A box that lies by this share in the box of a visit is a second box on the
/// same face: it does not become a visit there.
const DOUBLE_SHARE: f64 = 0.6;

/// Follows the faces of one camera.
#[derive(Debug)]
pub struct Tracker {
    settings: TrackSettings,
    tracks: Vec<Track>,
    last_id: u64,
    /// Capture of the newest frame.
    time: Option<Instant>,
    /// The faces of the frame in work; kept to reuse the allocation.
    sights: Vec<Option<Sight>>,
    assignment: Assignment,
}

impl Tracker {
    /// A tracker that has seen nothing.
    pub fn new(settings: TrackSettings) -> Self {
        Self {
            settings,
            tracks: Vec::new(),
            last_id: 0,
            time: None,
            sights: Vec::new(),
            assignment: Assignment::default(),
        }
    }

    /// Most bytes that one tracker takes, its heap included. What it returns
    /// is its caller's.
    pub const fn max_bytes(settings: &TrackSettings) -> u64 {
        let (tracks, faces) = (settings.max_tracks as u64, settings.max_faces as u64);
        let track_bytes = tracks.saturating_mul(size_of::<Track>() as u64);
        let sight_bytes = faces.saturating_mul(size_of::<Option<Sight>>() as u64);
        // A vector grows by doubling.
        (size_of::<Self>() as u64)
            .saturating_add(track_bytes.saturating_mul(2))
            .saturating_add(sight_bytes.saturating_mul(2))
            .saturating_add(Assignment::max_bytes(tracks, faces))
    }

    /// Tracks at this moment, those out of sight included.
    pub fn len(&self) -> usize {
        self.tracks.len()
    }

    /// Whether there is no track.
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// Takes the faces of one analysed frame of the given size, captured `at`;
    /// frames in order. A capture that is a little earlier than the one before
    /// counts as the same moment; one that is off by more than `lost_after`,
    /// in either direction, ends all tracks.
    pub fn frame(&mut self, at: Instant, size: PictureSize, faces: &[Face]) -> FrameTracks {
        let mut out = FrameTracks { faces: vec![None; faces.len()], ..FrameTracks::default() };
        let (now, seconds) = self.pass(at, &mut out.ended);
        let looked_at = faces.len().min(self.settings.max_faces);
        out.truncated = looked_at < faces.len();
        self.sights.clear();
        self.sights.extend(faces[..looked_at].iter().map(|face| Sight::of(face, size)));
        self.pair(now, seconds);
        self.follow(now, size, &mut out);
        self.begin(now, size, &mut out);
        out
    }

    /// Ends everything when no frame came for `lost_after`; to be called about
    /// once a second. While frames come they tell the time, so that frames
    /// that are long on their way end no track early.
    pub fn expire(&mut self, now: Instant) -> Vec<Ended> {
        let silent = self.time.is_some_and(|last| now.saturating_duration_since(last) > self.settings.lost_after);
        let over = if silent { self.tracks.len() } else { 0 };
        self.tracks.drain(..over).map(|track| track.ended()).collect()
    }

    /// Time passes until `at`: what was lost ends. Returns the time and the
    /// seconds since the frame before.
    fn pass(&mut self, at: Instant, ended: &mut Vec<Ended>) -> (Instant, f64) {
        let lost_after = self.settings.lost_after;
        let last = self.time.unwrap_or(at);
        let passed = at.saturating_duration_since(last);
        let broken = passed > lost_after || last.saturating_duration_since(at) > lost_after;
        let now = if broken { at } else { at.max(last) };
        self.time = Some(now);
        let is_lost = |track: &mut Track| broken || now.saturating_duration_since(track.last_seen) > lost_after;
        ended.extend(self.tracks.extract_if(.., is_lost).map(|track| track.ended()));
        (now, passed.as_secs_f64())
    }

    /// Decides which face is whose.
    fn pair(&mut self, now: Instant, seconds: f64) {
        self.assignment.clear(self.tracks.len(), self.sights.len());
        for (row, track) in self.tracks.iter_mut().enumerate() {
            track.motion.advance(seconds);
            let forecast = track.motion.forecast();
            let known = if track.confirmed { track.seen_odds(now) } else { 0.0 };
            for (column, sight) in self.sights.iter().enumerate() {
                let Some(sight) = sight else { continue };
                let Some(likelihood) = forecast.likelihood(&sight.seen) else { continue };
                let gain = likelihood - LN_STRANGERS + known + track.shape_gain(sight, now);
                self.assignment.allow(row, column, gain as f32);
            }
        }
        self.assignment.solve();
    }

    /// Moves the tracks that were seen, visits first, and ends flicker.
    fn follow(&mut self, now: Instant, size: PictureSize, out: &mut FrameTracks) {
        let settings = self.settings;
        for visits in [true, false] {
            for (row, track) in self.tracks.iter_mut().enumerate() {
                if track.confirmed != visits {
                    continue;
                }
                let Some(column) = self.assignment.column(row) else {
                    track.missed = track.missed.saturating_add(1);
                    track.evidence -= MISS_LOSS;
                    continue;
                };
                let Some(sight) = &self.sights[column] else { continue };
                let from = track.last_spot.centre(size);
                track.follow(sight, now, settings.min_gender_probability);
                let newly_confirmed = !visits && {
                    track.evidence += f64::from(self.assignment.gain(row, column)).min(MAX_FRAME_GAIN);
                    let is_double = self.sights.iter().zip(&out.faces).any(|(other, face)| {
                        let visit = face.is_some_and(|face| face.confirmed);
                        visit && other.is_some_and(|other| sight.spot.covered(&other.spot) > DOUBLE_SHARE)
                    });
                    !is_double
                        && track.frames >= settings.confirm_frames
                        && track.evidence >= needed_evidence(settings.confirm_frames)
                };
                track.confirmed |= newly_confirmed;
                out.faces[column] = Some(face_track(track, newly_confirmed, Some(from), size));
            }
        }
        let is_flicker = |track: &mut Track| {
            let gap = now.saturating_duration_since(track.last_seen);
            !track.confirmed && track.missed > TENTATIVE_MISSES && gap > TENTATIVE_GAP
        };
        out.ended.extend(self.tracks.extract_if(.., is_flicker).map(|track| track.ended()));
    }

    /// Begins tracks for the faces that are nobody's.
    fn begin(&mut self, now: Instant, size: PictureSize, out: &mut FrameTracks) {
        for (sight, face) in self.sights.iter().zip(&mut out.faces) {
            let (Some(sight), None) = (sight, &face) else { continue };
            if self.tracks.len() >= self.settings.max_tracks {
                // One that may be flicker and is not in sight gives way; a
                // visit never does, it is over soon enough if it is.
                let idle = self.tracks.iter().enumerate().filter(|(_, track)| !track.confirmed && track.missed > 0);
                let Some((place, _)) = idle.min_by_key(|(_, track)| track.last_seen) else {
                    out.truncated = true;
                    continue;
                };
                out.ended.push(self.tracks.remove(place).ended());
            }
            self.last_id += 1;
            let mut vote = GenderVote::default();
            if let Some(estimate) = sight.gender {
                vote.add(now, estimate, sight.quality, self.settings.min_gender_probability);
            }
            let confirmed = self.settings.confirm_frames <= 1;
            let track = Track {
                id: TrackId(self.last_id),
                motion: Motion::new(&sight.spot),
                last_spot: sight.spot,
                shape: sight.shape,
                vote,
                first_seen: now,
                last_seen: now,
                frames: 1,
                missed: 0,
                evidence: 0.0,
                confirmed,
            };
            *face = Some(face_track(&track, confirmed, None, size));
            self.tracks.push(track);
        }
    }
}

fn needed_evidence(confirm_frames: u32) -> f64 {
    CONFIRM_GAIN * f64::from(confirm_frames.saturating_sub(1))
}

#[cfg(test)]
mod tests;
