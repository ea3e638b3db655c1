//! Counts the people of one camera: who is there, visits, who crossed a line
//! or entered a zone, by gender. A visit whose gender becomes clear later is
//! moved from `unknown` in the second in which it was counted.
//!
//! Sees tracks, not pictures; keeps nothing of a track that ended.

mod carry;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use flatframe_shared::frame::{CameraId, PictureSize};

use super::config::{MAX_CROSSINGS, PeopleConfig};
use super::crossing::{Shape, Side};
use super::track::{Ended, FaceTrack, FrameTracks, TrackId};
use crate::vision::{Gender, Point};

pub use self::carry::CarriedCounts;

/// Name of the counter of visits in history; lines and zones have
/// `NAME/entered` and `NAME/left`, which no visit counter is called.
pub const VISITS: &str = "visits";
/// Name of the counter of times when visits may be counted twice.
pub const UNCERTAIN: &str = "uncertain";
/// Crossings of one visit that follow when its gender becomes clear; of
/// earlier ones the gender stays as it was.
const MAX_ENTRIES: usize = 1 + 2 * MAX_CROSSINGS;

/// Counts by apparent gender, in people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByGender {
    /// Taken for female.
    pub female: i64,
    /// Taken for male.
    pub male: i64,
    /// Not clear.
    pub unknown: i64,
}

impl ByGender {
    /// Adds `count` people of `gender`.
    pub fn add(&mut self, gender: Gender, count: i64) {
        *match gender {
            Gender::Female => &mut self.female,
            Gender::Male => &mut self.male,
            Gender::Unknown => &mut self.unknown,
        } += count;
    }

    /// All of them.
    pub fn all(self) -> i64 {
        self.female + self.male + self.unknown
    }
}

/// A change of one counter in one second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountChange {
    /// Name of the counter.
    pub counter: Arc<str>,
    /// The second, since the Unix epoch.
    pub at_unix_s: i64,
    /// What is to be added; may be negative.
    pub change: ByGender,
}

/// Counts at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Visits in the picture.
    pub now: ByGender,
    /// Visits since start.
    pub visits: ByGender,
    /// By line and zone, in the order of the configuration.
    pub crossings: Vec<CrossingCounts>,
    /// Whether more faces were there at once than tracks are kept.
    pub truncated: bool,
    /// Whether visits may be in here twice, or missing: another replica could
    /// not hand them over.
    pub uncertain: bool,
}

/// Counts of one line or zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossingCounts {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is an area.
    pub is_zone: bool,
    /// From left to right, or into the zone.
    pub entered: ByGender,
    /// From right to left, or out of the zone.
    pub left: ByGender,
    /// Line: entered less left since it was set last. Zone: visits inside.
    pub occupancy: i64,
}

/// The counts of one camera.
#[derive(Debug)]
pub struct Counter {
    places: Vec<Place>,
    tracked: HashMap<TrackId, Tracked>,
    now: ByGender,
    visits: ByGender,
    truncated: bool,
    uncertain: bool,
    /// It became so, and no frame told it yet.
    is_uncertainty_new: bool,
    visits_counter: Arc<str>,
}

/// A line or zone and its counts.
#[derive(Debug)]
struct Place {
    shape: Shape,
    entered_counter: Arc<str>,
    left_counter: Arc<str>,
    counts: CrossingCounts,
}

/// What is known of one track, confirmed or not.
#[derive(Debug)]
struct Tracked {
    confirmed: bool,
    gender: Gender,
    /// By place: the side on which it was last for certain, and where.
    sides: [Option<(Side, Point)>; MAX_CROSSINGS],
    /// Where it is counted.
    entries: Vec<Entry>,
}

/// One count of one track.
#[derive(Debug, Clone, Copy)]
struct Entry {
    what: Counted,
    at_unix_s: i64,
    /// Whether it is in the history of this replica. In that of another one the
    /// gender stays as it was: a correction here would make less than none of
    /// it, and one more.
    is_here: bool,
}

/// A counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Visit,
    Entered(usize),
    Left(usize),
}

/// When a frame was captured, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic.
    pub at: Instant,
    /// Wall clock, in microseconds since the Unix epoch.
    pub unix_us: i64,
}

