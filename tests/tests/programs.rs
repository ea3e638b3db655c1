//! The services as programs: signals, exit codes, wrong configurations, a
//! server that is stopped and killed.

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::camera::{RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::metrics::metric;
use e2e::pair::{Running, ingest_config};
use e2e::program::{Program, binary, connect, free_address};
use e2e::wait::{answered, until};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::outcome::Outcome;
use ingest_service::{CameraConfig, CameraView};

const SIZE: PictureSize = PictureSize::new(320, 240);
/// What is over within 10 s takes longer on a busy machine.
const RECOVERY: Duration = Duration::from_secs(20);
/// Of 1,500 pictures in 30 s: a camera that is held up gives none.
const GOES_ON: u64 = 100;
const EXIT_CONFIG: i32 = 78;
const EXIT_AT_ONCE: i32 = 130;

fn inference_toml(grpc: std::net::SocketAddr) -> String {
    inference_toml_with(grpc, free_address().expect("a port"), "time_us = 2000\nwait = 'sleep'")
}

fn inference_toml_with(grpc: std::net::SocketAddr, admin: std::net::SocketAddr, stub: &str) -> String {
    format!("[listen]\ngrpc = '{grpc}'\nadmin = '{admin}'\npage = ''\n[vision.stub_engine]\n{stub}\n")
}

async fn wait_analyzed(camera: &CameraView, more: u64) {
    let analyzed = || camera.counts().answered(Outcome::Analyzed);
    let goal = analyzed() + more;
    until("frames are analysed", RECOVERY, || analyzed() >= goal).await;
}

/// SIGSTOP for 30 s, then SIGCONT; SIGKILL, then a new server: the sender gives
/// up within 10 s each time, its camera goes on, and it recovers within 10 s.
#[tokio::test]
async fn a_server_stopped_and_killed() {
    let address = free_address().expect("a port");
    let server = Program::start("inference-service", &inference_toml(address)).expect("starts");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("1.jpg"), textured_jpeg(SIZE, 1)).expect("written");
    let source = format!("file:{}", folder.path().display());
    let camera = CameraConfig { fps: 50.0, ..CameraConfig::new("cam", &source) };
    let ingest = Running::start(ingest_config(&format!("http://{address}"), vec![camera])).await.expect("starts");
    let camera = ingest.cameras[0].clone();
    wait_analyzed(&camera, 50).await;
    let files = server.used().open_files.expect("its files can be counted");

    server.signal(libc::SIGSTOP).expect("stopped");
    let (stopped, captured) = (Instant::now(), camera.counts().captured);
    until("the sender gives up", RECOVERY, || !camera.connected()).await;
    // The fault itself lasts so long.
    tokio::time::sleep_until((stopped + Duration::from_secs(30)).into()).await;
    let given = camera.counts().captured - captured;
    println!("server under SIGSTOP for 30 s: the camera gives {given} of 1,500 pictures");
    assert!(given >= GOES_ON, "the camera goes on meanwhile: {given} of 1,500 pictures");
    server.signal(libc::SIGCONT).expect("continued");
    wait_analyzed(&camera, 50).await;
    until("the server's files are as before", RECOVERY, || server.used().open_files.is_some_and(|now| now <= files))
        .await;

    server.signal(libc::SIGKILL).expect("killed");
    until("the sender gives up", RECOVERY, || !camera.connected()).await;
    drop(server);
    let server = Program::start("inference-service", &inference_toml(address)).expect("starts again");
    wait_analyzed(&camera, 50).await;
    let counts = ingest.stop().await.expect("stops");
    assert_eq!((counts.balance(), counts.in_flight, counts.waiting), (0, 0, 0), "{counts:?}");
    // Two breaks, each with at most the frames in flight.
    assert!(counts.lost <= 2 * 4, "{counts:?}");
    drop(server);
}

async fn received(admin: std::net::SocketAddr, frames: f64) {
    answered("frames arrive", RECOVERY, async || {
        metric(admin, "flatframe_inference_frames_received_total").await.filter(|now| *now >= frames)
    })
    .await;
}

