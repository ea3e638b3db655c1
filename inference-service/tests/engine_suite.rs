//! The models through our engine, decoders and crops, compared with ONNX
//! Runtime (`data/expected.toml`) and with clips whose answer is known.
//!
//! Needs `shared/` beside the repository, which holds the third-party models
//! and pictures; without it every test says SKIPPED and passes.

use std::path::{Path, PathBuf};

use flatframe_shared::frame::{PictureSize, Rotation};
use flatframe_shared::jpeg;
use inference_service::vision::{AnalyzeError, Analyzer, AnalyzerState, Bounds, Face, Gender, VisionConfig};
use serde::Deserialize;

const CLIP: &str = "media/face-demographics-walking-and-pause.mjpeg";

/// The folder with third-party models and pictures, if it is there.
fn shared() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    if shared.join("models").is_dir() && shared.join("media").is_dir() && shared.join("data").is_dir() {
        return Some(shared);
    }
    eprintln!("SKIPPED: {} has no models, media and data", shared.display());
    None
}

fn config(shared: &Path, detector: &str, gender: &str) -> VisionConfig {
    VisionConfig {
        models_dir: shared.join("models"),
        detector: detector.into(),
        gender: gender.into(),
        ..VisionConfig::default()
    }
}

fn load(config: &VisionConfig) -> AnalyzerState {
    Analyzer::load(config).unwrap_or_else(|error| panic!("{error}")).spawn()
}

/// The JPEGs of a clip, cut before each start marker.
fn frames(clip: &Path) -> Vec<Vec<u8>> {
    let data = std::fs::read(clip).expect("the clip can be read");
    let mut starts: Vec<usize> = (0..data.len() - 1).filter(|&at| data[at..].starts_with(&[0xFF, 0xD8])).collect();
    starts.push(data.len());
    starts.windows(2).map(|frame| data[frame[0]..frame[1]].to_vec()).collect()
}

fn read(shared: &Path, file: &str, frame: usize) -> Vec<u8> {
    if file.ends_with(".mjpeg") {
        return frames(&shared.join(file)).swap_remove(frame);
    }
    std::fs::read(shared.join(file)).expect("the picture can be read")
}

#[derive(Deserialize)]
struct Expected {
    provenance: String,
    picture: Vec<ExpectedPicture>,
}

#[derive(Deserialize)]
struct ExpectedPicture {
    file: String,
    frame: usize,
    detector: String,
    gender: String,
    /// x, y, width, height, score, probability of female.
    faces: Vec<[f32; 6]>,
}

/// A face this close to the detector's threshold may be found or not: the two
/// sides decode and resize JPEGs with different code.
const NEAR_THRESHOLD: f32 = 0.05;

#[test]
fn agrees_with_onnx_runtime() {
    let Some(shared) = shared() else { return };
    let expected: Expected =
        toml::from_str(include_str!("data/expected.toml")).expect("expected.toml is as make_expected.py writes it");
    let mut loaded: Option<(String, AnalyzerState)> = None;
    let (mut faces, mut worst_iou, mut differences) = (0, 1f32, 0f32);
    for picture in &expected.picture {
        let pair = format!("{} {}", picture.detector, picture.gender);
        let state = match &mut loaded {
            Some((name, state)) if *name == pair => state,
            other => &mut other.insert((pair.clone(), load(&config(&shared, &picture.detector, &picture.gender)))).1,
        };
        let name = format!("{pair}: {} frame {}", picture.file, picture.frame);
        let found = state.analyze(&read(&shared, &picture.file, picture.frame), Rotation::None).expect(&name).faces;
        let threshold = if picture.detector.starts_with("yunet") { 0.6 } else { 0.7 };

        let mut matched = 0;
        for &[x, y, width, height, score, female] in &picture.faces {
            let bounds = Bounds { x, y, width, height };
            let overlap = |face: &Face| face.bounds.iou(bounds);
            let best = found.iter().max_by(|a, b| overlap(a).total_cmp(&overlap(b)));
            let Some(face) = best.filter(|face| overlap(face) > 0.9) else {
                assert!(score < threshold + NEAR_THRESHOLD, "{name}: nothing at {bounds:?}, score {score}: {found:?}");
                continue;
            };
            matched += 1;
            let estimate = face.gender.expect("gender is on");
            assert!((face.score - score).abs() < NEAR_THRESHOLD, "{name}: score {} is not {score}", face.score);
            assert!((estimate.female - female).abs() < 0.25, "{name}: female {} is not {female}", estimate.female);
            worst_iou = worst_iou.min(overlap(face));
            differences += (estimate.female - female).abs();
        }
        let sure = found.iter().filter(|face| face.score >= threshold + NEAR_THRESHOLD).count();
        assert!(sure <= matched, "{name}: more faces than expected: {found:?}");
        faces += matched;
    }
    let mean_difference = differences / faces as f32;
    println!(
        "{} pictures, {faces} faces as {} says: least overlap {worst_iou:.3}, mean difference of the probability of \
         female {mean_difference:.4}",
        expected.picture.len(),
        expected.provenance
    );
    assert!(faces > 100, "only {faces} faces were compared");
    // A probability near one half moves by 0.2 when the box or the landmarks
    // move by half a pixel, as JPEG decoders make them; a wrong channel or a
    // shifted crop moves the mean.
    assert!(mean_difference < 0.02, "{mean_difference}");
}

