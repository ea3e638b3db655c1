//! Clients that watch: what they get, and that none of them harms the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use e2e::camera::{PATIENCE, Pumped, RawCamera, hello, pump_while};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, stub_config};
use e2e::wait::until;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient, watch_response};
use inference_service::config::Config;
use tonic::{Code, Streaming};

const SIZE: PictureSize = PictureSize::new(160, 120);
const TTL: Duration = PATIENCE;

fn all() -> v1::WatchRequest {
    v1::WatchRequest::default()
}

async fn next(results: &mut Streaming<v1::WatchResponse>) -> watch_response::Message {
    let message = tokio::time::timeout(PATIENCE, results.message()).await.expect("in time");
    message.expect("the watch stands").expect("a message").message.expect("not empty")
}

async fn next_result(results: &mut Streaming<v1::WatchResponse>) -> v1::FrameResult {
    match next(results).await {
        watch_response::Message::Result(result) => result,
        other => panic!("not a result: {other:?}"),
    }
}

/// Sends one frame and waits until it is analysed.
async fn send_one(camera: &mut RawCamera) -> u64 {
    let number = camera.send_frame(textured_jpeg(SIZE, 1), SIZE, TTL).await.expect("sends");
    let outcome = camera.outcome().await.expect("answered");
    assert_eq!(outcome.outcome(), v1::Outcome::Analyzed, "{outcome:?}");
    number
}

#[tokio::test]
async fn live_filtered_resumed_and_latest() {
    let service = Inference::start(Config::default()).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let mut client = ResultServiceClient::new(channel.clone());

    let status = client.get_latest(v1::GetLatestRequest { camera_id: "a".into() }).await.expect_err("not there yet");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let status = client.get_latest(v1::GetLatestRequest { camera_id: "a b".into() }).await.expect_err("no id");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    let (mut a, _) = RawCamera::open(channel.clone(), hello("a", 1)).await.expect("is welcome");
    let (mut b, _) = RawCamera::open(channel.clone(), hello("b", 2)).await.expect("is welcome");
    let latest = client.get_latest(v1::GetLatestRequest { camera_id: "a".into() }).await.expect("known");
    let latest = latest.into_inner();
    assert!(latest.result.is_none() && latest.age_ms.is_none(), "no frame yet is a state: {latest:?}");
    assert_eq!(latest.camera.expect("there").camera_id, "a");

    let mut every = client.watch(all()).await.expect("watches").into_inner();
    let only_b = v1::WatchRequest { camera_ids: vec!["b".into()], after_position: None, ..Default::default() };
    let mut only_b = client.watch(only_b).await.expect("watches").into_inner();
    send_one(&mut a).await;
    send_one(&mut b).await;
    send_one(&mut a).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let result = next_result(&mut every).await;
        seen.push((result.camera_id.clone(), result.frame_number, result.position, result.server_epoch));
        assert_eq!((result.width_px, result.height_px), (SIZE.width_px, SIZE.height_px));
        assert!(result.latency_us > 0 && !result.detector.is_empty());
    }
    let order: Vec<_> = seen.iter().map(|(camera, number, ..)| (camera.as_str(), *number)).collect();
    assert_eq!(order, [("a", 1), ("b", 1), ("a", 2)]);
    assert!(seen.windows(2).all(|two| two[0].2 < two[1].2 && two[0].3 == two[1].3), "{seen:?}");
    assert_eq!(next_result(&mut only_b).await.camera_id, "b");

    let resumed = v1::WatchRequest { camera_ids: Vec::new(), after_position: Some(seen[0].2), ..Default::default() };
    let mut resumed = client.watch(resumed).await.expect("watches").into_inner();
    assert_eq!(next_result(&mut resumed).await.position, seen[1].2);
    assert_eq!(next_result(&mut resumed).await.position, seen[2].2);

    let latest = client.get_latest(v1::GetLatestRequest { camera_id: "a".into() }).await.expect("known").into_inner();
    assert_eq!(latest.result.expect("there now").frame_number, 2);
    assert!(latest.age_ms.is_some());
    let cameras = client.list_cameras(v1::ListCamerasRequest {}).await.expect("lists").into_inner().cameras;
    let analyzed: HashMap<_, _> = cameras
        .iter()
        .map(|camera| (camera.camera_id.as_str(), camera.ledger.as_ref().map(|ledger| ledger.received)))
        .collect();
    assert_eq!(analyzed, HashMap::from([("a", Some(2)), ("b", Some(1))]));
    drop((a, b));
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

