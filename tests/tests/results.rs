//! What clients learn beside live results: people counted, what was, pictures,
//! incidents; and what the privacy modes keep from them.

use std::path::Path;
use std::time::Duration;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::metrics::Metrics;
use e2e::pair::{Inference, stub_config};
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraId, PictureSize};
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use flatframe_shared::jpeg;
use inference_service::config::{Config, PrivacyMode};
use inference_service::history::{Change, Record};
use inference_service::people::config::LineConfig;
use tonic::transport::Channel;
use tonic::{Code, Status};

const SIZE: PictureSize = PictureSize::new(160, 120);
const TTL: Duration = PATIENCE;
const FRAMES: u64 = 10;

/// A service whose engine sees one face on every picture, with a history in
/// `folder`.
fn config(folder: &Path) -> Config {
    let mut config = stub_config(500, true);
    config.history.file = folder.join("history.sqlite");
    config.history.min_free_bytes = 0;
    config.incidents.offline_s = 0;
    let (camera, name) = ("door".to_owned(), "step".to_owned());
    config.people.lines = vec![LineConfig { camera, name, from: [0.0, 0.9], to: [1.0, 0.9] }];
    config
}

async fn client(service: &Inference) -> ResultServiceClient<Channel> {
    ResultServiceClient::new(service.connect().await.expect("connects"))
}

/// Sends frames one after the other; each is analysed.
async fn send(camera: &mut RawCamera, frames: u64) {
    for seed in 0..frames {
        let picture = textured_jpeg(SIZE, seed as u32);
        camera.send_frame(picture, SIZE, TTL).await.expect("sends");
        let outcome = camera.outcome().await.expect("answered");
        assert_eq!(outcome.outcome(), v1::Outcome::Analyzed, "{outcome:?}");
    }
}

async fn open(service: &Inference, name: &str) -> RawCamera {
    let channel = service.connect().await.expect("connects");
    RawCamera::open(channel, hello(name, 1)).await.expect("is welcome").0
}

/// Waits until all that was offered is on disk.
fn flush(service: &Inference) {
    let history = service.sources.archive.history.clone().expect("a history is kept");
    assert!(history.flush(PATIENCE), "{:?}", history.state());
}

fn now_s() -> i64 {
    clock::unix_us() / 1_000_000
}

/// The whole hour around now.
fn around_now(camera: &str) -> v1::QueryResultsRequest {
    let now_ms = now_s() * 1000;
    v1::QueryResultsRequest {
        camera_id: camera.into(),
        from_unix_ms: now_ms - 1_800_000,
        to_unix_ms: now_ms + 1_800_000,
        max_results: 0,
        page_token: String::new(),
    }
}

async fn results(
    client: &mut ResultServiceClient<Channel>,
    request: v1::QueryResultsRequest,
) -> Result<(Vec<v1::FrameResult>, String), Status> {
    let mut pages = client.query_results(request).await?.into_inner();
    let (mut results, mut token) = (Vec::new(), String::new());
    while let Some(page) = pages.message().await? {
        results.extend(page.results);
        token = page.next_page_token;
    }
    Ok((results, token))
}

/// Minutes from a quarter of an hour ago to a quarter ahead.
fn minutes(cameras: &[&str]) -> v1::QueryCountsRequest {
    let from = now_s() / 60 * 60;
    v1::QueryCountsRequest {
        camera_ids: cameras.iter().map(ToString::to_string).collect(),
        from_unix_s: from - 900,
        to_unix_s: from + 900,
        bucket_s: 60,
        per_camera: false,
    }
}

