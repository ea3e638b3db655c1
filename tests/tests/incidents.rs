//! Incidents of cameras as clients are told of them, and how it looked then.

use std::time::Duration;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, stub_config};
use flatframe_shared::frame::{CameraId, PictureSize};
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use inference_service::results::incident_pictures::Moment;
use tonic::Code;
use tonic::transport::Channel;

const SIZE: PictureSize = PictureSize::new(160, 120);
const TTL: Duration = PATIENCE;

async fn client(service: &Inference) -> ResultServiceClient<Channel> {
    ResultServiceClient::new(service.connect().await.expect("connects"))
}

async fn open(service: &Inference, session: u64) -> RawCamera {
    let channel = service.connect().await.expect("connects");
    RawCamera::open(channel, hello("door", session)).await.expect("is welcome").0
}

async fn next_incident(watch: &mut tonic::Streaming<v1::WatchIncidentsResponse>) -> v1::Incident {
    let message = tokio::time::timeout(PATIENCE, watch.message()).await.expect("in time");
    match message.expect("stands").expect("a message").message {
        Some(v1::watch_incidents_response::Message::Incident(incident)) => incident,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_camera_that_goes_is_an_incident_until_it_comes_back() {
    let mut config = stub_config(500, false);
    config.incidents.offline_s = 0;
    let service = Inference::start(config).await.expect("starts");
    let mut asking = client(&service).await;
    let mut watch = asking.watch_incidents(v1::WatchIncidentsRequest::default()).await.expect("watches").into_inner();
    let other = v1::WatchIncidentsRequest { camera_ids: vec!["other".into()], only_known: false };
    let mut other = asking.watch_incidents(other).await.expect("watches").into_inner();
    drop(open(&service, 1).await);
    let begun = next_incident(&mut watch).await;
    assert_eq!(
        (begun.camera_id.as_str(), begun.kind(), begun.ended_unix_ms),
        ("door", v1::IncidentKind::Offline, None)
    );
    let cameras = asking.list_cameras(v1::ListCamerasRequest {}).await.expect("lists").into_inner().cameras;
    assert_eq!(cameras[0].incidents, std::slice::from_ref(&begun));

    let _camera = open(&service, 1).await;
    let ended = next_incident(&mut watch).await;
    assert_eq!((ended.incident_id, ended.ended_unix_ms.is_some()), (begun.incident_id, true));
    let mut late = asking.watch_incidents(v1::WatchIncidentsRequest::default()).await.expect("watches").into_inner();
    assert_eq!(next_incident(&mut late).await, ended, "who comes later is told what was");
    service.begin_stop();
    let status = tokio::time::timeout(PATIENCE, other.message()).await.expect("in time").expect_err("stops");
    assert_eq!(status.code(), Code::Unavailable, "another camera's incidents are not told: {status:?}");
    service.stop().await.expect("stops");
}

/// How it looked when the camera went, and when it was back.
#[tokio::test]
async fn an_incident_has_pictures_until_newer_ones_need_their_room() {
    let mut config = stub_config(500, true);
    config.incidents.offline_s = 0;
    config.incidents.picture_bytes = 32 << 10;
    let service = Inference::start(config).await.expect("starts");
    let (mut asking, pictures) = (client(&service).await, service.sources.incident_pictures.clone());
    let mut watch = asking.watch_incidents(v1::WatchIncidentsRequest::default()).await.expect("watches").into_inner();
    let door = CameraId::parse("door").expect("an id");
    let request = |incident: u64, moment: v1::IncidentMoment| v1::GetSnapshotRequest {
        camera_id: "door".into(),
        style: v1::SnapshotStyle::Plain as i32,
        incident_id: Some(incident),
        moment: moment as i32,
        ..Default::default()
    };
    let mut first = None;
    for session in 1..=4 {
        let mut camera = open(&service, session).await;
        let picture = textured_jpeg(SIZE, session as u32);
        camera.send_frame(picture.clone(), SIZE, TTL).await.expect("sends");
        camera.outcome().await.expect("answered");
        if let Some(begun) = first.take() {
            let v1::Incident { incident_id, .. } = next_incident(&mut watch).await;
            assert_eq!(incident_id, begun, "it is over");
            e2e::wait::until("its last picture", PATIENCE, || pictures.get(&door, begun, Moment::End).is_some()).await;
            let end = asking.get_snapshot(request(begun, v1::IncidentMoment::End)).await.expect("is kept");
            assert_eq!(end.into_inner().snapshot.expect("a picture").jpeg, picture, "what came back");
        }
        drop(camera);
        let begun = next_incident(&mut watch).await;
        let start = asking.get_snapshot(request(begun.incident_id, v1::IncidentMoment::Start)).await.expect("is kept");
        assert_eq!(start.into_inner().snapshot.expect("a picture").jpeg, picture, "what was seen last");
        let (held, most) = (pictures.held_bytes(), pictures.max_bytes());
        assert!(0 < held && held <= most, "{held} of {most}");
        first = Some(begun.incident_id);
    }
    for (wrong, code) in [
        (request(1, v1::IncidentMoment::Start), Code::NotFound),
        (v1::GetSnapshotRequest { moment: 7, ..request(4, v1::IncidentMoment::Start) }, Code::InvalidArgument),
        (request(999, v1::IncidentMoment::End), Code::NotFound),
    ] {
        let status = asking.get_snapshot(wrong).await.expect_err("not kept");
        assert_eq!(status.code(), code, "{status:?}");
    }
    service.stop().await.expect("stops");
}
