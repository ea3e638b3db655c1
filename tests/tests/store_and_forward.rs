//! Frames of an outage, kept on the camera's disk, are sent after it: each is
//! in the history exactly once with its true time, and what is known of now
//! never hears of them.

use std::path::Path;
use std::time::Duration;

use e2e::link::{Condition, Link};
use e2e::media::picture_folder;
use e2e::metrics::metric;
use e2e::outage::{Comparison, kept, results};
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::program::{Program, connect, free_address};
use e2e::wait::{answered, until};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use flatframe_shared::outcome::Outcome;
use ingest_service::late::ledger::LateDrop;
use ingest_service::{CameraConfig, Config};

const SIZE: PictureSize = PictureSize::new(320, 240);
/// Late frames rest for up to 10 s when live ones are lost, as on a machine
/// that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);
const FPS: f32 = 20.0;
/// Frames kept in an outage, at least.
const OUTAGE_FRAMES: u64 = 60;

/// A sender with one camera that keeps frames of outages in `dir`.
fn sender(server: &str, source: &str, dir: &Path) -> Config {
    let camera = CameraConfig { fps: FPS, record: "outage".into(), ..CameraConfig::new("cam", source) };
    let mut config = ingest_config(server, vec![camera]);
    config.recording.dir = dir.display().to_string();
    config.recording.fps = FPS;
    config.recording.min_free_bytes = 0;
    config.recording.max_bytes = 64 << 20;
    config.recording.max_write_bytes_per_s = 8 << 20;
    config.recording.store_and_forward = true;
    config.recording.late_fps = 200.0;
    config
}