/// Visits and covered seconds of all buckets together, and how many buckets
/// are unknown.
async fn counted(client: &mut ResultServiceClient<Channel>, request: v1::QueryCountsRequest) -> (u32, u32, usize) {
    let series = client.query_counts(request).await.expect("counts").into_inner().series;
    let buckets: Vec<_> = series.iter().flat_map(|series| &series.buckets).collect();
    let visits = buckets.iter().filter_map(|bucket| bucket.visits.as_ref()).map(|visits| visits.faces).sum();
    let unknown = buckets.iter().filter(|bucket| bucket.visits.is_none()).count();
    (visits, buckets.iter().map(|bucket| bucket.covered_seconds).sum(), unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_counted_and_kept_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Inference::start(config(folder.path())).await.expect("starts");
    let mut asking = client(&service).await;
    let mut camera = open(&service, "door").await;
    send(&mut camera, FRAMES).await;

    let latest = asking.get_latest(v1::GetLatestRequest { camera_id: "door".into() }).await.expect("known");
    let result = latest.into_inner().result.expect("a result");
    let track = result.faces[0].track.expect("followed");
    assert!(track.is_visit && track.track_id == 1, "{track:?}");
    let counts = result.counts.clone().expect("counted");
    let people = |counts: &Option<v1::FaceCounts>| counts.as_ref().map(|counts| counts.faces);
    assert_eq!((people(&counts.now), people(&counts.visits)), (Some(1), Some(1)));
    assert_eq!(counts.crossings[0].name, "step");

    flush(&service);
    let (kept, token) = results(&mut asking, around_now("door")).await.expect("kept");
    let numbers: Vec<_> = kept.iter().map(|result| result.frame_number).collect();
    assert_eq!(numbers, (1..=FRAMES).collect::<Vec<_>>());
    assert_eq!((kept.last(), token.as_str()), (Some(&result), ""), "as it was live");
    let first = v1::QueryResultsRequest { max_results: 4, ..around_now("door") };
    let (begin, token) = results(&mut asking, first).await.expect("a page");
    let rest = v1::QueryResultsRequest { page_token: token, ..around_now("door") };
    let (rest, _) = results(&mut asking, rest).await.expect("the rest");
    assert_eq!(begin.into_iter().chain(rest).collect::<Vec<_>>(), kept);

    let (visits, covered, unknown) = counted(&mut asking, minutes(&["door"])).await;
    assert!(visits == 1 && (1..=60).contains(&covered) && unknown >= 28, "{visits} {covered} {unknown}");
    service.stop().await.expect("stops");

    let service = Inference::start(config(folder.path())).await.expect("starts again");
    let mut asking = client(&service).await;
    let mut camera = open(&service, "door").await;
    send(&mut camera, FRAMES).await;
    flush(&service);
    let (visits, ..) = counted(&mut asking, minutes(&[])).await;
    assert_eq!(visits, 2, "who is seen after a restart is another visit");
    assert_eq!(results(&mut asking, around_now("door")).await.expect("kept").0.len() as u64, 2 * FRAMES);
    service.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_told_what_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Inference::start(config(folder.path())).await.expect("starts");
    let mut asking = client(&service).await;
    let status = results(&mut asking, around_now("nobody")).await.expect_err("not known");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let status = asking.query_counts(minutes(&["nobody"])).await.expect_err("not known");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let good = around_now("door");
    for (request, word) in [
        (v1::QueryResultsRequest { camera_id: "a b".into(), ..good.clone() }, "a b"),
        (v1::QueryResultsRequest { to_unix_ms: 0, ..good.clone() }, "to_unix_ms = 0"),
        (v1::QueryResultsRequest { max_results: 100_001, ..good.clone() }, "max_results = 100001"),
        (v1::QueryResultsRequest { page_token: "mine".into(), ..good.clone() }, "page_token = \"mine\""),
    ] {
        let status = results(&mut asking, request).await.expect_err(word);
        assert!(status.code() == Code::InvalidArgument && status.message().contains(word), "{status:?}");
    }
    let good = minutes(&[]);
    for (request, word) in [
        (v1::QueryCountsRequest { bucket_s: 0, ..good.clone() }, "bucket_s = 0"),
        (v1::QueryCountsRequest { bucket_s: 86_401, ..good.clone() }, "bucket_s = 86401"),
        (v1::QueryCountsRequest { to_unix_s: 0, ..good.clone() }, "to_unix_s = 0"),
        (v1::QueryCountsRequest { from_unix_s: 0, bucket_s: 1, ..good.clone() }, "at most 10000"),
        (v1::QueryCountsRequest { camera_ids: vec!["a".into(); 257], ..good.clone() }, "257"),
    ] {
        let status = asking.query_counts(request).await.expect_err(word);
        assert!(status.code() == Code::InvalidArgument && status.message().contains(word), "{status:?}");
    }
    let status = asking.get_snapshot(v1::GetSnapshotRequest::default()).await.expect_err("no id");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let _camera = open(&service, "door").await;
    let door = v1::GetSnapshotRequest { camera_id: "door".into(), ..Default::default() };
    let status = asking.get_snapshot(door.clone()).await.expect_err("no picture yet");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    for request in
        [v1::GetSnapshotRequest { style: 9, ..door.clone() }, v1::GetSnapshotRequest { max_width_px: 7, ..door }]
    {
        assert_eq!(asking.get_snapshot(request).await.expect_err("wrong").code(), Code::InvalidArgument);
    }
    let reset = |name: &str| v1::ResetOccupancyRequest { camera_id: "door".into(), name: name.into(), occupancy: 7 };
    assert_eq!(asking.reset_occupancy(reset("gate")).await.expect_err("no such line").code(), Code::NotFound);
    asking.reset_occupancy(reset("step")).await.expect("is a line");
    let huge = v1::ResetOccupancyRequest { occupancy: i64::MAX, ..reset("step") };
    assert_eq!(asking.reset_occupancy(huge).await.expect_err("too many").code(), Code::InvalidArgument);
    let cameras = asking.list_cameras(v1::ListCamerasRequest {}).await.expect("lists").into_inner().cameras;
    let counts = cameras[0].counts.clone().expect("counted");
    assert_eq!((counts.crossings[0].occupancy, counts.now), (7, None), "nobody is watching: not zero");
    service.stop().await.expect("stops");
}

#[tokio::test]
async fn without_a_history_there_is_no_answer_that_looks_like_one() {
    let service = Inference::start(stub_config(500, true)).await.expect("starts");
    let mut asking = client(&service).await;
    let status = results(&mut asking, around_now("door")).await.expect_err("none is kept");
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("history.file"), "{status:?}");
    let status = asking.query_counts(minutes(&[])).await.expect_err("none is kept");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    service.stop().await.expect("stops");
}

