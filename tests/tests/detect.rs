//! Single pictures: answers, errors with the limit, deadlines honoured.

use std::time::Duration;

use bytes::Bytes;
use e2e::camera::PATIENCE;
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, stub_config};
use e2e::wait::until;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::{DetectRequest, detect_service_client::DetectServiceClient};
use flatframe_shared::outcome::Outcome;
use inference_service::config::Config;
use tonic::{Code, Request};

const SIZE: PictureSize = PictureSize::new(320, 240);
const ASTRONAUT: &[u8] = include_bytes!("../../inference-service/assets/astronaut.jpg");

#[tokio::test]
async fn finds_the_astronaut_in_every_rotation() {
    let service = Inference::start(Config::default()).await.expect("starts");
    let mut client = DetectServiceClient::new(service.connect().await.expect("connects"));
    let jpeg = Bytes::from_static(ASTRONAUT);
    let upright = client.detect(DetectRequest { jpeg: jpeg.clone(), rotation_degrees: 0 }).await.expect("an answer");
    let upright = upright.into_inner();
    assert_eq!(upright.faces.len(), 1, "{upright:?}");
    assert_eq!(upright.faces[0].gender(), flatframe_shared::r#gen::v1::Gender::Female);

    // The same picture turned by hand, and turned back by the service.
    let limit = PictureSize::new(2000, 2000);
    let mut rgb = Vec::new();
    let size = flatframe_shared::jpeg::decode_rgb(&jpeg, limit, &mut rgb).expect("decodes");
    let (mut turned, mut turned_size) = (rgb, size);
    for quarter in 1..=3u32 {
        (turned, turned_size) = turn_counterclockwise(&turned, turned_size);
        let mut encoded = Vec::new();
        flatframe_shared::jpeg::encode_rgb(&turned, turned_size, 92, &mut encoded).expect("encodes");
        let request = DetectRequest { jpeg: encoded.into(), rotation_degrees: quarter * 90 };
        let found = client.detect(request).await.expect("an answer").into_inner();
        assert_eq!((found.width_px, found.height_px), (upright.width_px, upright.height_px), "{quarter} quarters");
        assert_eq!(found.faces.len(), 1, "{quarter} quarters: {found:?}");
        let (is, was) = (found.faces[0].r#box.expect("a box"), upright.faces[0].r#box.expect("a box"));
        for (is, was) in [(is.x_px, was.x_px), (is.y_px, was.y_px), (is.width_px, was.width_px)] {
            assert!((is - was).abs() < 0.1 * f32::max(was, 40.0), "{quarter} quarters: {is} for {was}");
        }
    }
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

fn turn_counterclockwise(rgb: &[u8], size: PictureSize) -> (Vec<u8>, PictureSize) {
    let (width, height) = (size.width_px as usize, size.height_px as usize);
    let mut out = Vec::with_capacity(rgb.len());
    for x in (0..width).rev() {
        for y in 0..height {
            out.extend_from_slice(&rgb[3 * (y * width + x)..][..3]);
        }
    }
    (out, PictureSize::new(size.height_px, size.width_px))
}

#[tokio::test]
async fn errors_name_the_limit() {
    let service = Inference::start(Config::default()).await.expect("starts");
    let mut client = DetectServiceClient::new(service.connect().await.expect("connects"));
    let good = textured_jpeg(SIZE, 1);
    let wide = textured_jpeg(PictureSize::new(1921, 16), 1);
    let long = Bytes::from(vec![0xFF; Config::default().limits.max_detect_bytes as usize + 1]);
    for (jpeg, rotation_degrees, word) in [
        (Bytes::from_static(b"no picture"), 0, "JPEG"),
        (good.slice(..100), 0, "JPEG"),
        (Bytes::new(), 0, "JPEG"),
        (good.clone(), 45, "rotation"),
        (wide, 0, "1920x1080"),
        (long, 0, "2097152"),
    ] {
        let status = client.detect(DetectRequest { jpeg, rotation_degrees }).await.expect_err(word);
        assert_eq!(status.code(), Code::InvalidArgument, "{word}: {status:?}");
        assert!(status.message().contains(word), "{word} missing in {:?}", status.message());
    }
    client.detect(DetectRequest { jpeg: good, rotation_degrees: 0 }).await.expect("the next good one is served");
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

/// One worker that needs 3 s: calls behind it are late, abandoned or too many,
/// and none of those is computed.
#[tokio::test]
async fn late_abandoned_and_surplus_calls_are_not_computed() {
    let mut config = stub_config(3_000_000, false);
    config.workers.count = 1;
    config.limits.max_detect_calls = 3;
    let service = Inference::start(config).await.expect("starts");
    let client = DetectServiceClient::new(service.connect().await.expect("connects"));
    let request = || DetectRequest { jpeg: textured_jpeg(SIZE, 1), rotation_degrees: 0 };
    let call = |timeout: Option<Duration>| {
        let mut client = client.clone();
        let mut request = Request::new(request());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        tokio::spawn(async move { client.detect(request).await.map(drop) })
    };
    let computed = || service.sources.detect_ledger.counts().answered(Outcome::Analyzed);
    let received = |frames: u64| {
        let ledger = service.sources.detect_ledger.clone();
        async move { until("the call arrives", PATIENCE, || ledger.counts().received >= frames).await }
    };

    let first = call(None);
    received(1).await;
    let late = call(Some(Duration::from_secs(1)));
    received(2).await;
    let abandoned = call(None);
    received(3).await;
    let surplus = call(None).await.expect("joins").expect_err("too many calls");
    assert_eq!(surplus.code(), Code::ResourceExhausted, "{surplus:?}");
    abandoned.abort();
    let late = late.await.expect("joins").expect_err("late");
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    first.await.expect("joins").expect("the first is served");
    // The worker finds the others late and abandoned, and their slots are free.
    let expired = || service.sources.detect_ledger.counts().answered(Outcome::Expired);
    until("the others are expired", PATIENCE, || expired() == 2).await;
    call(None).await.expect("joins").expect("the next is served");
    assert_eq!(computed(), 2, "only what was wanted is computed");
    let counts = service.stop().await.expect("stops");
    assert_eq!((counts.balance(), counts.answered(Outcome::Expired)), (0, 2), "{counts:?}");
}
