//! Encryption: wrong, expired and foreign certificates, slow handshakes,
//! certificates exchanged under load, and the refusal to listen without all
//! this. Real services, real sockets.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::metrics::metric;
use e2e::pair::{Running, ingest_config};
use e2e::program::{Program, binary, free_address};
use e2e::secured::{Secrets, https, leaf, refused, results};
use e2e::wait::{answered, until};
use flatframe_shared::r#gen::v1;
use flatframe_shared::outcome::Outcome;
use flatframe_shared::refusals::Reason;
use inference_service::access::rules::Role;
use ingest_service::CameraConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// So many frames show that they flow.
const FRAMES: u64 = 5;
/// Longer than the deadline of a handshake.
const CUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn certificates_that_are_not_good_are_refused_and_counted() {
    let secrets = Secrets::new().expect("made");
    let elsewhere = Secrets::new().expect("made");
    let service = secrets.start(|_| {}).await.expect("starts");
    let bad = [
        ("expired", secrets.expired("door", &["door"]), Reason::CertificateExpired),
        ("of another authority", elsewhere.cameras("door", &["door"]), Reason::CertificateForeign),
        // A server's is no camera's, also of the same authority.
        ("of a server", Ok(secrets.server.clone()), Reason::CertificateWrong),
    ];
    for (what, issued, reason) in bad {
        let issued = issued.expect("a certificate");
        for attempt in 1..=3 {
            // The client learns of it at once or with its first call.
            if let Ok(channel) = secrets.connect(&service, Some(&issued)).await {
                let opened = RawCamera::open(channel, hello("door", 1)).await;
                assert!(opened.is_err(), "a certificate {what} was taken");
            }
            until(what, PATIENCE, || refused(&service, reason) >= attempt).await;
        }
        let series = format!("flatframe_inference_refused_total{{reason=\"{}\"}}", reason.as_str());
        // A connection that was made anew behind a call may be refused between the two looks.
        let is_shown =
            async || metric(service.admin, &series).await.filter(|shown| *shown as u64 == refused(&service, reason));
        answered(&series, PATIENCE, is_shown).await;
    }
    assert_eq!(service.sources.cameras.len(), 0);
    // A client that trusts somebody else does not even send its hello.
    let door = secrets.cameras("door", &["door"]).expect("a certificate");
    let refusing = elsewhere.connect(&service, Some(&door)).await;
    assert!(refusing.is_err(), "a server of another authority was trusted");
    until("the client's refusal is counted", PATIENCE, || refused(&service, Reason::HandshakeFailed) >= 1).await;
    let channel = secrets.connect(&service, Some(&door)).await.expect("connects");
    RawCamera::open(channel, hello("door", 1)).await.expect("the good one is welcome");
    service.stop().await.expect("stops");
}

/// Neither silence nor a trickle nor another protocol holds a place for long,
/// and what holds one counts against the cap.
#[tokio::test]
async fn slow_and_foreign_handshakes_are_cut() {
    let secrets = Secrets::new().expect("made");
    let service = secrets
        .start(|config| (config.limits.max_streams, config.limits.max_connections) = (1, 3))
        .await
        .expect("starts");
    let open = || service.sources.connections.open.load(Relaxed);
    let mut silent = TcpStream::connect(service.address).await.expect("connects");
    let mut trickling = TcpStream::connect(service.address).await.expect("connects");
    // The head of a TLS record, whose rest comes byte by byte.
    trickling.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.expect("writes");
    let (mut reader, mut writer) = trickling.split();
    let trickle = async {
        while writer.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    until("both hold a place", PATIENCE, || open() == 2).await;
    let mut buffer = [0; 64];
    let ended = async {
        let first = tokio::time::timeout(CUT, silent.read(&mut buffer)).await.expect("silence is cut");
        assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
        let mut rest = [0; 64];
        while tokio::time::timeout(CUT, reader.read(&mut rest)).await.expect("a trickle is cut").is_ok_and(|n| n > 0) {}
    };
    tokio::select! {
        () = ended => {}
        () = trickle => {}
    }
    until("both are gone", CUT, || open() == 0).await;
    assert_eq!(refused(&service, Reason::HandshakeLate), 2);

    let mut plain = TcpStream::connect(service.address).await.expect("connects");
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("writes");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(CUT, plain.read_to_end(&mut answer)).await.expect("is cut");
    assert_eq!(refused(&service, Reason::NotTls), 1);

    // More than the cap at once: idle ones give way, nobody is locked out.
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(TcpStream::connect(service.address).await.expect("connects"));
        assert!(open() <= 3, "{} connections are open", open());
    }
    let door = secrets.cameras("door", &["door"]).expect("a certificate");
    let channel = secrets.connect(&service, Some(&door)).await.expect("connects");
    RawCamera::open(channel, hello("door", 1)).await.expect("is welcome");
    service.stop().await.expect("stops");
}

