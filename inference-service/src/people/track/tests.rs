//! The tracker by table and by property.

use proptest::prelude::*;

use super::*;
use crate::vision::{Bounds, GenderEstimate};

const SIZE: PictureSize = PictureSize::new(640, 480);
const MS: Duration = Duration::from_millis(1);

/// A face by its centre and width.
fn face(x: f32, y: f32, width: f32) -> Face {
    let height = 1.25 * width;
    let bounds = Bounds { x: x - width / 2.0, y: y - height / 2.0, width, height };
    Face { bounds, score: 0.9, landmarks: None, gender: None }
}

/// A tracker with its time.
struct Desk {
    tracker: Tracker,
    start: Instant,
}

impl Desk {
    fn new() -> Self {
        Self::with(TrackSettings::default())
    }

    fn with(settings: TrackSettings) -> Self {
        Self { tracker: Tracker::new(settings), start: Instant::now() }
    }

    fn frame(&mut self, at_ms: u32, faces: &[Face]) -> FrameTracks {
        self.tracker.frame(self.start + MS * at_ms, SIZE, faces)
    }

    /// Ids of the faces of a frame.
    fn ids(&mut self, at_ms: u32, faces: &[Face]) -> Vec<Option<u64>> {
        self.frame(at_ms, faces).faces.iter().map(|face| face.map(|face| face.id.0)).collect()
    }
}

#[test]
fn a_face_keeps_its_id_and_is_confirmed_once() {
    let mut desk = Desk::new();
    let mut newly = Vec::new();
    for step in 0..20u16 {
        let x = 100.0 + 8.0 * f32::from(step);
        let tracks = desk.frame(u32::from(step) * 100, &[face(x, 200.0, 50.0)]);
        let face = tracks.faces[0].expect("there is room");
        assert_eq!(face.id, TrackId(1));
        assert_eq!(face.from.is_none(), step == 0);
        assert!((face.to.x - x).abs() < 10.0 && (face.to.y - 200.0).abs() < 1.0, "{face:?}");
        if face.newly_confirmed {
            newly.push(step);
        }
        assert_eq!(face.confirmed, !newly.is_empty());
    }
    assert_eq!(newly, [2], "in the third frame");
}

/// They come together, are one box for some frames, and part on the other
/// side.
#[test]
fn two_who_swap_places_keep_their_ids() {
    for (fps, hidden) in [(5u32, true), (10, true), (15, true), (15, false)] {
        let mut desk = Desk::new();
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for step in 0..=5 * fps {
            let along = 80.0 * step as f32 / fps as f32;
            let (left, right) = (face(100.0 + along, 200.0, 60.0), face(500.0 - along, 215.0, 45.0));
            let one = (left.bounds.x - right.bounds.x).abs() < 40.0;
            let faces = if one && hidden { vec![left] } else { vec![left, right] };
            last = desk.ids(step * 1000 / fps, &faces);
            if step == 0 {
                first.clone_from(&last);
            }
        }
        assert_eq!(last, first, "{fps} frames/s");
    }
}

#[test]
fn a_second_out_of_sight_is_bridged() {
    for speed in [0.0, 60.0, 120.0] {
        let mut desk = Desk::new();
        let at = |step: u32| face(60.0 + speed * step as f32 / 10.0, 200.0, 50.0);
        for step in (0..20).chain(30..40) {
            let ids = desk.ids(step * 100, &[at(step)]);
            assert_eq!(ids, [Some(1)], "{speed} px/s, step {step}");
        }
    }
}

#[test]
fn who_comes_back_after_lost_is_new() {
    let mut desk = Desk::new();
    for step in 0..10 {
        desk.frame(step * 100, &[face(200.0, 200.0, 50.0)]);
    }
    for (at_ms, ended) in [(1500, 0), (2900, 0), (2901, 1)] {
        let tracks = desk.frame(at_ms, &[]);
        assert_eq!(tracks.ended.len(), ended, "at {at_ms} ms");
        for ended in tracks.ended {
            let expected = (TrackId(1), true, 10, desk.start, desk.start + 900 * MS);
            assert_eq!((ended.id, ended.confirmed, ended.frames, ended.first_seen, ended.last_seen), expected);
        }
    }
    assert_eq!(desk.ids(3000, &[face(200.0, 200.0, 50.0)]), [Some(2)]);
}

