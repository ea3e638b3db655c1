//! Real MJPEG servers are read: ffmpeg, ustreamer and motion, whose headers all
//! differ. A peer that is not installed is skipped, visibly; CI installs all.
//! Every picture is decoded, so that "read" means "whole".

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use flatframe_shared::ledger::{IngestCounts, IngestLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::outcome::DropReason;
use ingest_service::Ingest;
use ingest_service::config::{CameraConfig, Config};
use ingest_service::plan::CameraPlan;
use ingest_service::prepare::RawSlot;
use ingest_service::source;
use ingest_service::source::capture::Capture;
use ingest_service::source::status::StatusCell;
use ingest_service::terms::{Terms, TermsCell};
use tokio_util::sync::CancellationToken;

/// Pictures read from each peer.
const WANTED: u64 = 500;
/// Between two looks at what was read.
const PAUSE: Duration = Duration::from_millis(20);
/// Cameras that read the same ustreamer.
const USTREAMER_CLIENTS: u64 = 20;
const LIMIT: PictureSize = PictureSize::new(1920, 1080);

/// A process of a peer; ended with the test.
struct Peer(Child);

impl Peer {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("it is installed"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether all programs are there; says so when not.
fn installed(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
        .collect();
    if !missing.is_empty() {
        // Straight to the terminal: the test runner hides what passing tests print.
        let line = format!("SKIPPED {test}: not installed: {missing:?}\n");
        let _ = std::fs::write("/dev/tty", &line).or_else(|_| std::fs::write("/dev/stderr", &line));
        assert!(std::env::var_os("FLATFRAME_REQUIRE_PEERS").is_none(), "{line}");
    }
    missing.is_empty()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port()
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

/// Reads `wanted` pictures, or for at most `time`; returns the counts and how
/// many pictures decoded.
async fn read(url: &str, wanted: u64, time: Duration) -> (IngestCounts, u64, u64) {
    let config = CameraConfig { fps: 240.0, ..CameraConfig::new("peer", &format!("mjpeg+{url}")) };
    let plan = CameraPlan::new(&config, &Default::default()).expect("a camera");
    let (slot, terms) = (Arc::<RawSlot>::default(), TermsCell::default());
    terms.set(Some(Terms { max_fps: None, max_size: LIMIT, max_frame_bytes: 1 << 20 }));
    let (ledger, stop) = (IngestLedger::new(), CancellationToken::new());
    let memory = Arc::new(MemoryWatch::unlimited());
    let capture = Capture::new(&plan, ledger.clone(), StatusCell::new(), slot.clone(), terms, memory);
    let task = tokio::spawn(source::run(source::of(&plan), capture, plan.no_picture, stop.clone()));
    let (decoded, undecodable) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let decoding = std::thread::spawn({
        let (slot, decoded, undecodable) = (slot.clone(), decoded.clone(), undecodable.clone());
        move || {
            let mut rgb = Vec::new();
            while let Some(frame) = slot.take() {
                let good = jpeg::decode_rgb(frame.picture.as_jpeg().expect("MJPEG"), LIMIT, &mut rgb).is_ok();
                if good { &decoded } else { &undecodable }.fetch_add(1, Relaxed);
                frame.ticket.drop_as(DropReason::Superseded);
            }
        }
    });
    let start = Instant::now();
    while decoded.load(Relaxed) < wanted && start.elapsed() < time {
        tokio::time::sleep(PAUSE).await;
    }
    stop.cancel();
    task.await.expect("no panic");
    slot.close();
    decoding.join().expect("no panic");
    let counts = ledger.counts();
    assert_eq!((counts.balance(), counts.waiting), (0, 0), "{counts:?}");
    (counts, decoded.load(Relaxed), undecodable.load(Relaxed))
}

fn judge(peer: &str, (counts, decoded, undecodable): (IngestCounts, u64, u64), wanted: u64) {
    println!("{peer}: {decoded} pictures read and decoded, {counts:?}");
    assert!(decoded >= wanted, "{peer}: {decoded} of {wanted} pictures; {counts:?}");
    assert_eq!(undecodable, 0, "{peer}");
    // The first after a peer's start may be cut off; nothing else may.
    assert!(counts.dropped(DropReason::Corrupt) <= 1, "{peer}: {counts:?}");
}

#[tokio::test]
async fn ffmpeg() {
    if !installed("ffmpeg", &["ffmpeg"]) {
        return;
    }
    let port = free_port();
    let _ffmpeg = ffmpeg_server(port, 100);
    let read = read(&format!("http://127.0.0.1:{port}/s"), WANTED, Duration::from_secs(90)).await;
    judge("ffmpeg", read, WANTED);
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
    let read = read(&format!("http://127.0.0.1:{port}/"), WANTED, Duration::from_secs(120)).await;
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
    let url = format!("http://127.0.0.1:{port}/stream");
    let reads: Vec<_> = (0..USTREAMER_CLIENTS)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { read(&url, WANTED / USTREAMER_CLIENTS, Duration::from_secs(90)).await })
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
    while recorded().is_none_or(|(_, of)| of.recorded < 40) {
        tokio::time::sleep(PAUSE).await;
    }
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
