//! Recording as it runs: beside streaming, without a server, on a full disk,
//! through kills, and read by the program while it is written.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flatframe_shared::frame::{CameraId, PictureSize};
use flatframe_shared::jpeg;
use flatframe_shared::outcome::{DropReason, Outcome};
use ingest_service::record::catalog::{Frames, TimeRange};
use ingest_service::record::state::{CameraRecording, NotRecorded, Pause};
use ingest_service::{CameraConfig, Config, Ingest};
use tokio_util::sync::CancellationToken;

use crate::support::{FakeServer, soon, until};

const NO_SERVER: &str = "http://127.0.0.1:1";
const KILLS: usize = 20;
const MIB: u64 = 1 << 20;

fn config(server: &str, dir: &Path, fps: f32) -> Config {
    let camera = CameraConfig { fps: 60.0, record: "continuous".into(), ..CameraConfig::new("a", "pattern") };
    let mut config = Config { camera: vec![camera], ..Config::default() };
    config.server.address = server.into();
    config.admin.listen = "127.0.0.1:0".into();
    config.recording.dir = dir.display().to_string();
    config.recording.fps = fps;
    config.recording.min_free_bytes = 0;
    config.recording.max_write_bytes_per_s = 1 << 30;
    // Much, so that a disk that is slow for a while costs no frame.
    config.recording.queue_bytes = 64 << 20;
    config
}

/// What is recorded of the only camera.
fn recording(ingest: &Ingest) -> CameraRecording {
    let recording = ingest.sources().recording.as_ref().expect("it records");
    recording.cameras().next().expect("a camera").1
}

fn paused(ingest: &Ingest) -> Option<Pause> {
    ingest.sources().recording.as_ref().expect("it records").paused()
}

/// Segment and number of every frame on disk; with `is_checked` every picture is
/// read and its checksum compared.
fn numbers(dir: &Path, is_checked: bool) -> Vec<(u64, u64)> {
    let camera = CameraId::parse("a").expect("valid");
    // Before the first frame there is no folder.
    let Ok(mut frames) = Frames::of(dir, &camera, TimeRange::default()) else { return Vec::new() };
    let (mut found, mut picture) = (Vec::new(), Vec::new());
    while let Some(frame) = frames.next(is_checked.then_some(&mut picture)).expect("readable") {
        found.push((frame.sequence, frame.header.number));
    }
    assert!(frames.damage.is_empty(), "{:?}", frames.damage);
    found
}

/// How many frames are on disk; each one decodes.
fn pictures(dir: &Path) -> usize {
    let camera = CameraId::parse("a").expect("valid");
    let mut frames = Frames::of(dir, &camera, TimeRange::default()).expect("readable");
    let (mut count, mut picture, mut rgb) = (0, Vec::new(), Vec::new());
    while let Some(frame) = frames.next(Some(&mut picture)).expect("readable") {
        let size = jpeg::decode_rgb(&picture, PictureSize::new(640, 480), &mut rgb).expect("a picture");
        assert_eq!(size, frame.header.size);
        count += 1;
    }
    assert!(frames.damage.is_empty(), "{:?}", frames.damage);
    count
}