async fn snapshot(asking: &mut ResultServiceClient<Channel>, style: v1::SnapshotStyle) -> Result<v1::Snapshot, Status> {
    let request = v1::GetSnapshotRequest { camera_id: "door".into(), style: style as i32, ..Default::default() };
    let answer = asking.get_snapshot(request).await?;
    Ok(answer.into_inner().snapshot.expect("a snapshot"))
}

/// Black and white squares of 5 pixels: nothing that could be made coarse
/// unseen.
fn squares() -> bytes::Bytes {
    let places = (0..SIZE.height_px).flat_map(|y| (0..SIZE.width_px).map(move |x| (x, y)));
    let rgb: Vec<u8> = places.flat_map(|(x, y)| [if (x / 5 + y / 5) % 2 == 0 { 20 } else { 220 }; 3]).collect();
    let mut picture = Vec::new();
    jpeg::encode_rgb(&rgb, SIZE, 90, &mut picture).expect("encodes");
    picture.into()
}

fn pixels(snapshot: &v1::Snapshot) -> Vec<u8> {
    let mut rgb = Vec::new();
    assert_eq!(jpeg::decode_rgb(&snapshot.jpeg, SIZE, &mut rgb), Ok(SIZE));
    rgb
}

/// Mean difference of two pictures, in levels, in their upper left quarter or
/// in what is far from it: the last quarter of each row of the lower half.
fn difference(a: &[u8], b: &[u8], upper_left: bool) -> f64 {
    let (width, height) = (SIZE.width_px as usize, SIZE.height_px as usize);
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let wanted = places.filter(|(x, y)| match upper_left {
        true => *x < width / 2 && *y < height / 2,
        false => *x >= width * 3 / 4 && *y >= height / 2,
    });
    let levels: Vec<_> =
        wanted.map(|(x, y)| f64::from(a[3 * (y * width + x)].abs_diff(b[3 * (y * width + x)]))).collect();
    levels.iter().sum::<f64>() / levels.len() as f64
}