/// The server's certificate and the camera's are exchanged while frames flow
/// and a client watches: neither stream notices, and whoever comes next sees the
/// new one. A broken pair is refused, and the good one goes on.
#[tokio::test]
async fn certificates_are_exchanged_under_load_and_no_stream_breaks() {
    let secrets = Secrets::new().expect("made");
    let token = secrets.token("screen", Role::Read).expect("a token");
    let door = secrets.cameras("door", &["door"]).expect("a certificate");
    let service = secrets.start(|_| {}).await.expect("starts");
    let camera = CameraConfig { fps: 50.0, width_px: 160, height_px: 120, ..CameraConfig::new("door", "pattern") };
    let mut config = ingest_config("", vec![camera]);
    config.server = secrets.server_config(&service, &door);
    let ingest = Running::start(config).await.expect("starts");
    let analyzed = || ingest.totals().answered(Outcome::Analyzed);
    let flows = async |what: &str| {
        let before = analyzed();
        until(what, PATIENCE, || analyzed() >= before + FRAMES).await;
    };
    let mut client = results(secrets.connect(&service, None).await.expect("connects"), &token).expect("a client");
    let mut watched = client.watch(v1::WatchRequest::default()).await.expect("opens").into_inner();
    // A client that reads on, as it should: its results, until the stream ends.
    let seen = Arc::new(AtomicU64::new(0));
    let reading = tokio::spawn({
        let seen = seen.clone();
        async move {
            while let Ok(Some(_)) = watched.message().await {
                seen.fetch_add(1, Relaxed);
            }
        }
    });
    let results_flow = async || {
        let before = seen.load(Relaxed);
        until("results flow", PATIENCE, || seen.load(Relaxed) >= before + FRAMES).await;
        assert!(!reading.is_finished(), "the stream of results ended");
    };
    flows("frames flow").await;
    results_flow().await;
    let handshakes = service.sources.connections.secured.load(Relaxed);
    let tls = service.sources.security.tls.clone().expect("TLS is on");
    let looks = AtomicU64::new(0);
    let shown = async || {
        looks.fetch_add(1, Relaxed);
        leaf(&secrets.raw(service.address, b"h2").await.expect("a handshake")).expect("a leaf")
    };

    let mut leaves = vec![shown().await];
    for round in 1..=3 {
        secrets.renew_server().expect("renewed");
        // Certificate and key are two files: between them the pair may not fit.
        until("the new certificate is read", PATIENCE, || tls.renewals().0 >= round).await;
        // The one before may have been read twice: files that change between a look and their reading are.
        let is_new = async || Some(shown().await).filter(|leaf| !leaves.contains(leaf));
        let new = answered("the new certificate is shown", PATIENCE, is_new).await;
        leaves.push(new);
        flows("frames flow on").await;
        results_flow().await;
    }
    let (good, failed) = (shown().await, tls.renewals().1);
    let key = std::fs::read(&secrets.server.key).expect("read");
    std::fs::write(&secrets.server.key, "nonsense").expect("written");
    until("the broken key is noticed", PATIENCE, || tls.renewals().1 > failed).await;
    assert_eq!(shown().await, good, "the old pair goes on");
    std::fs::write(&secrets.server.key, key).expect("written");
    flows("frames flow on").await;

    // Nobody had to connect again but those who only looked at the certificate.
    let expected = handshakes + looks.load(Relaxed);
    until("nobody else connects", PATIENCE, || service.sources.connections.secured.load(Relaxed) == expected).await;
    let counts = ingest.stop().await.expect("stops");
    assert_eq!((counts.lost, counts.balance()), (0, 0), "{counts:?}");
    assert!(!reading.is_finished(), "the stream of results ended");
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
    reading.await.expect("ends with the service");
}

/// The camera's own certificate: the new one is shown at the next connection.
#[tokio::test]
async fn a_renewed_client_certificate_is_shown_at_the_next_connection() {
    let secrets = Secrets::new().expect("made");
    let expired = secrets.expired("door", &["door"]).expect("a certificate");
    let service = secrets.start(|_| {}).await.expect("starts");
    let mut config = ingest_config("", vec![CameraConfig::new("door", "pattern")]);
    config.server = secrets.server_config(&service, &expired);
    let ingest = Running::start(config).await.expect("an expired certificate is no reason not to start");
    until("the expired one is refused", PATIENCE, || refused(&service, Reason::CertificateExpired) >= 1).await;
    assert_eq!(ingest.totals().sent, 0);
    // In the same files.
    secrets.cameras("door", &["door"]).expect("a certificate");
    until("the renewed one is taken", PATIENCE, || ingest.totals().answered(Outcome::Analyzed) > 0).await;
    assert_eq!(ingest.stop().await.expect("stops").balance(), 0);
    service.stop().await.expect("stops");
}

