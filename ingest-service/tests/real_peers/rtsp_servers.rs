//! A real RTSP server, GStreamer's: H.264 and JPEG over TCP and UDP, logins,
//! and a server that goes and comes back.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use flatframe_shared::frame::CameraState;
use flatframe_shared::outcome::DropReason;
use ingest_service::config::{CameraConfig, Password, RtspTransport};

use crate::peers::{Peer, Reader, free_port, installed, judge, judge_decoded, read, skipped};

/// Pictures read of each stream.
const WANTED: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    _process: Peer,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts it and waits until it serves; `None`, said aloud, where it cannot.
    fn start(test: &str, port: u16, login: &[&str]) -> Option<Self> {
        if !installed(test, &["python3", "ffmpeg"]) {
            return None;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_peers/rtsp_server.py");
        // The system's: its bindings to GStreamer are no packages of Python's own.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(port.to_string()).args(login);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it is installed");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let process = Peer(process);
        match lines.next() {
            Some(Ok(line)) if line == "ready" => Some(Self { _process: process, lines }),
            _ => {
                skipped(test, "gir1.2-gst-rtsp-server-1.0 or plugins of GStreamer are missing");
                None
            }
        }
    }

    /// Waits until a client has said that it goes.
    async fn teardown(self) {
        let mut lines = self.lines;
        let line = tokio::task::spawn_blocking(move || lines.next());
        let line = tokio::time::timeout(PATIENCE, line).await.expect("a client says TEARDOWN").expect("no panic");
        assert_eq!(line.expect("the server runs").expect("text"), "teardown");
    }
}

fn camera(port: u16, path: &str) -> CameraConfig {
    CameraConfig { fps: 25.0, ..CameraConfig::new("peer", &format!("rtsp://127.0.0.1:{port}/{path}")) }
}

#[tokio::test]
async fn h264_and_jpeg_over_tcp_and_udp() {
    for (path, transport) in [
        ("h264", RtspTransport::Tcp),
        ("h264", RtspTransport::Udp),
        ("jpeg", RtspTransport::Tcp),
        ("jpeg", RtspTransport::Udp),
    ] {
        let port = free_port();
        let Some(server) = Server::start("rtsp", port, &[]) else { return };
        let camera = CameraConfig { transport, ..camera(port, path) };
        let (name, read) = (format!("{path} over {transport:?}"), read(&camera, WANTED, PATIENCE).await);
        match transport {
            RtspTransport::Tcp => judge(&name, read, WANTED),
            // Who gets no processor for a while loses packets.
            RtspTransport::Udp => _ = judge_decoded(&name, read, WANTED),
        }
        server.teardown().await;
    }
}

#[tokio::test]
async fn key_frames_alone() {
    let port = free_port();
    let Some(_server) = Server::start("rtsp key frames", port, &[]) else { return };
    // One a second, of 25.
    let camera = CameraConfig { keyframes_only: true, ..camera(port, "h264") };
    let reader = Reader::start(&camera);
    assert!(reader.until(PATIENCE, |reader| reader.decoded() >= 3).await, "{:?}", reader.status());
    let fps = reader.status().fps;
    assert!(fps < 5.0, "{fps} a second");
    reader.stop().await;
}

#[tokio::test]
async fn logins() {
    for kind in ["basic", "digest"] {
        let port = free_port();
        let Some(_server) = Server::start("rtsp login", port, &[kind, "viewer", "s3cret"]) else { return };
        let login = |password: &str| CameraConfig {
            username: "viewer".into(),
            password: Password(password.into()),
            ..camera(port, "jpeg")
        };
        judge(kind, read(&login("s3cret"), 5, PATIENCE).await, 5);

        for wrong in [login("wr0ng"), camera(port, "jpeg")] {
            let reader = Reader::start(&wrong);
            let down = |reader: &Reader| reader.status().state == CameraState::Down;
            assert!(reader.until(PATIENCE, down).await, "{:?}", reader.status());
            let detail = reader.status().detail;
            assert!(detail.contains("wants a login") && !detail.contains("wr0ng"), "{detail}");
            reader.stop().await;
        }
    }
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back() {
    for (path, transport) in [("h264", RtspTransport::Tcp), ("jpeg", RtspTransport::Udp)] {
        let port = free_port();
        let Some(server) = Server::start("rtsp return", port, &[]) else { return };
        let reader = Reader::start(&CameraConfig { transport, no_picture_ms: 3000, ..camera(port, path) });
        assert!(reader.until(PATIENCE, |reader| reader.decoded() >= 10).await, "{:?}", reader.status());
        drop(server);
        let gone = |reader: &Reader| reader.status().state != CameraState::Live;
        assert!(reader.until(PATIENCE, gone).await, "{:?}", reader.status());
        let Some(_server) = Server::start("rtsp return", port, &[]) else { return };
        let before = reader.decoded();
        let back = |reader: &Reader| reader.decoded() >= before + 10;
        assert!(reader.until(PATIENCE, back).await, "{:?}", reader.status());
        let (counts, _, undecodable) = reader.stop().await;
        assert_eq!(undecodable, 0, "{counts:?}");
        // What was cut off when the server went.
        assert!(counts.dropped(DropReason::Corrupt) <= 2, "{counts:?}");
    }
}

#[tokio::test]
async fn what_is_no_stream_is_said() {
    let port = free_port();
    let Some(_server) = Server::start("rtsp path", port, &[]) else { return };
    for (port, path, words) in [(port, "other", "no such stream"), (free_port(), "h264", "DESCRIBE")] {
        let reader = Reader::start(&camera(port, path));
        let down = |reader: &Reader| reader.status().state == CameraState::Down;
        assert!(reader.until(PATIENCE, down).await, "{:?}", reader.status());
        let detail = reader.status().detail;
        assert!(detail.contains(words), "{detail}");
        reader.stop().await;
    }
}
