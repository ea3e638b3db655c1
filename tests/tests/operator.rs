//! What an operator asks of a running service: alive, ready, metrics, health,
//! reflection, resources.

use std::net::SocketAddr;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::wait::{answered, until};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::{GetResourcesRequest, Outcome};
use ingest_service::CameraConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const SIZE: PictureSize = PictureSize::new(160, 120);

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("reads");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).expect("a body"))
}

#[tokio::test]
async fn alive_ready_and_measured() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let (mut camera, _) = RawCamera::open(channel.clone(), hello("cam", 1)).await.expect("is welcome");
    for _ in 0..5 {
        camera.send_frame(textured_jpeg(SIZE, 1), SIZE, PATIENCE).await.expect("sends");
        assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    }
    assert_eq!(get(service.admin, "/livez").await.0, 200);
    assert_eq!(get(service.admin, "/readyz").await.0, 200);
    assert_eq!(get(service.admin, "/elsewhere").await.0, 404);
    let (status, metrics) = get(service.admin, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "flatframe_inference_frames_total{camera=\"cam\",kind=\"stream\",outcome=\"analyzed\"} 5",
        "flatframe_inference_ledger_balance 0",
        "flatframe_inference_stage_seconds_count{stage=\"detect\"} 5",
        "flatframe_inference_place_cap{place=\"streams\"} 32",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is missing in:\n{metrics}");
    }
    let resources = AdminServiceClient::new(channel).get_resources(GetResourcesRequest {}).await.expect("answers");
    let resources = resources.into_inner();
    let parts: u64 = resources.budget.iter().map(|part| part.bound_bytes).sum();
    assert_eq!((resources.ledger_balance, resources.budget_bytes), (0, parts));
    for part in &resources.budget {
        let line = format!("flatframe_inference_budget_part_bytes{{part=\"{}\"}} {}", part.name, part.bound_bytes);
        assert!(metrics.contains(&line), "{line} is missing in:\n{metrics}");
    }
    assert!(resources.rss_bytes.is_some() && resources.places.iter().all(|place| place.live <= place.cap));

    // HTTP/1 on the gRPC port is told so, and closed.
    let (status, body) = get(service.address, "/").await;
    assert_eq!((status, body.contains("gRPC")), (400, true), "{body}");
    drop(camera);
    service.stop().await.expect("stops");
}

/// What grpcurl and a Kubernetes probe ask.
#[tokio::test]
async fn health_and_reflection() {
    const SERVICES: [&str; 4] = ["AdminService", "DetectService", "FrameService", "ResultService"];
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let mut health = HealthClient::new(channel.clone());
    for name in ["", "flatframe.v1.FrameService", "flatframe.v1.ResultService", "flatframe.v1.DetectService"] {
        let answer = health.check(HealthCheckRequest { service: name.into() }).await.expect("known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "no.Such".into() }).await.expect_err("not known");
    assert_eq!(unknown.code(), tonic::Code::NotFound);

    let ask =
        |request| tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request: Some(request) });
    let mut reflection = ServerReflectionClient::new(channel);
    let list = ask(MessageRequest::ListServices(String::new()));
    let mut answers = reflection.server_reflection_info(list).await.expect("answers").into_inner();
    let answer = answers.message().await.expect("a message").and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("{answer:?}") };
    let listed: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for name in SERVICES {
        assert!(listed.contains(&format!("flatframe.v1.{name}")), "{name} is missing in {listed:?}");
    }
    let symbol = ask(MessageRequest::FileContainingSymbol("flatframe.v1.ResultService".into()));
    let mut answers = reflection.server_reflection_info(symbol).await.expect("answers").into_inner();
    let answer = answers.message().await.expect("a message").and_then(|answer| answer.message_response);
    assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    drop((answers, reflection, health));
    service.stop().await.expect("stops");
}

#[tokio::test]
async fn the_ingest_service_tells_too() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let mut config =
        ingest_config(&service.url(), vec![CameraConfig { fps: 50.0, ..CameraConfig::new("cam", "pattern") }]);
    config.admin.listen = "127.0.0.1:0".into();
    config.admin.grpc_listen = "127.0.0.1:0".into();
    let ingest = Running::start(config).await.expect("starts");
    let (admin, grpc) = (ingest.admin.expect("bound"), format!("http://{}", ingest.admin_grpc.expect("bound")));
    let analyzed = || ingest.totals().answered(flatframe_shared::outcome::Outcome::Analyzed);
    until("frames are analysed", PATIENCE, || analyzed() >= 5).await;
    assert_eq!(get(admin, "/livez").await.0, 200);
    answered("it is ready", PATIENCE, async || (get(admin, "/readyz").await.0 == 200).then_some(())).await;
    let (_, metrics) = get(admin, "/metrics").await;
    assert!(metrics.contains("flatframe_ingest_ledger_balance 0"), "{metrics}");
    assert!(metrics.contains("flatframe_ingest_frames_total{"), "{metrics}");
    let channel = tonic::transport::Channel::from_shared(grpc).expect("a URL").connect().await.expect("connects");
    let mut client = AdminServiceClient::new(channel);
    let resources = client.get_resources(GetResourcesRequest {}).await.expect("answers").into_inner();
    assert_eq!(resources.ledger_balance, 0);
    assert!(resources.budget_bytes > 0 && !resources.places.is_empty());
    ingest.stop().await.expect("stops");
    service.stop().await.expect("stops");
}
