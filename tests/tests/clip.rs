//! Real people through the real services: the clip with three people, from left
//! to right woman, man, woman, in every frame.

use std::collections::HashMap;
use std::time::Duration;

use e2e::media::{shared, skipped};
use e2e::pair::{Inference, Running, ingest_config, third_party_config};
use flatframe_shared::r#gen::v1::{self, Gender, result_service_client::ResultServiceClient, watch_response};
use flatframe_shared::outcome::Outcome;
use inference_service::config::Config;
use ingest_service::CameraConfig;

const CLIP: &str = "media/face-demographics-walking-and-pause.mjpeg";
const FRAMES: u64 = 86;
/// Frames of the clip; then it begins anew, with people where they were.
/// Numbers of frames count those too that were dropped on the device.
const ONE_PASS: u64 = 43;

/// What was seen on the clip.
#[derive(Debug)]
struct Seen {
    /// Share of frames with three faces.
    with_three: f64,
    /// The gender that most frames name for each of the three, from left to
    /// right; frames that name none do not vote, and a face that no frame names
    /// is unknown.
    named: Vec<Gender>,
    /// At the end of the first pass, the voted gender of each visit that is
    /// there, from left to right.
    voted: Vec<Gender>,
    /// Visits counted in the first pass.
    visits: u32,
}

async fn watch_clip(config: Config, clip: &str) -> Seen {
    let service = Inference::start(config).await.expect("starts");
    let mut client = ResultServiceClient::new(service.connect().await.expect("connects"));
    let mut results = client.watch(v1::WatchRequest::default()).await.expect("watches").into_inner();
    let camera = CameraConfig { fps: 20.0, ttl_ms: 10_000, ..CameraConfig::new("clip", &format!("file:{clip}")) };
    let ingest = Running::start(ingest_config(&service.url(), vec![camera])).await.expect("starts");
    let (mut frames, mut with_three) = (0u64, 0u64);
    let (mut voted, mut visits) = (Vec::new(), 0);
    let mut votes: [HashMap<i32, u32>; 3] = Default::default();
    while frames < FRAMES {
        let message = tokio::time::timeout(Duration::from_secs(20), results.message()).await.expect("in time");
        let message = message.expect("the watch stands").expect("a message").message;
        let Some(watch_response::Message::Result(result)) = message else { panic!("not a result: {message:?}") };
        frames += 1;
        if result.frame_number <= ONE_PASS {
            (voted, visits) = people(&result);
        }
        if result.faces.len() != 3 {
            continue;
        }
        with_three += 1;
        for (face, votes) in from_left(&result).iter().zip(&mut votes) {
            if matches!(face.gender(), Gender::Female | Gender::Male) {
                *votes.entry(face.gender).or_default() += 1;
            }
        }
    }
    let counts = ingest.stop().await.expect("stops");
    let served = service.stop().await.expect("stops");
    assert_eq!((counts.balance(), served.balance()), (0, 0), "{counts:?}");
    assert!(counts.answered(Outcome::Analyzed) >= FRAMES);
    println!("votes of {with_three} frames, from left to right: {votes:?}");
    let majority = votes.iter().map(|votes| {
        let most = votes.iter().max_by_key(|(_, count)| **count);
        most.map_or(Gender::Unknown, |(gender, _)| Gender::try_from(*gender).expect("a gender"))
    });
    Seen { with_three: with_three as f64 / frames as f64, named: majority.collect(), voted, visits }
}

/// The faces from left to right.
fn from_left(result: &v1::FrameResult) -> Vec<v1::Face> {
    let mut faces = result.faces.clone();
    let left = |face: &v1::Face| face.r#box.as_ref().map_or(0.0, |bounds| bounds.x_px);
    faces.sort_by(|a, b| left(a).total_cmp(&left(b)));
    faces
}

/// Voted genders of the visits on a frame, from left to right, and how many
/// visits there were so far.
fn people(result: &v1::FrameResult) -> (Vec<Gender>, u32) {
    let tracks = from_left(result).into_iter().filter_map(|face| face.track).filter(|track| track.is_visit);
    let visits = result.counts.as_ref().and_then(|counts| counts.visits.as_ref());
    (tracks.map(|track| track.gender()).collect(), visits.map_or(0, |visits| visits.faces))
}

/// Skips visibly, or returns what was seen: three faces in at least 95 % of
/// the frames, and three visits.
async fn three_people(name: &str, config: Option<Config>) -> Option<Seen> {
    let (Some(clip), Some(config)) = (shared(CLIP), config) else {
        skipped(name, "the shared clips and models are not beside the project");
        return None;
    };
    let seen = watch_clip(config, &clip.display().to_string()).await;
    println!("{name}: {seen:?}");
    assert!(seen.with_three >= 0.95, "three faces in too few frames: {seen:?}");
    assert_eq!((seen.visits, seen.voted.len()), (3, 3), "three people are three visits");
    Some(seen)
}

#[tokio::test]
async fn with_third_party_models() {
    let config = third_party_config("yunet_n", "gender_dlib");
    if let Some(seen) = three_people("clip::with_third_party_models", config).await {
        assert_eq!(seen.named, [Gender::Female, Gender::Male, Gender::Female]);
        assert_eq!(seen.voted, seen.named);
    }
}

/// The first embedded classifier is unsure of the third person in every frame
/// (its model card says how often it is): it must not be wrong about her.
#[tokio::test]
async fn with_the_embedded_models() {
    if let Some(seen) = three_people("clip::with_the_embedded_models", Some(Config::default())).await {
        for genders in [&seen.named, &seen.voted] {
            assert_eq!(genders[..2], [Gender::Female, Gender::Male]);
            assert_ne!(genders[2], Gender::Male);
        }
    }
}
