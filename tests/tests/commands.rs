//! `inference-service models` and `eval` as a person types them: what is
//! printed, and the exit codes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use e2e::media::{shared, skipped};
use e2e::program::binary;
use e2e::wait::until;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);
const ASTRONAUT: &[u8] = include_bytes!("../../inference-service/assets/astronaut.jpg");
const YUNET: &str = include_str!("../../inference-service/models/yunet_n.toml");

/// What a command gave back.
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(args: &[&str], models: &Path) -> Command {
    let mut command = Command::new(binary("inference-service").expect("is built"));
    command.args(args).arg("--set").arg(format!("vision.models_dir={}", models.display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(args: &[&str], models: &Path) -> Done {
    let done = command(args, models).output().await.expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("is text");
    Done { code: done.status.code(), out: text(done.stdout), err: text(done.stderr) }
}

/// A folder with a manifest `mine` like that of yunet_n, from `url`.
fn folder(url: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let lines = YUNET.lines().map(|line| match line.split(' ').next() {
        Some("file") => "file = \"mine.onnx\"".into(),
        Some("url") => format!("url = \"{url}\""),
        _ => line.to_owned(),
    });
    std::fs::write(dir.path().join("mine.toml"), lines.collect::<Vec<_>>().join("\n")).expect("writes");
    dir
}

/// The line of a table that begins with `name`, its columns.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(name));
    line.unwrap_or_else(|| panic!("{name} is missing: {table}")).split_whitespace().collect()
}

#[tokio::test]
async fn models_are_listed_and_shown() {
    let dir = folder("https://models.invalid/mine.onnx");
    std::fs::write(dir.path().join("mine.onnx"), b"0123456789").expect("writes");
    std::fs::write(dir.path().join("broken.toml"), "kind = \"detector\"").expect("writes");
    let done = run(&["models", "list"], dir.path()).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(row(&done.out, "flatface-det")[1..4], ["detector", "embedded", "Apache-2.0"]);
    assert_eq!(row(&done.out, "flatface-det").last(), Some(&"yes"));
    assert_eq!(row(&done.out, "mine"), ["mine", "detector", "present", "Apache-2.0", "10"]);
    assert_eq!(row(&done.out, "gender_dlib"), ["gender_dlib", "gender", "absent", "CC0-1.0", "525624"]);
    assert_eq!(row(&done.out, "broken")[1..4], ["?", "bad", "manifest"]);
    assert!(done.err.contains("\"broken\" is not valid"), "{}", done.err);

    let other = run(&["models", "list", "--set", "vision.detector=mine"], dir.path()).await;
    assert_eq!(row(&other.out, "mine").last(), Some(&"yes"));
    // Settings on both sides of the command: those before it would be lost.
    let both = run(&["--set", "vision.detector=mine", "models", "list"], dir.path()).await;
    assert!(both.code == Some(2) && both.err.contains("after the command"), "{}", both.err);

    let done = run(&["models", "show", "mine"], dir.path()).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    for part in
        ["10", "present", "104ee26c71d5c270", "Apache-2.0", "https://models.invalid/mine.onnx", "320x256", "0.6"]
    {
        assert!(done.out.contains(part), "{part}: {}", done.out);
    }
    let done = run(&["models", "show", "gender_dlib"], dir.path()).await;
    assert!(done.out.contains("converted from") && done.out.contains("download      none"), "{}", done.out);
    let done = run(&["models", "show", "nobody"], dir.path()).await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("\"nobody\": no such model") && done.err.contains("yunet_n"), "{}", done.err);
}

#[tokio::test]
async fn bad_models_are_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let done = run(&["models", "verify"], dir.path()).await;
    assert_eq!(done.code, Some(0), "{}", done.out);
    assert_eq!(row(&done.out, "flatface-det"), ["flatface-det", "good"]);
    assert_eq!(row(&done.out, "flatface-gender"), ["flatface-gender", "good"]);
    assert_eq!(row(&done.out, "yunet_n"), ["yunet_n", "absent"]);

    // In use and absent: the service would not start.
    let done = run(&["models", "verify", "--set", "vision.detector=yunet_n"], dir.path()).await;
    assert_eq!(done.code, Some(1));
    assert!(row(&done.out, "yunet_n")[1] == "BAD:" && done.out.contains("models fetch yunet_n"), "{}", done.out);

    let dir = folder("");
    std::fs::write(dir.path().join("mine.onnx"), b"abc").expect("writes");
    let done = run(&["models", "verify"], dir.path()).await;
    assert_eq!((done.code, row(&done.out, "mine")[1]), (Some(1), "BAD:"), "an address that is none: {}", done.out);
    let dir = folder("https://models.invalid/x");
    std::fs::write(dir.path().join("mine.onnx"), b"abc").expect("writes");
    let done = run(&["models", "verify"], dir.path()).await;
    assert_eq!(done.code, Some(1));
    assert!(row(&done.out, "mine")[1] == "BAD:" && done.out.contains("sha256 ba7816bf"), "{}", done.out);
}

