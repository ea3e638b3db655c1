//! All parts together: capture to answer, isolation of cameras, the operator's
//! ports, start and stop again and again.

use std::time::Instant;

use flatframe_shared::frame::{CameraState, PictureSize};
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use flatframe_shared::jpeg;
use flatframe_shared::outcome::{DropReason, Outcome};
use flatframe_shared::process;
use flatframe_shared::shutdown::SHUTDOWN_DEADLINE;
use ingest_service::{CameraConfig, Config, Ingest, known_answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{FakeServer, answered, soon, until, welcome};

fn config(server: &str, cameras: Vec<CameraConfig>) -> Config {
    let mut config = Config { camera: cameras, ..Config::default() };
    config.server.address = server.into();
    config.admin.listen = "127.0.0.1:0".into();
    config.admin.grpc_listen = "127.0.0.1:0".into();
    config
}

fn pattern(id: &str, fps: f32) -> CameraConfig {
    CameraConfig { fps, ..CameraConfig::new(id, "pattern") }
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    soon("an answer", socket.read_to_string(&mut answer)).await.expect("reads");
    answer
}

#[tokio::test]
async fn frames_are_answered_and_operators_see_it() {
    let server = FakeServer::start().await.answer_all();
    let shutdown = CancellationToken::new();
    let ingest =
        Ingest::start(config(&server.url(), vec![pattern("a", 60.0)]), shutdown.clone()).await.expect("starts");
    let camera = ingest.cameras()[0].clone();
    let is_well = || camera.connected() && camera.status().state == CameraState::Live;
    until("50 analyzed", || camera.counts().answered(Outcome::Analyzed) >= 50 && is_well()).await;
    assert!(camera.latency().count() >= 50);
    assert!(ingest.places().iter().all(|place| place.live() <= place.cap), "{:?}", ingest.places());

    let admin = ingest.admin_address().expect("bound");
    assert!(get(admin, "/livez").await.contains("200"));
    assert!(get(admin, "/readyz").await.contains("200"));
    let metrics = get(admin, "/metrics").await;
    for line in [
        "flatframe_ingest_ledger_balance 0",
        "flatframe_ingest_frames_total{camera=\"a\",side=\"answered\",outcome=\"analyzed\"}",
        "flatframe_ingest_camera_state{camera=\"a\",state=\"live\"} 1",
        "flatframe_ingest_last_picture_age_seconds{camera=\"a\"}",
        "flatframe_ingest_place_cap{place=\"a/mailbox_frames\"} 2",
        "flatframe_ingest_latency_seconds_count{camera=\"a\"}",
        "flatframe_ingest_rss_bytes",
        "flatframe_ingest_budget_bytes",
        "flatframe_ingest_threads",
        "flatframe_ingest_open_files",
    ] {
        assert!(metrics.contains(line), "{line} missing in:\n{metrics}");
    }

    let grpc = format!("http://{}", ingest.admin_grpc_address().expect("bound"));
    let channel = Endpoint::from_shared(grpc).expect("an address").connect().await.expect("connects");
    let mut client = AdminServiceClient::new(channel.clone());
    let resources = client.get_resources(v1::GetResourcesRequest {}).await.expect("answers").into_inner();
    assert_eq!((resources.ledger_balance, resources.places.len()), (0, 4));
    assert_eq!(resources.budget_bytes, ingest.budget().total_bytes());
    let mut health = HealthClient::new(channel);
    answered("health says serving", async || {
        let health = health.check(HealthCheckRequest::default()).await.expect("answers");
        (health.into_inner().status == 1).then_some(())
    })
    .await;

    shutdown.cancel();
    let counts = soon("the service stops", ingest.join()).await;
    assert_eq!((counts.balance(), counts.waiting, counts.in_flight), (0, 0, 0), "{counts:?}");
}

#[tokio::test]
async fn pictures_are_brought_to_what_the_server_takes() {
    let mut server = FakeServer::start().await;
    let large = CameraConfig { width_px: 1280, height_px: 720, faces: 3, ..pattern("a", 30.0) };
    assert_eq!(known_answer(&large).female, 3);
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config(&server.url(), vec![large]), shutdown.clone()).await.expect("starts");
    let mut stream = server.stream().await;
    let pace = Some(v1::Pace { max_fps: 0.0, max_width_px: 320, max_height_px: 320 });
    stream.tell(Down::Welcome(v1::Welcome { pace, max_frame_bytes: 12_000, ..welcome(4) })).await;
    stream.credit(1).await;
    let frame = stream.frame().await;
    assert_eq!((frame.width_px, frame.height_px), (320, 180));
    assert!(frame.jpeg.len() <= 12_000);
    assert_eq!(jpeg::read_size(&frame.jpeg), Ok(PictureSize::new(320, 180)));
    assert!(frame.age_us < 20_000_000 && frame.remaining_us <= 1_000_000);
    shutdown.cancel();
    let (counts, ()) = tokio::join!(ingest.join(), stream.half_closed());
    assert_eq!((counts.balance(), counts.lost), (0, 1), "{counts:?}");
}