#[test]
fn the_clip_shows_a_woman_a_man_a_woman() {
    let Some(shared) = shared() else { return };
    for (detector, gender) in [("yunet_n", "gender_dlib"), ("flatface-det", "gender_dlib")] {
        check_clip(&shared, detector, gender);
    }
}

fn check_clip(shared: &Path, detector: &str, gender: &str) {
    let mut state = load(&config(shared, detector, gender));
    let frames = frames(&shared.join(CLIP));
    assert_eq!(frames.len(), 43, "the clip has 43 frames");
    let mut whole = 0;
    // Female, male, unknown: from left to right.
    let mut votes = [[0; 3]; 3];
    for frame in &frames {
        let mut faces = state.analyze(frame, Rotation::None).expect("a good frame").faces;
        if faces.len() != 3 {
            continue;
        }
        whole += 1;
        faces.sort_by(|a, b| a.bounds.x.total_cmp(&b.bounds.x));
        for (face, votes) in faces.iter().zip(&mut votes) {
            let vote = match face.gender.expect("gender is on").gender {
                Gender::Female => 0,
                Gender::Male => 1,
                Gender::Unknown => 2,
            };
            votes[vote] += 1;
        }
    }
    print!("{detector} and {gender}: ");
    println!("3 faces in {whole} of {} frames; female, male, unknown from left to right: {votes:?}", frames.len());
    assert!(whole * 100 >= frames.len() * 95, "3 faces in {whole} of {} frames only", frames.len());
    let majority = votes.map(|[female, male, _]| if female > male { 'F' } else { 'M' });
    assert_eq!(majority, ['F', 'M', 'F'], "{votes:?}");
}

#[test]
fn every_known_model_passes_its_self_test() {
    let Some(shared) = shared() else { return };
    for detector in ["flatface-det", "yunet_n", "yunet_s", "ultraface_rfb320", "ultraface_slim320"] {
        for gender in ["flatface-gender", "gender_dlib", "gender_xception", ""] {
            let analyzer = Analyzer::load(&config(&shared, detector, gender)).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(analyzer.detector_name(), detector);
            assert_eq!(analyzer.gender_name().unwrap_or_default(), gender);
        }
    }
}

#[test]
fn a_ladder_finds_small_faces_in_large_pictures() {
    let Some(shared) = shared() else { return };
    let classroom = frames(&shared.join("media/classroom.mjpeg"));
    let count = |sizes: &[&str]| {
        let sizes = sizes.iter().map(|size| size.parse().expect("a size")).collect();
        let mut state = load(&VisionConfig { input_sizes: sizes, ..config(&shared, "yunet_n", "") });
        classroom.iter().map(|frame| state.analyze(frame, Rotation::None).expect("a good frame").faces.len()).sum()
    };
    let (small, ladder): (usize, usize) = (count(&["160x128"]), count(&["160x128", "640x384"]));
    println!(
        "faces in the classroom, four in each of {} frames: at 160x128 {small}, with 640x384 {ladder}",
        classroom.len()
    );
    assert!(ladder > small, "the larger plan was not chosen: {ladder} faces, {small} without it");
}

