//! The stream of a camera, message by message, against the real service.

use std::time::Duration;

use bytes::Bytes;
use e2e::camera::{PATIENCE, RawCamera, frame, hello};
use e2e::media::textured_jpeg;
use e2e::pair::Inference;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::{self, Outcome, publish_request, publish_response};
use inference_service::config::Config;
use tonic::Code;

const SIZE: PictureSize = PictureSize::new(320, 240);
const TTL: Duration = PATIENCE;

async fn service() -> Inference {
    Inference::start(Config::default()).await.expect("the service starts")
}

async fn balanced(service: Inference) {
    let counts = service.stop().await.expect("the service stops");
    assert_eq!((counts.balance(), counts.queued), (0, 0), "{counts:?}");
}

#[tokio::test]
async fn a_good_stream() {
    let service = service().await;
    let channel = service.connect().await.expect("connects");
    let (mut camera, welcome) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
    assert_eq!(welcome.protocol_version, 1);
    assert!(welcome.window >= 1 && welcome.max_frame_bytes >= 4096);
    let credit = camera.next().await.expect("open").expect("a message");
    assert!(matches!(credit, publish_response::Message::Credit(c) if c.frames == welcome.window), "{credit:?}");
    for expected in 1..=20 {
        camera.send_frame(textured_jpeg(SIZE, expected as u32), SIZE, TTL).await.expect("sends");
        let outcome = camera.outcome().await.expect("an outcome");
        assert_eq!((outcome.number, outcome.outcome()), (expected, Outcome::Analyzed), "{outcome:?}");
        assert!(outcome.server_us > 0 && outcome.counts.is_some());
    }
    camera.outbox = None;
    while let Some(message) = camera.next().await.expect("a good end") {
        assert!(!matches!(message, publish_response::Message::Outcome(_)), "one outcome for each frame");
    }
    balanced(service).await;
}

#[tokio::test]
async fn a_bad_frame_costs_only_itself() {
    let service = service().await;
    let channel = service.connect().await.expect("connects");
    let (mut camera, welcome) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
    let good = textured_jpeg(SIZE, 1);
    let huge = {
        // A small file whose header names 65500 x 65500 pixels.
        let mut jpeg = good.to_vec();
        let at = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).expect("a frame header");
        jpeg[at + 5..at + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
        Bytes::from(jpeg)
    };
    let too_long = Bytes::from(vec![0xFF; welcome.max_frame_bytes as usize + 1]);
    let bad = [
        ("garbage", Bytes::from_static(b"this is no picture"), SIZE),
        ("cut off", good.slice(..good.len() / 2), SIZE),
        ("empty", Bytes::new(), SIZE),
        ("huge dimensions in the file", huge, SIZE),
        ("huge dimensions in the header", good.clone(), PictureSize::new(100_000, 100_000)),
        ("no dimensions", good.clone(), PictureSize::new(0, 240)),
        ("too many bytes", too_long, SIZE),
    ];
    let mut number = 0;
    for (what, jpeg, size) in bad {
        number += 1;
        let message = publish_request::Message::Frame(frame(number, jpeg, size, TTL));
        camera.send(message).await.expect("sends");
        let outcome = camera.outcome().await.expect(what);
        assert_eq!((outcome.number, outcome.outcome()), (number, Outcome::Invalid), "{what}: {outcome:?}");
        assert!(!outcome.detail.is_empty() && outcome.detail.len() <= 256, "{what}: {:?}", outcome.detail);

        number += 1;
        let message = publish_request::Message::Frame(frame(number, good.clone(), SIZE, TTL));
        camera.send(message).await.expect("sends");
        let outcome = camera.outcome().await.expect("the next good frame");
        assert_eq!((outcome.number, outcome.outcome()), (number, Outcome::Analyzed), "after {what}: {outcome:?}");
    }
    // A number that does not grow, and a deadline that has passed.
    let message = publish_request::Message::Frame(frame(number, good.clone(), SIZE, TTL));
    camera.send(message).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Invalid);
    let message = publish_request::Message::Frame(frame(number + 1, good, SIZE, Duration::ZERO));
    camera.send(message).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Expired);
    balanced(service).await;
}

#[tokio::test]
async fn a_frame_without_credit_is_shed() {
    let service = service().await;
    let channel = service.connect().await.expect("connects");
    let (mut camera, welcome) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
    let (frames, picture) = (u64::from(welcome.window) + 8, textured_jpeg(SIZE, 1));
    // In one go: no frame is done, and its credit back, before the last one is on its way.
    for _ in 0..frames {
        camera.send_frame(picture.clone(), SIZE, TTL).await.expect("sends");
    }
    let mut shed = 0;
    for _ in 0..frames {
        let outcome = camera.outcome().await.expect("every frame is answered");
        if outcome.outcome() == Outcome::Shed {
            assert!(outcome.retry_after_ms > 0);
            shed += 1;
        }
    }
    assert!(shed > 0, "more frames than credits, and none was shed");
    balanced(service).await;
}

