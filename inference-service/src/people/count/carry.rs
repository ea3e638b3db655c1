//! The counts of one camera as they are handed to another replica, and taken
//! from one. Lines and zones go by their names: a replica that is configured
//! otherwise goes on with those that it has.

use serde::{Deserialize, Serialize};

use super::{ByGender, Counted, Counter, Entry, MAX_ENTRIES, Tracked};
use crate::people::config::MAX_CROSSINGS;
use crate::people::crossing::Side;
use crate::people::track::TrackId;
use crate::vision::{Gender, Point};

/// Counts on their way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CarriedCounts {
    visits: CarriedCount,
    truncated: bool,
    uncertain: bool,
    places: Vec<CarriedPlace>,
    tracked: Vec<CarriedTracked>,
}

/// Female, male, unknown.
type CarriedCount = [i64; 3];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CarriedPlace {
    name: String,
    is_zone: bool,
    entered: CarriedCount,
    left: CarriedCount,
    occupancy: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CarriedTracked {
    id: u64,
    confirmed: bool,
    gender: CarriedGender,
    /// By place, in their order: beyond or before, and where.
    sides: Vec<Option<(bool, [f32; 2])>>,
    entries: Vec<(CarriedEntry, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum CarriedGender {
    Female,
    Male,
    Unknown,
}

/// Places by their order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum CarriedEntry {
    Visit,
    Entered(usize),
    Left(usize),
}

impl Counter {
    /// The counts, and what is known of each track.
    pub fn carry(&self) -> CarriedCounts {
        let place = |place: &super::Place| CarriedPlace {
            name: place.counts.name.to_string(),
            is_zone: place.counts.is_zone,
            entered: place.counts.entered.into(),
            left: place.counts.left.into(),
            occupancy: place.counts.occupancy,
        };
        let side = |side: &Option<(Side, Point)>| side.map(|(side, at)| (side == Side::Beyond, [at.x, at.y]));
        let entry = |entry: &Entry| {
            let what = match entry.what {
                Counted::Visit => CarriedEntry::Visit,
                Counted::Entered(place) => CarriedEntry::Entered(place),
                Counted::Left(place) => CarriedEntry::Left(place),
            };
            (what, entry.at_unix_s)
        };
        let tracked = |(id, tracked): (&TrackId, &Tracked)| CarriedTracked {
            id: id.0,
            confirmed: tracked.confirmed,
            gender: tracked.gender.into(),
            sides: tracked.sides.iter().take(self.places.len()).map(side).collect(),
            entries: tracked.entries.iter().map(entry).collect(),
        };
        CarriedCounts {
            visits: self.visits.into(),
            truncated: self.truncated,
            uncertain: self.uncertain,
            places: self.places.iter().map(place).collect(),
            tracked: self.tracked.iter().map(tracked).collect(),
        }
    }

    /// Goes on with what another counted, of the tracks of which `is_followed`
    /// says yes. Its own counts are forgotten: they are in those of the other,
    /// which went on with them.
    pub fn adopt(&mut self, carried: &CarriedCounts, is_followed: impl Fn(TrackId) -> bool) {
        self.visits = carried.visits.into();
        self.truncated = carried.truncated;
        self.uncertain = carried.uncertain;
        self.now = ByGender::default();
        self.tracked.clear();
        // Where each of the other's places is among ours.
        let here = |place: &CarriedPlace| {
            let is_it = |one: &super::Place| *one.counts.name == *place.name && one.counts.is_zone == place.is_zone;
            self.places.iter().position(is_it)
        };
        let ours: Vec<_> = carried.places.iter().map(here).collect();
        for (place, index) in carried.places.iter().zip(&ours) {
            let Some(index) = *index else { continue };
            let counts = &mut self.places[index].counts;
            (counts.entered, counts.left) = (place.entered.into(), place.left.into());
            // Of a zone it is who is followed inside; see below.
            counts.occupancy = if place.is_zone { 0 } else { place.occupancy };
        }
        let our = |index: usize| ours.get(index).copied().flatten();
        for one in carried.tracked.iter().filter(|one| is_followed(TrackId(one.id))) {
            let mut sides = [None; MAX_CROSSINGS];
            for (index, side) in one.sides.iter().enumerate() {
                let (Some(index), Some((is_beyond, [x, y]))) = (our(index), *side) else { continue };
                let side = if is_beyond { Side::Beyond } else { Side::Before };
                sides[index] = Some((side, Point { x, y }));
                let counts = &mut self.places[index].counts;
                counts.occupancy += i64::from(counts.is_zone && one.confirmed && is_beyond);
            }
            let entry = |(what, at_unix_s): &(CarriedEntry, i64)| {
                let what = match *what {
                    CarriedEntry::Visit => Counted::Visit,
                    CarriedEntry::Entered(place) => Counted::Entered(our(place)?),
                    CarriedEntry::Left(place) => Counted::Left(our(place)?),
                };
                Some(Entry { what, at_unix_s: *at_unix_s, is_here: false })
            };
            let gender = Gender::from(one.gender);
            if one.confirmed {
                self.now.add(gender, 1);
            }
            let entries = one.entries.iter().filter_map(entry).take(MAX_ENTRIES).collect();
            let tracked = Tracked { confirmed: one.confirmed, gender, sides, entries };
            self.tracked.insert(TrackId(one.id), tracked);
        }
    }
}

impl From<ByGender> for CarriedCount {
    fn from(count: ByGender) -> Self {
        [count.female, count.male, count.unknown]
    }
}

impl From<CarriedCount> for ByGender {
    fn from([female, male, unknown]: CarriedCount) -> Self {
        Self { female, male, unknown }
    }
}

impl From<Gender> for CarriedGender {
    fn from(gender: Gender) -> Self {
        match gender {
            Gender::Female => Self::Female,
            Gender::Male => Self::Male,
            Gender::Unknown => Self::Unknown,
        }
    }
}

impl From<CarriedGender> for Gender {
    fn from(gender: CarriedGender) -> Self {
        match gender {
            CarriedGender::Female => Self::Female,
            CarriedGender::Male => Self::Male,
            CarriedGender::Unknown => Self::Unknown,
        }
    }
}