#[tokio::test]
async fn recorded_without_a_server_and_the_ledger_balances() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("recordings");
    let shutdown = CancellationToken::new();
    let ingest = Ingest::start(config(NO_SERVER, &dir, 20.0), shutdown.clone()).await.expect("starts");
    until("frames are on disk", || recording(&ingest).recorded >= 20 && recording(&ingest).segments == 1).await;
    assert!(ingest.places().iter().all(|place| place.live() <= place.cap), "{:?}", ingest.places());
    assert!(ingest.budget().parts().iter().any(|part| part.name == "recording"));
    let mut metrics = String::new();
    let registry = ingest_service::metrics::registry(ingest.sources().clone());
    prometheus_client::encoding::text::encode(&mut metrics, &registry).expect("encodes");
    for line in [
        "flatframe_ingest_recorded_frames_total{camera=\"a\"}",
        "flatframe_ingest_recorded_written_bytes_total{camera=\"a\"}",
        "flatframe_ingest_frames_not_recorded_total{camera=\"a\",reason=\"queue_full\"} 0",
        "flatframe_ingest_recording_bytes{camera=\"a\"}",
        "flatframe_ingest_recording_cap_bytes 4294967296",
        "flatframe_ingest_recording_segments{camera=\"a\"} 1",
        "flatframe_ingest_recording_paused{reason=\"disk_low\"} 0",
        "flatframe_ingest_place_cap{place=\"recording/queue_bytes\"} 67108864",
    ] {
        assert!(metrics.contains(line), "{line} missing in:\n{metrics}");
    }
    shutdown.cancel();
    let sources = ingest.sources().clone();
    let counts = soon("the service stops", ingest.join()).await;
    let of = sources.recording.as_ref().expect("it records").cameras().next().expect("a camera").1;
    let dropped = |reason| counts.dropped(reason);
    assert_eq!((counts.balance(), counts.waiting, counts.sent), (0, 0, 0), "{counts:?}");
    // Recorded at its own rate; all of them count as offline in the end.
    assert_eq!(of.not_recorded, [0; NotRecorded::ALL.len()]);
    assert!(of.recorded <= dropped(DropReason::Offline) && of.recorded < counts.captured, "{of:?} {counts:?}");
    assert_eq!(pictures(&dir) as u64, of.recorded, "what was offered before the end is on disk");
}

#[tokio::test]
async fn recorded_at_its_own_rate_while_all_is_sent() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let server = FakeServer::start().await.answer_all();
    let shutdown = CancellationToken::new();
    let config = config(&server.url(), &folder.path().join("recordings"), 5.0);
    let ingest = Ingest::start(config, shutdown.clone()).await.expect("starts");
    let analyzed = || ingest.totals().answered(Outcome::Analyzed);
    until("frames are on disk", || recording(&ingest).recorded >= 10).await;
    until("many more are sent", || analyzed() > 3 * recording(&ingest).recorded).await;
    shutdown.cancel();
    assert_eq!(soon("the service stops", ingest.join()).await.balance(), 0);
}

