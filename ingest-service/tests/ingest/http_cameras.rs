//! Network cameras as they are: every dialect of MJPEG over HTTP, and every way
//! to go wrong. The next good picture is always served.

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::frame::{CameraState, PictureSize};
use flatframe_shared::ledger::{IngestCounts, IngestLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::outcome::DropReason;
use ingest_service::config::CameraConfig;
use ingest_service::plan::CameraPlan;
use ingest_service::prepare::RawSlot;
use ingest_service::source;
use ingest_service::source::capture::Capture;
use ingest_service::source::status::StatusCell;
use ingest_service::terms::{Terms, TermsCell};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{picture, soon, until};

const SIZE: PictureSize = PictureSize::new(160, 120);

/// A source alone, with what it captured in view.
struct Reading {
    ledger: IngestLedger,
    status: StatusCell,
    slot: Arc<RawSlot>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Reading {
    fn start(mut camera: CameraConfig) -> Self {
        camera.id = "cam".into();
        let mut plan = CameraPlan::new(&camera, &Default::default()).expect("a camera");
        // No picture comes too early, however soon after another.
        plan.fps = f32::MAX;
        let terms = TermsCell::default();
        terms.set(Some(Terms { max_fps: None, max_size: SIZE, max_frame_bytes: 1 << 20 }));
        let (ledger, status, slot) = (IngestLedger::new(), StatusCell::new(), Arc::<RawSlot>::default());
        let capture = Capture::new(
            &plan,
            ledger.clone(),
            status.clone(),
            slot.clone(),
            terms,
            Arc::new(MemoryWatch::unlimited()),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(source::run(source::of(&plan), capture, plan.no_picture, stop.clone()));
        Self { ledger, status, slot, stop, task }
    }

    fn whole(&self) -> u64 {
        let counts = self.ledger.counts();
        counts.captured - counts.dropped(DropReason::Corrupt) - counts.dropped(DropReason::TooLarge)
    }

    async fn until_whole(&self, pictures: u64) {
        until(&format!("{pictures} whole pictures"), || self.whole() >= pictures).await;
    }

    async fn until_state(&self, state: CameraState) {
        until(state.as_str(), || self.status.state() == state).await;
    }

    fn detail(&self) -> String {
        self.status.read(std::time::Instant::now()).detail
    }

    async fn stop(self) -> IngestCounts {
        self.stop.cancel();
        soon("the source stops", self.task).await.expect("no panic");
        self.slot.close();
        let counts = self.ledger.counts();
        assert_eq!((counts.balance(), counts.waiting), (0, 0), "{counts:?}");
        counts
    }
}

async fn camera() -> (TcpListener, CameraConfig) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let config = CameraConfig::new("cam", &format!("mjpeg+http://{address}/video"));
    // A test that is held up is no camera that stalls.
    (listener, CameraConfig { no_picture_ms: 600_000, ..config })
}

/// Accepts and reads the request.
async fn accept(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = soon("a connection", listener.accept()).await.expect("accepts");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(soon("a request", socket.read_u8()).await.expect("reads"));
    }
    (socket, String::from_utf8(request).expect("text"))
}

fn chunked(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in data.chunks(1000) {
        out.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out
}

/// A picture whose coded data and comment hold line breaks and boundaries.
fn confusing(seed: u8) -> Vec<u8> {
    let mut jpeg = picture(SIZE, seed);
    let comment = b"\r\n--boundary\r\nContent-Length: 2\r\n\r\n\xFF\xD9\xFF\xD8";
    let length = (comment.len() as u16 + 2).to_be_bytes();
    jpeg.splice(2..2, [&[0xFF, 0xFE], &length, &comment[..]].concat());
    jpeg
}

#[tokio::test]
async fn every_dialect() {
    let head = |version: &str, kind: &str| {
        format!("HTTP/{version} 200 OK\r\nServer: test\r\nConnection: close\r\nContent-Type: {kind}\r\n")
    };
    let with_length =
        |jpeg: &[u8]| format!("--boundary\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
    let (a, b) = (picture(SIZE, 1), confusing(2));
    let parts = |before: &dyn Fn(&[u8]) -> String, after: &str| -> Vec<u8> {
        [&a, &b, &a, &b].iter().flat_map(|j| [before(j).as_bytes(), j, after.as_bytes()].concat()).collect()
    };
    let multipart = "multipart/x-mixed-replace;boundary=boundary";
    let end = "\r\n";
    for (name, answer) in [
        (
            "ustreamer: HTTP/1.0, length, timestamp",
            [
                head("1.0", "multipart/x-mixed-replace;boundary=boundarydonotcross").as_bytes(),
                b"\r\n--boundarydonotcross\r\n",
                &parts(
                    &|j| format!("Content-Type: image/jpeg\r\nContent-Length: {}\r\nX-Timestamp: 1.5\r\n\r\n", j.len()),
                    "\r\n--boundarydonotcross\r\n",
                ),
            ]
            .concat(),
        ),
        (
            "motion: HTTP/1.1 chunked, padded length",
            [
                head("1.1", "multipart/x-mixed-replace; boundary=\"--BoundaryString\"").as_bytes(),
                b"Transfer-Encoding: chunked\r\n\r\n",
                &chunked(&parts(
                    &|j| {
                        format!(
                            "--BoundaryString\r\nContent-type: image/jpeg\r\nContent-length:{:>10}\r\n\r\n",
                            j.len()
                        )
                    },
                    end,
                )),
            ]
            .concat(),
        ),
        (
            "ffmpeg without a content type, preamble",
            [
                head("1.1", "application/octet-stream").as_bytes(),
                b"\r\nThis is a preamble.\r\n",
                &parts(&with_length, end),
            ]
            .concat(),
        ),
        (
            "no length",
            [head("1.0", multipart).as_bytes(), b"\r\n", &parts(&|_| "--boundary\r\n\r\n".into(), end)].concat(),
        ),
        (
            "line feeds only",
            [
                head("1.0", multipart).replace("\r\n", "\n").as_bytes(),
                b"\n",
                &parts(&|j| format!("--boundary\nContent-Length: {}\n\n", j.len()), "\n"),
            ]
            .concat(),
        ),
        (
            "a length that is too long, too short, or none",
            [
                head("1.1", multipart).as_bytes(),
                b"\r\n",
                &parts(&|j| format!("--boundary\r\nContent-Length: {}\r\n\r\n", j.len() * 3), end),
                &parts(&|_| "--boundary\r\nContent-Length: 7\r\n\r\n".into(), end),
                &parts(&|_| "--boundary\r\nContent-Length: -1\r\nContent-Length: x\r\n\r\n".into(), end),
            ]
            .concat(),
        ),
        (
            "no parts at all",
            [head("1.1", "video/x-motion-jpeg").as_bytes(), b"\r\n", &parts(&|_| String::new(), "")].concat(),
        ),
    ] {
        let (listener, config) = camera().await;
        let reading = Reading::start(config);
        let (mut socket, request) = accept(&listener).await;
        assert!(request.starts_with("GET /video HTTP/1.1\r\n"), "{request}");
        // In pieces that cut everything anywhere.
        for piece in answer.chunks(701) {
            socket.write_all(piece).await.expect("writes");
        }
        let expected = if name.starts_with("a length") { 12 } else { 4 };
        reading.until_whole(expected).await;
        drop(socket);
        let counts = reading.stop().await;
        assert_eq!((counts.captured, counts.dropped(DropReason::Corrupt)), (expected, 0), "{name}");
    }
}

#[tokio::test]
async fn the_picture_arrives_as_it_was_sent() {
    let (listener, config) = camera().await;
    let reading = Reading::start(config);
    let (mut socket, _) = accept(&listener).await;
    socket
        .write_all(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
        .await
        .expect("writes");
    for seed in 0..20 {
        let jpeg = confusing(seed);
        socket.write_all(b"--b\r\n\r\n").await.expect("writes");
        socket.write_all(&jpeg).await.expect("writes");
        until("a frame waits", || reading.slot.live() == 1).await;
        let frame = reading.slot.take().expect("open");
        assert_eq!(frame.picture.as_jpeg().expect("MJPEG"), &jpeg);
        assert_eq!(frame.birth.number.0, u64::from(seed) + 1);
        frame.ticket.drop_as(DropReason::Superseded);
    }
    reading.stop().await;
}

#[tokio::test]
async fn garbage_and_broken_pictures_are_counted_and_the_next_is_served() {
    let (listener, config) = camera().await;
    let reading = Reading::start(config);
    let (mut socket, _) = accept(&listener).await;
    socket
        .write_all(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
        .await
        .expect("writes");
    let good = picture(SIZE, 1);
    let mut random = fastrand::Rng::with_seed(3);
    let mut garbage = vec![0; 11 << 20];
    random.fill(&mut garbage);
    socket.write_all(&garbage).await.expect("writes");
    socket.write_all(&[0; 70_000]).await.expect("writes");
    socket.write_all(&good).await.expect("writes");
    let before = reading.ledger.counts().captured;
    reading.until_whole(1).await;

    // Cut off in its coded data, as a camera that loses its bus does.
    socket.write_all(&good[..good.len() - 300]).await.expect("writes");
    socket.write_all(b"\r\n--b\r\nContent-Length: 5\r\n\r\n").await.expect("writes");
    socket.write_all(&good).await.expect("writes");
    // An endless picture: dropped whole at the cap.
    socket.write_all(&good[..good.len() - 2]).await.expect("writes");
    socket.write_all(&vec![0x55; 3 << 20]).await.expect("writes");
    socket.write_all(&[0xFF, 0xD9]).await.expect("writes");
    socket.write_all(&good).await.expect("writes");
    let whole = reading.whole().max(1);
    reading.until_whole(whole + 1).await;
    until("the huge one is counted", || reading.ledger.counts().dropped(DropReason::TooLarge) >= 1).await;
    let counts = reading.stop().await;
    assert!(counts.dropped(DropReason::Corrupt) >= 1, "{counts:?} after {before}");
}

#[tokio::test]
async fn answers_that_are_no_stream_are_named() {
    for (answer, words) in [
        ("HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n", "redirects to http://other/"),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "login"),
        ("HTTP/1.0 503 Busy\r\n\r\n", "503"),
        ("HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", "one picture"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", "text/html"),
        ("\x05\x00\x01 not HTTP at all\r\n\r\n", "not an HTTP answer"),
        ("", "not an HTTP answer"),
    ] {
        let (listener, config) = camera().await;
        let reading = Reading::start(config);
        let (mut socket, _) = accept(&listener).await;
        socket.write_all(answer.as_bytes()).await.expect("writes");
        drop(socket);
        reading.until_state(CameraState::Down).await;
        assert!(reading.detail().contains(words), "{words}: {}", reading.detail());
        reading.stop().await;
    }
    let reading = Reading::start(CameraConfig::new("cam", "mjpeg+http://127.0.0.1:1/video"));
    reading.until_state(CameraState::Down).await;
    assert!(reading.detail().contains("refused"), "{}", reading.detail());
    reading.stop().await;
}

#[tokio::test]
async fn a_login_is_sent_and_never_shown() {
    let (listener, config) = camera().await;
    let source = config.source.replace("http://", "http://user:pa%3Ass@");
    let reading = Reading::start(CameraConfig { source, ..config });
    let (socket, request) = accept(&listener).await;
    // base64 of "user:pa:ss"
    assert!(request.to_lowercase().contains("authorization: basic "), "{request}");
    assert!(request.contains("dXNlcjpwYTpzcw=="), "{request}");
    drop(socket);
    reading.until_state(CameraState::Down).await;
    assert!(!reading.detail().contains("pa:ss") && !reading.detail().contains("pa%3Ass"), "{}", reading.detail());
    reading.stop().await;
}

#[tokio::test]
async fn a_silent_and_a_trickling_camera_are_cut_and_opened_again() {
    let (listener, config) = camera().await;
    let reading = Reading::start(CameraConfig { no_picture_ms: 500, ..config });
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n";
    let good = picture(SIZE, 1);

    // Silent after its header.
    let (mut silent, _) = accept(&listener).await;
    silent.write_all(head).await.expect("writes");
    reading.until_state(CameraState::Stalled).await;

    // One byte now and then (the pause is the fault): bytes come, a picture
    // never does.
    let (mut trickling, _) = accept(&listener).await;
    trickling.write_all(head).await.expect("writes");
    let trickle = tokio::spawn({
        let good = good.clone();
        async move {
            for byte in good {
                if trickling.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });

    // The third works, as do those after it: a test that is held up may see the
    // end of this one too. The first two are closed.
    tokio::spawn(async move {
        let mut working = Vec::new();
        for _ in 0.. {
            let (mut socket, _) = accept(&listener).await;
            socket.write_all(&[&head[..], &good, &good].concat()).await.expect("writes");
            working.push(socket);
        }
    });
    reading.until_whole(2).await;
    reading.until_state(CameraState::Live).await;
    assert_eq!(soon("closed", silent.read(&mut [0; 8])).await.expect("reads"), 0);
    soon("the trickle ends", trickle).await.expect("no panic");
    assert!(reading.status.read(std::time::Instant::now()).restarts >= 2);
    reading.stop().await;
}

#[tokio::test]
async fn a_camera_that_takes_the_connection_and_says_nothing_is_down_in_5_s() {
    let (listener, config) = camera().await;
    let reading = Reading::start(config);
    let (_socket, _) = accept(&listener).await;
    reading.until_state(CameraState::Down).await;
    assert!(reading.detail().contains("no answer within 5 s"), "{}", reading.detail());
    reading.stop().await;
}
