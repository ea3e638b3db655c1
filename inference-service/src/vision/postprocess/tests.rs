//! Tables and properties of decoding and selection.

use flatframe_shared::frame::PictureSize;
use proptest::prelude::*;

use super::*;

const SHAPE: InputShape = InputShape { channels: 3, height: 64, width: 96 };
const LIMITS: Limits = Limits { score: 0.5, nms_iou: 0.3, min_face_px: 0.0, max_faces: 64 };

fn yunet() -> DetectorOutput {
    let [cls, obj, bbox, kps] = ["cls_", "obj_", "bbox_", "kps_"].map(String::from);
    DetectorOutput::Yunet { strides: vec![16, 32], cls, obj, bbox, kps }
}

fn flatface() -> DetectorOutput {
    DetectorOutput::Flatface { strides: vec![16, 32], head: "head_".into() }
}

fn ultraface() -> DetectorOutput {
    DetectorOutput::Ultraface { scores: "scores".into(), boxes: "boxes".into() }
}

/// One face in row 1, column 2 of stride 32: 40 x 48 pixels around (72, 40).
const BBOX: [f32; 4] = [0.25, 0.25, 0.223_143_55, 0.405_465_1];
const FACE: Bounds = Bounds { x: 52.0, y: 16.0, width: 40.0, height: 48.0 };

fn landmark(value: usize) -> f32 {
    value as f32 / 10.0 - 0.5
}

fn yunet_outputs() -> Vec<Vec<f32>> {
    let mut outputs: Vec<Vec<f32>> =
        [24, 24, 24 * 4, 24 * 10, 6, 6, 6 * 4, 6 * 10].iter().map(|&values| vec![0.0; values]).collect();
    let cell = 5;
    outputs[4][cell] = 0.81;
    outputs[5][cell] = 1.0;
    outputs[6][4 * cell..].copy_from_slice(&BBOX);
    outputs[7][10 * cell..].copy_from_slice(&std::array::from_fn::<f32, 10, _>(landmark));
    outputs
}

fn flatface_outputs() -> Vec<Vec<f32>> {
    let mut outputs = vec![vec![-9.0; 15 * 24], vec![-9.0; 15 * 6]];
    let cell = 5;
    outputs[1][cell] = (0.9f32 / 0.1).ln();
    for (value, number) in BBOX.into_iter().enumerate() {
        outputs[1][(1 + value) * 6 + cell] = number;
    }
    for value in 0..10 {
        outputs[1][(5 + value) * 6 + cell] = landmark(value);
    }
    outputs
}

fn shapes(spec: &DetectorOutput) -> Vec<Vec<usize>> {
    match spec {
        DetectorOutput::Yunet { .. } => {
            [24, 6].into_iter().flat_map(|cells| [1, 1, 4, 10].map(|values| vec![1, cells, values])).collect()
        }
        DetectorOutput::Flatface { .. } => vec![vec![1, 15, 4, 6], vec![1, 15, 2, 3]],
        DetectorOutput::Ultraface { .. } => vec![vec![1, 2, 2], vec![1, 2, 4]],
    }
}

fn try_decode(spec: &DetectorOutput, outputs: &[Vec<f32>], min_score: f32) -> Result<Vec<Candidate>, EngineError> {
    let decoder = Decoder::new(spec, SHAPE, &shapes(spec)).expect("shapes fit");
    let mut candidates = Vec::new();
    decoder.decode(|index| &outputs[index], min_score, &mut candidates)?;
    assert!(candidates.len() <= decoder.max_candidates());
    Ok(candidates)
}

fn decode(spec: &DetectorOutput, outputs: &[Vec<f32>], min_score: f32) -> Vec<Candidate> {
    try_decode(spec, outputs, min_score).expect("every score is a number")
}

fn assert_near(a: Bounds, b: Bounds) {
    assert!(a.iou(b) > 0.999, "{a:?} is not {b:?}");
}

