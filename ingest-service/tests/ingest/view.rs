//! What leaves the device: nothing under a mask or outside of the region, and
//! no frame without motion but the one that says that the camera lives.

use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1;
use flatframe_shared::jpeg::{decode_rgb, encode_rgb};
use flatframe_shared::outcome::DropReason;
use ingest_service::config::{AdminConfig, CameraConfig, Config, ServerConfig};
use ingest_service::ingest::Ingest;
use tokio_util::sync::CancellationToken;

use crate::support::{FakeServer, soon, until};

const SIZE: PictureSize = PictureSize::new(640, 480);

/// A folder with one picture: white in the middle third, dark around it.
fn folder() -> tempfile::TempDir {
    let is_white = |x: u32, y: u32| (214..426).contains(&x) && (160..320).contains(&y);
    let rgb: Vec<u8> = (0..SIZE.height_px)
        .flat_map(|y| (0..SIZE.width_px).flat_map(move |x| [if is_white(x, y) { 255 } else { 20 }; 3]))
        .collect();
    let mut jpeg = Vec::new();
    encode_rgb(&rgb, SIZE, 95, &mut jpeg).expect("encodes");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("one.jpg"), jpeg).expect("writes");
    folder
}

fn config(address: String, camera: CameraConfig) -> Config {
    Config {
        server: ServerConfig::at(address),
        admin: AdminConfig { listen: String::new(), ..AdminConfig::default() },
        camera: vec![camera],
        ..Config::default()
    }
}

#[tokio::test]
async fn nothing_under_a_mask_and_outside_of_the_region_is_sent() {
    let mut server = FakeServer::start().await;
    let folder = folder();
    let camera = CameraConfig {
        // The whole picture would fit, and be passed on as it is.
        masks: vec![[0.33, 0.33, 0.34, 0.34]],
        region: [0.25, 0.25, 0.5, 0.5],
        fps: 50.0,
        ..CameraConfig::new("a", &format!("file:{}", folder.path().display()))
    };
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config(server.url(), camera), shutdown.clone()).await.expect("starts");
    let mut stream = server.stream().await;
    stream.welcome(4).await;
    for _ in 0..5 {
        stream.credit(1).await;
        let frame = stream.frame().await;
        assert_eq!((frame.width_px, frame.height_px), (320, 240));
        let mut rgb = Vec::new();
        decode_rgb(&frame.jpeg, SIZE, &mut rgb).expect("a JPEG");
        let brightest = rgb.iter().max();
        assert!(brightest < Some(&60), "{brightest:?} shows through");
        stream.answer(frame.number, v1::Outcome::Analyzed).await;
    }
    shutdown.cancel();
    let (counts, ()) = tokio::join!(ingest.join(), stream.half_closed());
    assert_eq!(counts.balance(), 0, "{counts:?}");
}

#[tokio::test]
async fn frames_without_motion_are_still_but_for_one_a_keepalive() {
    let server = FakeServer::start().await.answer_all();
    let folder = folder();
    let camera = CameraConfig {
        motion_percent: 1.0,
        still_keepalive_ms: 1000,
        fps: 50.0,
        ..CameraConfig::new("a", &format!("file:{}", folder.path().display()))
    };
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config(server.url(), camera), shutdown.clone()).await.expect("starts");
    let view = ingest.cameras()[0].clone();
    until("three frames came, most did not", || {
        let counts = view.counts();
        counts.sent >= 3 && counts.dropped(DropReason::Still) > 3 * counts.sent
    })
    .await;
    shutdown.cancel();
    let counts = soon("the service stops", ingest.join()).await;
    assert_eq!(counts.balance(), 0, "{counts:?}");
}
