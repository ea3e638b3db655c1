//! More frames than can be analysed: cameras are paced down, frames are shed
//! with a delay, frames expire; what is analysed is fresh; the ledger balances.

use std::time::{Duration, Instant};

use e2e::camera::{PATIENCE, Pumped, RawCamera, hello, pump_while};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::wait::until;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::{self, Outcome, publish_response};
use flatframe_shared::outcome::DropReason;
use ingest_service::CameraConfig;

const SIZE: PictureSize = PictureSize::new(160, 120);

async fn open(service: &Inference, name: &str, session: u64, ttl: Duration) -> RawCamera {
    let channel = service.connect().await.expect("connects");
    let hello = v1::Hello { ttl_ms: ttl.as_millis() as u32, ..hello(name, session) };
    RawCamera::open(channel, hello).await.expect("is welcome").0
}

/// One worker at 20 ms, four cameras that want 100 frames/s each.
#[tokio::test]
async fn cameras_are_paced_down_to_their_share() {
    let mut config = stub_config(20_000, false);
    config.workers.count = 1;
    let service = Inference::start(config).await.expect("starts");
    let ttl = Duration::from_secs(2);
    let mut cameras = Vec::new();
    for (session, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        cameras.push(open(&service, name, session as u64, ttl).await);
    }
    let end = Instant::now() + Duration::from_millis(2500);
    // Paces are told once a second, if the machine does not stand still.
    let goes_on = move |seen: &Pumped| {
        let now = Instant::now();
        now < end || (seen.lowest_pace.is_none() && now < end + PATIENCE)
    };
    let mut pumps = tokio::task::JoinSet::new();
    for camera in cameras {
        pumps.spawn(async move { pump_while(camera, &[(textured_jpeg(SIZE, 1), SIZE)], ttl, goes_on).await });
    }
    let pumped = pumps.join_all().await.into_iter().collect::<Result<Vec<Pumped>, _>>().expect("the streams stand");
    let analyzed: Vec<u64> = pumped.iter().map(|pumped| pumped.count(Outcome::Analyzed)).collect();
    let (least, most) = (analyzed.iter().min().expect("four"), analyzed.iter().max().expect("four"));
    assert!(*least + 3 >= *most, "every camera gets its turn: {analyzed:?}");
    for pumped in pumped {
        let pace = pumped.lowest_pace.expect("paced down");
        assert!(pace < 50.0, "asked for {pace} frames/s of 100");
        assert_eq!(pumped.answered(), pumped.sent);
    }
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

/// Deadlines shorter than a full queue takes: what cannot be done is shed at
/// once, with a delay, before it is decoded.
#[tokio::test]
async fn what_cannot_be_done_in_time_is_shed_with_a_delay() {
    const SERVICE_MS: u32 = 500;
    const TTL: Duration = Duration::from_millis(1200);
    let mut config = stub_config(SERVICE_MS * 1000, false);
    config.workers.count = 1;
    let service = Inference::start(config).await.expect("starts");
    let picture = textured_jpeg(SIZE, 1);
    // The cost of a frame becomes known from a camera that has time.
    let mut patient = open(&service, "patient", 99, Duration::from_secs(30)).await;
    for _ in 0..2 {
        patient.send_frame(picture.clone(), SIZE, Duration::from_secs(30)).await.expect("sends");
        assert_eq!(patient.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    }
    let mut cameras = Vec::new();
    for number in 0..6u64 {
        cameras.push(open(&service, &format!("cam-{number}"), number, TTL).await);
    }
    for camera in &mut cameras {
        camera.send_frame(picture.clone(), SIZE, TTL).await.expect("sends");
    }
    let (mut analyzed, mut shed) = (0, 0);
    for camera in &mut cameras {
        let outcome = camera.outcome().await.expect("answered");
        match outcome.outcome() {
            Outcome::Analyzed => analyzed += 1,
            Outcome::Shed => {
                assert!(outcome.retry_after_ms > 0, "{outcome:?}");
                shed += 1;
            }
            // A worker held up by the machine.
            Outcome::Expired => {}
            other => panic!("neither done nor shed: {other:?}"),
        }
    }
    assert!(analyzed >= 1, "one worker and nothing else to do: the first is done");
    assert!(shed >= 1, "6 frames of {SERVICE_MS} ms do not fit into {TTL:?}, yet {shed} were shed");
    drop((patient, cameras));
    let counts = service.stop().await.expect("stops");
    assert_eq!(counts.balance(), 0);
    assert_eq!(counts.answered(flatframe_shared::outcome::Outcome::Shed), shed);
}

/// A worker that turns out slower than it was: frames already waiting expire
/// and are answered so, never as "no faces".
#[tokio::test]
async fn frames_that_wait_too_long_expire() {
    let mut config = stub_config(2_000_000, true);
    config.workers.count = 1;
    let service = Inference::start(config).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let (mut camera, welcome) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
    assert_eq!(welcome.window, 2);
    let picture = textured_jpeg(SIZE, 1);
    // The service still assumes 10 ms for a frame, so both are queued.
    camera.send_frame(picture.clone(), SIZE, PATIENCE).await.expect("sends");
    let sources = &service.sources;
    let is_in_work = || sources.totals().received == 1 && sources.dispatch.waiting() == 0;
    until("the first is in work", PATIENCE, is_in_work).await;
    camera.send_frame(picture, SIZE, Duration::from_millis(200)).await.expect("sends");
    let first = camera.outcome().await.expect("answered");
    let second = camera.outcome().await.expect("answered");
    assert_eq!((first.number, first.outcome()), (1, Outcome::Analyzed));
    assert_eq!((second.number, second.outcome()), (2, Outcome::Expired));
    assert!(second.counts.is_none(), "a timeout is never reported as a number of faces");
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

/// The whole pair at twenty times what it can do: the sender drops before it
/// sends, and what is answered is not stale.
#[tokio::test]
async fn the_pair_drops_at_the_source() {
    let mut config = stub_config(40_000, false);
    config.workers.count = 1;
    let service = Inference::start(config).await.expect("starts");
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..4 {
        let path = folder.path().join(format!("{number}.jpg"));
        std::fs::write(path, textured_jpeg(SIZE, number)).expect("written");
    }
    let source = format!("file:{}", folder.path().display());
    let cameras = (0..4).map(|n| CameraConfig { fps: 125.0, ..CameraConfig::new(&format!("cam-{n}"), &source) });
    let ingest = Running::start(ingest_config(&service.url(), cameras.collect())).await.expect("starts");
    until("much was captured", Duration::from_secs(60), || ingest.totals().captured >= 1500).await;
    // Of the few frames on their way when the machine stands still nothing can be said.
    let p50 = ingest.cameras.iter().filter_map(|camera| camera.latency().quantile(0.5)).max();
    let counts = ingest.stop().await.expect("stops");
    let served = service.stop().await.expect("stops");
    assert_eq!((counts.balance(), served.balance()), (0, 0), "{counts:?} {served:?}");
    assert!(p50 < Some(Duration::from_secs(1)), "older than their deadline: {p50:?}");
    assert!(counts.sent < counts.captured / 2, "most are dropped before they are sent: {counts:?}");
    assert!(counts.dropped(DropReason::Paced) > 0, "the pace asked for is kept: {counts:?}");
    let wasted = counts.sent - counts.answered(flatframe_shared::outcome::Outcome::Analyzed);
    assert!(wasted < counts.sent / 5, "what is sent is analysed: {counts:?}");
}

/// A camera that asks for nothing keeps its credits and gets no pace.
#[tokio::test]
async fn without_overload_nobody_is_paced() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let (mut camera, welcome) =
        RawCamera::open(channel, v1::Hello { wanted_fps: 5.0, ..hello("cam", 1) }).await.expect("is welcome");
    assert_eq!(welcome.pace.expect("a pace").max_fps, 0.0);
    for number in 0..10 {
        camera.send_frame(textured_jpeg(SIZE, number), SIZE, PATIENCE).await.expect("sends");
        loop {
            match camera.next().await.expect("open").expect("a message") {
                publish_response::Message::Outcome(outcome) => {
                    break assert_eq!(outcome.outcome(), Outcome::Analyzed);
                }
                publish_response::Message::Pace(pace) => panic!("paced without need: {pace:?}"),
                _ => {}
            }
        }
    }
    service.stop().await.expect("stops");
}