#[test]
fn yunet_and_flatface_say_the_same_face() {
    for (spec, outputs) in [(yunet(), yunet_outputs()), (flatface(), flatface_outputs())] {
        let candidates = decode(&spec, &outputs, 0.5);
        let [face] = candidates.as_slice() else { panic!("{spec:?}: {candidates:?}") };
        assert_near(face.bounds, FACE);
        assert!((face.score - 0.9).abs() < 1e-5, "{}", face.score);
        let landmarks = face.landmarks.expect("the family has landmarks");
        assert!((landmarks[0].x - 48.0).abs() < 1e-4 && (landmarks[0].y - 19.2).abs() < 1e-4, "{landmarks:?}");
        assert!((landmarks[4].y - (1.0 + landmark(9)) * 32.0).abs() < 1e-4, "{landmarks:?}");
        assert!(decode(&spec, &outputs, 0.91).is_empty(), "{spec:?}: the threshold");
    }
}

#[test]
fn ultraface_corners_are_fractions() {
    let outputs = [vec![0.1, 0.9, 0.8, 0.2], vec![0.25, 0.25, 0.5, 0.75, 0.0, 0.0, 1.0, 1.0]];
    let candidates = decode(&ultraface(), &outputs, 0.5);
    let [face] = candidates.as_slice() else { panic!("{candidates:?}") };
    assert_near(face.bounds, Bounds { x: 24.0, y: 16.0, width: 24.0, height: 32.0 });
    assert_eq!(face.landmarks, None);
}

#[test]
fn a_score_is_at_most_one() {
    let outputs = [vec![0.1, 56.0], vec![0.25, 0.25, 0.5, 0.75]];
    assert_eq!(decode(&ultraface(), &outputs, 0.5)[0].score, 1.0);
}

#[test]
fn a_score_that_is_not_a_number_is_an_error() {
    for (spec, mut outputs, output) in [
        (yunet(), yunet_outputs(), 4),
        (flatface(), flatface_outputs(), 0),
        (ultraface(), vec![vec![0.0; 4], vec![0.0; 8]], 0),
    ] {
        outputs[output][1] = f32::NAN;
        assert!(try_decode(&spec, &outputs, 0.5).is_err(), "{spec:?}");
    }
}

#[test]
fn wrong_shapes_are_refused() {
    for spec in [yunet(), flatface(), ultraface()] {
        let good = shapes(&spec);
        assert!(Decoder::new(&spec, SHAPE, &good).is_ok());
        assert!(Decoder::new(&spec, SHAPE, &good[1..]).is_err(), "{spec:?}: an output is missing");
        for output in 0..good.len() {
            let mut bad = good.clone();
            bad[output][2] += 1;
            assert!(Decoder::new(&spec, SHAPE, &bad).is_err(), "{spec:?}: output {output}");
        }
    }
    assert_eq!(Decoder::output_names(&flatface()), ["head_16", "head_32"]);
    assert_eq!(Decoder::output_names(&yunet())[4..6], ["cls_32", "obj_32"]);
}

fn candidate(score: f32, x: f32, y: f32, side: f32) -> Candidate {
    Candidate { score, bounds: Bounds { x, y, width: side, height: side }, landmarks: None }
}

fn fit() -> Fit {
    Fit { picture: PictureSize::new(192, 128), fitted: PictureSize::new(96, 64) }
}

#[test]
fn the_better_of_two_boxes_stays() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let all =
            [candidate(0.6, 10.0, 10.0, 20.0), candidate(0.9, 12.0, 10.0, 20.0), candidate(0.7, 60.0, 10.0, 20.0)];
        let (faces, truncated) = select(&mut order.map(|index| all[index]), &fit(), &LIMITS);
        assert_eq!(faces.iter().map(|face| face.score).collect::<Vec<_>>(), [0.9, 0.7]);
        // Back in the picture, which is twice as large.
        assert_eq!(faces[0].bounds, Bounds { x: 24.0, y: 20.0, width: 40.0, height: 40.0 });
        assert!(!truncated);
    }
}

