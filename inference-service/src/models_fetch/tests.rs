//! Fetching from a server on the loopback that does what each test says.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::*;
use crate::vision::models::{self, hex};

/// What a server does with one connection.
struct Answer {
    bytes: Vec<u8>,
    then: Then,
}

enum Then {
    Close,
    /// Says nothing more until the client gives up.
    Stall,
}

/// `head` without the last empty line, and a body.
fn answer(head: &str, body: &[u8]) -> Answer {
    Answer { bytes: [head.replace('\n', "\r\n").as_bytes(), b"\r\n\r\n", body].concat(), then: Then::Close }
}

fn whole(body: &[u8]) -> Answer {
    answer(&format!("HTTP/1.1 200 OK\nContent-Length: {}", body.len()), body)
}

fn redirect(to: &str) -> Answer {
    answer(&format!("HTTP/1.1 302 Found\nContent-Length: 0\nLocation: {to}"), b"")
}

/// Gives each connection in turn its answer, and the heads of the requests at
/// the end.
async fn serve(answers: Vec<Answer>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("is bound");
    let serving = tokio::spawn(async move {
        let mut requests = Vec::new();
        for Answer { bytes, then } in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            requests.push(String::from_utf8(request).expect("is text").to_lowercase());
            // The client may have seen enough already.
            let _ = stream.write_all(&bytes).await;
            if matches!(then, Then::Stall) {
                let _ = stream.read_u8().await;
            }
        }
        requests
    });
    (address, serving)
}

fn weights() -> Vec<u8> {
    (0..100_000u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect()
}

/// Nothing in a test takes this long unless it is broken; a name service that is
/// not there may take the better part of it.
const WAITS: WaitLimits = WaitLimits {
    connect: Duration::from_secs(60),
    head: Duration::from_secs(60),
    idle: Duration::from_secs(60),
    overall: Duration::from_secs(120),
};

/// A folder with the manifest of a model `mine` at `url`, whose weights are
/// [`weights`].
fn folder(url: &str, with_bytes: bool) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let yunet = include_str!("../../models/yunet_n.toml");
    let lines = yunet.lines().filter_map(|line| match line.split(' ').next() {
        Some("file") => Some("file = \"mine.onnx\"".into()),
        Some("sha256") => Some(format!("sha256 = \"{}\"", hex(&Sha256::digest(weights())))),
        Some("url") => (!url.is_empty()).then(|| format!("url = \"{url}\"")),
        Some("bytes") => with_bytes.then(|| format!("bytes = {}", weights().len())),
        _ => Some(line.to_owned()),
    });
    std::fs::write(dir.path().join("mine.toml"), lines.collect::<Vec<_>>().join("\n")).expect("writes");
    dir
}

async fn fetch_with(dir: &Path, waits: WaitLimits) -> Result<Fetched, String> {
    let listed = models::list("mine", dir).expect("is valid");
    let fetched = fetch(&listed, &Client::new(waits), &mut |_, _| ()).await;
    fetched.map_err(|error| error.to_string())
}

/// Fetches from a server with these answers; and the requests it got.
async fn fetch_from(answers: Vec<Answer>, part: &[u8]) -> (TempDir, Result<Fetched, String>, Vec<String>) {
    let (address, serving) = serve(answers).await;
    let dir = folder(&format!("http://{address}/dir/mine.onnx"), true);
    if !part.is_empty() {
        std::fs::write(dir.path().join("mine.onnx.part"), part).expect("writes");
    }
    let fetched = fetch_with(dir.path(), WAITS).await;
    (dir, fetched, serving.await.expect("serves"))
}

