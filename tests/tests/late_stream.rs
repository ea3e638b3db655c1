//! A stream of late frames in the raw: what it may send, what it gets for it,
//! and what it is refused.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::camera::{PATIENCE, RawCamera, frame, hello, pump};
use e2e::media::textured_jpeg;
use e2e::outage::results;
use e2e::pair::{Inference, stub_config};
use e2e::wait::{answered, until};
use flatframe_shared::clock;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use inference_service::config::{Config, PrivacyMode};
use tonic::{Code, Status};

const SIZE: PictureSize = PictureSize::new(160, 120);
const MINUTE_US: i64 = 60_000_000;

fn config(folder: &Path) -> Config {
    let mut config = stub_config(1_000, true);
    config.history.file = folder.join("history.sqlite");
    config.history.min_free_bytes = 0;
    config
}

fn late_hello(camera: &str, session: u64) -> v1::Hello {
    v1::Hello { late: true, ..hello(camera, session) }
}

async fn open(service: &Inference, hello: v1::Hello) -> Result<(RawCamera, v1::Welcome), Status> {
    RawCamera::open(service.connect().await.expect("connects"), hello).await
}

async fn credit(camera: &mut RawCamera) {
    loop {
        match camera.next().await.expect("the stream lives") {
            Some(Down::Credit(credit)) => return assert_eq!(credit.frames, 1, "one at a time"),
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
}

/// Whether a credit comes before `end`; says meanwhile that the sender lives.
async fn is_credited_before(camera: &mut RawCamera, end: Instant) -> bool {
    while Instant::now() < end {
        camera.says_live().await.expect("the stream lives");
        let look = end.min(Instant::now() + Duration::from_secs(1));
        if tokio::time::timeout_at(look.into(), credit(camera)).await.is_ok() {
            return true;
        }
    }
    false
}

/// Sends a late frame and returns its answer.
async fn send(camera: &mut RawCamera, number: u64, captured_unix_us: i64) -> v1::FrameOutcome {
    let late = v1::Frame { captured_unix_us, ..frame(number, textured_jpeg(SIZE, 1), SIZE, Duration::ZERO) };
    camera.send(v1::publish_request::Message::Frame(late)).await.expect("sends");
    let outcome = camera.outcome().await.expect("answered");
    assert_eq!(outcome.number, number);
    outcome
}

#[tokio::test]
async fn only_what_is_newer_than_all_late_results() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Inference::start(config(folder.path())).await.expect("starts");
    let (mut camera, welcome) = open(&service, late_hello("bus", 1)).await.expect("is welcome");
    assert_eq!((welcome.window, welcome.late_after_unix_us), (1, Some(0)));
    let start_us = clock::unix_us() - 10 * MINUTE_US;
    let (analyzed, invalid) = (v1::Outcome::Analyzed, v1::Outcome::Invalid);
    for (number, after_us, wanted) in [
        (1, 0, analyzed),
        (2, 1, analyzed),
        (3, 1, invalid),
        (4, 0, invalid),
        (5, 12 * MINUTE_US, invalid),
        (6, -40 * 24 * 60 * MINUTE_US, invalid),
        (7, 2, analyzed),
        (7, 3, invalid),
        (8, 3, analyzed),
    ] {
        credit(&mut camera).await;
        let outcome = send(&mut camera, number, start_us + after_us).await;
        assert_eq!(outcome.outcome(), wanted, "{number}: {outcome:?}");
        assert_eq!(outcome.detail.is_empty(), wanted == analyzed, "{outcome:?}");
    }
    // The gate is closed, but for the moment in which it is told a rate again:
    // one frame may have a credit, not all of them.
    let mut outcomes = Vec::new();
    for number in 9..19 {
        service.sources.late.gate.set_fps(0.0);
        outcomes.push(send(&mut camera, number, start_us + number as i64).await.outcome());
    }
    assert!(outcomes.contains(&v1::Outcome::Shed), "a frame without a credit is taken: {outcomes:?}");

    // Its sender comes back, to be tried again while the disk is slow: what is stored is known.
    let comes_back = async || open(&service, late_hello("bus", 1)).await.ok();
    let (_again, welcome) = answered("it is welcome again", PATIENCE, comes_back).await;
    let newest = welcome.late_after_unix_us.expect("late frames are taken");
    assert!(newest >= start_us + 3, "{newest}");
    let other = open(&service, late_hello("bus", 2)).await.map(|_| ()).expect_err("taken");
    assert_eq!(other.code(), Code::AlreadyExists, "{other:?}");

    let channel = service.connect().await.expect("connects");
    let found = results(channel.clone(), "bus", &[start_us]).await.expect("answered");
    let times: Vec<_> = found.iter().map(|result| result.captured_unix_us - start_us).collect();
    assert_eq!(times[..4], [0, 1, 2, 3]);
    assert!(found.iter().all(|result| result.late && result.faces.len() == 1 && result.counts.is_none()));
    let mut client = ResultServiceClient::new(channel);
    let known = client.list_cameras(v1::ListCamerasRequest {}).await.expect("answered").into_inner().cameras;
    assert!(known.is_empty(), "a late stream makes no camera known: {known:?}");
    let latest = client.get_latest(v1::GetLatestRequest { camera_id: "bus".into() }).await.expect_err("not known");
    assert_eq!(latest.code(), Code::NotFound);
    let served = service.stop().await.expect("stops");
    assert_eq!((served.balance(), served.queued), (0, 0), "{served:?}");
}

#[tokio::test]
async fn refused_where_results_would_not_be_kept_or_there_is_no_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = config(folder.path());
    let with = |change: fn(&mut Config)| {
        let mut config = none.clone();
        change(&mut config);
        config
    };
    for (config, word) in [
        (with(|config| config.history.file = Default::default()), "history.file"),
        (with(|config| config.privacy.mode = PrivacyMode::CountsOnly), "counts_only"),
        (with(|config| config.limits.max_late_streams = 0), "max_late_streams"),
    ] {
        let service = Inference::start(config).await.expect("starts");
        let status = open(&service, late_hello("bus", 1)).await.map(|_| ()).expect_err(word);
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains(word), "{status:?}");
        // A live stream of the same camera is another matter.
        open(&service, hello("bus", 2)).await.expect("is welcome");
        service.stop().await.expect("stops");
    }
    let service = Inference::start(with(|config| config.limits.max_late_streams = 1)).await.expect("starts");
    let _first = open(&service, late_hello("a", 1)).await.expect("is welcome");
    let status = open(&service, late_hello("b", 1)).await.map(|_| ()).expect_err("no room");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    service.stop().await.expect("stops");
}

