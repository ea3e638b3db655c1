//! What the result bus costs a worker for each result: writing the result down
//! (once, for history and bus alike) and offering it. Nobody takes anything, so
//! that the queue is full and the oldest give way: the dearest case. Needs no
//! server.
//!
//! `cargo run --release -p inference-service --example publish_cost`

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::{CameraId, FrameNumber, PictureSize, SessionId};
use inference_service::people::track::{FaceTrack, TrackId};
use inference_service::replicas::outbox::{Message, Outbox};
use inference_service::results::record::{Position, ResultRecord};
use inference_service::results::wire::Wire;
use inference_service::vision::{Analysis, Bounds, Face, Gender, Point};
use prost::Message as _;

const ROUNDS: u32 = 100_000;

fn record(faces: usize) -> ResultRecord {
    let bounds = Bounds { x: 100.0, y: 100.0, width: 60.0, height: 80.0 };
    let landmarks = Some([Point { x: 110.0, y: 120.0 }; 5]);
    let face = Face { bounds, score: 0.9, landmarks, gender: None };
    let now = Instant::now();
    let track = FaceTrack {
        id: TrackId(1_000_000),
        confirmed: true,
        newly_confirmed: false,
        gender: Gender::Unknown,
        female: 0.5,
        first_seen: now,
        from: None,
        to: Point { x: 130.0, y: 140.0 },
    };
    ResultRecord {
        position: Position(1_000_000),
        camera: CameraId::parse("front-door").expect("an id"),
        session: SessionId(u64::MAX),
        number: FrameNumber(1_000_000),
        captured_unix_us: 1_700_000_000_000_000,
        captured: now,
        observed_unix_us: 1_700_000_000_000_000,
        latency: Duration::from_millis(30),
        analysis: Analysis {
            size: PictureSize::new(640, 480),
            faces: vec![face; faces],
            truncated: false,
            timings: Default::default(),
            look: None,
        },
        tracks: vec![Some(track); faces],
        counts: Default::default(),
        detector: "flatface-det".into(),
        gender_model: Some("flatface-gender".into()),
    }
}

fn main() {
    let outbox = Outbox::new(8 << 20, Duration::from_secs(300));
    let wire = Wire { server_epoch: u64::MAX, withholds_faces: false };
    for faces in [0, 1, 8, 64] {
        let record = record(faces);
        let (mut writing, mut offering, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
        for number in 0..ROUNDS {
            let begun = Instant::now();
            let body = Bytes::from(black_box(wire.result(black_box(&record))).encode_to_vec());
            writing += begun.elapsed();
            bytes = body.len();
            let begun = Instant::now();
            outbox.offer(Message {
                subject: "flatframe.result.front-door".to_owned(),
                id: format!("front-door/{:x}/{number}", u64::MAX),
                body,
                at: Instant::now(),
                lasts: false,
            });
            offering += begun.elapsed();
        }
        let each = |time: Duration| time.as_nanos() / u128::from(ROUNDS);
        println!("{faces} faces, {bytes} bytes: {} ns to write down, {} ns to offer", each(writing), each(offering));
    }
}
