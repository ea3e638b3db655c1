//! The state of cameras on a real broker (mosquitto), read by a client that is
//! not ours.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, stub_config};
use e2e::program::{Program, are_installed, connect, free_address};
use e2e::wait::until;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1;
use inference_service::config::{Config, PrivacyMode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const SIZE: PictureSize = PictureSize::new(160, 120);
const PEERS: [&str; 3] = ["mosquitto", "mosquitto_passwd", "mosquitto_sub"];
const USER: &str = "box";
const PASSWORD: &str = "not in any log";

/// A broker that knows one user.
struct Mosquitto {
    address: SocketAddr,
    log: PathBuf,
    process: Child,
}

impl Mosquitto {
    async fn start(folder: &Path, address: SocketAddr) -> Self {
        let (passwords, config) = (folder.join("passwords"), folder.join("mosquitto.conf"));
        let log = folder.join("mosquitto.log");
        std::fs::write(&passwords, "").expect("writes");
        let made = Command::new("mosquitto_passwd").arg("-b").arg(&passwords).args([USER, PASSWORD]).status().await;
        assert!(made.expect("mosquitto_passwd runs").success());
        let port = address.port();
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\n\
             log_dest stderr\nlog_type all\n",
            passwords.display()
        );
        std::fs::write(&config, text).expect("writes");
        let mut command = Command::new("mosquitto");
        command
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a file"))
            .kill_on_drop(true);
        Self { address, log, process: command.spawn().expect("mosquitto starts") }
    }

    /// Ends, and leaves its port.
    async fn stop(mut self) {
        self.process.kill().await.expect("ends");
    }

    /// Everything that is told on `topic`, as lines `TOPIC MESSAGE`.
    async fn listen(&self, topic: &str) -> Listener {
        let port = self.address.port().to_string();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-u", USER, "-P", PASSWORD, "-v", "-t", topic]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().expect("mosquitto_sub starts");
        let lines = BufReader::new(process.stdout.take().expect("is piped")).lines();
        Listener { lines, _process: process }
    }
}

