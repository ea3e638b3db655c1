//! Cameras behind a child process, with shells in place of rpicam-vid.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use flatframe_shared::frame::{CameraState, PictureSize};
use flatframe_shared::shutdown::SHUTDOWN_DEADLINE;
use ingest_service::{CameraConfig, Config, Ingest};
use tokio_util::sync::CancellationToken;

use crate::support::{FakeServer, picture, soon, until};

/// A folder with an .mjpeg file of `pictures` pictures.
fn clip(pictures: u8) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("clip.mjpeg");
    let mut file = std::fs::File::create(&path).expect("creates");
    for seed in 0..pictures {
        file.write_all(&picture(PictureSize::new(160, 120), seed)).expect("writes");
    }
    (folder, path)
}

fn config(server: &str, script: &str, no_picture_ms: u64) -> Config {
    let mut config = Config {
        camera: vec![CameraConfig {
            command: vec!["sh".into(), "-c".into(), script.into()],
            fps: 240.0,
            no_picture_ms,
            ..CameraConfig::new("child", "rpicam")
        }],
        ..Config::default()
    };
    config.server.address = server.into();
    config.admin.listen = String::new();
    config
}

/// The process whose id a script wrote into `file`, while it lives.
fn process(file: &Path) -> Option<PathBuf> {
    let pid = std::fs::read_to_string(file).ok()?;
    let process = Path::new("/proc").join(pid.trim());
    (!pid.trim().is_empty() && process.exists()).then_some(process)
}

#[tokio::test]
async fn pictures_of_a_child_that_ignores_sigterm_and_it_is_killed_and_reaped() {
    let (folder, clip) = clip(20);
    let pid = folder.path().join("pid");
    let server = FakeServer::start().await.answer_all();
    let script = format!(
        "trap '' TERM; echo $$ > {}; while true; do cat {}; echo noise >&2; sleep 0.02; done",
        pid.display(),
        clip.display()
    );
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config(&server.url(), &script, 5000), shutdown.clone()).await.expect("starts");
    let camera = ingest.cameras()[0].clone();
    until("60 pictures", || camera.counts().captured >= 60).await;
    assert!(process(&pid).is_some());
    let start = Instant::now();
    shutdown.cancel();
    let counts = soon("the service stops", ingest.join()).await;
    assert!(start.elapsed() < 2 * SHUTDOWN_DEADLINE, "{:?}", start.elapsed());
    assert_eq!(process(&pid), None, "killed and reaped");
    assert_eq!((counts.balance(), counts.waiting, counts.in_flight), (0, 0, 0), "{counts:?}");
}

#[tokio::test]
async fn a_child_without_pictures_is_killed_and_started_again() {
    let (folder, clip) = clip(3);
    let pids = folder.path().join("pids");
    let server = FakeServer::start().await.answer_all();
    let script = format!("trap '' TERM; echo $$ >> {}; cat {}; sleep 1000", pids.display(), clip.display());
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config(&server.url(), &script, 500), shutdown.clone()).await.expect("starts");
    let camera = ingest.cameras()[0].clone();
    until("stalled", || camera.status().state == CameraState::Stalled).await;
    assert!(camera.status().detail.contains("no whole picture for 500 ms"), "{}", camera.status().detail);
    until("pictures of a second child", || camera.counts().captured >= 6).await;
    assert_eq!(camera.status().state, CameraState::Live);
    let started = std::fs::read_to_string(&pids).expect("written");
    let first = started.lines().next().expect("one at least");
    assert!(!Path::new("/proc").join(first).exists(), "the first is gone, and no zombie");
    shutdown.cancel();
    soon("the service stops", ingest.join()).await;
}

#[tokio::test]
async fn a_child_that_ends_or_does_not_start_is_said_with_its_last_words() {
    let server = FakeServer::start().await.answer_all();
    for (script, words) in [("echo 'no cameras available' >&2; exit 3", vec!["no cameras available"]), ("", vec![])] {
        let mut config = config(&server.url(), script, 5000);
        if script.is_empty() {
            config.camera[0].command = vec!["/no/such/rpicam-vid".into()];
        }
        let shutdown = CancellationToken::new();
        let ingest = Ingest::start(config, shutdown.clone()).await.expect("starts");
        let camera = ingest.cameras()[0].clone();
        until("down", || camera.status().state == CameraState::Down).await;
        let detail = camera.status().detail;
        let words = if words.is_empty() { vec!["/no/such/rpicam-vid", "does not start"] } else { words };
        assert!(words.iter().all(|word| detail.contains(word)), "{detail}");
        shutdown.cancel();
        soon("the service stops", ingest.join()).await;
    }
}

#[tokio::test]
async fn a_killed_service_leaves_no_child() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (pid, file) = (folder.path().join("pid"), folder.path().join("config.toml"));
    let script = format!("echo $$ > {}; trap '' TERM; exec sleep 1000", pid.display());
    let toml = format!(
        "[admin]\nlisten = ''\n[[camera]]\nid = 'a'\nsource = 'rpicam'\ncommand = ['sh', '-c', \"{script}\"]\n"
    );
    std::fs::write(&file, toml).expect("writes");
    let mut service = std::process::Command::new(env!("CARGO_BIN_EXE_ingest-service"))
        .arg("--config")
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    until("the child runs", || process(&pid).is_some()).await;
    service.kill().expect("SIGKILL");
    service.wait().expect("reaped");
    until("the child is gone", || process(&pid).is_none()).await;
}