/// Live cameras that want all there is leave nothing over; when they rest, late
/// frames go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_while_live_cameras_want_it_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.workers.count = 1;
    config.vision.stub_engine = stub_config(20_000, true).vision.stub_engine;
    let service = Inference::start(config).await.expect("starts");
    let (mut late, _) = open(&service, late_hello("bus", 1)).await.expect("is welcome");
    credit(&mut late).await;

    // 50 frames/s can be done.
    let (live, _) = open(&service, v1::Hello { wanted_fps: 200.0, ..hello("door", 1) }).await.expect("is welcome");
    let pictures = [(textured_jpeg(SIZE, 1), SIZE)];
    let end = Instant::now() + Duration::from_secs(6);
    let pumping = tokio::spawn(async move { pump(live, &pictures, Duration::from_secs(1), end).await });
    let gate = &service.sources.late.gate;
    until("nothing is left over", PATIENCE, || gate.fps() <= 0.0).await;
    // The credit that it has is good for one frame; no other follows.
    let outcome = send(&mut late, 1, clock::unix_us() - MINUTE_US).await;
    assert!(matches!(outcome.outcome(), v1::Outcome::Analyzed | v1::Outcome::Shed), "{outcome:?}");
    assert!(!is_credited_before(&mut late, end).await, "a credit while live cameras want it all");
    let pumped = pumping.await.expect("pumped").expect("answered");
    assert!(pumped.count(v1::Outcome::Analyzed) > 20, "{pumped:?}");
    assert!(is_credited_before(&mut late, Instant::now() + 2 * PATIENCE).await, "late frames go on");
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}
