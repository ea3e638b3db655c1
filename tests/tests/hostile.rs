//! Peers that mean harm: what they cost is bounded, and others are served.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use e2e::camera::{PATIENCE, RawCamera, hello, pump};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, stub_config};
use e2e::wait::answered;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::detect_service_client::DetectServiceClient;
use flatframe_shared::r#gen::v1::frame_service_client::FrameServiceClient;
use flatframe_shared::r#gen::v1::{DetectRequest, Outcome, PublishRequest};
use inference_service::intake::link::MAX_OPENINGS;
use inference_service::server::slots::{MAX_HEALTH_CHECKS, MAX_HEALTH_WATCHES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Code, Request};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;

const SIZE: PictureSize = PictureSize::new(160, 120);

/// A loop of calls takes the share of one camera, not all of it.
#[tokio::test]
async fn a_flood_of_calls_leaves_cameras_their_share() {
    let mut config = stub_config(10_000, false);
    config.workers.count = 1;
    let service = Inference::start(config).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let end = Instant::now() + Duration::from_secs(4);
    let mut calls = Vec::new();
    for _ in 0..8 {
        let mut client = DetectServiceClient::new(channel.clone());
        calls.push(tokio::spawn(async move {
            let (jpeg, mut answered) = (textured_jpeg(SIZE, 1), 0u64);
            while Instant::now() < end {
                // Refusals are part of a flood.
                let call = client.detect(DetectRequest { jpeg: jpeg.clone(), rotation_degrees: 0 });
                answered += u64::from(call.await.is_ok());
            }
            answered
        }));
    }
    let (camera, _) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
    let picture = [(textured_jpeg(SIZE, 1), SIZE)];
    let pumped = pump(camera, &picture, Duration::from_secs(2), end).await.expect("the stream stands");
    let mut answered = 0;
    for call in calls {
        answered += call.await.expect("joins");
    }
    // Eight callers and one camera: its share is half of the worker, not a ninth.
    let analyzed = pumped.count(Outcome::Analyzed);
    assert!(analyzed * 3 > answered, "{analyzed} frames beside {answered} calls: {pumped:?}");
    // 52, or less for a second after the machine stood still.
    if let Some(pace) = pumped.lowest_pace {
        assert!(pace > 5.0, "asked for {pace} frames/s");
    }
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

/// Connections that never speak are closed, and beyond the cap they give way.
#[tokio::test]
async fn silent_connections_are_closed() {
    let mut config = stub_config(1_000, false);
    config.limits.max_streams = 4;
    config.limits.max_connections = 8;
    let service = Inference::start(config).await.expect("starts");
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(service.address).await.expect("connects"));
    }
    for socket in &mut silent {
        let mut rest = [0; 16];
        // Closed or reset: either way it is over, long before idle ones are closed (60 s).
        let closed = tokio::time::timeout(PATIENCE, socket.read(&mut rest)).await.expect("is closed in time");
        assert!(matches!(closed, Ok(0) | Err(_)));
    }
    assert!(service.sources.connections.gave_way.load(Relaxed) >= 4);
    let (mut camera, _) =
        RawCamera::open(service.connect().await.expect("connects"), hello("cam", 1)).await.expect("is welcome");
    camera.send_frame(textured_jpeg(SIZE, 1), SIZE, PATIENCE).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    drop(camera);
    service.stop().await.expect("stops");
}

/// Garbage after a valid preface ends that connection only.
#[tokio::test]
async fn garbage_ends_only_its_own_connection() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let (mut camera, _) =
        RawCamera::open(service.connect().await.expect("connects"), hello("cam", 1)).await.expect("is welcome");
    for seed in 0..20u8 {
        let mut socket = TcpStream::connect(service.address).await.expect("connects");
        let mut data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        data.extend((0..4096u32).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)));
        let _ = socket.write_all(&data).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("is closed in time");
        camera.says_live().await.expect("the stream stands");
    }
    camera.send_frame(textured_jpeg(SIZE, 1), SIZE, PATIENCE).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    drop(camera);
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

/// Clients that watch the health for ever are few, and take nothing from the
/// checks.
#[tokio::test]
async fn health_watches_leave_the_checks_alone() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let mut health = HealthClient::new(service.connect().await.expect("connects"));
    let mut watches = Vec::new();
    for _ in 0..MAX_HEALTH_WATCHES {
        let mut watch = health.watch(HealthCheckRequest::default()).await.expect("is served").into_inner();
        assert!(watch.message().await.expect("is served").is_some());
        watches.push(watch);
    }
    let refused = health.watch(HealthCheckRequest::default()).await.expect_err("is one too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    health.check(HealthCheckRequest::default()).await.expect("is answered");
    watches.pop();
    let again = answered("a place is free", PATIENCE, async || health.watch(HealthCheckRequest::default()).await.ok());
    drop((again.await, watches));
    service.stop().await.expect("stops");
}

/// Checks that are never sent to their end take no more than the share of one
/// connection: a probe is answered.
#[tokio::test]
async fn slow_health_checks_leave_slots_for_a_probe() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let mut slow = JoinSet::new();
    for _ in 0..MAX_HEALTH_CHECKS {
        let mut client = Grpc::new(channel.clone());
        slow.spawn(async move {
            client.ready().await.expect("is connected");
            let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
            let endless = Request::new(tokio_stream::pending::<HealthCheckRequest>());
            let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
            client.streaming(endless, path, codec).await.map(|_| ())
        });
    }
    let first = slow.join_next().await.expect("one of them").expect("joins");
    let refused = first.expect_err("beyond the share it is refused at once, before the others' time is over");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let mut probe = HealthClient::new(service.connect().await.expect("connects"));
    probe.check(HealthCheckRequest::default()).await.expect("is answered");
    drop(slow);
    service.stop().await.expect("stops");
}

/// Streams that never say hello do not keep a camera out.
#[tokio::test]
async fn silent_streams_give_way_to_a_camera() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_OPENINGS {
        let (outbox, outgoing) = tokio::sync::mpsc::channel::<PublishRequest>(1);
        let mut client = FrameServiceClient::new(channel.clone());
        let opening = tokio::spawn(async move { client.publish(ReceiverStream::new(outgoing)).await });
        silent.push((outbox, opening));
    }
    let (first, others) = silent.split_at_mut(MAX_OPENINGS);
    for (_, opening) in first {
        let refused = opening.await.expect("joins").expect_err("gives way");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    }
    let (mut camera, _) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
    camera.send_frame(textured_jpeg(SIZE, 1), SIZE, PATIENCE).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    others.iter().for_each(|(_, opening)| opening.abort());
    drop((camera, silent));
    service.stop().await.expect("stops");
}