fn with_history(file: &Path) -> inference_service::config::Config {
    let mut config = stub_config(2_000, true);
    config.history.file = file.into();
    config.history.min_free_bytes = 0;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kept_frame_is_in_the_history_once_with_its_time() {
    let (_pictures, source) = picture_folder(SIZE).expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("recordings");
    let service = Inference::start(with_history(&folder.path().join("history.sqlite"))).await.expect("starts");
    let link = Link::start(service.address).await.expect("a wire");
    let ingest = Running::start(sender(&link.url(), &source, &dir)).await.expect("starts");
    let (camera, shown) = (ingest.cameras[0].clone(), ingest.shown.clone());
    let analyzed = || camera.counts().answered(Outcome::Analyzed);
    until("live frames", PATIENCE, || analyzed() >= 30).await;
    let mut watch = ResultServiceClient::new(service.connect().await.expect("connects"));
    let mut live = watch.watch(v1::WatchRequest::default()).await.expect("watches").into_inner();
    let watching = tokio::spawn(async move {
        let mut seen = [0u64; 2];
        while let Ok(Some(message)) = live.message().await {
            if let Some(v1::watch_response::Message::Result(result)) = message.message {
                seen[usize::from(result.late)] += 1;
            }
        }
        seen
    });

    // Two outages: the second begins while the first one's frames are sent.
    let recording = shown.recording.clone().expect("records");
    let written = || recording.cameras().map(|(_, camera)| camera.late).sum::<u64>();
    for _ in 0..2 {
        link.set(Condition { frozen: true, ..Condition::default() });
        link.cut();
        let goal = written() + OUTAGE_FRAMES;
        until("frames are kept", PATIENCE, || written() >= goal).await;
        link.set(Condition::default());
        let sent_before = shown.late_totals().sent;
        until("late frames are sent", PATIENCE, || shown.late_totals().sent >= sent_before + 10).await;
    }
    let analyzed_before = analyzed();
    until("live frames go on meanwhile", PATIENCE, || analyzed() > analyzed_before).await;
    let places = &shown.resources.places;
    let queue = places.iter().find(|place| place.name == "recording/queue_bytes").expect("is a place");
    let is_done = || {
        // What waits for the disk is not found yet.
        let is_on_disk = queue.live() == 0;
        let late = shown.late_totals();
        is_on_disk && late.found == written() && late.waiting + late.in_flight == 0
    };
    until("all late frames are sent", PATIENCE, is_done).await;

    let counts = ingest.stop().await.expect("stops");
    let late = shown.late_totals();
    assert_eq!((counts.balance(), late.balance(), late.waiting, late.in_flight), (0, 0, 0, 0), "{counts:?} {late:?}");
    let done = late.answered(Outcome::Analyzed) + late.dropped(LateDrop::Known);
    assert_eq!((done, late.found), (written(), written()), "{late:?}");

    let kept = kept(&dir, "cam").expect("readable");
    assert_eq!(kept.len() as u64, written());
    assert!(service.sources.archive.history.as_ref().expect("kept").flush(PATIENCE));
    let found = results(service.connect().await.expect("connects"), "cam", &kept).await.expect("answered");
    let compared = Comparison::of(&kept, &found);
    let wanted = Comparison { kept: written(), analyzed: written(), live: compared.live, ..Comparison::default() };
    assert_eq!(compared, wanted);
    assert!(compared.live >= 30);
    for result in found.iter().filter(|result| result.late) {
        assert_eq!(result.observed_unix_us, result.captured_unix_us);
        assert_eq!((result.position, result.faces.len(), result.counts.is_none()), (0, 1, true), "{result:?}");
        assert!(result.faces[0].track.is_none() && result.latency_us > 0);
    }

    // Of the late ones nothing that tells of now has heard.
    let view = service.sources.cameras.all()[0].view();
    assert_eq!(view.counts.answered(Outcome::Analyzed), compared.live);
    let server_late = service.sources.late.ledger.counts();
    assert_eq!(server_late.answered(Outcome::Analyzed), written());
    let served = service.stop().await.expect("stops");
    let [watched, watched_late] = watching.await.expect("watched");
    assert!(watched > 0 && watched_late == 0, "{watched} and {watched_late}");
    assert_eq!((served.balance(), served.queued), (0, 0), "{served:?}");
    link.stop().await;
}

/// Without a history the frames stay where they are, and live ones go on.
#[tokio::test]
async fn a_server_without_a_history_takes_none() {
    let (_pictures, source) = picture_folder(SIZE).expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("recordings");
    let service = Inference::start(stub_config(2_000, true)).await.expect("starts");
    let link = Link::start(service.address).await.expect("a wire");
    link.set(Condition { frozen: true, ..Condition::default() });
    let ingest = Running::start(sender(&link.url(), &source, &dir)).await.expect("starts");
    let (camera, shown) = (ingest.cameras[0].clone(), ingest.shown.clone());
    until("frames are kept", PATIENCE, || shown.late_totals().waiting >= 10).await;
    link.set(Condition::default());
    until("live frames", PATIENCE, || camera.counts().answered(Outcome::Analyzed) >= 100).await;
    let recording = shown.recording.clone().expect("records");
    let written = || recording.cameras().map(|(_, camera)| camera.late).sum::<u64>();
    until("all are found", PATIENCE, || shown.late_totals().found == written()).await;
    ingest.stop().await.expect("stops");
    let late = shown.late_totals();
    assert_eq!((late.sent, late.waiting, late.balance()), (0, late.found, 0), "{late:?}");
    assert_eq!(kept(&dir, "cam").expect("readable").len() as u64, late.found);
    service.stop().await.expect("stops");
    link.stop().await;
}

struct Programs {
    grpc: std::net::SocketAddr,
    ingest_admin: std::net::SocketAddr,
    server_toml: String,
    ingest_toml: String,
    server: Program,
    ingest: Program,
}

impl Programs {
    fn start(source: &str, folder: &Path) -> Self {
        let [grpc, admin, ingest_admin] = std::array::from_fn(|_| free_address().expect("a port"));
        let server_toml = format!(
            "[listen]\ngrpc = '{grpc}'\nadmin = '{admin}'\npage = ''\n\
             [vision]\nstub_engine = {{ time_us = 5000, face = true, wait = 'sleep' }}\n\
             [history]\nfile = '{}'\nmin_free_bytes = 0\n",
            folder.join("history.sqlite").display()
        );
        let mut config = sender(&format!("http://{grpc}"), source, &folder.join("recordings"));
        config.admin.listen = ingest_admin.to_string();
        // Not all at once: there must be something to kill.
        config.recording.late_fps = 40.0;
        let ingest_toml = config.to_toml();
        let server = Program::start("inference-service", &server_toml).expect("starts");
        let ingest = Program::start("ingest-service", &ingest_toml).expect("starts");
        Self { grpc, ingest_admin, server_toml, ingest_toml, server, ingest }
    }

    async fn kill_ingest(&mut self) {
        self.ingest.signal(libc::SIGKILL).expect("killed");
        self.ingest.wait(PATIENCE).await.expect("ended");
        self.ingest = Program::start("ingest-service", &self.ingest_toml).expect("starts again");
    }

    /// In order: what it answered is stored, as a server that is killed cannot say.
    async fn stop_server(&mut self) {
        self.server.signal(libc::SIGTERM).expect("told");
        assert!(self.server.wait(PATIENCE).await.expect("ends").success());
    }

    async fn kill_server(&mut self) {
        self.server.signal(libc::SIGKILL).expect("killed");
        self.server.wait(PATIENCE).await.expect("ended");
    }

    fn start_server(&mut self) {
        self.server = Program::start("inference-service", &self.server_toml).expect("starts again");
    }

    async fn late(&self, series: &str) -> Option<f64> {
        metric(self.ingest_admin, &format!("flatframe_ingest_{series}")).await
    }

    /// Waits until this run of the sender has sent `frames` late ones.
    async fn sent(&self, frames: f64) {
        answered("late frames are sent", PATIENCE, async || {
            self.late("late_frames_sent_total{camera=\"cam\"}").await.filter(|sent| *sent >= frames)
        })
        .await;
    }
}

/// Both programs after an outage that left at least 300 frames on disk; the
/// server is there again.
async fn after_an_outage(source: &str, folder: &Path) -> Programs {
    let mut programs = Programs::start(source, folder);
    let recorded = "recorded_frames_total{camera=\"cam\"}";
    answered("live frames", PATIENCE, async || {
        let series = "frames_total{camera=\"cam\",side=\"answered\",outcome=\"analyzed\"}";
        programs.late(series).await.filter(|analyzed| *analyzed >= 20.0)
    })
    .await;
    // Frames that were kept before it was there may be late ones of its last second.
    programs.stop_server().await;
    answered("frames are kept", PATIENCE, async || programs.late(recorded).await.filter(|kept| *kept >= 300.0)).await;
    programs.start_server();
    programs
}

fn random() -> fastrand::Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}