#[tokio::test]
async fn wrong_openings_are_refused_with_the_reason() {
    let service = service().await;
    let channel = service.connect().await.expect("connects");
    let ok = hello("cam", 1);
    let cases = [
        (v1::Hello { protocol_version: 2, ..ok.clone() }, Code::FailedPrecondition, "version 2"),
        (v1::Hello { protocol_version: 0, ..ok.clone() }, Code::FailedPrecondition, "version 0"),
        (v1::Hello { camera_id: String::new(), ..ok.clone() }, Code::InvalidArgument, "camera_id"),
        (v1::Hello { camera_id: "a/b".into(), ..ok.clone() }, Code::InvalidArgument, "camera_id"),
        (v1::Hello { camera_id: "x".repeat(10_000), ..ok.clone() }, Code::InvalidArgument, "camera_id"),
        (v1::Hello { rotation_degrees: 45, ..ok.clone() }, Code::InvalidArgument, "rotation_degrees"),
        (v1::Hello { wanted_fps: -1.0, ..ok.clone() }, Code::InvalidArgument, "wanted_fps"),
        (v1::Hello { ttl_ms: 0, ..ok }, Code::InvalidArgument, "ttl_ms"),
    ];
    for (hello, code, word) in cases {
        let status = RawCamera::open(channel.clone(), hello).await.map(drop).expect_err(word);
        assert_eq!(status.code(), code, "{word}: {status:?}");
        assert!(status.message().contains(word), "{word} missing in {:?}", status.message());
        assert!(status.message().len() < 400, "a hostile hello must not come back whole");
    }
    let first = publish_request::Message::Frame(frame(1, textured_jpeg(SIZE, 1), SIZE, TTL));
    let status = RawCamera::open_with(channel, first).await.map(drop).expect_err("no hello");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    balanced(service).await;
}

/// Offline is what the service says of a camera without a stream, and an
/// unknown number is nobody's state.
#[tokio::test]
async fn a_streaming_camera_is_not_offline() {
    let service = service().await;
    for state in [v1::CameraState::Offline as i32, v1::CameraState::Unspecified as i32, 77] {
        let channel = service.connect().await.expect("connects");
        let (mut camera, _) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
        let status = v1::CameraStatus { state, ..Default::default() };
        camera.send(publish_request::Message::Status(status)).await.expect("sends");
        let end = camera.outcome().await.expect_err("refused");
        assert_eq!(end.code(), Code::InvalidArgument, "{state}: {end:?}");
        assert!(end.message().contains("status.state"), "{end:?}");
    }
    balanced(service).await;
}

#[tokio::test]
async fn one_stream_for_each_camera_id() {
    let service = service().await;
    let channel = service.connect().await.expect("connects");
    let (mut first, _) = RawCamera::open(channel.clone(), hello("door", 1)).await.expect("is welcome");
    let status = RawCamera::open(channel.clone(), hello("door", 2)).await.map(drop).expect_err("a second sender");
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(status.message().contains("door"), "{status:?}");
    // The first is not disturbed.
    first.send_frame(textured_jpeg(SIZE, 1), SIZE, TTL).await.expect("sends");
    assert_eq!(first.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    // The same sender coming back takes its place over from its broken stream.
    let (mut again, _) = RawCamera::open(channel, hello("door", 1)).await.expect("is welcome");
    again.send_frame(textured_jpeg(SIZE, 1), SIZE, TTL).await.expect("sends");
    assert_eq!(again.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    let status = first.outcome().await.expect_err("the old stream is ended");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    balanced(service).await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_told_to_come_back() {
    let mut config = Config::default();
    config.limits.max_streams = 2;
    config.limits.max_cameras = 2;
    let service = Inference::start(config).await.expect("the service starts");
    let channel = service.connect().await.expect("connects");
    let (one, _) = RawCamera::open(channel.clone(), hello("one", 1)).await.expect("is welcome");
    let (_two, _) = RawCamera::open(channel.clone(), hello("two", 2)).await.expect("is welcome");
    let status = RawCamera::open(channel.clone(), hello("three", 3)).await.map(drop).expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(flatframe_shared::error::retry_after(&status).is_some(), "no RetryInfo");
    // A sender that comes back takes over the place of its broken stream.
    let mut broken = one;
    let (one, _) = RawCamera::open(channel.clone(), hello("one", 1)).await.expect("is welcome");
    assert_eq!(broken.outcome().await.expect_err("the old stream is ended").code(), Code::Aborted);
    // One leaves: its place, and its entry among the cameras, is free.
    let RawCamera { outbox, mut inbox, .. } = one;
    drop(outbox);
    while inbox.message().await.expect("a good end").is_some() {}
    let (mut three, _) = RawCamera::open(channel, hello("three", 3)).await.expect("is welcome now");
    three.send_frame(textured_jpeg(SIZE, 1), SIZE, TTL).await.expect("sends");
    assert_eq!(three.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    balanced(service).await;
}

#[tokio::test]
async fn draining_is_announced_and_nothing_is_lost() {
    let service = service().await;
    let channel = service.connect().await.expect("connects");
    let (mut camera, _) = RawCamera::open(channel.clone(), hello("cam", 1)).await.expect("is welcome");
    camera.send_frame(textured_jpeg(SIZE, 1), SIZE, TTL).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    service.begin_stop();
    loop {
        match camera.next().await.expect("the stream stands").expect("a message") {
            publish_response::Message::Drain(drain) => break assert!(drain.deadline_ms > 0),
            publish_response::Message::Outcome(outcome) => panic!("not sent: {outcome:?}"),
            _ => {}
        }
    }
    camera.send_frame(textured_jpeg(SIZE, 2), SIZE, TTL).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Draining);
    camera.outbox = None;
    while camera.next().await.expect("a good end").is_some() {}
    let counts = service.stop().await.expect("stops");
    assert_eq!((counts.balance(), counts.received), (0, 2));
}
