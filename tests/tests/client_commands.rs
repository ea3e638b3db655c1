//! `inference-service watch`, `counts`, `status`, `incidents` and `detect` as a
//! person types them, beside a running service.

use std::path::Path;
use std::process::{Output, Stdio};

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::pair::{Inference, stub_config};
use e2e::program::binary;
use e2e::wait::until;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1;
use inference_service::config::PrivacyMode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpSocket;
use tokio::process::Command;

const SIZE: PictureSize = PictureSize::new(160, 120);

fn command(words: &[&str], server: &str) -> Command {
    let mut command = Command::new(binary("inference-service").expect("is built"));
    command.args(words).args(["--server", server]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(words: &[&str], server: &str) -> Output {
    tokio::time::timeout(PATIENCE, command(words, server).output()).await.expect("in time").expect("runs")
}

async fn good(words: &[&str], server: &str) -> String {
    let done = run(words, server).await;
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

async fn bad(words: &[&str], server: &str) -> String {
    let done = run(words, server).await;
    assert_eq!(done.status.code(), Some(1), "{words:?}: {}", String::from_utf8_lossy(&done.stdout));
    assert!(done.stdout.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&done.stdout));
    String::from_utf8(done.stderr).expect("text")
}

/// A service that sees one face on every picture, with a history in `folder`.
async fn start(folder: &Path, mode: PrivacyMode) -> Inference {
    let mut config = stub_config(500, true);
    config.history.file = folder.join("history.sqlite");
    config.history.min_free_bytes = 0;
    config.incidents.offline_s = 0;
    config.privacy.mode = mode;
    Inference::start(config).await.expect("starts")
}

async fn send(camera: &mut RawCamera, frames: u32) {
    for seed in 0..frames {
        camera.send_frame(textured_jpeg(SIZE, seed), SIZE, PATIENCE).await.expect("sends");
        assert_eq!(camera.outcome().await.expect("answered").outcome(), v1::Outcome::Analyzed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_says_is_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = start(folder.path(), PrivacyMode::Full).await;
    let url = service.url();
    assert!(good(&["status"], &url).await.starts_with("no camera has connected"));
    assert!(good(&["incidents"], &url).await.starts_with("nothing is wrong"));
    let mut watch = command(&["watch", "--json", "--camera", "door"], &url).spawn().expect("starts");
    until("the command watches", PATIENCE, || service.sources.bus.subscribers() == 1).await;
    let channel = service.connect().await.expect("connects");
    let mut camera = RawCamera::open(channel, hello("door", 1)).await.expect("is welcome").0;
    send(&mut camera, 5).await;
    let mut lines = BufReader::new(watch.stdout.take().expect("is piped")).lines();
    let mut last = 0;
    for _ in 0..5 {
        let line =
            tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text").expect("a line");
        let result: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&result["camera"], &result["faces"][0]["gender"]), (&"door".into(), &"-".into()), "{line}");
        let number = result["frame_number"].as_u64().expect("a number");
        assert!(number > last, "{line}");
        last = number;
    }
    watch.kill().await.expect("ends");

    let status = good(&["status"], &url).await;
    let row = status.lines().find(|line| line.starts_with("door ")).expect("the camera's line");
    assert!(row.contains("1 (1 ?)") && row.contains("0.0 %"), "{status}");
    assert!(status.contains("ledger balance 0"), "{status}");
    let as_json = good(&["status", "--json"], &url).await;
    let lines: Vec<Value> = as_json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["visits"]["people"], &lines[1]["ledger_balance"]), (2, &1.into(), &0.into()));

    let history = service.sources.archive.history.clone().expect("a history is kept");
    assert!(history.flush(PATIENCE), "{:?}", history.state());
    let counts = good(&["counts", "--last", "10m", "--bucket", "1h", "--per-camera"], &url).await;
    assert!(counts.lines().any(|line| line.contains(" door ") && line.contains("1 (1 ?)")), "{counts}");

    drop(camera);
    until("the camera is offline", PATIENCE, || service.sources.incidents.live() > 0).await;
    let incidents = good(&["incidents"], &url).await;
    assert!(incidents.contains("offline") && incidents.contains(", still"), "{incidents}");

    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/../inference-service/assets/astronaut.jpg");
    let found = good(&["detect", picture], &url).await;
    assert!(found.contains("1 faces in"), "{found}");
    service.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_its_connection_was_lost() {
    let service = Inference::start(stub_config(500, true)).await.expect("starts");
    let link = e2e::link::Link::start(service.address).await.expect("listens");
    let mut watch = command(&["watch"], &link.url()).spawn().expect("starts");
    until("the command watches", PATIENCE, || service.sources.bus.subscribers() == 1).await;
    let channel = service.connect().await.expect("connects");
    let mut camera = RawCamera::open(channel, hello("door", 1)).await.expect("is welcome").0;
    let mut lines = BufReader::new(watch.stdout.take().expect("is piped")).lines();
    for _ in 0..2 {
        send(&mut camera, 1).await;
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text");
        assert!(line.expect("a line").contains("door  faces 1"));
        // What comes while it is away is held for it.
        link.cut();
    }
    watch.kill().await.expect("ends");
    drop(camera);
    link.stop().await;
    service.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = start(folder.path(), PrivacyMode::CountsOnly).await;
    let url = service.url();
    let missing = bad(&["detect", "/nowhere/at/all.jpg"], &url).await;
    assert!(missing.contains("/nowhere/at/all.jpg"), "{missing}");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    assert!(bad(&["detect", manifest], &url).await.contains("JPEG"));
    assert!(bad(&["counts", "--bucket", "1m"], &url).await.contains("900"));
    assert!(bad(&["watch", "--camera", "no such/id"], &url).await.contains("no such/id"));
    service.stop().await.expect("stops");
    // Bound, so that no other test gets the port, and nobody listens there.
    let nobody = TcpSocket::new_v4().expect("a socket");
    nobody.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let url = format!("http://{}", nobody.local_addr().expect("an address"));
    assert!(bad(&["status"], &url).await.contains("is inference-service running there"));
    assert!(bad(&["status"], "ftp://127.0.0.1:1").await.contains("http://"));
    assert!(bad(&["status"], "not a url").await.contains("http://"));
}
