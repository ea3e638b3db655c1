//! The pair on a wire that fails, with cameras that fail: what is hit recovers,
//! what is beside it goes on, and no frame is without an outcome.

use std::time::{Duration, Instant};

use e2e::link::{Condition, Link};
use e2e::media::{picture_folder, textured_jpeg};
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::wait::{answered, until};
use flatframe_shared::frame::{CameraState, PictureSize};
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use flatframe_shared::outcome::{DropReason, Outcome};
use ingest_service::{CameraConfig, CameraView};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SIZE: PictureSize = PictureSize::new(320, 240);
/// Every fault is over within 10 s of its end, and every stalled party cut
/// within 10 s; a busy machine takes longer.
const RECOVERY: Duration = Duration::from_secs(20);
/// Frames that show that a camera goes on: more than can be on their way.
const GOES_ON: u64 = 10;

fn analyzed(camera: &CameraView) -> u64 {
    camera.counts().answered(Outcome::Analyzed)
}

/// Waits until `camera` has `more` further analysed frames.
async fn wait_analyzed(camera: &CameraView, more: u64) -> Duration {
    let goal = analyzed(camera) + more;
    until(camera.id().as_str(), RECOVERY, || analyzed(camera) >= goal).await
}

#[tokio::test]
async fn a_cut_wire_loses_what_was_on_it_and_no_more() {
    let service = Inference::start(stub_config(2_000, false)).await.expect("starts");
    let link = Link::start(service.address).await.expect("a wire");
    let (_folder, source) = picture_folder(SIZE).expect("a folder");
    let camera = CameraConfig { fps: 100.0, ..CameraConfig::new("cam", &source) };
    let ingest = Running::start(ingest_config(&link.url(), vec![camera])).await.expect("starts");
    let camera = ingest.cameras[0].clone();
    for _ in 0..5 {
        wait_analyzed(&camera, 30).await;
        link.cut();
    }
    wait_analyzed(&camera, 30).await;
    let counts = ingest.stop().await.expect("stops");
    let served = service.stop().await.expect("stops");
    link.stop().await;
    assert_eq!((counts.balance(), served.balance()), (0, 0), "{counts:?} {served:?}");
    assert!(counts.dropped(DropReason::Offline) > 0, "a camera goes on while the wire is cut: {counts:?}");
    // At most the window is on the wire at each cut.
    assert!(counts.lost <= 5 * 4, "{counts:?}");
    assert_eq!((counts.waiting, counts.in_flight), (0, 0), "{counts:?}");
}

#[tokio::test]
async fn a_frozen_wire_is_cut_and_disturbs_nobody_else() {
    let service = Inference::start(stub_config(2_000, false)).await.expect("starts");
    let link = Link::start(service.address).await.expect("a wire");
    let (_folder, source) = picture_folder(SIZE).expect("a folder");
    let camera = |id: &str| CameraConfig { fps: 50.0, ..CameraConfig::new(id, &source) };
    let frozen = Running::start(ingest_config(&link.url(), vec![camera("frozen")])).await.expect("starts");
    let free = Running::start(ingest_config(&service.url(), vec![camera("free")])).await.expect("starts");
    wait_analyzed(&frozen.cameras[0], 20).await;
    wait_analyzed(&free.cameras[0], 20).await;

    link.set(Condition { frozen: true, ..Condition::default() });
    // Neither side gives up before 6 s: hundreds of frames.
    let (start, before) = (Instant::now(), analyzed(&free.cameras[0]));
    let sender = frozen.cameras[0].clone();
    until("the sender gives up", RECOVERY, || !sender.connected()).await;
    until("the server gives up", RECOVERY, || {
        service.sources.cameras.all().iter().any(|camera| camera.stream().is_none())
    })
    .await;
    let beside = analyzed(&free.cameras[0]) - before;
    println!("frozen wire: cut on both sides after {:.1?}; beside it {beside} frames", start.elapsed());
    assert!(beside >= GOES_ON, "the camera beside it: {beside} frames meanwhile");

    link.set(Condition::default());
    wait_analyzed(&frozen.cameras[0], 20).await;
    let counts = [frozen.stop().await.expect("stops"), free.stop().await.expect("stops")];
    let served = service.stop().await.expect("stops");
    link.stop().await;
    assert!(counts[0].lost <= 4, "{counts:?}");
    assert_eq!(counts.map(|counts| counts.balance()), [0, 0]);
    assert_eq!(served.balance(), 0);
}