fn read(dir: &TempDir, name: &str) -> Option<Vec<u8>> {
    match std::fs::read(dir.path().join(name)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// All went well, and nothing is left over.
fn assert_fetched(dir: &TempDir, fetched: &Result<Fetched, String>) {
    let expected = Fetched::Downloaded { path: dir.path().join("mine.onnx"), bytes: weights().len() as u64 };
    assert_eq!(fetched.as_ref(), Ok(&expected));
    assert_eq!(read(dir, "mine.onnx"), Some(weights()));
    assert_eq!(read(dir, "mine.onnx.part"), None);
}

fn assert_refused(dir: &TempDir, fetched: Result<Fetched, String>, parts: &[&str]) {
    let error = fetched.expect_err("is refused");
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(read(dir, "mine.onnx"), None);
}

#[tokio::test]
async fn downloads_and_does_not_ask_twice() {
    let (dir, fetched, requests) = fetch_from(vec![whole(&weights())], b"").await;
    assert_fetched(&dir, &fetched);
    assert!(requests[0].starts_with("get /dir/mine.onnx http/1.1\r\n"), "{requests:?}");
    assert!(!requests[0].contains("range:"), "{requests:?}");
    // The server is gone.
    let again = fetch_with(dir.path(), WAITS).await;
    assert_eq!(again, Ok(Fetched::AlreadyThere(dir.path().join("mine.onnx"))));
}

#[tokio::test]
async fn goes_on_where_it_stopped() {
    let all = weights();
    let (have, missing) = all.split_at(70_000);
    let head = "HTTP/1.1 206 Partial Content\nContent-Length: 30000\nContent-Range: bytes 70000-99999/100000";
    let (dir, fetched, requests) = fetch_from(vec![answer(head, missing)], have).await;
    assert_fetched(&dir, &fetched);
    assert!(requests[0].contains("\r\nrange: bytes=70000-\r\n"), "{requests:?}");
}

#[tokio::test]
async fn a_complete_part_needs_no_server() {
    let (dir, fetched, _) = fetch_from(vec![], &weights()).await;
    assert_fetched(&dir, &fetched);
}

#[tokio::test]
async fn starts_anew_when_the_server_cannot_go_on() {
    let elsewhere = "HTTP/1.1 206 Partial Content\nContent-Length: 5\nContent-Range: bytes 0-4/100000";
    let beyond = "HTTP/1.1 416 Range Not Satisfiable\nContent-Length: 0";
    for answers in [
        vec![whole(&weights())],
        vec![answer(elsewhere, b"12345"), whole(&weights())],
        vec![answer(beyond, b""), whole(&weights())],
    ] {
        let last = answers.len() - 1;
        let (dir, fetched, requests) = fetch_from(answers, b"something else").await;
        assert_fetched(&dir, &fetched);
        assert!(requests[0].contains("range: bytes=14-"), "{requests:?}");
        assert!(last == 0 || !requests[last].contains("range:"), "{requests:?}");
    }
}

#[tokio::test]
async fn wrong_weights_are_removed_and_both_hashes_named() {
    let mut wrong = weights();
    wrong[5] ^= 1;
    let hashes = [hex(&Sha256::digest(&wrong)), hex(&Sha256::digest(weights()))];
    // With or without an old part: the server sends all.
    for part in [&b""[..], b"something else"] {
        let (dir, fetched, _) = fetch_from(vec![whole(&wrong)], part).await;
        assert!(!fetched.as_ref().is_err_and(|error| error.contains("two downloads")), "{fetched:?}");
        assert_refused(&dir, fetched, &[&hashes[0], &hashes[1], "removed"]);
        assert_eq!(read(&dir, "mine.onnx.part"), None);
    }

    // An old part of another file: says that the next attempt may be better.
    let head = "HTTP/1.1 206 Partial Content\nContent-Length: 30000\nContent-Range: bytes 70000-99999/100000";
    let (dir, fetched, _) = fetch_from(vec![answer(head, &weights()[70_000..])], &wrong[..70_000]).await;
    assert_refused(&dir, fetched, &[&hashes[0], &hashes[1], "start anew"]);
    assert_eq!(read(&dir, "mine.onnx.part"), None);
}

#[tokio::test]
async fn a_wrong_file_in_place_is_replaced() {
    let (address, serving) = serve(vec![whole(&weights())]).await;
    let dir = folder(&format!("http://{address}/mine.onnx"), false);
    std::fs::write(dir.path().join("mine.onnx"), b"wrong").expect("writes");
    let fetched = fetch_with(dir.path(), WAITS).await;
    assert_fetched(&dir, &fetched);
    serving.await.expect("serves");
}

#[tokio::test]
async fn what_came_before_a_break_is_kept() {
    let head = "HTTP/1.1 200 OK\nContent-Length: 100000";
    let (dir, fetched, _) = fetch_from(vec![answer(head, &weights()[..40_000])], b"").await;
    assert_refused(&dir, fetched, &["after 40000 bytes", "go on from there"]);
    assert_eq!(read(&dir, "mine.onnx.part").as_deref(), Some(&weights()[..40_000]));

    // A server that says no length: the manifest knows it.
    let (dir, fetched, _) = fetch_from(vec![answer("HTTP/1.1 200 OK", &weights()[..40_000])], b"").await;
    assert_refused(&dir, fetched, &["after 40000 bytes", "before 100000 bytes"]);
    assert_eq!(read(&dir, "mine.onnx.part").as_deref(), Some(&weights()[..40_000]));
}

#[tokio::test]
async fn every_wait_ends() {
    let short = Duration::from_millis(300);
    // Long enough for what comes before, also on a machine that stands still for a while.
    let long = Duration::from_secs(4);
    let body = answer("HTTP/1.1 200 OK\nContent-Length: 100000", &weights()[..40_000]).bytes;
    for (waits, bytes, says, kept) in [
        (WaitLimits { head: short, ..WAITS }, vec![], "no answer within 300ms", None),
        (WaitLimits { idle: long, ..WAITS }, body.clone(), "sent nothing for 4s after 40000 bytes", Some(40_000)),
        (WaitLimits { overall: long, ..WAITS }, body, "no end within 4s", Some(40_000)),
    ] {
        let (address, serving) = serve(vec![Answer { bytes, then: Then::Stall }]).await;
        let dir = folder(&format!("http://{address}/mine.onnx"), true);
        let fetched = fetch_with(dir.path(), waits).await;
        assert_refused(&dir, fetched, &[says]);
        assert_eq!(read(&dir, "mine.onnx.part").map(|part| part.len()), kept, "{says}");
        serving.await.expect("serves");
    }
    // TLS that never answers, within the time for a connection.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let dir = folder(&format!("https://{}/mine.onnx", silent.local_addr().expect("is bound")), true);
    let fetched = fetch_with(dir.path(), WaitLimits { connect: short, ..WAITS }).await;
    assert_refused(&dir, fetched, &["no connection within 300ms"]);
}

#[tokio::test]
async fn other_sizes_are_refused_before_they_are_taken() {
    let large = "HTTP/1.1 200 OK\nContent-Length: 100001";
    let (dir, fetched, _) = fetch_from(vec![answer(large, b"")], b"").await;
    assert_refused(&dir, fetched, &["100001 bytes", "100000 are allowed"]);
    let small = "HTTP/1.1 200 OK\nContent-Length: 99999";
    let (dir, fetched, _) = fetch_from(vec![answer(small, b"")], b"").await;
    assert_refused(&dir, fetched, &["99999 bytes", "manifest says 100000"]);
    // A server that says no length and does not end.
    let endless = [weights(), weights()].concat();
    let (dir, fetched, _) = fetch_from(vec![answer("HTTP/1.1 200 OK", &endless)], b"").await;
    assert_refused(&dir, fetched, &["100000 are allowed"]);
    assert_eq!(read(&dir, "mine.onnx.part"), None);
    // Without a size in the manifest there is still a limit.
    let head = "HTTP/1.1 200 OK\nContent-Length: 99999999999";
    let (address, serving) = serve(vec![answer(head, b"")]).await;
    let dir = folder(&format!("http://{address}/mine.onnx"), false);
    let fetched = fetch_with(dir.path(), WAITS).await;
    assert_refused(&dir, fetched, &["268435456 are allowed"]);
    serving.await.expect("serves");
}

#[tokio::test]
async fn statuses_are_named_and_what_came_is_kept() {
    for status in ["404 Not Found", "403 Forbidden", "500 Internal Server Error", "304 Not Modified"] {
        let head = format!("HTTP/1.1 {status}\nContent-Length: 0");
        let (dir, fetched, _) = fetch_from(vec![answer(&head, b"")], &weights()[..7]).await;
        assert_refused(&dir, fetched, &[status, "/dir/mine.onnx", "weights.url"]);
        assert_eq!(read(&dir, "mine.onnx.part").as_deref(), Some(&weights()[..7]));
    }
    let (dir, fetched, _) = fetch_from(vec![answer("this is not HTTP", b"")], b"").await;
    assert_refused(&dir, fetched, &["no proper answer"]);
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let head = "HTTP/1.1 206 Partial Content\nContent-Length: 30000\nContent-Range: bytes 70000-99999/100000";
    let answers = vec![redirect("/other"), redirect("third"), answer(head, &weights()[70_000..])];
    let (dir, fetched, requests) = fetch_from(answers, &weights()[..70_000]).await;
    assert_fetched(&dir, &fetched);
    for (request, path) in requests.iter().zip(["/dir/mine.onnx", "/other", "/third"]) {
        assert!(request.starts_with(&format!("get {path} ")) && request.contains("range: bytes=70000-"), "{request}");
    }
    let (dir, fetched, requests) = fetch_from((0..6).map(|_| redirect("/again")).collect(), b"").await;
    assert_refused(&dir, fetched, &["redirects more than 5 times"]);
    assert_eq!(requests.len(), 6);
    let (dir, fetched, _) = fetch_from(vec![redirect("ftp://127.0.0.1/x")], b"").await;
    assert_refused(&dir, fetched, &["ftp://127.0.0.1/x", "only https"]);
}

#[tokio::test]
async fn no_network_says_so() {
    for (url, says) in [
        // The service that this port is for is extinct.
        ("http://127.0.0.1:1/x", "no connection to 127.0.0.1"),
        // RFC 6761: never resolves.
        ("http://models.invalid/x", "models.invalid could not be found"),
    ] {
        let dir = folder(url, true);
        let place = dir.path().join("mine.onnx").display().to_string();
        let fetched = fetch_with(dir.path(), WAITS).await;
        assert_refused(&dir, fetched, &[says, "there is no network", url, &place]);
    }
}

#[tokio::test]
async fn what_cannot_be_fetched_says_where_it_is() {
    let dir = folder("", true);
    let fetched = fetch_with(dir.path(), WAITS).await;
    assert_refused(&dir, fetched, &["no weights.url", "https://github.com/ShiqiYu", "mine.onnx"]);
    for (name, says) in [("gender_dlib", "converted from dnn_gender"), ("gender_xception", "converted from Keras")] {
        let listed = models::list(name, dir.path()).expect("is embedded");
        let error = fetch(&listed, &Client::new(WAITS), &mut |_, _| ()).await.expect_err(name).to_string();
        for part in [says, "does not convert", "https://github.com/", "sha256"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let own = models::list("flatface-det", dir.path()).expect("is embedded");
    assert_eq!(fetch(&own, &Client::new(WAITS), &mut |_, _| ()).await.expect("is well"), Fetched::Embedded);
}

#[tokio::test]
async fn two_fetches_do_not_mix() {
    let dir = folder("http://127.0.0.1:9/x", true);
    let part = std::fs::File::create(dir.path().join("mine.onnx.part")).expect("creates");
    part.lock().expect("locks");
    let fetched = fetch_with(dir.path(), WAITS).await;
    assert_refused(&dir, fetched, &["another fetch", "mine.onnx.part"]);
}

/// `/dev/full` is a disk without room.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_says_so() {
    let (address, serving) = serve(vec![whole(&weights())]).await;
    let dir = folder(&format!("http://{address}/mine.onnx"), true);
    std::os::unix::fs::symlink("/dev/full", dir.path().join("mine.onnx.part")).expect("links");
    let fetched = fetch_with(dir.path(), WAITS).await;
    assert_refused(&dir, fetched, &["mine.onnx.part could not be written", "make room"]);
    serving.await.expect("serves");
}

#[tokio::test]
async fn https_wants_a_known_authority() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("is a certificate");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has all that the default versions need")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key).into())
        .expect("they go together");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("is bound").port();
    let serving = tokio::spawn(async move {
        let (stranger, _) = listener.accept().await.expect("a connection");
        acceptor.accept(stranger).await.expect_err("is not trusted");
        let (friend, _) = listener.accept().await.expect("a connection");
        let mut stream = acceptor.accept(friend).await.expect("is trusted");
        while stream.read_u8().await.expect("a request") != b'\n' {}
        stream.write_all(&whole(&weights()).bytes).await.expect("writes");
        stream.shutdown().await.expect("ends");
        let (mut plain, _) = listener.accept().await.expect("a connection");
        let _ = plain.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let dir = folder(&format!("https://localhost:{port}/mine.onnx"), true);
    let stranger = fetch_with(dir.path(), WAITS).await;
    assert_refused(&dir, stranger, &["localhost: no secure connection", "UnknownIssuer"]);
    let listed = models::list("mine", dir.path()).expect("is valid");
    let friend = Client::trusting(roots, WAITS);
    let fetched = fetch(&listed, &friend, &mut |_, _| ()).await.map_err(|error| error.to_string());
    assert_fetched(&dir, &fetched);
    // Plain HTTP where TLS is wanted.
    std::fs::remove_file(dir.path().join("mine.onnx")).expect("removes");
    let plain = fetch(&listed, &friend, &mut |_, _| ()).await.map_err(|error| error.to_string());
    assert_refused(&dir, plain, &["no secure connection"]);
    serving.await.expect("serves");
}
