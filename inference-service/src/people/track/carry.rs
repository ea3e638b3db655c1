//! The tracks of one camera as they are handed to another replica, and taken
//! from one. Times travel as ages: two machines agree on no instant. What comes
//! from outside is checked before it is followed.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::followed::Track;
use super::motion::Motion;
use super::sight::{Shape, Spot};
use super::{TrackId, Tracker};
use crate::people::vote::{CarriedVote, GenderVote};

/// Tracks on their way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CarriedTracks {
    /// Highest number given so far.
    pub last_id: u64,
    /// Time since the newest frame, in microseconds; absent before the first.
    idle_us: Option<u64>,
    /// The tracks.
    pub tracks: Vec<CarriedTrack>,
}

impl CarriedTracks {
    /// Time since the newest frame; none before the first.
    pub fn idle(&self) -> Duration {
        Duration::from_micros(self.idle_us.unwrap_or(0))
    }

    /// They with nobody left, so that no number is given twice.
    pub fn without_tracks(&self) -> Self {
        Self { last_id: self.last_id, ..Self::default() }
    }
}

/// One track on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarriedTrack {
    /// Its number.
    pub id: u64,
    motion: Motion,
    last_spot: Spot,
    shape: Option<Shape>,
    vote: CarriedVote,
    first_seen_us: u64,
    last_seen_us: u64,
    frames: u32,
    missed: u32,
    evidence: f64,
    confirmed: bool,
}

impl Tracker {
    /// What is followed, as of `now`.
    pub fn carry(&self, now: Instant) -> CarriedTracks {
        let age = |at: Instant| age_us(at, now);
        let carried = |track: &Track| CarriedTrack {
            id: track.id.0,
            motion: track.motion,
            last_spot: track.last_spot,
            shape: track.shape,
            vote: track.vote.carry(now),
            first_seen_us: age(track.first_seen),
            last_seen_us: age(track.last_seen),
            frames: track.frames,
            missed: track.missed,
            evidence: track.evidence,
            confirmed: track.confirmed,
        };
        CarriedTracks {
            last_id: self.last_id,
            idle_us: self.time.map(age),
            tracks: self.tracks.iter().map(carried).collect(),
        }
    }

    /// Goes on with what another followed until `then`; its own tracks are
    /// forgotten. Visits come first when there is not room for all. `false`,
    /// and nothing is followed, when they are none.
    pub fn adopt(&mut self, carried: &CarriedTracks, then: Instant) -> bool {
        *self = Self::new(self.settings);
        self.last_id = carried.last_id;
        let at = |age_us: u64| then.checked_sub(Duration::from_micros(age_us));
        let mut tracks = Vec::new();
        for track in &carried.tracks {
            let is_known = tracks.iter().any(|one: &Track| one.id.0 == track.id);
            let times = at(track.first_seen_us).zip(at(track.last_seen_us));
            let is_sound = track.motion.is_sound() && track.last_spot.is_sound() && track.evidence.is_finite();
            let (Some((first_seen, last_seen)), true) = (times, is_sound && !is_known && track.id <= carried.last_id)
            else {
                return false;
            };
            tracks.push(Track {
                id: TrackId(track.id),
                motion: track.motion,
                last_spot: track.last_spot,
                shape: track.shape,
                vote: GenderVote::adopt(track.vote, then),
                first_seen,
                last_seen,
                frames: track.frames,
                missed: track.missed,
                evidence: track.evidence,
                confirmed: track.confirmed,
            });
        }
        tracks.sort_by_key(|track| !track.confirmed);
        tracks.truncate(self.settings.max_tracks);
        self.tracks = tracks;
        self.time = carried.idle_us.and_then(at);
        true
    }

    /// Whether it follows a track of that number.
    pub fn follows(&self, id: TrackId) -> bool {
        self.tracks.iter().any(|track| track.id == id)
    }
}

/// Age of `at`, in microseconds.
pub(crate) fn age_us(at: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u64::MAX)
}
