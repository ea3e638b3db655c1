//! ffmpeg as a child: files and what cannot be read.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flatframe_shared::frame::CameraState;
use ingest_service::config::CameraConfig;

use crate::peers::{Reader, installed, judge, read};

/// A short H.264 film.
fn film(path: &Path) {
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=2"])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-y"])
        .arg(path)
        .status();
    assert!(made.expect("ffmpeg runs").success());
}

fn camera(input: &str) -> CameraConfig {
    CameraConfig { fps: 12.5, width_px: 320, height_px: 240, ..CameraConfig::new("film", &format!("ffmpeg:{input}")) }
}

#[tokio::test]
async fn a_film_is_played_in_a_loop_at_the_wanted_rate_and_size() {
    if !installed("a film", &["ffmpeg"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    // A name that could be taken for an option.
    let path = folder.path().join("-y.mp4");
    film(&path);
    // Twice as long as it is.
    judge("ffmpeg", read(&camera(&path.display().to_string()), 50, Duration::from_secs(60)).await, 50);

    let output = Command::new(env!("CARGO_BIN_EXE_ingest-service"))
        .args(["probe", &format!("ffmpeg:{}", path.display()), "--for", "10s", "--save"])
        .arg(folder.path().join("first.jpg"))
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    // 640x360 fits into the 640x480 that are asked for.
    assert!(output.status.success() && text.contains("format    JPEG 640x360"), "{output:?}");
    let jpeg = std::fs::read(folder.path().join("first.jpg")).expect("saved");
    assert!(flatframe_shared::jpeg::read_size(&jpeg).is_ok());
}

#[tokio::test]
async fn what_ffmpeg_cannot_read_is_said_without_the_password() {
    if !installed("no film", &["ffmpeg"]) {
        return;
    }
    for (input, words) in [("/no/such/film.mp4", "No such file"), ("rtsp://user:s3cret@127.0.0.1:1/x", "127.0.0.1")] {
        let reader = Reader::start(&camera(input));
        let down = |reader: &Reader| reader.status().state == CameraState::Down;
        assert!(reader.until(Duration::from_secs(30), down).await, "{:?}", reader.status());
        let detail = reader.status().detail;
        assert!(detail.contains(words) && !detail.contains("s3cret"), "{detail}");
        reader.stop().await;
    }
}