#[test]
fn expires_without_frames_only_when_they_stopped() {
    let mut desk = Desk::new();
    desk.frame(0, &[face(200.0, 200.0, 50.0)]);
    assert!(desk.tracker.expire(desk.start + 2000 * MS).is_empty());
    assert_eq!(desk.tracker.len(), 1);
    assert_eq!(desk.tracker.expire(desk.start + 2001 * MS).len(), 1);
    assert!(desk.tracker.is_empty());
    assert!(desk.tracker.expire(desk.start + 9000 * MS).is_empty());
}

#[test]
fn flicker_is_not_confirmed() {
    let mut rng = fastrand::Rng::with_seed(7);
    for frame_ms in [66, 200, 500] {
        let (mut desk, mut confirmed) = (Desk::new(), 0);
        for step in 0..2000 {
            let (x, y, width) = (rng.f32() * 640.0, rng.f32() * 480.0, 20.0 + rng.f32() * 60.0);
            let tracks = desk.frame(step * frame_ms, &[face(x, y, width)]);
            confirmed += tracks.faces.iter().flatten().filter(|face| face.newly_confirmed).count();
        }
        assert!(confirmed <= 1, "{confirmed} of 2000 at {frame_ms} ms");
    }
}

#[test]
fn a_second_box_on_a_face_is_no_visit() {
    let mut desk = Desk::new();
    for step in 0..30 {
        let tracks = desk.frame(step * 100, &[face(200.0, 200.0, 80.0), face(205.0, 205.0, 50.0)]);
        let confirmed: Vec<bool> = tracks.faces.iter().flatten().map(|face| face.confirmed).collect();
        assert_eq!(confirmed, [step >= 2, false], "step {step}");
    }
}

#[test]
fn too_many_faces_are_told() {
    let mut desk = Desk::with(TrackSettings { max_tracks: 3, ..TrackSettings::default() });
    let row = |from: u16, count: u16| -> Vec<Face> {
        (from..from + count).map(|place| face(60.0 + 100.0 * f32::from(place), 200.0, 40.0)).collect()
    };
    for step in 0..5 {
        let tracks = desk.frame(step * 100, &row(0, 5));
        assert!(tracks.truncated);
        assert_eq!(tracks.faces.iter().flatten().count(), 3);
    }
    // Visits out of sight do not give way.
    let tracks = desk.frame(500, &row(3, 2));
    assert!(tracks.truncated && tracks.faces == [None, None] && tracks.ended.is_empty());
    // What may be flicker does.
    let mut desk = Desk::with(TrackSettings { max_tracks: 3, ..TrackSettings::default() });
    desk.frame(0, &row(0, 3));
    let tracks = desk.frame(100, &row(1, 4));
    assert_eq!(
        tracks.faces.iter().map(|face| face.map(|face| face.id.0)).collect::<Vec<_>>(),
        [Some(2), Some(3), Some(4), None]
    );
    assert_eq!(tracks.ended.iter().map(|ended| (ended.id.0, ended.confirmed)).collect::<Vec<_>>(), [(1, false)]);
    // And so are faces beyond those that are looked at.
    let mut desk = Desk::with(TrackSettings { max_faces: 2, ..TrackSettings::default() });
    let tracks = desk.frame(0, &row(0, 3));
    assert!(tracks.truncated && tracks.faces[2].is_none() && tracks.faces[1].is_some());
}

#[test]
fn a_look_alike_elsewhere_inherits_nothing() {
    for gap_ms in [100, 500, 1900] {
        let mut desk = Desk::new();
        for step in 0..10 {
            desk.frame(step * 100, &[face(100.0, 200.0, 40.0)]);
        }
        assert_eq!(desk.ids(900 + gap_ms, &[face(400.0, 200.0, 40.0)]), [Some(2)], "after {gap_ms} ms");
    }
}