/// The right hash is not enough: the answer to the known picture counts too.
#[tokio::test]
async fn third_party_models_pass_the_self_test() {
    let Some(models) = shared("models") else {
        return skipped("third_party_models_pass_the_self_test", "the shared models are not beside the project");
    };
    let done = run(&["models", "verify"], &models).await;
    assert_eq!(done.code, Some(0), "{}", done.out);
    for name in ["yunet_n", "yunet_s", "ultraface_rfb320", "ultraface_slim320", "gender_dlib", "gender_xception"] {
        assert_eq!(row(&done.out, name), [name, "good"]);
    }
    // The weights of yunet_n with a manifest that feeds them wrongly.
    let dir = folder("https://models.invalid/x");
    let manifest = std::fs::read_to_string(dir.path().join("mine.toml")).expect("reads");
    let wrong = manifest.replace("scale = 1.0", "scale = 0.001");
    std::fs::write(dir.path().join("mine.toml"), wrong).expect("writes");
    std::fs::copy(models.join("yunet_n_dynamic.onnx"), dir.path().join("mine.onnx")).expect("copies");
    let done = run(&["models", "verify"], dir.path()).await;
    assert_eq!(done.code, Some(1));
    assert!(row(&done.out, "mine")[1] == "BAD:" && done.out.contains("self-test"), "{}", done.out);
}

#[tokio::test]
async fn an_interrupted_fetch_goes_on_later() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let dir = folder(&format!("http://{}/mine.onnx", listener.local_addr().expect("is bound")));
    let part = dir.path().join("mine.onnx.part");
    let fetch = command(&["models", "fetch", "mine"], dir.path()).spawn().expect("starts");
    let pid = fetch.id().expect("it runs") as i32;
    let (mut stream, _) = listener.accept().await.expect("a connection");
    // An answer that comes before the request is none.
    let mut request = [0; 4096];
    assert!(stream.read(&mut request).await.expect("a request") > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 322906\r\n\r\n0123456789").await.expect("writes");
    until("the first bytes are on the disk", LIMIT, || part.metadata().is_ok_and(|file| file.len() == 10)).await;
    // SAFETY: kill takes two integers; the id is our child's, not reaped yet.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let done = fetch.wait_with_output().await.expect("ends");
    assert_eq!(done.status.code(), Some(130));
    let err = String::from_utf8(done.stderr).expect("is text");
    assert!(err.contains("interrupted") && !err.contains('%'), "no progress but on a terminal: {err}");
    drop(stream);

    let fetch = command(&["models", "fetch", "mine"], dir.path()).spawn().expect("starts");
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let read = stream.read(&mut request).await.expect("a request");
    assert!(String::from_utf8_lossy(&request[..read]).to_lowercase().contains("range: bytes=10-"));
    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.expect("writes");
    let done = fetch.wait_with_output().await.expect("ends");
    assert_eq!(done.status.code(), Some(1));
    let err = String::from_utf8(done.stderr).expect("is text");
    assert!(err.contains("mine was not fetched") && err.contains("404 Not Found"), "{err}");
    assert!(part.exists() && !dir.path().join("mine.onnx").exists());

    let done = run(&["models", "fetch", "flatface-det"], dir.path()).await;
    assert!(done.code == Some(0) && done.out.contains("nothing to fetch"), "{}", done.out);
}

/// The last line as JSON.
fn figures(done: &Done) -> Value {
    assert_eq!(done.code, Some(0), "{}", done.err);
    serde_json::from_str(done.out.lines().last().expect("a line")).expect("is JSON")
}

fn share(figures: &Value, key: &str) -> f64 {
    figures[key].as_f64().unwrap_or_else(|| panic!("{key}: {figures}"))
}

