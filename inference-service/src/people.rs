//! People: the faces of one camera followed from frame to frame, and counted.
//!
//! In reading order: what an operator sets ([`config`]), the same face in many
//! frames ([`track`]), its gender over all of them (`vote`), counts
//! ([`count`], at lines and zones `crossing`), for which time they hold
//! ([`coverage`]). Beside them states of a camera that a person should know
//! of: what its picture looks like ([`picture`]), and [`incidents`].
//!
//! Holds no I/O and, but for those who wait for incidents, no async; what it
//! finds is given to `results`.

pub mod config;
pub mod count;
pub mod coverage;
mod crossing;
pub mod incidents;
pub mod picture;
pub mod track;
mod vote;

use std::time::{Duration, Instant};

use flatframe_shared::frame::{CameraId, PictureSize};
use serde::{Deserialize, Serialize};

use self::config::PeopleConfig;
use self::count::{CarriedCounts, CountChange, Counter, Counts, Moment};
use self::coverage::Coverage;
use self::track::{CarriedTracks, FaceTrack, TrackSettings, Tracker};
use crate::vision::Face;

/// After a move that took longer, people are new visits.
pub const LONGEST_MOVE: Duration = Duration::from_secs(10);

/// The people of one camera on their way to another replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CarriedPeople {
    tracks: CarriedTracks,
    counts: CarriedCounts,
}

/// The people of one camera.
pub struct People {
    tracker: Tracker,
    counter: Counter,
    coverage: Coverage,
    lost_after: Duration,
    /// When the last frame came, by the clock, however old it was.
    last_came: Option<Instant>,
}

/// What one frame says of people.
#[derive(Debug)]
pub struct Seen {
    /// For each face of the frame, in order: its track; `None` when there was
    /// no room for another.
    pub tracks: Vec<Option<FaceTrack>>,
    /// The counts, this frame included.
    pub counts: Counts,
    /// What changed in them.
    pub changes: Vec<CountChange>,
    /// Seconds that are covered now and were not before: from, and to
    /// (exclusive), of the wall clock.
    pub covered: Option<(i64, i64)>,
}

impl std::fmt::Debug for People {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("People").field("tracks", &self.tracker.len()).finish_non_exhaustive()
    }
}

impl People {
    /// Nobody seen yet by `camera`.
    pub fn new(camera: &CameraId, config: &PeopleConfig, settings: TrackSettings) -> Self {
        Self {
            tracker: Tracker::new(settings),
            counter: Counter::new(camera, config),
            // Frames further apart follow nobody.
            coverage: Coverage::new(settings.lost_after.min(coverage::LONGEST_GAP)),
            lost_after: settings.lost_after,
            last_came: None,
        }
    }

    /// Takes the faces of one frame, which came `now`; frames come in order.
    pub fn frame(&mut self, moment: Moment, now: Instant, size: PictureSize, faces: &[Face]) -> Seen {
        let found = self.tracker.frame(moment.at, size, faces);
        let mut changes = Vec::new();
        self.counter.frame(moment, size, &found, &mut changes);
        self.last_came = Some(now);
        Seen {
            tracks: found.faces,
            counts: self.counter.counts(),
            changes,
            covered: self.coverage.frame(moment.at, moment.unix_s()),
        }
    }

    /// Ends what was lost. To be called once a second, also without frames.
    pub fn expire(&mut self, now: Instant) {
        // While frames come, they tell the time: one that was long on its way
        // must not end the tracks that it goes on with.
        if self.is_watching(now) {
            return;
        }
        let ended = self.tracker.expire(now);
        self.counter.ended(&ended);
    }

    fn is_watching(&self, now: Instant) -> bool {
        let longest = self.lost_after.min(coverage::LONGEST_GAP);
        self.last_came.is_some_and(|last| now.saturating_duration_since(last) <= longest)
    }

    /// The counts, and whether who is there now is known: without frames it is
    /// not.
    pub fn counts(&self, now: Instant) -> (Counts, bool) {
        (self.counter.counts(), self.is_watching(now))
    }

    /// Sets the occupancy of a line; `false` when there is none of that name.
    pub fn set_occupancy(&mut self, line: &str, occupancy: i64) -> bool {
        self.counter.set_occupancy(line, occupancy)
    }

    /// Tracks now.
    pub fn tracks(&self) -> usize {
        self.tracker.len()
    }

    /// Who is there and what was counted, for another replica.
    pub fn carry(&self, now: Instant) -> CarriedPeople {
        CarriedPeople { tracks: self.tracker.carry(now), counts: self.counter.carry() }
    }

    /// Goes on with what another replica knew `gap` before `now`. People stay
    /// the same visits when the camera was not watched for at most
    /// [`LONGEST_MOVE`]; it, not they, was away. Without `is_certain` visits
    /// may have been counted that are not in `carried`.
    pub fn adopt(&mut self, carried: &CarriedPeople, gap: Duration, now: Instant, is_certain: bool) {
        let mut is_certain = is_certain;
        // Nobody watched since the newest frame, not since it was told.
        let idle = carried.tracks.idle();
        let blind = gap.saturating_add(idle);
        if blind <= LONGEST_MOVE {
            let newest = now.checked_sub(blind.min(self.lost_after / 2)).unwrap_or(now);
            is_certain &= self.tracker.adopt(&carried.tracks, newest.checked_add(idle).unwrap_or(newest));
        } else {
            self.tracker.adopt(&carried.tracks.without_tracks(), now);
        }
        let tracker = &self.tracker;
        self.counter.adopt(&carried.counts, |id| tracker.follows(id));
        if !is_certain {
            self.doubt();
        }
    }