#[tokio::test]
async fn snapshots_as_the_privacy_mode_allows() {
    use v1::SnapshotStyle::{Annotated, Blurred, Plain, Unspecified};
    for mode in [PrivacyMode::Full, PrivacyMode::Blurred, PrivacyMode::CountsOnly] {
        let mut config = stub_config(500, true);
        config.privacy.mode = mode;
        let service = Inference::start(config).await.expect("starts");
        let mut asking = client(&service).await;
        let mut camera = open(&service, "door").await;
        camera.send_frame(squares(), SIZE, TTL).await.expect("sends");
        assert_eq!(camera.outcome().await.expect("answered").outcome(), v1::Outcome::Analyzed);
        let mut given = Vec::new();
        for style in [Unspecified, Annotated, Blurred, Plain] {
            given.push(snapshot(&mut asking, style).await);
        }
        let styles: Vec<_> =
            given.iter().map(|one| one.as_ref().map(|one| one.style()).map_err(Status::code)).collect();
        let denied = Err(Code::PermissionDenied);
        match mode {
            PrivacyMode::Full => {
                assert_eq!(styles, [Ok(Annotated), Ok(Annotated), Ok(Blurred), Ok(Plain)]);
                let [_, annotated, blurred, plain] = &given[..] else { panic!("four styles") };
                let of = |one: &Result<v1::Snapshot, Status>| pixels(one.as_ref().expect("given"));
                let (annotated, blurred, plain) = (of(annotated), of(blurred), of(plain));
                // The stub's face is in the upper left quarter.
                for (changed, name) in [(blurred, "blurred"), (annotated, "annotated")] {
                    let (at_face, elsewhere) =
                        (difference(&plain, &changed, true), difference(&plain, &changed, false));
                    assert!(at_face > 2.0 && elsewhere < 0.5 * at_face, "{name}: {at_face} and {elsewhere} levels");
                }
            }
            PrivacyMode::Blurred => assert_eq!(styles, [Ok(Blurred), denied, Ok(Blurred), denied]),
            PrivacyMode::CountsOnly => assert_eq!(styles, [denied; 4]),
        }
        service.stop().await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_only_tells_nothing_of_single_faces() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.privacy.mode = PrivacyMode::CountsOnly;
    let service = Inference::start(config).await.expect("starts");
    let mut asking = client(&service).await;
    let mut watch = asking.watch(v1::WatchRequest::default()).await.expect("watches").into_inner();
    // Quarters of an hour that are over before the first frame.
    let from_unix_s = now_s() / 900 * 900 - 4 * 900;
    let mut camera = open(&service, "door").await;
    send(&mut camera, FRAMES).await;
    let message = watch.message().await.expect("stands").expect("a message").message;
    let Some(v1::watch_response::Message::Result(result)) = message else { panic!("{message:?}") };
    assert!(result.faces.is_empty() && result.faces_withheld && result.counts.is_none(), "{result:?}");
    assert_eq!(results(&mut asking, around_now("door")).await.expect_err("denied").code(), Code::PermissionDenied);
    let status = asking.query_counts(minutes(&[])).await.expect_err("minutes tell of single people");
    assert!(status.code() == Code::InvalidArgument && status.message().contains("900"), "{status:?}");

    // With few visits, with enough, with none.
    let history = service.sources.archive.history.clone().expect("a history is kept");
    let door = || CameraId::parse("door").expect("an id");
    for (quarter, visits) in [(0, 4), (1, 5), (2, 0)] {
        let at_unix_s = from_unix_s + 900 * quarter;
        let change = Change { female: visits, ..Change::default() };
        history.offer(Record::Count { camera: door(), at_unix_s, counter: "visits".into(), change });
        history.offer(Record::Covered { camera: door(), from_unix_s: at_unix_s, to_unix_s: at_unix_s + 900 });
    }
    flush(&service);
    let quarters =
        v1::QueryCountsRequest { from_unix_s, to_unix_s: from_unix_s + 4 * 900, bucket_s: 900, ..minutes(&[]) };
    let series = asking.query_counts(quarters).await.expect("counts").into_inner().series;
    let told: Vec<_> =
        series[0].buckets.iter().map(|one| (one.withheld, one.visits.as_ref().map(|visits| visits.faces))).collect();
    assert_eq!(
        told,
        [(true, None), (false, Some(5)), (false, Some(0)), (false, None)],
        "too few, enough, none, unknown"
    );

    let metrics = Metrics::read(service.admin).await.expect("metrics");
    assert_eq!(metrics.value("flatframe_inference_visits{camera=\"door\",gender=\"unknown\"}"), None);
    let mut operator = AdminServiceClient::new(service.connect().await.expect("connects"));
    let resources = operator.get_resources(v1::GetResourcesRequest {}).await.expect("resources").into_inner();
    assert!(resources.places.iter().all(|place| place.name != "tracks"), "tracks are the faces of now");
    service.stop().await.expect("stops");
    let file = std::fs::read(folder.path().join("history.sqlite")).expect("the history");
    assert!(!file.windows(5).any(|bytes| bytes == b"stub\0"), "no result is kept");
}

#[tokio::test]
async fn a_damaged_history_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("history.sqlite"), b"this is no database, and longer than its header")
        .expect("writes");
    let error = Inference::start(config(folder.path())).await.map(|service| service.address).expect_err("damaged");
    let text = error.to_string();
    assert!(text.contains("history.sqlite"), "{text}");
    println!("{text}");
}