impl Moment {
    /// The second of the wall clock.
    pub fn unix_s(self) -> i64 {
        self.unix_us.div_euclid(1_000_000)
    }

    /// The second of the wall clock at an earlier instant.
    fn unix_s_of(self, earlier: Instant) -> i64 {
        let ago = self.at.saturating_duration_since(earlier);
        (self.unix_us - i64::try_from(ago.as_micros()).unwrap_or(i64::MAX)).div_euclid(1_000_000)
    }
}

impl Counter {
    /// Counts `camera` at its lines and zones in `config`.
    pub fn new(camera: &CameraId, config: &PeopleConfig) -> Self {
        let place = |name: &str, is_zone, shape| Place {
            shape,
            entered_counter: format!("{name}/entered").into(),
            left_counter: format!("{name}/left").into(),
            counts: CrossingCounts {
                name: name.into(),
                is_zone,
                entered: ByGender::default(),
                left: ByGender::default(),
                occupancy: 0,
            },
        };
        let lines = config.lines.iter().filter(|line| line.camera == camera.as_str());
        let zones = config.zones.iter().filter(|zone| zone.camera == camera.as_str());
        let places = lines
            .map(|line| place(&line.name, false, line.into()))
            .chain(zones.map(|zone| place(&zone.name, true, zone.into())))
            // The configuration was checked: there are no more.
            .take(MAX_CROSSINGS)
            .collect();
        Self {
            places,
            tracked: HashMap::new(),
            now: ByGender::default(),
            visits: ByGender::default(),
            truncated: false,
            uncertain: false,
            is_uncertainty_new: false,
            visits_counter: VISITS.into(),
        }
    }

    /// The tracks of a frame of `size`: adds what changed to `changes`.
    pub fn frame(&mut self, moment: Moment, size: PictureSize, found: &FrameTracks, changes: &mut Vec<CountChange>) {
        if std::mem::take(&mut self.is_uncertainty_new) {
            let change = ByGender { unknown: 1, ..ByGender::default() };
            changes.push(CountChange { counter: UNCERTAIN.into(), at_unix_s: moment.unix_s(), change });
        }
        self.ended(&found.ended);
        self.truncated |= found.truncated;
        for track in found.faces.iter().flatten() {
            let place = Point { x: track.to.x / size.width_px as f32, y: track.to.y / size.height_px as f32 };
            self.track(moment, track, place, changes);
        }
    }

    /// Tracks that ended are there no more.
    pub fn ended(&mut self, ended: &[Ended]) {
        for ended in ended {
            let Some(tracked) = self.tracked.remove(&ended.id) else { continue };
            if !tracked.confirmed {
                continue;
            }
            self.now.add(tracked.gender, -1);
            for (place, side) in self.places.iter_mut().zip(tracked.sides) {
                if place.counts.is_zone && side.is_some_and(|(side, _)| side == Side::Beyond) {
                    place.counts.occupancy -= 1;
                }
            }
        }
    }

    /// Sets the occupancy of the line `name`; `false` when there is none.
    pub fn set_occupancy(&mut self, name: &str, occupancy: i64) -> bool {
        let line = self.places.iter_mut().find(|place| !place.counts.is_zone && &*place.counts.name == name);
        line.map(|line| line.counts.occupancy = occupancy).is_some()
    }

    /// Visits of now may be counted twice.
    pub fn doubt(&mut self) {
        (self.uncertain, self.is_uncertainty_new) = (true, true);
    }

    /// The counts at this instant.
    pub fn counts(&self) -> Counts {
        Counts {
            now: self.now,
            visits: self.visits,
            crossings: self.places.iter().map(|place| place.counts.clone()).collect(),
            truncated: self.truncated,
            uncertain: self.uncertain,
        }
    }

    /// Bound of the memory of one camera's counts, in bytes, as a tracker of
    /// `max_tracks` feeds it.
    pub fn max_bytes(max_tracks: usize) -> u64 {
        let track = size_of::<(TrackId, Tracked)>() + MAX_ENTRIES * size_of::<Entry>();
        // A hash map is at most half empty, and grows by doubling.
        let place =
            size_of::<Place>() + super::config::MAX_CORNERS * size_of::<Point>() + 4 * super::config::MAX_NAME_BYTES;
        (2 * max_tracks * track + MAX_CROSSINGS * place) as u64
    }