#[test]
fn irregular_and_few_frames() {
    // A walk of 60 px/s with a face of 50 px.
    let walk = |at_ms: u32| face(40.0 + 0.06 * at_ms as f32, 200.0, 50.0);
    for (name, times) in [
        ("jitter", vec![0, 90, 220, 250, 430, 490, 640, 700, 880]),
        ("steps back", vec![0, 100, 200, 195, 300, 290, 400]),
        ("2 a second", vec![0, 500, 1000, 1500, 2000, 2500]),
        ("from 15 a second to 1", vec![0, 66, 133, 200, 266, 333, 1333, 2333]),
        ("the same moment", vec![100, 100, 100, 100]),
    ] {
        let mut desk = Desk::new();
        for at_ms in &times {
            assert_eq!(desk.ids(*at_ms, &[walk(*at_ms)]), [Some(1)], "{name}, at {at_ms} ms");
        }
    }
    // At one frame a second one who stands is followed, one who walks by is
    // not counted.
    let (mut desk, mut confirmed) = (Desk::new(), Vec::new());
    for second in 0..8u16 {
        let by = face(20.0 + 300.0 * f32::from(second % 3), 100.0, 30.0);
        let tracks = desk.frame(u32::from(second) * 1000, &[face(320.0, 350.0, 60.0), by]);
        confirmed.extend(tracks.faces.iter().flatten().filter(|face| face.newly_confirmed).map(|face| face.id.0));
    }
    assert_eq!(confirmed, [1]);
}

#[test]
fn a_jump_in_time_ends_all() {
    for jump_ms in [12_001u32, 7_999] {
        let mut desk = Desk::new();
        desk.frame(10_000, &[face(200.0, 200.0, 50.0)]);
        let tracks = desk.frame(jump_ms, &[face(200.0, 200.0, 50.0)]);
        assert_eq!((tracks.ended.len(), tracks.faces[0].map(|face| face.id)), (1, Some(TrackId(2))), "{jump_ms}");
    }
}

/// The server asks for smaller pictures in the middle of a walk.
#[test]
fn another_picture_size_breaks_nothing() {
    let mut desk = Desk::new();
    for (step, scale) in [1.0f32, 1.0, 1.0, 0.5, 0.5, 0.25, 1.0].into_iter().enumerate() {
        let x = 100.0 + 10.0 * step as f32;
        let size = PictureSize::new((640.0 * scale) as u32, (480.0 * scale) as u32);
        let at = desk.start + MS * 100 * step as u32;
        let tracks = desk.tracker.frame(at, size, &[face(x * scale, 200.0 * scale, 50.0 * scale)]);
        let face = tracks.faces[0].expect("there is room");
        assert_eq!(face.id, TrackId(1));
        assert!((face.to.x - x * scale).abs() < 10.0 * scale, "{face:?}");
        if let Some(from) = face.from {
            assert!((from.x - (x - 10.0) * scale).abs() < 15.0 * scale, "in this frame's pixels: {face:?}");
        }
    }
}

#[test]
fn gender_is_voted() {
    let mut desk = Desk::new();
    let mut last = None;
    for step in 0..20 {
        let mut seen = face(200.0, 200.0, 80.0);
        // One in five is wrong.
        let female = if step % 5 == 1 { 0.1 } else { 0.9 };
        seen.gender = Some(GenderEstimate::new(female, 0.8));
        last = desk.frame(step * 200, &[seen]).faces[0];
    }
    let last = last.expect("there is room");
    assert_eq!(last.gender, Gender::Female);
    assert!(last.female > 0.8);
    desk.frame(4000, &[face(200.0, 200.0, 80.0)]);
    let ended = desk.tracker.expire(desk.start + 9000 * MS);
    assert_eq!((ended[0].gender, ended[0].female), (Gender::Female, last.female));

    let mut off = Desk::new();
    let track = off.frame(0, &[face(200.0, 200.0, 80.0)]).faces[0].expect("there is room");
    assert_eq!((track.gender, track.female), (Gender::Unknown, 0.5));
}

#[test]
fn memory_is_bounded_by_settings() {
    let bytes = Tracker::max_bytes(&TrackSettings::default());
    assert!((32 << 10..192 << 10).contains(&bytes), "{bytes}");
    let vast = TrackSettings { max_tracks: usize::MAX, ..TrackSettings::default() };
    assert_eq!(Tracker::max_bytes(&vast), u64::MAX);
}