#[tokio::test]
async fn own_pictures_are_judged() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("creates");
    std::fs::write(data.join("good.jpg"), ASTRONAUT).expect("writes");
    std::fs::write(data.join("cut.jpg"), &ASTRONAUT[..2000]).expect("writes");
    std::fs::write(data.join("other.png"), b"\x89PNG\r\n\x1a\n").expect("writes");
    let manifest = "path,gender,boxes\ngood.jpg,F,93 50 71 91\ncut.jpg,F,\nother.png,M,\nabsent.jpg,M,\n";
    std::fs::write(data.join("manifest.csv"), manifest).expect("writes");
    let data = data.to_str().expect("is text");

    let done = run(&["eval", "--data", data, "--json"], dir.path()).await;
    let found = figures(&done);
    let time = share(&found, "ms_per_picture");
    assert!(time > 0.0, "{found}");
    let mut rest = found.clone();
    rest.as_object_mut().expect("is an object").remove("ms_per_picture");
    let unknown = rest.as_object_mut().expect("is an object").remove("unknown_share");
    assert!(unknown.is_some_and(|share| share.is_number()));
    let expected = serde_json::json!({
        "pictures": 1, "bad_pictures": 3, "faces": 1, "ap50": 1.0, "gender_accuracy": 1.0,
        "gender_accuracy_women": 1.0, "gender_accuracy_men": null, "no_face_found": 0,
    });
    assert_eq!(rest, expected);
    for part in ["cut.jpg is left out", "other.png is left out: it is no JPEG", "absent.jpg is left out"] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
    assert!(done.out.contains("all 4, there is no split"), "{}", done.out);

    // Shrunk, with the face too small to count, and without gender.
    let args = ["eval", "--data", data, "--gender", "", "--max-side", "128", "--min-face", "40", "--json"];
    let found = figures(&run(&args, dir.path()).await);
    for key in ["ap50", "gender_accuracy", "gender_accuracy_women", "gender_accuracy_men", "unknown_share"] {
        assert!(found[key].is_null(), "{key}: {found}");
    }
    assert_eq!((&found["pictures"], &found["faces"]), (&1.into(), &0.into()));

    // Dimensions above the limit are refused before they are read.
    let small = ["pace.max_width_px=64", "pace.max_height_px=64", "vision.max_picture=64x64"];
    let small = small.map(|setting| ["--set", setting]).concat();
    let done = run(&[vec!["eval", "--data", data], small].concat(), dir.path()).await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("256x256 is larger") && done.err.contains("none of the 4 pictures"), "{}", done.err);
}

#[tokio::test]
async fn what_cannot_be_judged_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().to_str().expect("is text");
    let done = run(&["eval", "--data", data], dir.path()).await;
    assert!(done.code == Some(1) && done.err.contains("manifest.csv could not be read"), "{}", done.err);
    std::fs::write(dir.path().join("manifest.csv"), "path,gender\na.jpg,F\nb.jpg,woman\n").expect("writes");
    let done = run(&["eval", "--data", data], dir.path()).await;
    assert!(done.code == Some(1) && done.err.contains("manifest.csv, line 3, column gender"), "{}", done.err);
    std::fs::write(dir.path().join("manifest.csv"), "path,gender\na.jpg,F\n").expect("writes");
    for (args, code, says) in [
        (vec!["--detector", "nobody"], 1, "no such model"),
        (vec!["--detector", "flatface-gender"], 1, "a detector is wanted"),
        (vec!["--detector", "yunet_n"], 1, "weights of model \"yunet_n\" are missing"),
        (vec!["--max-side", "8192"], 1, "--max-side 8192: detector \"flatface-det\" takes sides of 64 to 1920"),
        (vec!["--max-side", "8"], 2, "--max-side"),
        (vec!["--min-face", "nan"], 2, "--min-face"),
        (vec!["--set", "vision.max_faces=0"], 78, "vision.max_faces"),
    ] {
        let done = run(&[vec!["eval", "--data", data], args].concat(), dir.path()).await;
        assert!(done.code == Some(code) && done.err.contains(says), "{says}: {:?} {}", done.code, done.err);
    }
    let done = run(&["--check", "models", "list"], dir.path()).await;
    assert!(done.code == Some(2) && done.err.contains("without a command"), "{}", done.err);
}

/// The figures of ONNX Runtime and the reference scorer, in the README of the
/// shared pictures.
#[tokio::test]
async fn figures_are_those_of_the_reference() {
    let (Some(models), Some(data)) = (shared("models"), shared("data")) else {
        return skipped(
            "figures_are_those_of_the_reference",
            "the shared models and pictures are not beside the project",
        );
    };
    let eval = async |set: &str, args: &[&str]| {
        let folder: PathBuf = data.join(set);
        let folder = folder.to_str().expect("is text");
        figures(&run(&[&["eval", "--json", "--data", folder, "--detector", "yunet_n"], args].concat(), &models).await)
    };
    let wider = eval("wider_val_200", &["--gender", "", "--max-side", "416", "--min-face", "10"]).await;
    assert_eq!((&wider["pictures"], &wider["faces"]), (&200.into(), &1083.into()));
    assert!((share(&wider, "ap50") - 0.760).abs() < 0.01, "{wider}");
    let london = eval("london_faces", &["--gender", "gender_dlib", "--max-side", "320"]).await;
    assert!(share(&london, "gender_accuracy") >= 0.995, "{london}");
}
