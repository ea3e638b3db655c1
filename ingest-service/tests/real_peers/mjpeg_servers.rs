//! Real MJPEG servers: ffmpeg, ustreamer and motion.

use std::process::Command;
use std::time::Duration;

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use ingest_service::config::CameraConfig;

use crate::peers::{Peer, free_port, installed, judge, read};

/// Pictures read from each peer.
const WANTED: u64 = 500;
/// Cameras that read the same ustreamer.
const USTREAMER_CLIENTS: u64 = 20;

fn camera(url: &str) -> CameraConfig {
    CameraConfig { fps: 240.0, ..CameraConfig::new("peer", &format!("mjpeg+{url}")) }
}

/// A moving picture as ffmpeg's input.
fn moving(fps: u32) -> Vec<String> {
    let input = format!("testsrc2=size=320x240:rate={fps}");
    ["-hide_banner", "-loglevel", "error", "-re", "-f", "lavfi", "-i", &input].map(String::from).into()
}

/// ffmpeg serving `fps` pictures a second to one client after the other.
fn ffmpeg_server(port: u16, fps: u32) -> Peer {
    let mut arguments = moving(fps);
    for argument in ["-c:v", "mjpeg", "-q:v", "5", "-f", "mpjpeg", "-boundary_tag", "cam1"] {
        arguments.push(argument.into());
    }
    for argument in ["-content_type", "multipart/x-mixed-replace;boundary=cam1", "-listen", "1"] {
        arguments.push(argument.into());
    }
    arguments.push(format!("http://127.0.0.1:{port}/s"));
    Peer::start(Command::new("ffmpeg").args(arguments))
}

#[tokio::test]
async fn ffmpeg() {
    if !installed("ffmpeg", &["ffmpeg"]) {
        return;
    }
    let port = free_port();
    let _ffmpeg = ffmpeg_server(port, 100);
    // It serves nobody again whom a test that was held up has left.
    let camera = CameraConfig { no_picture_ms: 60_000, ..camera(&format!("http://127.0.0.1:{port}/s")) };
    judge("ffmpeg", read(&camera, WANTED, Duration::from_secs(90)).await, WANTED);
}

#[tokio::test]
async fn motion_reading_ffmpeg() {
    if !installed("motion", &["motion", "ffmpeg"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (source, port) = (free_port(), free_port());
    let _ffmpeg = ffmpeg_server(source, 30);
    let config = folder.path().join("motion.conf");
    let text = format!(
        "daemon off\nsetup_mode off\nlog_level 3\ntarget_dir {}\nnetcam_url http://127.0.0.1:{source}/s\n\
         width 320\nheight 240\nframerate 30\nminimum_frame_time 0\nemulate_motion off\npicture_output off\n\
         movie_output off\nstream_port {port}\nstream_localhost on\nstream_maxrate 30\nstream_quality 60\nwebcontrol_port 0\n",
        folder.path().display()
    );
    std::fs::write(&config, text).expect("writes");
    let _motion = Peer::start(Command::new("motion").arg("-n").arg("-c").arg(&config).current_dir(folder.path()));
    let read = read(&camera(&format!("http://127.0.0.1:{port}/")), WANTED, Duration::from_secs(120)).await;
    judge("motion", read, WANTED);
}

#[tokio::test]
async fn ustreamer() {
    if !installed("ustreamer", &["ustreamer"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let blank = folder.path().join("blank.jpg");
    std::fs::write(&blank, blank_jpeg()).expect("writes");
    let port = free_port();
    let _ustreamer = Peer::start(
        Command::new("ustreamer")
            .args(["--device", "/dev/no-such-video", "--host", "127.0.0.1", "--port", &port.to_string(), "--blank"])
            .arg(&blank),
    );
    // Without a device it serves each client about one picture a second: as
    // many clients side by side as it takes.
    let camera = camera(&format!("http://127.0.0.1:{port}/stream"));
    let reads: Vec<_> = (0..USTREAMER_CLIENTS)
        .map(|_| {
            let camera = camera.clone();
            tokio::spawn(async move { read(&camera, WANTED / USTREAMER_CLIENTS, Duration::from_secs(90)).await })
        })
        .collect();
    for read in reads {
        judge("ustreamer", read.await.expect("no panic"), WANTED / USTREAMER_CLIENTS);
    }
}

fn blank_jpeg() -> Vec<u8> {
    let size = PictureSize::new(320, 240);
    let rgb: Vec<u8> = (0..size.pixels() * 3).map(|i| (i / 7) as u8 ^ (i >> 9) as u8).collect();
    let mut out = Vec::new();
    jpeg::encode_rgb(&rgb, size, 80, &mut out).expect("encode");
    out
}