#[tokio::test]
async fn a_slow_wire_gives_no_stale_answers() {
    let service = Inference::start(stub_config(2_000, false)).await.expect("starts");
    let link = Link::start(service.address).await.expect("a wire");
    link.set(Condition { delay: Duration::from_millis(100), frozen: false });
    let (_folder, source) = picture_folder(SIZE).expect("a folder");
    let camera = CameraConfig { fps: 50.0, ttl_ms: 800, ..CameraConfig::new("far", &source) };
    let ingest = Running::start(ingest_config(&link.url(), vec![camera])).await.expect("starts");
    wait_analyzed(&ingest.cameras[0], 40).await;
    let p50 = ingest.cameras[0].latency().quantile(0.5).expect("measured");
    assert!(p50 >= Duration::from_millis(200) && p50 < Duration::from_millis(800), "{p50:?}");
    let counts = ingest.stop().await.expect("stops");
    assert_eq!((counts.balance(), service.stop().await.expect("stops").balance()), (0, 0));
    link.stop().await;
}

/// An MJPEG camera that gives `pictures` pictures on each connection, then
/// stays silent with the connection open.
async fn falls_silent(pictures: usize) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let jpeg = textured_jpeg(SIZE, 1);
    let serving = tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: multipart/x-mixed-replace; boundary=x\r\n\r\n";
            let _ = socket.write_all(head.as_bytes()).await;
            for _ in 0..pictures {
                let part = format!("--x\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n", jpeg.len());
                let _ = socket.write_all(&[part.as_bytes(), &jpeg, b"\r\n"].concat()).await;
            }
            silent.push(socket);
        }
    });
    (format!("mjpeg+http://{address}/stream"), serving)
}

#[tokio::test]
async fn a_stalled_camera_is_seen_as_such_and_disturbs_nobody_else() {
    let service = Inference::start(stub_config(2_000, false)).await.expect("starts");
    let (silent_source, silent) = falls_silent(3).await;
    let (_folder, source) = picture_folder(SIZE).expect("a folder");
    let cameras = vec![
        CameraConfig { fps: 50.0, ..CameraConfig::new("good", &source) },
        CameraConfig { fps: 50.0, no_picture_ms: 3000, ..CameraConfig::new("silent", &silent_source) },
    ];
    let ingest = Running::start(ingest_config(&service.url(), cameras)).await.expect("starts");
    let (good, stalled) = (ingest.cameras[0].clone(), ingest.cameras[1].clone());
    wait_analyzed(&good, 20).await;
    until("the camera is seen as stalled", RECOVERY, || stalled.status().state == CameraState::Stalled).await;
    let mut client = ResultServiceClient::new(service.connect().await.expect("connects"));
    let camera = answered("clients are told", RECOVERY, async || {
        let request = v1::GetLatestRequest { camera_id: "silent".into() };
        let latest = client.get_latest(request).await.ok()?.into_inner();
        latest.camera.filter(|camera| camera.state() == v1::CameraState::Stalled)
    })
    .await;
    assert!(!camera.detail.is_empty(), "and told why");
    answered("the camera beside it goes on while it is silent", RECOVERY, async || {
        let before = stalled.counts().captured;
        wait_analyzed(&good, GOES_ON).await;
        (stalled.counts().captured == before).then_some(())
    })
    .await;
    // It is opened again, and gives its pictures again.
    let captured = stalled.counts().captured;
    until("the camera is opened again", RECOVERY, || stalled.counts().captured >= captured + 3).await;
    let counts = ingest.stop().await.expect("stops");
    assert_eq!((counts.balance(), service.stop().await.expect("stops").balance()), (0, 0));
    silent.abort();
}

#[tokio::test]
async fn a_server_that_stops_in_order_loses_nothing() {
    let (_folder, source) = picture_folder(SIZE).expect("a folder");
    let first = Inference::start(stub_config(2_000, false)).await.expect("starts");
    let camera = CameraConfig { fps: 50.0, ..CameraConfig::new("cam", &source) };
    let ingest = Running::start(ingest_config(&first.url(), vec![camera])).await.expect("starts");
    let camera = ingest.cameras[0].clone();
    wait_analyzed(&camera, 20).await;
    let served = first.stop().await.expect("stops");
    assert_eq!(served.balance(), 0);
    until("the sender knows", RECOVERY, || !camera.connected()).await;
    let counts = ingest.stop().await.expect("stops while it tries to connect");
    assert_eq!(counts.balance(), 0, "{counts:?}");
    assert_eq!(counts.lost, 0, "a server that stops in order loses nothing: {counts:?}");
}