/// A camera that sends, one whose program ignores SIGTERM, and a server; which
/// of the two programs is stopped first must not matter.
async fn sigterm_under_load(server_first: bool) {
    let (address, server_admin) = (free_address().expect("a port"), free_address().expect("a port"));
    let toml = inference_toml_with(address, server_admin, "time_us = 2000\nwait = 'sleep'");
    let server = Program::start("inference-service", &toml).expect("starts");
    let camera = |id: &str| format!("[[camera]]\nid = '{id}'\nsource = 'pattern'\nfps = 50.0\n");
    let stuck = "[[camera]]\nid = 'stuck'\nsource = 'rpicam'\ncommand = ['sh', '-c', 'trap \"\" TERM; while :; do sleep 1; done']\n";
    let config =
        format!("[server]\naddress = 'http://{address}'\n[admin]\nlisten = ''\n{}{}{stuck}", camera("a"), camera("b"));
    let ingest = Program::start("ingest-service", &config).expect("starts");
    received(server_admin, 50.0).await;
    let silent = std::net::TcpStream::connect(address).expect("connects");
    let mut programs = if server_first { [server, ingest] } else { [ingest, server] };
    for program in &mut programs {
        program.signal(libc::SIGTERM).expect("told");
        let start = Instant::now();
        let status = program.wait(RECOVERY).await.expect("ends in time");
        println!("SIGTERM under load, server first {server_first}: {status} after {:.1?}", start.elapsed());
        assert!(status.success(), "{status} after {:?}", start.elapsed());
    }
    drop(silent);
}

/// SIGTERM while cameras send, a camera is frozen and a client says nothing:
/// both programs end in order within 10 s.
#[tokio::test]
async fn sigterm_under_load_to_the_sender() {
    sigterm_under_load(false).await;
}

#[tokio::test]
async fn sigterm_under_load_to_the_server() {
    sigterm_under_load(true).await;
}

/// An engine that needs longer than the whole shutdown may take.
#[tokio::test]
async fn a_hung_engine_does_not_keep_the_process() {
    let (address, admin) = (free_address().expect("a port"), free_address().expect("a port"));
    let toml = inference_toml_with(address, admin, "time_us = 60000000\nwait = 'sleep'");
    let mut server = Program::start("inference-service", &toml).expect("starts");
    let channel = connect(&address.to_string(), RECOVERY).await.expect("listens");
    let (mut camera, _) = RawCamera::open(channel, hello("cam", 1)).await.expect("is welcome");
    camera.send_frame(textured_jpeg(SIZE, 1), SIZE, Duration::from_secs(30)).await.expect("sends");
    received(admin, 1.0).await;
    server.signal(libc::SIGTERM).expect("told");
    server.wait(RECOVERY).await.expect("ends in time");
}

/// The camera's program holds the shutdown up, and gives the second signal
/// itself when it is told to end: the service has taken the first one then, and
/// ends at once.
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let started = folder.path().join("started");
    let config = format!(
        "[admin]\nlisten = ''\n[[camera]]\nid = 'stuck'\nsource = 'rpicam'\nno_picture_ms = 600000\n\
         command = ['sh', '-c', 'trap \"kill -TERM $PPID\" TERM; touch {}; while :; do sleep 1; done']\n",
        started.display()
    );
    let mut ingest = Program::start("ingest-service", &config).expect("starts");
    until("the camera's program runs", RECOVERY, || started.exists()).await;
    ingest.signal(libc::SIGTERM).expect("told");
    let status = ingest.wait(RECOVERY).await.expect("ends");
    assert_eq!(status.code(), Some(EXIT_AT_ONCE), "{status}");
}

#[test]
fn wrong_configurations_are_refused_before_a_port_is_bound() {
    let cases = [
        ("inference-service", "[limits]\nwindw = 2\n", "windw"),
        ("inference-service", "[limits]\nwindow = 'two'\n", "limits.window"),
        ("inference-service", "[limits]\nwindow = 0\n", "use 1 to 64"),
        ("inference-service", "[limits]\nmemory_bytes = 1000000\n", "limits."),
        ("inference-service", "[vision]\ndetector = 'nobody'\n", "nobody"),
        ("inference-service", "listen", "TOML"),
        ("ingest-service", "[[camera]]\nid = 'a'\nsource = 'patern'\n", "patern"),
        ("ingest-service", "[[camera]]\nid = 'a'\nsource = 'pattern'\n[[camera]]\nid = 'a'\nsource = 'pattern'\n", "a"),
        ("ingest-service", "[[camera]]\nid = 'a'\nsource = 'pattern'\nfps = -1.0\n", "fps"),
        ("ingest-service", "", "camera"),
    ];
    for (name, toml, word) in cases {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), toml).expect("written");
        let output =
            Command::new(binary(name).expect("built")).arg("--config").arg(file.path()).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{name} {toml:?}: {text}");
        assert!(text.contains(word), "{name}: {word:?} is missing in: {text}");
    }
}

#[test]
fn flags() {
    for name in ["inference-service", "ingest-service"] {
        let run = |flag: &str| {
            let output = Command::new(binary(name).expect("built")).arg(flag).output().expect("runs");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (ok, help) = run("--help");
        assert!(ok && ["--config", "--check", "--print-config"].iter().all(|flag| help.contains(flag)), "{help}");
        let (ok, version) = run("--version");
        assert!(ok && version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    }
    let check = Command::new(binary("inference-service").expect("built")).arg("--check").output().expect("runs");
    let text = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success() && text.contains("memory budget"), "{text}");
}