/// A mounted file system in memory; gone with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, and said so, where this user may not mount.
    fn mount(test: &str, size_mib: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let options = format!("size={size_mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(folder));
        }
        // Straight to the terminal: the test runner hides what passing tests print.
        let line = format!("SKIPPED {test}: this user may not mount a tmpfs\n");
        let _ = std::fs::write("/dev/tty", &line).or_else(|_| std::fs::write("/dev/stderr", &line));
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Near its end, and at its end: recording stops and says so, frames go on to
/// the server all the time, and it records again when there is room.
#[tokio::test]
async fn a_full_disk_harms_no_stream() {
    for (min_free_bytes, wanted) in [(6 * MIB, "disk_low"), (0, "failing")] {
        let Some(disk) = SmallDisk::mount("a_full_disk_harms_no_stream", 16) else { return };
        let filler = disk.path().join("filler");
        std::fs::write(&filler, vec![1; 8 << 20]).expect("written");
        let server = FakeServer::start().await.answer_all();
        let shutdown = CancellationToken::new();
        let dir = disk.path().join("recordings");
        let mut config = config(&server.url(), &dir, 60.0);
        config.recording.min_free_bytes = min_free_bytes;
        let ingest = Ingest::start(config, shutdown.clone()).await.expect("starts");
        until(wanted, || paused(&ingest).is_some_and(|pause| pause.as_str() == wanted)).await;
        let analyzed = || ingest.totals().answered(Outcome::Analyzed);
        let before = analyzed();
        until("the stream goes on", || analyzed() > before + 60).await;
        let of = recording(&ingest);
        let reason = if wanted == "failing" { NotRecorded::Failed } else { NotRecorded::DiskLow };
        until("lost frames are counted", || recording(&ingest).not_recorded[reason as usize] > 0).await;
        std::fs::remove_file(&filler).expect("removed");
        until("it records again", || paused(&ingest).is_none() && recording(&ingest).recorded > of.recorded + 5).await;
        let sources = ingest.sources().clone();
        shutdown.cancel();
        assert_eq!(soon("the service stops", ingest.join()).await.balance(), 0);
        let recorded = sources.recording.as_ref().expect("it records").cameras().next().expect("a camera").1.recorded;
        assert_eq!(pictures(&dir) as u64, recorded, "no half frame is left");
    }
}

fn service(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest-service"));
    let toml = dir.with_extension("toml");
    let text = format!(
        "[server]\naddress = '{NO_SERVER}'\n[admin]\nlisten = ''\n[recording]\ndir = '{}'\nfps = 60.0\n\
         min_free_bytes = 0\nmax_write_bytes_per_s = 1073741824\nqueue_bytes = 2097152\nsync_s = 1\n\
         [[camera]]\nid = 'a'\nsource = 'pattern'\nfps = 60.0\nrecord = 'continuous'\n",
        dir.display()
    );
    std::fs::write(&toml, text).expect("written");
    // Colours would part words from their values.
    command
        .env_remove("RUST_LOG")
        .env("NO_COLOR", "1")
        .arg("--config")
        .arg(toml)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// `kill -9` at any moment, twenty times on the same folder: what was there a
/// moment before is there afterwards, and every run goes on behind it.
#[tokio::test]
async fn what_was_written_survives_twenty_kills() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("recordings");
    let mut seen: Vec<(u64, u64)> = Vec::new();
    for kill in 0..KILLS {
        let mut child = service(&dir).stderr(Stdio::null()).spawn().expect("starts");
        // Anywhere in what is written in a second.
        let wanted = seen.len() + fastrand::usize(1..=60);
        until("more frames are on disk", || numbers(&dir, false).len() >= wanted).await;
        let acknowledged = numbers(&dir, false);
        child.kill().expect("SIGKILL");
        child.wait().expect("reaped");
        let after = numbers(&dir, true);
        assert!(after.starts_with(&acknowledged) && acknowledged.starts_with(&seen), "kill {kill}");
        assert!(after.windows(2).all(|pair| pair[0] < pair[1]), "kill {kill}: in order, none twice");
        seen = after;
    }
    let segments = seen.chunk_by(|one, other| one.0 == other.0).count();
    assert_eq!(pictures(&dir), seen.len());
    println!("{} frames in {segments} segments after {KILLS} kills", seen.len());
    assert_eq!(segments, KILLS, "each run begins a segment");
}

#[tokio::test]
async fn sigterm_writes_what_waits_and_the_program_lists_and_exports_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("recordings");
    let child = service(&dir).stderr(Stdio::piped()).spawn().expect("starts");
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    until("frames are on disk", || numbers(&dir, false).len() > 30).await;
    // While it writes.
    let list = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingest-service"));
        let output = command.args(["recordings", "--dir"]).arg(&dir).args(arguments).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, text) = list(&["list"]);
    assert!(code == Some(0) && text.contains("in 1 segments"), "{text}");

    // SAFETY: a plain system call on a child of this test.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    let output = child.wait_with_output().expect("ends");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    // Had it taken longer than it may, it had ended itself with a failure.
    assert!(output.status.success(), "{} {log}", output.status);
    let on_disk = pictures(&dir);
    assert!(log.contains("the recording is closed") && log.contains(&format!("recorded={on_disk}")), "{on_disk} {log}");

    let (code, text) = list(&["list", "--json", "--check"]);
    let listed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &listed["frames"], &listed["camera"]), (Some(0), &on_disk.into(), &"a".into()), "{text}");
    let out: PathBuf = folder.path().join("out");
    let (code, text) = list(&["export", "--camera", "a", "--last", "1h", "--jpegs", &out.display().to_string()]);
    assert!(code == Some(0) && text.contains(&format!("{on_disk} frames")), "{text}");
    assert_eq!(std::fs::read_dir(&out).expect("there").count(), on_disk);
    for (arguments, words) in [
        (vec!["export", "--camera", "a"], "--avi"),
        (vec!["export", "--camera", "b", "--avi", "x.avi"], "cannot be read"),
        (vec!["export", "--camera", "a", "--from", "2030-01-01T00:00:00", "--avi", "x.avi"], "nothing is recorded"),
        (vec!["list", "--camera", "no/such"], "1 to 64"),
    ] {
        let (code, text) = list(&arguments);
        assert!(code != Some(0) && text.contains(words), "{arguments:?}: {text}");
    }
}