/// `rgb` as a camera stores it that must be turned by `rotation`.
fn turned_back(rgb: &[u8], upright: PictureSize, rotation: Rotation) -> (Vec<u8>, PictureSize) {
    let stored = rotation.turned(upright);
    let (width, height) = (upright.width_px, upright.height_px);
    let mut turned = vec![0; rgb.len()];
    for (at, pixel) in rgb.chunks_exact(3).enumerate() {
        let (x, y) = (at as u32 % width, at as u32 / width);
        let (column, row) = match rotation {
            Rotation::None => (x, y),
            Rotation::Clockwise90 => (y, width - 1 - x),
            Rotation::HalfTurn => (width - 1 - x, height - 1 - y),
            Rotation::Clockwise270 => (height - 1 - y, x),
        };
        let to = 3 * (row * stored.width_px + column) as usize;
        turned[to..to + 3].copy_from_slice(pixel);
    }
    (turned, stored)
}

#[test]
fn turned_cameras_see_the_same_faces() {
    let Some(shared) = shared() else { return };
    let mut state = load(&config(&shared, "yunet_n", "gender_dlib"));
    let frame = read(&shared, CLIP, 20);
    let upright = state.analyze(&frame, Rotation::None).expect("a good frame");
    let (mut rgb, mut encoded) = (Vec::new(), Vec::new());
    let size = jpeg::decode_rgb(&frame, PictureSize::new(640, 480), &mut rgb).expect("a good frame");
    for rotation in [Rotation::Clockwise90, Rotation::HalfTurn, Rotation::Clockwise270] {
        let (turned, stored) = turned_back(&rgb, size, rotation);
        jpeg::encode_rgb(&turned, stored, 95, &mut encoded).expect("encodes");
        let analysis = state.analyze(&encoded, rotation).expect("a good picture");
        assert_eq!(analysis.size, size, "{rotation:?}");
        assert_eq!(analysis.faces.len(), upright.faces.len(), "{rotation:?}");
        for face in &upright.faces {
            let same = analysis.faces.iter().find(|other| other.bounds.iou(face.bounds) > 0.9);
            let same = same.unwrap_or_else(|| panic!("{rotation:?}: no face at {:?}: {analysis:?}", face.bounds));
            let (a, b) = (face.gender.expect("gender is on").female, same.gender.expect("gender is on").female);
            assert!((a - b).abs() < 0.1, "{rotation:?}: {a} {b}");
        }
    }
}

#[test]
fn a_bad_picture_is_invalid_and_the_next_is_served() {
    let Some(shared) = shared() else { return };
    let max_picture = "480x270".parse().expect("a size");
    let mut state = load(&VisionConfig { max_picture, ..config(&shared, "yunet_n", "gender_dlib") });
    let good = read(&shared, CLIP, 0);
    let large = read(&shared, "data/interfaces_cc0/images/002.jpg", 0);
    for (name, bad, says) in
        [("empty", &[][..], "JPEG"), ("cut", &good[..good.len() / 2], "end marker"), ("large", &large, "480x270")]
    {
        match state.analyze(bad, Rotation::None) {
            Err(AnalyzeError::Invalid(text)) => assert!(text.contains(says), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(state.analyze(&good, Rotation::None).expect(name).faces.len(), 3, "after {name}");
    }
}

#[test]
fn limits_are_kept_and_said() {
    let Some(shared) = shared() else { return };
    let good = read(&shared, CLIP, 0);
    let base = config(&shared, "yunet_n", "");
    for (config, faces, truncated) in [
        (VisionConfig { max_faces: 3, ..base.clone() }, 3, false),
        (VisionConfig { max_faces: 2, ..base.clone() }, 2, true),
        (VisionConfig { min_face_px: 100.0, ..base.clone() }, 0, false),
        (VisionConfig { score_threshold: Some(0.999), ..base.clone() }, 0, false),
    ] {
        let analysis = load(&config).analyze(&good, Rotation::None).expect("a good frame");
        assert_eq!((analysis.faces.len(), analysis.truncated), (faces, truncated), "{config:?}");
        assert!(analysis.faces.iter().all(|face| face.gender.is_none()), "gender is off");
    }
}
