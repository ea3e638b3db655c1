//! Makes the seeds: small files that lead each fuzz target past its first
//! checks.

use bytes::Bytes;
use e2e::camera::{frame, hello};
use e2e::media::textured_jpeg;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1;
use prost::Message;

/// A seed: its target, its name, its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

const SIZE: PictureSize = PictureSize::new(16, 16);

/// All seeds.
pub fn all() -> Vec<Seed> {
    [framing(), multipart(), messages(), pictures(), texts(), numbers()].concat()
}

fn seed(target: &'static str, name: &str, data: impl Into<Vec<u8>>) -> Seed {
    (target, name.to_owned(), data.into())
}

/// Streams of pictures, after one byte that says how they come in pieces.
fn framing() -> Vec<Seed> {
    let picture = textured_jpeg(SIZE, 1);
    let (half, thumbnail) =
        (&picture[..picture.len() / 2], [&picture[..2], &[0xFF, 0xE1, 1, 0], &picture[..254]].concat());
    let stream = |pieces: u8, parts: &[&[u8]]| [&[pieces], parts.concat().as_slice()].concat();
    let part = b"\r\n--b\r\nContent-Type: image/jpeg\r\n\r\n".as_slice();
    vec![
        seed("mjpeg_framing", "two", stream(255, &[&picture, &picture])),
        seed("mjpeg_framing", "parts", stream(7, &[part, &picture, part, &picture, part])),
        seed("mjpeg_framing", "cut", stream(1, &[half, &picture, half])),
        seed("mjpeg_framing", "thumbnail", stream(64, &[&thumbnail, &picture[2..]])),
        seed("mjpeg_framing", "too-large", stream(200, &[&picture[..picture.len() - 2], &[1; 5000], &picture])),
        seed("mjpeg_framing", "fill-bytes", stream(3, &[&[0xFF; 9], &picture, &[0xFF, 0xD8, 0xFF, 0xFF, 0xD9]])),
    ]
}

/// Part headers of real cameras, and headers of their answers.
fn multipart() -> Vec<Seed> {
    let texts = [
        (
            "ustreamer",
            "200\nContent-Type: multipart/x-mixed-replace;boundary=boundarydonotcross\n--boundarydonotcross\r\nContent-Length: 100\r\nX-Timestamp: 1.5\r\n\r\n",
        ),
        (
            "motion",
            "200\ncontent-type: multipart/x-mixed-replace; boundary=BoundaryString\n--BoundaryString\r\nContent-length:      9995\r\n\r\n",
        ),
        ("redirect", "302\nlocation: http://user:secret@elsewhere/stream?token=1\n"),
        ("login", "401\nWWW-Authenticate: Basic realm=\"x\"\n"),
        ("snapshot", "200\ncontent-type: image/jpeg\n"),
        ("page", "200\ncontent-type: text/html; charset=utf-8\n<html>\n"),
        ("odd", "999\n: \n\r\n\r\n:\r\nlength\r\n--\r\n"),
    ];
    texts.map(|(name, text)| seed("multipart_headers", name, text)).to_vec()
}

fn messages() -> Vec<Seed> {
    use v1::publish_request::Message as Up;
    use v1::publish_response::Message as Down;
    let pace = v1::Pace { max_fps: 5.0, max_width_px: 640, max_height_px: 480 };
    let welcome = v1::Welcome {
        protocol_version: 1,
        max_frame_bytes: 1000,
        max_width_px: 640,
        max_height_px: 480,
        window: 2,
        pace: Some(pace),
        software: "server".into(),
        late_after_unix_us: None,
    };
    let status = v1::CameraStatus {
        state: 2,
        detail: "no picture".into(),
        ledger: Some(v1::IngestLedger::default()),
        ..Default::default()
    };
    let outcome = v1::FrameOutcome { number: 1, outcome: 1, server_us: 5, ..Default::default() };
    let ttl = std::time::Duration::from_secs(1);
    let up = [
        ("hello", Up::Hello(hello("cam-1", 7))),
        ("frame", Up::Frame(frame(1, Bytes::from_static(b"jpeg"), SIZE, ttl))),
        ("status", Up::Status(status)),
    ];
    let down = [("welcome", Down::Welcome(welcome)), ("pace", Down::Pace(pace)), ("outcome", Down::Outcome(outcome))];
    let up = up.map(|(name, message)| (name, v1::PublishRequest { message: Some(message) }.encode_to_vec()));
    let down = down.map(|(name, message)| (name, v1::PublishResponse { message: Some(message) }.encode_to_vec()));
    let detect = v1::DetectRequest { jpeg: Bytes::from_static(b"jpeg"), rotation_degrees: 90 }.encode_to_vec();
    let all = up.into_iter().chain(down).chain([("detect", detect)]);
    all.map(|(name, data)| seed("proto_conversion", name, data)).collect()
}

fn pictures() -> Vec<Seed> {
    let sizes = [("least", 1, 1), ("small", 16, 16), ("wide", 120, 8), ("limit", 128, 128), ("over", 136, 16)];
    let whole = sizes.map(|(name, width, height)| {
        seed("jpeg_decode", name, textured_jpeg(PictureSize::new(width, height), 1).to_vec())
    });
    // What the header says is not what follows: 65535 x 65535.
    let mut lie = textured_jpeg(SIZE, 1).to_vec();
    if let Some(at) = lie.windows(2).position(|marker| marker == [0xFF, 0xC0]) {
        lie[at + 5..at + 9].fill(0xFF);
    }
    [whole.to_vec(), vec![seed("jpeg_decode", "lie", lie)]].concat()
}

/// The manifests and the example configurations of the project itself.
fn texts() -> Vec<Seed> {
    vec![
        seed("manifest", "detector", include_str!("../../../inference-service/models/flatface-det.toml")),
        seed("manifest", "gender", include_str!("../../../inference-service/models/flatface-gender.toml")),
        seed("manifest", "yunet", include_str!("../../../inference-service/models/yunet_n.toml")),
        seed("manifest", "ultraface", include_str!("../../../inference-service/models/ultraface_slim320.toml")),
        seed(
            "configuration",
            "inference",
            without_comments(include_str!("../../../inference-service/config.example.toml")),
        ),
        seed("configuration", "ingest", without_comments(include_str!("../../../ingest-service/config.example.toml"))),
        seed("configuration", "k8s", include_str!("../../../k8s/base/inference.toml")),
        seed(
            "configuration",
            "cameras",
            "[[camera]]\nid = 'a'\nsource = 'http://u:p@[::1]:80/s?x=1'\nfps = 1e1\n[[camera]]\nid = 'b'\nsource = 'rpicam'\n",
        ),
    ]
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect()
}

/// A head of family, score, overlap and number of faces; then numbers.
fn numbers() -> Vec<Seed> {
    let faces = |head: [u8; 4], numbers: &[f32]| {
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        head.into_iter().chain(numbers).collect::<Vec<u8>>()
    };
    vec![
        seed("postprocess", "yunet", faces([0, 128, 77, 64], &[0.9, 0.25, 0.5, 0.8, 0.1])),
        seed("postprocess", "flatface", faces([1, 128, 77, 64], &[2.0, 0.25, -0.5, 0.3, 0.4, 0.1])),
        seed("postprocess", "ultraface", faces([2, 128, 77, 3], &[0.1, 0.9, 0.25, 0.75])),
        seed("postprocess", "not-finite", faces([2, 1, 0, 1], &[f32::INFINITY, f32::NAN, -0.0, f32::MAX])),
        seed("postprocess", "large", faces([1, 1, 255, 255], &[88.0, -88.0, 1e30, 1e-30])),
    ]
}
