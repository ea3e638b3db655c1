//! The program as an operator runs it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::support::FakeServer;

fn service() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest-service"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn written(toml: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("config.toml");
    std::fs::write(&path, toml).expect("writes");
    (folder, path)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

const CAMERA: &str = "[admin]\nlisten = ''\n[[camera]]\nid = 'a'\nsource = 'pattern'\nfps = 30.0\n";

#[test]
fn help_version_check_and_print_config() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    for (arguments, words) in [
        (vec!["--help"], vec!["--config", "--check", "--print-config", "FLATFRAME_INGEST_"]),
        (vec!["recordings", "--help"], vec!["list", "export", "--dir"]),
        (vec!["--version"], vec![env!("CARGO_PKG_VERSION")]),
        (vec!["--config", example, "--check"], vec!["memory budget:", "scratch", "the configuration is good"]),
        (vec!["--config", example, "--print-config", "--set", "limits.mailbox_frames=3"], vec!["mailbox_frames = 3"]),
    ] {
        let output = service().args(&arguments).output().expect("runs");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        for word in words {
            assert!(text(&output).contains(word), "{arguments:?}: {word:?} missing in {}", text(&output));
        }
    }
}

#[test]
fn wrong_configurations_end_the_program_with_the_reason() {
    for (toml, words) in [
        ("", "add 1 to 64 [[camera]] tables"),
        ("[[camera]]\nid = 'a'\nsource = 'pattern'\nfps = 'fast'\n", "fast"),
        ("[limits]\nmemory_bytes = 1000000\n[[camera]]\nid = 'a'\nsource = 'pattern'\n", "lower limits."),
        ("[[camera]]\nid = 'a'\nsource = 'pattern'\ncolour = 1\n", "colour"),
    ] {
        let (_folder, path) = written(toml);
        let output = service().arg("--config").arg(&path).output().expect("runs");
        assert_eq!(output.status.code(), Some(78), "{toml}: {}", text(&output));
        assert!(text(&output).contains(words), "{toml}: {}", text(&output));
    }
    let output = service().args(["--config", "/no/such.toml"]).output().expect("runs");
    assert!(text(&output).contains("/no/such.toml"), "{}", text(&output));
    let (_folder, path) = written(CAMERA);
    let output =
        service().arg("--config").arg(&path).env("FLATFRAME_INGEST_LIMITS__MAX_IN_FLIGHT", "0").arg("--check").output();
    assert!(text(&output.expect("runs")).contains("limits.max_in_flight = 0"));
}

fn signal(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: a plain system call on a child of this test.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[tokio::test]
async fn sigterm_ends_it_well_with_and_without_a_server() {
    for with_server in [true, false] {
        let server = FakeServer::start().await.answer_all();
        let address = if with_server { server.url() } else { "http://127.0.0.1:1".into() };
        let (_folder, path) = written(CAMERA);
        let mut child = service()
            .arg("--config")
            .arg(&path)
            .args(["--set", &format!("server.address={address}")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        // "capturing" is logged when all runs; the pipe holds what follows.
        let stderr = child.stderr.take().expect("piped");
        let reader = tokio::task::spawn_blocking(move || {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
            let seen = lines.by_ref().map_while(Result::ok).find(|line| line.contains("capturing"));
            (seen.is_some(), lines)
        });
        let (seen, lines) = reader.await.expect("no panic");
        assert!(seen, "it starts");
        signal(&child, libc::SIGTERM);
        let log = tokio::task::spawn_blocking(move || lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        let log = log.await.expect("no panic");
        let status = child.wait().expect("ends");
        // Had it taken longer than it may, it had ended itself with a failure.
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains('\x1b'), "colours in what is not a terminal: {log}");
        for stage in [
            "shutting down",
            "capture has stopped",
            "frames that waited",
            "streams to the server are closed",
            "stopped",
        ] {
            assert!(log.contains(stage), "{stage:?} missing in: {log}");
        }
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let (_folder, path) = written(CAMERA);
    let output = service().arg("--config").arg(&path).args(["--set", &format!("admin.listen={address}")]).output();
    let output = output.expect("runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(&format!("admin.listen = {address} cannot be bound")), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setup_writes_a_configuration_and_tries_it() {
    let server = FakeServer::start().await.answer_all();
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("ingest.toml");
    let setup = |server: String, more: &[&str]| {
        let mut command = service();
        command.arg("setup").arg("--config").arg(&path).args(["--server", &server, "--source", "pattern", "--id", "a"]);
        let command = command.args(more).output();
        (command.expect("runs"), std::fs::read_to_string(&path).unwrap_or_default())
    };
    let address = server.address.to_string();
    let run = |server: String, more: &'static [&'static str]| tokio::task::block_in_place(|| setup(server, more));

    let (output, written) = run(address.clone(), &[]);
    assert!(output.status.success() && text(&output).contains("It works"), "{}", text(&output));
    assert!(written.contains(&format!("address = \"{}\"", server.url())), "{written}");

    let (output, kept) = run("other".into(), &[]);
    assert!(!output.status.success() && text(&output).contains("is there already"), "{}", text(&output));
    assert_eq!(kept, written);

    let (output, replaced) = run("127.0.0.1:1".into(), &["--replace"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("gives pictures, but http://127.0.0.1:1 does not take them"), "{}", text(&output));
    assert!(replaced.contains("http://127.0.0.1:1"));
    assert_eq!(std::fs::read_to_string(folder.path().join("ingest.toml.old")).expect("kept"), written);
}
