//! `ingest-service cameras` and `probe`, as a person runs them.

use std::process::{Command, Output, Stdio};

use ingest_service::Config;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest-service"));
    command.args(arguments).stdin(Stdio::null()).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn probe_says_what_a_source_gives_and_saves_a_picture() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("first.jpg");
    let output = run(&["probe", "pattern", "--for", "8s", "--save", file.to_str().expect("text")]);
    assert!(output.status.success(), "{output:?}");
    for words in ["source    pattern", "format    JPEG 640x480", "pictures  ", "a second", "bytes     ", "saved     "] {
        assert!(text(&output.stdout).contains(words), "{words:?} missing in {}", text(&output.stdout));
    }
    let jpeg = std::fs::read(&file).expect("saved");
    assert_eq!(flatframe_shared::jpeg::read_size(&jpeg).map(|size| (size.width_px, size.height_px)), Ok((640, 480)));
}

#[test]
fn probe_takes_a_camera_of_the_configuration() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[[camera]]\nid = 'door'\nsource = 'pattern'\nwidth_px = 320\nheight_px = 240\n")
        .expect("writes");
    let output = run(&["probe", "door", "--for", "8s", "--config", file.to_str().expect("text")]);
    assert!(output.status.success() && text(&output.stdout).contains("JPEG 320x240"), "{output:?}");
}

#[test]
fn probe_without_a_picture_fails_with_the_reason() {
    for (source, code, words) in [
        ("v4l2:/dev/no-such-video", 1, "/dev/no-such-video is not there"),
        ("v4l2:/dev/null", 1, "/dev/null is not a camera"),
        ("file:/no/such/folder", 1, "/no/such/folder"),
        ("mjpeg+http://u:s3cret@127.0.0.1:1/", 1, "no connection"),
        ("rtsp://u:s3cret@127.0.0.1:1/x", 1, "DESCRIBE"),
        ("patern", 78, "use pattern"),
    ] {
        let output = run(&["probe", source, "--for", "30s"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{source}: {error}");
        assert!(error.contains(words) && !error.contains("s3cret"), "{source}: {error}");
        assert!(!text(&output.stdout).contains("s3cret"), "{output:?}");
    }
}

#[test]
fn cameras_prints_a_configuration_or_says_that_there_are_none() {
    let output = run(&["cameras"]);
    let config: Config = toml::from_str(&text(&output.stdout)).expect("TOML");
    match output.status.code() {
        Some(0) => assert!(config.plans().is_ok_and(|plans| !plans.is_empty())),
        Some(1) => {
            assert!(config.camera.is_empty());
            assert!(text(&output.stderr).contains("no camera that can be read is attached"), "{output:?}");
        }
        other => panic!("{other:?}: {output:?}"),
    }
    assert_eq!(run(&["probe", "pattern", "--set", "limits.max_in_flight=1"]).status.code(), Some(78));
    assert_eq!(run(&["cameras", "--check"]).status.code(), Some(2));
}
