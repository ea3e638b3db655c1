//! A film that was exported from a recording, looked at by ffmpeg.

use std::process::Command;
use std::time::Duration;

use ingest_service::Ingest;
use ingest_service::config::{CameraConfig, Config};
use tokio_util::sync::CancellationToken;

use crate::peers::{PAUSE, installed};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A recording that was exported is a film to ffmpeg: every frame decodes, at
/// the size and the rate at which it was captured.
#[tokio::test]
async fn ffprobe_plays_an_export() {
    if !installed("ffprobe_plays_an_export", &["ffprobe"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (dir, film) = (folder.path().join("recordings"), folder.path().join("a.avi"));
    let camera = CameraConfig { fps: 20.0, record: "continuous".into(), ..CameraConfig::new("a", "pattern") };
    let mut config = Config { camera: vec![camera], ..Config::default() };
    config.server.address = "http://127.0.0.1:1".into();
    config.admin.listen = String::new();
    config.recording.dir = dir.display().to_string();
    (config.recording.fps, config.recording.max_write_bytes_per_s) = (10.0, 1 << 30);
    config.recording.min_free_bytes = 0;
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config, shutdown.clone()).await.expect("starts");
    let recorded = || ingest.sources().recording.iter().flat_map(|recording| recording.cameras()).next();
    let all = async {
        while recorded().is_none_or(|(_, of)| of.recorded < 40) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("40 frames are recorded");
    shutdown.cancel();
    let sources = ingest.sources().clone();
    assert_eq!(ingest.join().await.balance(), 0);
    let frames =
        sources.recording.iter().flat_map(|recording| recording.cameras()).map(|(_, of)| of.recorded).sum::<u64>();

    let program = Command::new(env!("CARGO_BIN_EXE_ingest-service"))
        .args(["recordings", "--dir"])
        .arg(&dir)
        .args(["export", "--camera", "a", "--avi"])
        .arg(&film)
        .output()
        .expect("runs");
    assert!(program.status.success(), "{}", String::from_utf8_lossy(&program.stderr));
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_entries"])
        .args(["stream=codec_name,width,height,r_frame_rate,nb_frames,nb_read_frames", "-of", "default=nw=1"])
        .arg(&film)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&probe.stdout).into_owned();
    assert!(probe.stderr.is_empty(), "{}", String::from_utf8_lossy(&probe.stderr));
    let frames = [format!("nb_frames={frames}"), format!("nb_read_frames={frames}")];
    for line in ["codec_name=mjpeg", "width=640", "height=480"].into_iter().chain(frames.iter().map(String::as_str)) {
        assert!(said.lines().any(|found| found == line), "{line} missing in {said}");
    }
    let rate = said.lines().find_map(|line| line.strip_prefix("r_frame_rate=")).expect("a rate");
    let (over, under) = rate.split_once('/').expect("a fraction");
    let fps = over.parse::<f64>().expect("a number") / under.parse::<f64>().expect("a number");
    println!("{said}{} frames/s", fps);
    // A busy machine captures fewer, and the film says so.
    assert!((5.0..=11.0).contains(&fps), "{fps}");
}