#[tokio::test]
async fn too_many_watchers_are_told_to_come_back() {
    let mut config = Config::default();
    config.limits.max_subscribers = 1;
    let service = Inference::start(config).await.expect("starts");
    let mut client = ResultServiceClient::new(service.connect().await.expect("connects"));
    let first = client.watch(all()).await.expect("watches");
    let status = client.watch(all()).await.expect_err("full");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(flatframe_shared::error::retry_after(&status).is_some(), "no RetryInfo");
    let many = v1::WatchRequest { camera_ids: vec!["a".into(); 257], after_position: None, ..Default::default() };
    assert_eq!(client.watch(many).await.expect_err("too many ids").code(), Code::InvalidArgument);
    drop(first);
    service.stop().await.expect("stops");
}

/// A client that never reads: the others get every result meanwhile, and it is
/// cut, with all its memory, within 10 s.
#[tokio::test]
async fn a_stalled_watcher_is_cut_and_disturbs_nobody() {
    let mut config = stub_config(500, true);
    config.limits.subscriber_stall_s = 2;
    config.limits.subscriber_queue = 16;
    let service = Inference::start(config).await.expect("starts");
    let (camera, _) =
        RawCamera::open(service.connect().await.expect("connects"), hello("cam", 1)).await.expect("is welcome");

    // A window of 1 byte: the stream is stalled after its first bytes, while
    // the connection itself answers every ping.
    let narrow = tonic::transport::Channel::from_shared(service.url()).expect("a URL").initial_stream_window_size(1);
    let mut stalled = ResultServiceClient::new(narrow.connect().await.expect("connects"));
    let mut unread = stalled.watch(all()).await.expect("watches").into_inner();
    let mut reader = ResultServiceClient::new(service.connect().await.expect("connects"));
    let mut read = reader.watch(all()).await.expect("watches").into_inner();
    let (results, missed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let reading = tokio::spawn({
        let (results, missed) = (results.clone(), missed.clone());
        async move {
            while let Ok(Some(response)) = read.message().await {
                match response.message {
                    Some(watch_response::Message::Result(_)) => results.fetch_add(1, Relaxed),
                    Some(watch_response::Message::Gap(gap)) => missed.fetch_add(gap.missed, Relaxed),
                    Some(watch_response::Message::Elsewhere(_)) | None => 0,
                };
            }
        }
    });

    let picture = [(textured_jpeg(SIZE, 1), SIZE)];
    let end = Instant::now() + PATIENCE;
    let goes_on = |_: &Pumped| service.sources.bus.cut() == 0 && Instant::now() < end;
    let pumped = pump_while(camera, &picture, TTL, goes_on).await.expect("the camera is not disturbed");
    assert_eq!(service.sources.bus.cut(), 1, "the stalled watcher is cut");
    assert_eq!(service.sources.bus.subscribers(), 1, "only the reader is left");
    // Its connection is gone: reading ends with an error, not with results.
    let end = tokio::time::timeout(PATIENCE, async { while let Ok(Some(_)) = unread.message().await {} });
    end.await.expect("the stalled client's stream has ended");

    let analyzed = pumped.count(v1::Outcome::Analyzed);
    let reached = || (results.load(Relaxed), missed.load(Relaxed));
    let is_told = || reached().0 + reached().1 == analyzed;
    until("every result reached the reader or was named in a gap", PATIENCE, is_told).await;
    let (results, missed) = reached();
    assert!(results > analyzed / 2, "{results} of {analyzed} results, {missed} missed");
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
    reading.await.expect("ends with the service");
}

/// Clients that leave before the first byte leave nothing behind.
#[tokio::test]
async fn leaving_before_the_first_byte_frees_everything() {
    let service = Inference::start(stub_config(500, false)).await.expect("starts");
    for _ in 0..100 {
        let mut client = ResultServiceClient::new(service.connect().await.expect("connects"));
        let results = client.watch(all()).await.expect("watches");
        drop((client, results));
    }
    for _ in 0..100 {
        drop(tokio::net::TcpStream::connect(service.address).await.expect("connects"));
    }
    // The service learns of it from its sockets.
    let sources = &service.sources;
    let is_free = || sources.bus.subscribers() == 0 && sources.connections.open.load(Relaxed) == 0;
    until("nothing is left behind", PATIENCE, is_free).await;
    service.stop().await.expect("stops");
}
