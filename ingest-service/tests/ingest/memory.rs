//! Memory of the program as it runs: below the promise with one 1280x720
//! camera, below its own budget, and flat.

use std::process::{Command, Stdio};

use flatframe_shared::frame::PictureSize;
use flatframe_shared::process;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::{FakeServer, picture};

/// The promise for one 1280x720 MJPEG camera, in bytes, of the release build;
/// the code of a development build takes 2 MiB more.
const PROMISE_BYTES: u64 = if cfg!(debug_assertions) { 18 << 20 } else { 16 << 20 };
/// Growth that counts as flat, in bytes.
const FLAT_BYTES: u64 = 1 << 20;

/// A camera that gives 1280x720 pictures as fast as they are read.
async fn camera() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("mjpeg+http://{}/", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        let pictures: Vec<Vec<u8>> = (0..8).map(|seed| picture(PictureSize::new(1280, 720), seed)).collect();
        while let Ok((mut socket, _)) = listener.accept().await {
            let pictures = pictures.clone();
            tokio::spawn(async move {
                let head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n";
                if socket.write_all(head).await.is_err() {
                    return;
                }
                for jpeg in pictures.iter().cycle() {
                    let part = [b"--b\r\nContent-Type: image/jpeg\r\n\r\n", &jpeg[..]].concat();
                    if socket.write_all(&part).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_720p_camera_stays_below_16_mib_and_flat() {
    let mut server = FakeServer::start().await;
    let camera = camera().await;
    // The release build can be measured from a development test. (A name with
    // the prefix of our variables would be an unknown key.)
    let binary = std::env::var_os("MEASURED_INGEST_BINARY");
    let mut service = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_ingest-service").into()))
        .args(["--config", "/dev/stdin", "--set", &format!("server.address={}", server.url())])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let toml = format!("[admin]\nlisten = ''\n[[camera]]\nid = 'a'\nsource = '{camera}'\nfps = 240.0\n");
    std::io::Write::write_all(&mut service.stdin.take().expect("piped"), toml.as_bytes()).expect("writes");
    let pid = service.id();

    let mut stream = server.stream().await;
    stream.welcome(4).await;
    stream.credit(4).await;
    let mut early = 0;
    let mut late = 0;
    for frame_count in 1..=900 {
        let frame = stream.frame().await;
        assert_eq!((frame.width_px, frame.height_px), (640, 360), "it is made smaller");
        stream.answer(frame.number, flatframe_shared::r#gen::v1::Outcome::Analyzed).await;
        stream.credit(1).await;
        let rss = process::use_of_pid(pid).rss_bytes.expect("it runs");
        if (300..500).contains(&frame_count) {
            early = early.max(rss);
        } else if frame_count >= 700 {
            late = late.max(rss);
        }
    }
    let peak = process::use_of_pid(pid).rss_peak_bytes.expect("it runs").max(early).max(late);
    println!("rss: early {early}, late {late}, peak {peak} bytes");
    service.kill().expect("SIGKILL");
    service.wait().expect("reaped");
    assert!(peak <= PROMISE_BYTES, "{peak} bytes at the most");
    assert!(late <= early + FLAT_BYTES, "{early} bytes, later {late}");
}