#[tokio::test]
async fn one_bad_camera_holds_up_no_other() {
    let server = FakeServer::start().await.answer_all();
    // It takes the connection and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("mjpeg+http://{}/", silent.local_addr().expect("bound"));
    let cameras = vec![
        pattern("good", 30.0),
        CameraConfig::new("silent", &address),
        CameraConfig::new("missing", "file:/no/such/clip.mjpeg"),
        CameraConfig { command: vec!["false".into()], ..CameraConfig::new("broken", "rpicam") },
    ];
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config(&server.url(), cameras), shutdown.clone()).await.expect("starts");
    let [good, missing] = [0, 2].map(|camera| ingest.cameras()[camera].clone());
    until("90 analyzed", || good.counts().answered(Outcome::Analyzed) >= 90).await;
    until("no clip", || missing.status().state == CameraState::Down).await;
    let readyz = get(ingest.admin_address().expect("bound"), "/readyz").await;
    assert!(readyz.contains("503") && readyz.contains("missing") && readyz.contains("/no/such/clip.mjpeg"), "{readyz}");
    assert!(!readyz.contains("camera good"), "{readyz}");
    let start = Instant::now();
    shutdown.cancel();
    let counts = soon("the service stops", ingest.join()).await;
    assert!(start.elapsed() < 2 * SHUTDOWN_DEADLINE, "{:?}", start.elapsed());
    assert_eq!(counts.balance(), 0);
}

#[tokio::test]
async fn without_a_server_frames_are_offline_and_nothing_is_decoded() {
    let shutdown = CancellationToken::new();
    let mut config = config("http://127.0.0.1:1", vec![pattern("a", 100.0)]);
    config.admin.listen = String::new();
    let ingest = Ingest::start(config, shutdown.clone()).await.expect("starts");
    let camera = ingest.cameras()[0].clone();
    until("20 offline", || camera.counts().dropped(DropReason::Offline) >= 20).await;
    assert!(!camera.connected());
    shutdown.cancel();
    let counts = soon("the service stops", ingest.join()).await;
    assert_eq!((counts.sent, counts.balance()), (0, 0));
}

#[tokio::test]
async fn the_server_may_come_later_and_go_and_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let shutdown = CancellationToken::new();
    let url = format!("http://{address}");
    let ingest = Ingest::start(config(&url, vec![pattern("a", 60.0)]), shutdown.clone()).await.expect("starts");
    let camera = ingest.cameras()[0].clone();
    until("offline", || camera.counts().dropped(DropReason::Offline) >= 5).await;
    for round in 1..=3 {
        let listener = answered("the port is free again", async || TcpListener::bind(address).await.ok()).await;
        let server = FakeServer::start_on(listener).await.answer_all();
        until("answers", || camera.counts().answered(Outcome::Analyzed) >= 20 * round).await;
        drop(server);
        until("not connected", || !camera.connected()).await;
    }
    shutdown.cancel();
    let counts = soon("the service stops", ingest.join()).await;
    assert_eq!((counts.balance(), counts.waiting, counts.in_flight), (0, 0, 0), "{counts:?}");
}

#[tokio::test]
async fn started_and_stopped_again_and_again_it_leaves_nothing() {
    let server = FakeServer::start().await.answer_all();
    let mut files = Vec::new();
    for round in 0..30 {
        let shutdown = CancellationToken::new();
        let mut config = config(&server.url(), vec![pattern("a", 240.0), pattern("b", 240.0)]);
        for camera in &mut config.camera {
            (camera.width_px, camera.height_px) = (160, 120);
        }
        let ingest = Ingest::start(config, shutdown.clone()).await.expect("starts");
        let cameras = ingest.cameras().to_vec();
        until("answers", || cameras.iter().all(|camera| camera.counts().answered(Outcome::Analyzed) >= 3)).await;
        shutdown.cancel();
        assert_eq!(soon("the service stops", ingest.join()).await.balance(), 0);
        if round >= 10 {
            files.push(process::current_use().open_files.expect("readable"));
        }
    }
    // Other tests of this program run beside it: the least is what counts.
    let (early, late) = files.split_at(files.len() / 2);
    let least = |files: &[u64]| files.iter().min().copied();
    assert!(least(late) <= least(early).map(|files| files + 16), "{files:?}");
}