#[test]
fn limits_by_table() {
    let all = [candidate(0.9, 0.0, 0.0, 10.0), candidate(0.8, 20.0, 0.0, 20.0), candidate(0.7, 60.0, 0.0, 30.0)];
    for (limits, expected, more) in [
        (LIMITS, vec![0.9, 0.8, 0.7], false),
        (Limits { max_faces: 3, ..LIMITS }, vec![0.9, 0.8, 0.7], false),
        (Limits { max_faces: 2, ..LIMITS }, vec![0.9, 0.8], true),
        (Limits { min_face_px: 40.0, ..LIMITS }, vec![0.8, 0.7], false),
        (Limits { min_face_px: 40.0, max_faces: 1, ..LIMITS }, vec![0.8], true),
    ] {
        let (faces, truncated) = select(&mut all.clone(), &fit(), &limits);
        assert_eq!(faces.iter().map(|face| face.score).collect::<Vec<_>>(), expected, "{limits:?}");
        assert_eq!(truncated, more, "{limits:?}");
    }
}

#[test]
fn a_small_face_hides_no_other() {
    // Cut at the edge the better box is below the limit; it must not suppress.
    let mut all = [candidate(0.9, -28.0, 0.0, 30.0), candidate(0.8, -22.0, 0.0, 30.0)];
    let (faces, _) = select(&mut all, &fit(), &Limits { min_face_px: 10.0, ..LIMITS });
    assert_eq!(faces.len(), 1);
    assert_eq!(faces[0].score, 0.8);
}

fn any_number() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -2.0f32..2.0, 1 => -200.0f32..200.0, 1 => any::<f32>()]
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0.0f32..=1.0, -50.0f32..150.0, -50.0f32..100.0, 0.01f32..80.0, 0.01f32..80.0);
    let one = one.prop_map(|(score, x, y, width, height)| Candidate {
        score,
        bounds: Bounds { x, y, width, height },
        landmarks: None,
    });
    prop::collection::vec(one, 0..60)
}

proptest! {
    #[test]
    fn decoding_any_numbers_gives_sound_candidates(
        numbers in prop::collection::vec(any_number(), 24 * 15),
        min_score in 0.01f32..1.0,
    ) {
        for spec in [yunet(), flatface(), ultraface()] {
            let outputs: Vec<Vec<f32>> = shapes(&spec)
                .iter()
                .map(|shape| numbers[..shape.iter().product()].to_vec())
                .collect();
            // A score that is not a number is an error, tested above.
            for found in try_decode(&spec, &outputs, min_score).unwrap_or_default() {
                prop_assert!(found.score >= min_score);
                prop_assert!(is_box(found.bounds), "{:?}", found.bounds);
                if let Some(landmarks) = found.landmarks {
                    prop_assert!(landmarks.iter().all(|point| point.x.is_finite() && point.y.is_finite()));
                }
            }
        }
    }

    #[test]
    fn selected_faces_are_sorted_apart_inside_and_few(
        mut candidates in any_candidates(),
        max_faces in 1usize..20,
        nms_iou in 0.0f32..1.0,
    ) {
        let limits = Limits { max_faces, nms_iou, ..LIMITS };
        let best = candidates.iter().map(|candidate| candidate.score).fold(0.0, f32::max);
        let count = candidates.len();
        let (faces, truncated) = select(&mut candidates, &fit(), &limits);
        prop_assert!(faces.len() <= max_faces.min(count));
        prop_assert!(!truncated || faces.len() == max_faces);
        prop_assert!(faces.is_sorted_by(|a, b| a.score >= b.score));
        for face in &faces {
            let Bounds { x, y, width, height } = face.bounds;
            prop_assert!(x >= 0.0 && y >= 0.0 && x + width <= 192.01 && y + height <= 128.01, "{:?}", face.bounds);
            prop_assert!(width >= 1.0 && height >= 1.0 && face.score <= best);
        }
        for (at, kept) in candidates[..faces.len()].iter().enumerate() {
            for other in &candidates[..at] {
                prop_assert!(kept.bounds.iou(other.bounds) <= nms_iou);
            }
        }
    }
}