    fn track(&mut self, moment: Moment, track: &FaceTrack, to: Point, changes: &mut Vec<CountChange>) {
        let mut tracked = self.tracked.remove(&track.id).unwrap_or_else(|| Tracked {
            confirmed: false,
            gender: Gender::Unknown,
            sides: [None; MAX_CROSSINGS],
            entries: Vec::new(),
        });
        if track.confirmed && !tracked.confirmed {
            tracked.confirmed = true;
            tracked.gender = track.gender;
            self.now.add(track.gender, 1);
            for (place, side) in self.places.iter_mut().zip(tracked.sides) {
                if place.counts.is_zone && side.is_some_and(|(side, _)| side == Side::Beyond) {
                    place.counts.occupancy += 1;
                }
            }
            self.count(&mut tracked, Counted::Visit, moment.unix_s_of(track.first_seen), changes);
        } else if tracked.confirmed && track.gender != tracked.gender {
            self.rename(&mut tracked, track.gender, changes);
        }
        self.follow(&mut tracked, moment, to, changes);
        self.tracked.insert(track.id, tracked);
    }

    /// Looks on which side of each place the track is now.
    fn follow(&mut self, tracked: &mut Tracked, moment: Moment, to: Point, changes: &mut Vec<CountChange>) {
        for index in 0..self.places.len() {
            let place = &mut self.places[index];
            let Some(side) = place.shape.side(to) else { continue };
            let Some((before, from)) = tracked.sides[index] else {
                tracked.sides[index] = Some((side, to));
                if place.counts.is_zone && side == Side::Beyond && tracked.confirmed {
                    place.counts.occupancy += 1;
                }
                continue;
            };
            // What a track crosses before it counts as a visit is told when it does.
            if before != side && !tracked.confirmed {
                continue;
            }
            tracked.sides[index] = Some((side, to));
            if before == side || !place.shape.is_crossed(from, to) {
                continue;
            }
            let step = if side == Side::Beyond { 1 } else { -1 };
            place.counts.occupancy = place.counts.occupancy.saturating_add(step);
            let what = if side == Side::Beyond { Counted::Entered(index) } else { Counted::Left(index) };
            self.count(tracked, what, moment.unix_s(), changes);
        }
    }

    fn count(&mut self, tracked: &mut Tracked, what: Counted, at_unix_s: i64, changes: &mut Vec<CountChange>) {
        if tracked.entries.len() == MAX_ENTRIES {
            // The visit itself stays first: its gender is what most ask for.
            tracked.entries.remove(1);
        }
        let entry = Entry { what, at_unix_s, is_here: true };
        tracked.entries.push(entry);
        let mut change = ByGender::default();
        change.add(tracked.gender, 1);
        self.apply(entry, change, changes);
    }

    /// The track's gender is another: so is that of what it was counted for.
    fn rename(&mut self, tracked: &mut Tracked, gender: Gender, changes: &mut Vec<CountChange>) {
        let mut change = ByGender::default();
        change.add(tracked.gender, -1);
        change.add(gender, 1);
        self.now.add(tracked.gender, -1);
        self.now.add(gender, 1);
        tracked.gender = gender;
        for entry in tracked.entries.clone() {
            self.apply(entry, change, changes);
        }
    }

    fn apply(&mut self, entry: Entry, change: ByGender, changes: &mut Vec<CountChange>) {
        let (counts, counter) = match entry.what {
            Counted::Visit => (&mut self.visits, &self.visits_counter),
            Counted::Entered(place) => {
                let place = &mut self.places[place];
                (&mut place.counts.entered, &place.entered_counter)
            }
            Counted::Left(place) => {
                let place = &mut self.places[place];
                (&mut place.counts.left, &place.left_counter)
            }
        };
        counts.female += change.female;
        counts.male += change.male;
        counts.unknown += change.unknown;
        if entry.is_here {
            changes.push(CountChange { counter: counter.clone(), at_unix_s: entry.at_unix_s, change });
        }
    }
}

#[cfg(test)]
mod tests;