struct Listener {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Listener {
    /// Waits for a message on `topic` of which `is_it` says yes.
    async fn until(&mut self, topic: &str, is_it: impl Fn(&str) -> bool) -> String {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let line = self.lines.next_line().await.expect("text").expect("the listener lives");
                // Without a message there is no space.
                let (at, message) = line.split_once(' ').unwrap_or((&line, ""));
                if at == topic && is_it(message) {
                    return message.to_owned();
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("nothing like it on {topic}"))
    }
}

/// A service that tells the broker at `address`.
fn config(folder: &Path, address: SocketAddr) -> Config {
    let file = folder.join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("writes");
    let mut config = stub_config(500, true);
    config.mqtt.broker = format!("mqtt://{USER}@{address}");
    config.mqtt.password_file = file;
    config
}

async fn send(camera: &mut RawCamera, frames: u32) {
    for seed in 0..frames {
        camera.send_frame(textured_jpeg(SIZE, seed), SIZE, PATIENCE).await.expect("sends");
        assert_eq!(camera.outcome().await.expect("answered").outcome(), v1::Outcome::Analyzed);
    }
}

/// Somebody stays in front of the camera, at ten frames a second.
async fn stay(camera: &mut RawCamera) {
    let mut frames = tokio::time::interval(Duration::from_millis(100));
    loop {
        frames.tick().await;
        send(camera, 1).await;
    }
}

/// A port for the broker, and a subscriber that is there before the service:
/// mosquitto_sub ends when nobody listens yet.
async fn broker(folder: &Path) -> (Mosquitto, Listener) {
    let broker = Mosquitto::start(folder, free_address().expect("a free port")).await;
    let is_up = || std::net::TcpStream::connect(broker.address).is_ok();
    until("the broker listens", PATIENCE, is_up).await;
    let listener = broker.listen("#").await;
    (broker, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_and_states_are_told_and_kept() {
    if !are_installed("counts_and_states_are_told_and_kept", &PEERS) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (broker, mut listener) = broker(folder.path()).await;
    let service = Inference::start(config(folder.path(), broker.address)).await.expect("starts");
    listener.until("flatframe/status", |text| text == "online").await;
    let channel = service.connect().await.expect("connects");
    let mut camera = RawCamera::open(channel, hello("bus-7", 1)).await.expect("is welcome").0;
    let seen = |text: &str| {
        let state: Value = serde_json::from_str(text).expect("JSON");
        // Another visit if the machine stood still meanwhile.
        state["now"]["people"] == 1 && state["visits"]["people"].as_u64() >= Some(1)
    };
    let told = async {
        let found = listener.until("homeassistant/device/flatframe-bus-7/config", |text| !text.is_empty()).await;
        let found: Value = serde_json::from_str(&found).expect("JSON");
        assert_eq!(found["state_topic"], "flatframe/camera/bus-7");
        assert_eq!(found["components"]["visits"]["state_class"], "total_increasing");
        listener.until("flatframe/camera/bus-7", seen).await;
        // One who comes later learns it too.
        let mut late = broker.listen("flatframe/camera/#").await;
        late.until("flatframe/camera/bus-7", seen).await;
    };
    // Who is there now is told while frames come.
    tokio::select! {
        () = told => {}
        () = stay(&mut camera) => {}
    }
    drop(camera);
    listener.until("flatframe/camera/bus-7", |text| text.contains("offline") && text.contains(r#""now":null"#)).await;
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
    listener.until("flatframe/status", |text| text == "offline").await;
    // It said so itself: the last will is for those who cannot.
    let says_goodbye =
        || std::fs::read_to_string(&broker.log).is_ok_and(|log| log.contains("Received DISCONNECT from flatframe-"));
    until("the broker is left in order", PATIENCE, says_goodbye).await;
}

/// As in a rolling update: the new one says that it is there, then the old one
/// that it is not.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_takes_over_has_the_last_word() {
    if !are_installed("the_one_that_takes_over_has_the_last_word", &PEERS) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (broker, mut listener) = broker(folder.path()).await;
    let old = Inference::start(config(folder.path(), broker.address)).await.expect("starts");
    listener.until("flatframe/status", |text| text == "online").await;
    let channel = old.connect().await.expect("connects");
    let mut camera = RawCamera::open(channel, hello("door", 1)).await.expect("is welcome").0;
    send(&mut camera, 5).await;
    listener.until("flatframe/camera/door", |text| text.contains(r#""people":1"#)).await;
    let new = Inference::start(config(folder.path(), broker.address)).await.expect("starts");
    listener.until("flatframe/status", |text| text == "online").await;
    drop(camera);
    old.stop().await.expect("stops");
    listener.until("flatframe/status", |text| text == "offline").await;
    listener.until("flatframe/status", |text| text == "online").await;
    new.stop().await.expect("stops");

    // A camera that does not come back is not shown with the people it last had.
    let third = Inference::start(config(folder.path(), broker.address)).await.expect("starts");
    let is_unknown = |text: &str| text.contains("offline") && text.contains(r#""visits":null"#);
    listener.until("flatframe/camera/door", is_unknown).await;
    third.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_are_kept_back_are_not_told() {
    if !are_installed("counts_that_are_kept_back_are_not_told", &PEERS) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (broker, mut listener) = broker(folder.path()).await;
    let mut config = config(folder.path(), broker.address);
    config.privacy.mode = PrivacyMode::CountsOnly;
    let service = Inference::start(config).await.expect("starts");
    let channel = service.connect().await.expect("connects");
    let mut camera = RawCamera::open(channel, hello("door", 1)).await.expect("is welcome").0;
    let found = listener.until("homeassistant/device/flatframe-door/config", |_| true).await;
    assert!(found.contains("State") && !found.contains("people"), "{found}");
    send(&mut camera, 5).await;
    drop(camera);
    // Whatever came before: nothing of a person in it.
    let told = listener.until("flatframe/camera/door", |text| {
        assert!(text.contains(r#""now":null"#) && text.contains(r#""visits":null"#), "{text}");
        text.contains("offline")
    });
    told.await;
    service.stop().await.expect("stops");
}

/// The broker is away at the start and goes away later: the service does not
/// mind, and tells everything when it is back. Killed, the broker says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_may_come_and_go_and_so_may_the_service() {
    let name = "a_broker_may_come_and_go_and_so_may_the_service";
    if !are_installed(name, &PEERS) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let address = free_address().expect("a free port");
    let (grpc, admin) = (free_address().expect("a free port"), free_address().expect("a free port"));
    let mut config = config(folder.path(), address);
    (config.listen.grpc, config.listen.admin, config.listen.page) = (grpc, admin, None);
    let toml = toml::to_string(&config).expect("a configuration is TOML");
    let service = Program::start("inference-service", &toml).expect("starts");
    let channel = connect(&grpc.to_string(), PATIENCE).await.expect("listens");
    let mut camera = RawCamera::open(channel, hello("door", 1)).await.expect("is welcome").0;
    send(&mut camera, 1).await;
    for _ in 0..2 {
        let broker = Mosquitto::start(folder.path(), address).await;
        until("the broker listens", PATIENCE, || std::net::TcpStream::connect(address).is_ok()).await;
        let mut listener = broker.listen("flatframe/#").await;
        listener.until("flatframe/status", |text| text == "online").await;
        listener.until("flatframe/camera/door", |text| text.contains(r#""visits""#)).await;
        broker.stop().await;
    }
    let broker = Mosquitto::start(folder.path(), address).await;
    until("the broker listens", PATIENCE, || std::net::TcpStream::connect(address).is_ok()).await;
    let mut listener = broker.listen("flatframe/#").await;
    listener.until("flatframe/status", |text| text == "online").await;
    service.signal(libc::SIGKILL).expect("is killed");
    listener.until("flatframe/status", |text| text == "offline").await;
}