    /// Visits of now may be counted twice: another replica may have them.
    pub fn doubt(&mut self) {
        self.counter.doubt();
    }

    /// Bound of the memory for one camera, in bytes.
    pub fn max_bytes(settings: TrackSettings) -> u64 {
        Tracker::max_bytes(&settings) + Counter::max_bytes(settings.max_tracks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::Bounds;

    const SIZE: PictureSize = PictureSize::new(640, 480);

    fn people() -> People {
        let config = PeopleConfig::default();
        let settings = config.tracking(&crate::vision::VisionConfig::default());
        People::new(&CameraId::parse("bus-12").expect("an id"), &config, settings)
    }

    fn face() -> Face {
        let bounds = Bounds { x: 100.0, y: 100.0, width: 60.0, height: 80.0 };
        Face { bounds, score: 0.9, landmarks: None, gender: None }
    }

    /// Frames that take longer than `lost_ms` on their way show the same
    /// person all the same, and who stays away is gone.
    #[test]
    fn frames_that_are_late_end_no_track() {
        let (mut people, start) = (people(), Instant::now());
        let late = Duration::from_millis(2_500);
        for n in 1..=100 {
            let now = start + late + Duration::from_millis(100 * n);
            let moment = Moment { at: now - late, unix_us: 1_700_000_000_000_000 + 100_000 * n as i64 };
            people.frame(moment, now, SIZE, &[face()]);
            people.expire(now + Duration::from_millis(50));
        }
        let end = start + late + Duration::from_secs(10);
        let (counts, is_watching) = people.counts(end);
        assert_eq!((counts.visits.all(), counts.now.all(), is_watching), (1, 1, true));
        people.expire(end + Duration::from_secs(3));
        let (counts, is_watching) = people.counts(end + Duration::from_secs(3));
        assert_eq!((counts.visits.all(), counts.now.all(), is_watching), (1, 0, false));
    }

    /// At a rate at which nobody can be followed, the time between frames is
    /// not covered.
    #[test]
    fn what_cannot_be_followed_is_not_covered() {
        let (mut people, start) = (people(), Instant::now());
        let mut covered = 0;
        for n in 0..20u64 {
            let now = start + Duration::from_secs(4 * n);
            let moment = Moment { at: now, unix_us: 1_700_000_000_000_000 + 4_000_000 * n as i64 };
            let seen = people.frame(moment, now, SIZE, &[face()]);
            covered += seen.covered.map_or(0, |(from, to)| to - from);
        }
        assert_eq!(covered, 20, "a second for each frame");
    }

    /// Somebody in the picture for `frames` frames of 100 ms, from `start` on.
    fn watch(people: &mut People, start: Instant, frames: u64) -> (Seen, Vec<CountChange>) {
        let mut changes = Vec::new();
        let mut last = None;
        for n in 0..frames {
            let at = start + Duration::from_millis(100 * n);
            let moment = Moment { at, unix_us: 1_700_000_000_000_000 + 100_000 * n as i64 };
            let mut seen = people.frame(moment, at, SIZE, &[face()]);
            changes.append(&mut seen.changes);
            last = Some(seen);
        }
        (last.expect("frames"), changes)
    }

    /// What one replica knows, as the next one reads it.
    fn carried(people: &People, now: Instant) -> CarriedPeople {
        let text = serde_json::to_string(&people.carry(now)).expect("is told");
        serde_json::from_str(&text).expect("is understood")
    }

    #[test]
    fn who_is_handed_over_is_the_same_visit() {
        let start = Instant::now();
        for (gap_s, is_certain, visits, uncertain, why) in [
            (0, true, 1, false, "at once"),
            (9, true, 1, false, "the camera was away, not the person"),
            (20, true, 2, false, "somebody else by then"),
            (1, false, 1, true, "what happened since is not known"),
        ] {
            let (mut first, mut second) = (people(), people());
            watch(&mut second, start, 3);
            let (seen, _) = watch(&mut first, start, 10);
            let gap = Duration::from_secs(gap_s);
            let told = start + Duration::from_millis(950);
            let now = told + gap;
            second.adopt(&carried(&first, told), gap, now, is_certain);
            let (after, changes) = watch(&mut second, now + Duration::from_millis(300), 10);
            assert_eq!((after.counts.visits.all(), after.counts.uncertain), (visits, uncertain), "{why}");
            assert_eq!(after.counts.now.all(), 1, "{why}");
            let id = |seen: &Seen| seen.tracks[0].expect("is followed").id;
            assert_eq!(id(&after) == id(&seen), visits == 1, "{why}");
            let marks = changes.iter().filter(|change| *change.counter == *count::UNCERTAIN).count();
            assert_eq!(marks, usize::from(uncertain), "{why}: told once");
        }
    }

    #[test]
    fn what_cannot_be_gone_on_with_is_not() {
        let start = Instant::now();
        let (mut first, mut second) = (people(), people());
        watch(&mut first, start, 10);
        let mut told = carried(&first, start + Duration::from_secs(1));
        told.tracks.last_id = 0;
        second.adopt(&told, Duration::ZERO, start + Duration::from_secs(1), true);
        let (counts, _) = second.counts(start + Duration::from_secs(1));
        assert_eq!((second.tracks(), counts.visits.all(), counts.uncertain), (0, 1, true));
    }
}