/// Anything a detector could say, hostile numbers included.
fn any_face() -> impl Strategy<Value = Face> {
    let number = || prop_oneof![8 => -50.0f32..700.0, 1 => any::<f32>()];
    let landmarks = prop::option::of(prop::array::uniform5((number(), number()).prop_map(|(x, y)| Point { x, y })));
    let female = prop::option::of(prop_oneof![4 => 0.0f32..=1.0, 1 => any::<f32>()]);
    ((number(), number(), number(), number()), landmarks, female).prop_map(
        |((x, y, width, height), landmarks, female)| {
            let gender = female.map(|female| GenderEstimate { gender: Gender::Unknown, female });
            Face { bounds: Bounds { x, y, width, height }, score: 0.5, landmarks, gender }
        },
    )
}

proptest! {
    /// Whatever comes: no id twice in a frame, none used again after its end,
    /// never more tracks than allowed, nothing left when all is over, and no
    /// number that is none.
    #[test]
    fn keeps_its_promises(
        frames in prop::collection::vec((0u32..1500, prop::collection::vec(any_face(), 0..12)), 1..40),
        max_tracks in 0usize..8,
        confirm_frames in 0u32..4,
    ) {
        let mut desk = Desk::with(TrackSettings { max_tracks, confirm_frames, ..TrackSettings::default() });
        let (mut ended, mut confirmed, mut at_ms) = (Vec::new(), Vec::new(), 100u32);
        for (wait_ms, faces) in frames {
            // Up to 30 ms back, up to 1470 ms on.
            at_ms = (at_ms + wait_ms).saturating_sub(30);
            let tracks = desk.frame(at_ms, &faces);
            prop_assert_eq!(tracks.faces.len(), faces.len());
            prop_assert!(desk.tracker.len() <= max_tracks);
            let mut ids: Vec<u64> = tracks.faces.iter().flatten().map(|face| face.id.0).collect();
            for face in tracks.faces.iter().flatten() {
                prop_assert!(face.to.x.is_finite() && face.to.y.is_finite());
                prop_assert!((0.0..=1.0).contains(&face.female));
                if face.newly_confirmed {
                    prop_assert!(!confirmed.contains(&face.id.0), "confirmed once");
                    confirmed.push(face.id.0);
                }
                prop_assert_eq!(face.confirmed, confirmed.contains(&face.id.0));
            }
            ended.extend(tracks.ended.iter().map(|track| track.id.0));
            prop_assert!(ids.iter().all(|id| !ended.contains(id)), "an id after its end");
            ids.sort_unstable();
            prop_assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "an id twice");
        }
        let rest = desk.tracker.expire(desk.start + MS * (at_ms + 5000));
        prop_assert!(desk.tracker.is_empty());
        ended.extend(rest.iter().map(|track| track.id.0));
        ended.sort_unstable();
        prop_assert_eq!(ended, (1..=desk.tracker.last_id).collect::<Vec<_>>(), "every track ends once");
    }

    /// Pictures of another size, with everything in them, give the same tracks.
    #[test]
    fn scale_changes_nothing(
        frames in prop::collection::vec(
            prop::collection::vec((0u16..640, 0u16..480, 20u16..100), 0..6), 1..20),
        scales in prop::collection::vec(prop_oneof![Just(0.25f32), Just(0.5), Just(1.0), Just(2.0)], 20),
    ) {
        let (mut fixed, mut scaled) = (Desk::new(), Desk::new());
        for (step, (faces, scale)) in frames.iter().zip(scales).enumerate() {
            let draw = |scale: f32| -> Vec<Face> {
                let faces = faces.iter().map(|face| (f32::from(face.0), f32::from(face.1), f32::from(face.2)));
                faces.map(|(x, y, width)| face(x * scale, y * scale, width * scale)).collect()
            };
            let size = PictureSize::new((640.0 * scale) as u32, (480.0 * scale) as u32);
            let at = MS * 100 * step as u32;
            let a = fixed.tracker.frame(fixed.start + at, SIZE, &draw(1.0));
            let b = scaled.tracker.frame(scaled.start + at, size, &draw(scale));
            for (a, b) in a.faces.iter().zip(&b.faces) {
                prop_assert_eq!(a.map(|face| (face.id, face.confirmed)), b.map(|face| (face.id, face.confirmed)));
            }
        }
    }
}
