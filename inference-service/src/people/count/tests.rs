use std::time::{Duration, Instant};

use super::*;
use crate::people::config::{LineConfig, ZoneConfig};

const START_US: i64 = 1_700_000_000_000_000;

fn camera() -> CameraId {
    CameraId::parse("bus-12").expect("an id")
}

/// A door across the middle of the picture, and seats in its lower right.
fn config() -> PeopleConfig {
    let (camera, name) = ("bus-12".to_owned(), "door".to_owned());
    let elsewhere = LineConfig { camera: "bus-13".into(), name: "door".into(), from: [0.0, 0.1], to: [1.0, 0.1] };
    let door = LineConfig { camera: camera.clone(), name, from: [0.1, 0.5], to: [0.9, 0.5] };
    let corners = vec![[0.6, 0.6], [1.0, 0.6], [1.0, 1.0], [0.6, 1.0]];
    let seats = ZoneConfig { camera, name: "seats".into(), corners };
    PeopleConfig { lines: vec![elsewhere, door], zones: vec![seats], ..PeopleConfig::default() }
}

struct Scene {
    counter: Counter,
    start: Instant,
    changes: Vec<CountChange>,
}

impl Scene {
    fn new() -> Self {
        Self { counter: Counter::new(&camera(), &config()), start: Instant::now(), changes: Vec::new() }
    }

    /// One frame `ms` after the start with one track.
    fn see(&mut self, ms: u64, id: u64, (x, y): (f32, f32), gender: Gender, confirmed: bool) {
        let moment = Moment { at: self.start + Duration::from_millis(ms), unix_us: START_US + 1000 * ms as i64 };
        let track = FaceTrack {
            id: TrackId(id),
            confirmed,
            newly_confirmed: false,
            gender,
            female: 0.5,
            first_seen: self.start,
            from: None,
            to: Point { x, y },
        };
        let found = FrameTracks { faces: vec![Some(track)], ..FrameTracks::default() };
        // A picture of one pixel: places are shares of it as they stand.
        self.counter.frame(moment, PictureSize::new(1, 1), &found, &mut self.changes);
    }

    fn end(&mut self, id: u64) {
        let ended = Ended {
            id: TrackId(id),
            confirmed: true,
            gender: Gender::Unknown,
            female: 0.5,
            first_seen: self.start,
            last_seen: self.start,
            frames: 9,
        };
        self.counter.ended(&[ended]);
    }

    /// Entered, left and occupancy of the door.
    fn door(&self) -> (i64, i64, i64) {
        let door = &self.counter.counts().crossings[0];
        (door.entered.all(), door.left.all(), door.occupancy)
    }

    fn seats(&self) -> (i64, i64, i64) {
        let seats = &self.counter.counts().crossings[1];
        (seats.entered.all(), seats.left.all(), seats.occupancy)
    }

    /// All changes of one counter, summed.
    fn total(&self, counter: &str) -> ByGender {
        let mut total = ByGender::default();
        for change in self.changes.iter().filter(|change| &*change.counter == counter) {
            total.female += change.change.female;
            total.male += change.change.male;
            total.unknown += change.change.unknown;
        }
        total
    }
}

#[test]
fn a_visit_is_counted_once_and_its_gender_follows() {
    let mut scene = Scene::new();
    scene.see(0, 1, (0.2, 0.2), Gender::Unknown, false);
    assert_eq!(scene.counter.counts().visits, ByGender::default(), "not before it is confirmed");
    scene.see(1500, 1, (0.2, 0.2), Gender::Unknown, true);
    assert_eq!(scene.counter.counts().visits, ByGender { unknown: 1, ..ByGender::default() });
    scene.see(9000, 1, (0.2, 0.2), Gender::Female, true);
    let counts = scene.counter.counts();
    assert_eq!((counts.visits, counts.now), (ByGender { female: 1, ..ByGender::default() }, counts.visits));
    assert_eq!(scene.total(VISITS), counts.visits);
    let seconds: Vec<_> = scene.changes.iter().map(|change| change.at_unix_s - START_US / 1_000_000).collect();
    assert_eq!(seconds, [0, 0], "in the second in which the visit began");
    scene.end(1);
    let counts = scene.counter.counts();
    assert_eq!((counts.visits.all(), counts.now.all()), (1, 0));
}

