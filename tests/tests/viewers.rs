//! Live pictures, and the page: what a viewer gets, what it may cost, and who
//! is kept out.

use std::net::SocketAddr;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, stub_config};
use e2e::wait::until;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use inference_service::config::PrivacyMode;
use inference_service::server::slots::MAX_VIEWERS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const SIZE: PictureSize = PictureSize::new(160, 120);

async fn client(service: &Inference) -> ResultServiceClient<Channel> {
    ResultServiceClient::new(service.connect().await.expect("connects"))
}

fn pictures(style: v1::SnapshotStyle) -> v1::WatchSnapshotsRequest {
    v1::WatchSnapshotsRequest { style: style as i32, max_fps: 10.0, ..Default::default() }
}

async fn open(service: &Inference, name: &str) -> RawCamera {
    let channel = service.connect().await.expect("connects");
    RawCamera::open(channel, hello(name, 1)).await.expect("is welcome").0
}

/// Sends one picture, waits until it is analysed, and returns it.
async fn send(camera: &mut RawCamera, seed: u32) -> bytes::Bytes {
    let picture = textured_jpeg(SIZE, seed);
    camera.send_frame(picture.clone(), SIZE, PATIENCE).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), v1::Outcome::Analyzed);
    picture
}

async fn next(stream: &mut Streaming<v1::WatchSnapshotsResponse>) -> Result<v1::Snapshot, Status> {
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time")?;
        // Without a picture it only says that the stream lives.
        if let Some(snapshot) = message.expect("the stream goes on").snapshot {
            return Ok(snapshot);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_gets_what_is_newest() {
    let service = Inference::start(stub_config(500, true)).await.expect("starts");
    let mut door = open(&service, "door").await;
    let first = send(&mut door, 1).await;
    let asked = client(&service).await.watch_snapshots(pictures(v1::SnapshotStyle::Plain)).await;
    let mut viewer = asked.expect("is served").into_inner();
    let snapshot = next(&mut viewer).await.expect("a picture");
    assert_eq!((snapshot.camera_id.as_str(), snapshot.style()), ("door", v1::SnapshotStyle::Plain));
    assert_eq!(snapshot.jpeg, first, "as the camera gave it, byte for byte");
    let mut newest = snapshot.result.expect("what was found in it");
    assert_eq!((newest.faces.len(), newest.width_px), (1, SIZE.width_px));
    for seed in 2..6 {
        send(&mut door, seed).await;
    }
    let mut hall = open(&service, "hall").await;
    send(&mut hall, 9).await;
    let (mut of_hall, last) = (0, newest.frame_number + 4);
    while newest.frame_number < last || of_hall == 0 {
        let result = next(&mut viewer).await.expect("a picture").result.expect("a result");
        if result.camera_id == "hall" {
            of_hall += 1;
        } else {
            assert!(result.frame_number > newest.frame_number, "an old picture again");
            newest = result;
        }
    }
    assert_eq!(of_hall, 1, "a picture is sent once");
    service.begin_stop();
    assert_eq!(next(&mut viewer).await.expect_err("stops").code(), Code::Unavailable);
    drop((door, hall));
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_see_what_the_privacy_mode_allows() {
    use v1::SnapshotStyle::{Annotated, Blurred, Plain, Unspecified};
    for mode in [PrivacyMode::Full, PrivacyMode::Blurred, PrivacyMode::CountsOnly] {
        let mut config = stub_config(500, true);
        config.privacy.mode = mode;
        let service = Inference::start(config).await.expect("starts");
        let mut camera = open(&service, "door").await;
        send(&mut camera, 1).await;
        let mut seen = Vec::new();
        for style in [Unspecified, Annotated, Blurred, Plain] {
            seen.push(match client(&service).await.watch_snapshots(pictures(style)).await {
                Ok(stream) => next(&mut stream.into_inner()).await.map(|one| one.style()).map_err(|error| error.code()),
                Err(status) => Err(status.code()),
            });
        }
        let denied = Err(Code::PermissionDenied);
        match mode {
            PrivacyMode::Full => assert_eq!(seen, [Ok(Annotated), Ok(Annotated), Ok(Blurred), Ok(Plain)]),
            PrivacyMode::Blurred => assert_eq!(seen, [Ok(Blurred), denied, Ok(Blurred), denied]),
            PrivacyMode::CountsOnly => assert_eq!(seen, [denied; 4]),
        }
        service.stop().await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_are_bounded_and_leave_without_a_trace() {
    let service = Inference::start(stub_config(500, true)).await.expect("starts");
    let mut asking = client(&service).await;
    for wrong in [-1.0, 10.5, f32::NAN, f32::INFINITY, 1e-9] {
        let request = v1::WatchSnapshotsRequest { max_fps: wrong, ..Default::default() };
        let status = asking.watch_snapshots(request).await.expect_err("not allowed");
        assert!(status.code() == Code::InvalidArgument && status.message().contains("max_fps"), "{status:?}");
    }
    let mut viewers = Vec::new();
    for _ in 0..MAX_VIEWERS {
        viewers.push(asking.watch_snapshots(pictures(v1::SnapshotStyle::Plain)).await.expect("is served"));
    }
    let status = asking.watch_snapshots(pictures(v1::SnapshotStyle::Plain)).await.expect_err("one too many");
    assert_eq!(status.code(), Code::ResourceExhausted);
    drop(viewers);
    let places = &service.sources.resources.places;
    let place = places.iter().find(|place| place.name == "viewers").expect("is a place");
    until("no viewer is left", PATIENCE, || place.live() == 0).await;
    service.stop().await.expect("stops");
}

/// One request on a connection of its own; the answer's head and body.
async fn ask(page: SocketAddr, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut browser = TcpStream::connect(page).await.expect("connects");
    let length = body.len();
    let head = format!("{head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    browser.write_all(head.as_bytes()).await.expect("writes");
    browser.write_all(body).await.expect("writes");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, browser.read_to_end(&mut answer)).await.expect("in time").expect("reads");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8_lossy(&answer[..end]).into_owned(), answer.split_off(end))
}

const CALL: &str = "HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web+proto";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_and_guarded() {
    let service = Inference::start(stub_config(500, true)).await.expect("starts");
    let (head, body) = ask(service.page, "GET / HTTP/1.1\r\nhost: localhost", b"").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("default-src 'none'"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("<title>Flatframe"), "{}", String::from_utf8_lossy(&body));
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let again = format!("GET / HTTP/1.1\r\nhost: localhost\r\nif-none-match: {tag}");
    assert!(ask(service.page, &again, b"").await.0.starts_with("HTTP/1.1 304"));
    for foreign in ["host: box.example", "host: localhost\r\nsec-fetch-site: cross-site"] {
        let (head, _) = ask(service.page, &format!("GET /main.js HTTP/1.1\r\n{foreign}"), b"").await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    }
    let empty = [0; 5];
    let (head, body) = ask(service.page, &format!("POST /flatframe.v1.ResultService/ListCameras {CALL}"), &empty).await;
    let trailer = String::from_utf8_lossy(&body).contains("grpc-status:0");
    assert!(head.starts_with("HTTP/1.1 200") && trailer, "{head}");
    // What a foreign page may send unasked.
    let plain = CALL.replace("application/grpc-web+proto", "text/plain");
    let (head, _) = ask(service.page, &format!("POST /flatframe.v1.ResultService/ListCameras {plain}"), &empty).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    // Cameras do not come this way.
    for service_of_others in ["FrameService/Publish", "DetectService/Detect"] {
        let (head, _) = ask(service.page, &format!("POST /flatframe.v1.{service_of_others} {CALL}"), &empty).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    }
    service.stop().await.expect("stops");
}