impl Programs {
    /// Waits until at most `missing` of the frames on disk have no result, and
    /// compares. The history commits once a second.
    async fn compared(&self, folder: &Path, missing: u64) -> Comparison {
        let channel = connect(&self.grpc.to_string(), PATIENCE).await.expect("connects");
        let compared = answered("the results are stored", PATIENCE, async || {
            let kept = kept(&folder.join("recordings"), "cam").expect("readable");
            let found = results(channel.clone(), "cam", &kept).await.ok()?;
            Some(Comparison::of(&kept, &found)).filter(|compared| compared.missing <= missing)
        })
        .await;
        println!("{compared:?}");
        compared
    }

    async fn end(mut self) {
        assert_eq!(self.late("ledger_balance").await, Some(0.0));
        self.ingest.signal(libc::SIGTERM).expect("told");
        assert!(self.ingest.wait(PATIENCE).await.expect("ends").success());
    }
}

/// The sender is killed, again and again, while it sends: each frame that it
/// kept has its one result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_the_sender_lose_nothing() {
    let (_pictures, source) = picture_folder(SIZE).expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let mut programs = after_an_outage(&source, folder.path()).await;
    let mut random = random();
    for _ in 0..4 {
        programs.sent(f64::from(random.u32(1..25))).await;
        programs.kill_ingest().await;
    }
    let compared = programs.compared(folder.path(), 0).await;
    let wanted =
        Comparison { kept: compared.kept, analyzed: compared.kept, live: compared.live, ..Comparison::default() };
    assert_eq!(compared, wanted);
    assert!(compared.kept >= 300);
    programs.end().await;
}

/// The server is killed: what it had answered and not committed, one second's,
/// is missing, and nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_the_server_make_no_duplicate() {
    let (_pictures, source) = picture_folder(SIZE).expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let mut programs = after_an_outage(&source, folder.path()).await;
    let mut random = random();
    for kill in 1..=2 {
        // Of this run of the sender, which is not killed.
        programs.sent(f64::from(kill * 30 + random.u32(1..25))).await;
        programs.kill_server().await;
        programs.start_server();
    }
    answered("all late frames are sent", PATIENCE, async || {
        let waiting = programs.late("late_frames_waiting{camera=\"cam\"}").await?;
        let in_flight = programs.late("late_frames_in_flight{camera=\"cam\"}").await?;
        let found = programs.late("late_frames_found_total{camera=\"cam\"}").await?;
        (found > 0.0 && waiting + in_flight < 1.0).then_some(())
    })
    .await;
    let compared = programs.compared(folder.path(), 2 * 40).await;
    assert_eq!((compared.duplicates, compared.foreign), (0, 0), "{compared:?}");
    assert!(compared.kept >= 300);
    programs.end().await;
}