/// A box with another camera's certificate sends no frame.
#[tokio::test]
async fn a_box_with_another_cameras_certificate_is_refused() {
    let secrets = Secrets::new().expect("made");
    let yard = secrets.cameras("yard", &["yard"]).expect("a certificate");
    let service = secrets.start(|_| {}).await.expect("starts");
    let mut config = ingest_config("", vec![CameraConfig::new("door", "pattern")]);
    config.server = secrets.server_config(&service, &yard);
    let ingest = Running::start(config).await.expect("starts");
    until("it is refused", PATIENCE, || refused(&service, Reason::CameraForeign) >= 2).await;
    let counts = ingest.stop().await.expect("stops");
    assert_eq!((counts.sent, counts.balance()), (0, 0));
    service.stop().await.expect("stops");
}

#[tokio::test]
async fn the_page_is_encrypted_and_its_calls_need_a_token() {
    let secrets = Secrets::new().expect("made");
    let token = secrets.token("screen", Role::Read).expect("a token");
    let service = secrets.start(|_| {}).await.expect("starts");
    let ask = async |request: String| {
        let mut raw = secrets.raw(service.page, b"http/1.1").await.expect("a handshake");
        raw.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, raw.read_to_end(&mut answer)).await.expect("in time");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let host = https(service.page).replace("https://", "");
    let page = ask(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<title>Flatframe</title>"), "{page}");
    let call = |header: &str| {
        format!(
            "POST /flatframe.v1.ResultService/ListCameras HTTP/1.1\r\nhost: {host}\r\norigin: https://{host}\r\n\
             content-type: application/grpc-web+proto\r\n{header}content-length: 5\r\nconnection: close\r\n\r\n\
             \0\0\0\0\0"
        )
    };
    let refused = ask(call("")).await;
    assert!(refused.contains("grpc-status: 16"), "{refused}");
    let answered = ask(call(&format!("authorization: Bearer {token}\r\n"))).await;
    assert!(answered.contains("grpc-status:0"), "{answered}");
    service.stop().await.expect("stops");
}

#[tokio::test]
async fn without_tls_and_authentication_it_listens_on_this_machine_alone() {
    let secrets = Secrets::new().expect("made");
    let check = async |program: &str, arguments: &[&str], settings: &[String]| {
        let mut command = tokio::process::Command::new(binary(program).expect("is built"));
        let config = format!("{}/../{program}/config.example.toml", env!("CARGO_MANIFEST_DIR"));
        command.args(["--check", "--config", &config]).args(arguments);
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        let done = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let done = tokio::time::timeout(Duration::from_secs(60), done).await.expect("in time").expect("runs");
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let everywhere = ["listen.grpc=0.0.0.0:50051".to_owned()];
    let (code, error) = check("inference-service", &[], &everywhere).await;
    assert_eq!(code, Some(78), "{error}");
    for word in ["listen.grpc = 0.0.0.0:50051", "tls.cert", "tls.client_ca", "auth.tokens", "--insecure"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let (code, error) = check("inference-service", &["--insecure"], &everywhere).await;
    assert_eq!(code, Some(0), "{error}");
    let shown = |path: std::path::PathBuf| path.display().to_string();
    let secured = [
        everywhere[0].clone(),
        format!("tls.cert={}", shown(secrets.server.cert.clone())),
        format!("tls.key={}", shown(secrets.server.key.clone())),
        format!("tls.client_ca={}", shown(secrets.ca())),
        format!("auth.tokens={}", shown(secrets.tokens())),
    ];
    let (code, error) = check("inference-service", &[], &secured).await;
    assert_eq!(code, Some(0), "{error}");
    let grpc = ["admin.grpc_listen=0.0.0.0:9466".to_owned()];
    let (code, error) = check("ingest-service", &[], &grpc).await;
    assert!(code == Some(78) && error.contains("admin.grpc_listen") && error.contains("--insecure"), "{error}");
    let (code, error) = check("ingest-service", &["--insecure"], &grpc).await;
    assert_eq!(code, Some(0), "{error}");
}

/// As a program, for its log: who is refused again and again is told of once, by
/// name, and no token is in it.
#[tokio::test]
async fn a_refusal_is_told_once_and_without_its_secret() {
    let secrets = Secrets::new().expect("made");
    let wrong = Secrets::new().expect("made").token("spy", Role::Admin).expect("a token of another service");
    let good = secrets.token("screen", Role::Read).expect("a token");
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let (grpc, admin) = (free_address().expect("a port"), free_address().expect("a port"));
    let shown = |path: std::path::PathBuf| path.display().to_string();
    let config = format!(
        "[listen]\ngrpc = '{grpc}'\nadmin = '{admin}'\npage = ''\n[tls]\ncert = '{}'\nkey = '{}'\n\
         client_ca = '{}'\n[auth]\ntokens = '{}'\n[vision.stub_engine]\ntime_us = 1\n",
        shown(secrets.server.cert.clone()),
        shown(secrets.server.key.clone()),
        shown(secrets.ca()),
        shown(secrets.tokens())
    );
    let script = format!("exec \"$@\" >{} 2>&1", log.display());
    let mut server = Program::start_by(&["sh", "-c", &script, "sh"], "inference-service", &config).expect("starts");
    let connect = async || secrets.connect_to(grpc, None).await.ok();
    let channel = answered("it serves", PATIENCE, connect).await;
    for token in [&wrong, &wrong, &wrong, &good, &good] {
        let mut client = results(channel.clone(), token).expect("a client");
        let asked = client.reset_occupancy(v1::ResetOccupancyRequest::default()).await;
        assert!(asked.is_err(), "neither token may do that");
    }
    let count =
        async |reason: &str| metric(admin, &format!("flatframe_inference_refused_total{{reason=\"{reason}\"}}")).await;
    assert_eq!((count("token_unknown").await, count("role_too_low").await), (Some(3.0), Some(2.0)));
    server.signal(libc::SIGTERM).expect("told");
    assert!(server.wait(PATIENCE).await.expect("ends").success());
    let log = std::fs::read_to_string(log).expect("a log");
    let told: Vec<_> = log.lines().filter(|line| line.contains("refused; not told again")).collect();
    let of = |reason: &str| told.iter().filter(|line| line.contains(reason)).count();
    // The second reason has a line of its own, unless it came within the second of the first one's.
    assert!(of("token_unknown") == 1 && of("role_too_low") <= 1, "{told:?}");
    assert!(told[0].contains("token_unknown") && told[0].contains("127.0.0.1"), "{told:?}");
    assert!(!log.contains(&wrong) && !log.contains(&good) && !log.contains("PRIVATE KEY"), "{log}");
}

/// The commands of a person: a token from a file or the environment, and to
/// whom it is not shown.
#[tokio::test]
async fn commands_show_a_token_to_whom_they_trust() {
    let secrets = Secrets::new().expect("made");
    let token = secrets.token("me", Role::Read).expect("a token");
    let service = secrets.start(|_| {}).await.expect("starts");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{token}\n")).expect("written");
    let (url, ca) = (https(service.address), secrets.ca().display().to_string());
    let elsewhere = Secrets::new().expect("made");
    let other_ca = elsewhere.ca().display().to_string();
    let from_file = file.path().display().to_string();
    let status = async |arguments: &[&str], variable: Option<&str>| {
        let mut command = tokio::process::Command::new(binary("inference-service").expect("is built"));
        command.arg("status").args(arguments).env_remove("FLATFRAME_TOKEN");
        if let Some(token) = variable {
            command.env("FLATFRAME_TOKEN", token);
        }
        let done = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let done = tokio::time::timeout(Duration::from_secs(60), done).await.expect("in time").expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(!text(&done.stderr).contains(&token), "a token was shown");
        (done.status.code(), text(&done.stdout) + &text(&done.stderr))
    };
    let (code, said) = status(&["--server", &url, "--ca", &ca, "--token-file", &from_file], None).await;
    assert!(code == Some(0) && said.contains("no camera has connected"), "{said}");
    let (code, said) = status(&["--server", &url, "--ca", &ca], Some(&token)).await;
    assert_eq!(code, Some(0), "{said}");
    let far = "http://192.0.2.1:50051";
    for (arguments, variable, word) in [
        (vec!["--server", &url, "--ca", &ca], None, "a token is needed"),
        (vec!["--server", &url, "--ca", &ca], Some("flatframe_wrong"), "not known"),
        (vec!["--server", &url, "--ca", &other_ca], Some(&token[..]), "invalid peer certificate"),
        (vec!["--server", &url], Some(&token[..]), "invalid peer certificate"),
        (vec!["--server", far], Some(&token[..]), "a token is not sent unencrypted"),
        (vec!["--server", far, "--ca", &ca], None, "--ca is for https"),
    ] {
        let (code, said) = status(&arguments, variable).await;
        assert!(code == Some(1) && said.contains(word), "{arguments:?}: {said}");
    }
    service.stop().await.expect("stops");
}