#[test]
fn the_door_in_both_directions() {
    let mut scene = Scene::new();
    for (ms, y) in [(0, 0.3), (100, 0.45), (200, 0.502), (300, 0.55), (400, 0.505), (500, 0.6)] {
        scene.see(ms, 1, (0.3, y), Gender::Female, true);
    }
    assert_eq!(scene.door(), (1, 0, 1), "once, however long it stood on the line");
    for (ms, y) in [(600, 0.7), (700, 0.4)] {
        scene.see(ms, 2, (0.3, y), Gender::Unknown, true);
    }
    assert_eq!(scene.door(), (1, 1, 0));
    scene.see(800, 2, (0.3, 0.4), Gender::Male, true);
    assert_eq!(scene.total("door/entered"), ByGender { female: 1, ..ByGender::default() });
    assert_eq!(scene.total("door/left"), ByGender { male: 1, ..ByGender::default() }, "its gender became clear later");
    assert_eq!(scene.total("door/left"), scene.counter.counts().crossings[0].left);
}

#[test]
fn around_the_end_of_the_line_is_no_crossing() {
    let mut scene = Scene::new();
    for (ms, x, y) in [(0, 0.05, 0.3), (100, 0.05, 0.7), (200, 0.5, 0.8)] {
        scene.see(ms, 1, (x, y), Gender::Female, true);
    }
    assert_eq!(scene.door(), (0, 0, 0));
}

#[test]
fn what_was_crossed_before_confirmation_is_counted_with_it() {
    let mut scene = Scene::new();
    scene.see(0, 1, (0.3, 0.4), Gender::Female, false);
    scene.see(100, 1, (0.3, 0.6), Gender::Female, false);
    assert_eq!(scene.door(), (0, 0, 0), "it may yet be a flicker");
    scene.see(200, 1, (0.3, 0.7), Gender::Female, true);
    assert_eq!(scene.door(), (1, 0, 1));
}

#[test]
fn a_zone_holds_who_is_inside() {
    let mut scene = Scene::new();
    scene.see(0, 1, (0.8, 0.8), Gender::Female, true);
    assert_eq!(scene.seats(), (0, 0, 1), "was inside when first seen: entered nothing");
    scene.see(100, 2, (0.3, 0.8), Gender::Male, true);
    scene.see(200, 2, (0.7, 0.8), Gender::Male, true);
    assert_eq!(scene.seats(), (1, 0, 2));
    scene.see(300, 1, (0.5, 0.8), Gender::Female, true);
    assert_eq!(scene.seats(), (1, 1, 1));
    scene.end(2);
    assert_eq!(scene.seats(), (1, 1, 0), "who is no longer seen is not inside");
}

#[test]
fn occupancy_is_set_for_lines_alone() {
    let mut scene = Scene::new();
    assert!(scene.counter.set_occupancy("door", 12));
    assert!(!scene.counter.set_occupancy("seats", 12) && !scene.counter.set_occupancy("gate", 12));
    scene.see(0, 1, (0.3, 0.7), Gender::Female, true);
    scene.see(100, 1, (0.3, 0.3), Gender::Female, true);
    assert_eq!(scene.door(), (0, 1, 11));
}

#[test]
fn a_track_that_goes_to_and_fro_for_ever_costs_no_more() {
    let mut scene = Scene::new();
    for turn in 0..200 {
        scene.see(1000 * turn, 1, (0.3, if turn % 2 == 0 { 0.3 } else { 0.7 }), Gender::Unknown, true);
    }
    assert_eq!(scene.counter.tracked[&TrackId(1)].entries.len(), MAX_ENTRIES);
    scene.see(200_000, 1, (0.3, 0.3), Gender::Male, true);
    assert_eq!(scene.counter.counts().visits, ByGender { male: 1, ..ByGender::default() });
    let (entered, left, occupancy) = scene.door();
    assert_eq!((entered, left, occupancy), (100, 100, 0));
    assert_eq!(scene.total("door/entered").all(), 100);
}

/// The gender of a visit becomes clear at the replica that took it over: the
/// totals follow, and the history of neither has more or less than one visit.
#[test]
fn a_visit_that_was_handed_over_is_in_one_history_once() {
    let (mut first, mut second) = (Scene::new(), Scene::new());
    first.see(0, 1, (0.2, 0.2), Gender::Unknown, true);
    second.counter.adopt(&first.counter.carry(), |_| true);
    second.see(1000, 1, (0.2, 0.2), Gender::Female, true);
    assert_eq!(second.counter.counts().visits, ByGender { female: 1, ..ByGender::default() });
    assert_eq!((first.changes.len(), second.changes.as_slice()), (1, &[][..]));
    // What it counts itself it corrects itself.
    second.see(2000, 2, (0.8, 0.2), Gender::Unknown, true);
    second.see(3000, 2, (0.8, 0.2), Gender::Male, true);
    assert_eq!(second.changes.len(), 2);
}
