//! What each target does with its bytes: calls what reads them in the product,
//! and checks what must hold of the answer. Used by the fuzz targets and, on
//! stable, by `tests/tests/corpus.rs`, which replays the corpus. A finding is a
//! panic here or there.
#![allow(dead_code, reason = "each fuzz target uses one of them")]

use std::path::Path;

use bytes::Bytes;
use flatframe_engine::InputShape;
use flatframe_shared::convert;
use flatframe_shared::frame::{PictureSize, Rotation};
use flatframe_shared::r#gen::v1;
use flatframe_shared::jpeg;
use inference_service::vision::models::manifest::{DetectorOutput, Manifest, is_plain_name};
use inference_service::vision::postprocess::{Decoder, Limits, select};
use inference_service::vision::{Fit, VisionMemory};
use ingest_service::board::Machine;
use ingest_service::prepare::downsample::{Downsampler, Wanted};
use ingest_service::source::jpeg_framing::{Framed, JpegFramer};
use ingest_service::source::mjpeg_http::check_answer;
use prost::Message;

/// Most bytes that the framer may hold here: small, so that inputs reach it.
const CAP_BYTES: usize = 4096;
/// Largest picture that is decoded here: small, for speed.
const LIMIT: PictureSize = PictureSize::new(128, 128);
/// Longest text of a camera that may reach a log line, characters; with the
/// words around it.
const MAX_REASON_CHARS: usize = 400;
/// Least JPEG by its markers: SOI, an empty scan, EOI.
const PICTURE: [u8; 8] = [0xFF, 0xD8, 0xFF, 0xDA, 0, 2, 0xFF, 0xD9];

/// What a target does with its bytes.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const ALL: [(&str, Target); 7] = [
    ("mjpeg_framing", mjpeg_framing),
    ("multipart_headers", multipart_headers),
    ("proto_conversion", proto_conversion),
    ("jpeg_decode", jpeg_decode),
    ("manifest", manifest),
    ("configuration", configuration),
    ("postprocess", postprocess),
];

fn framed(chunks: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<Framed> {
    let (mut framer, mut all) = (JpegFramer::new(CAP_BYTES), Vec::new());
    for chunk in chunks {
        let mut rest = chunk.as_ref();
        while let Some(framed) = framer.next(&mut rest) {
            all.push(framed);
        }
        assert!(framer.held_bytes() <= CAP_BYTES, "the framer holds {}", framer.held_bytes());
    }
    all.extend(framer.finish());
    all
}

/// Any bytes of a camera: what is found is whole, small enough, and does not
/// depend on how the bytes came in pieces. The first byte is the size of those.
pub fn mjpeg_framing(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else { return };
    let at_once = framed(std::iter::once(stream));
    let in_pieces = framed(stream.chunks(usize::from(size).max(1)));
    assert_eq!(at_once, in_pieces, "the pieces decide what is found");
    for framed in &at_once {
        if let Framed::Picture(picture) = framed {
            assert!(picture.len() <= CAP_BYTES);
            assert!(picture.starts_with(&[0xFF, 0xD8, 0xFF]) && picture.ends_with(&[0xFF, 0xD9]));
        }
    }
}

/// Any text around the parts of a stream, and in the header of the answer:
/// pictures between are found, and what is told of the answer is short.
pub fn multipart_headers(data: &[u8]) {
    // A text has no byte FF, and so cannot begin a picture.
    let text: Vec<u8> = data.iter().map(|&byte| if byte == 0xFF { b'\n' } else { byte }).collect();
    for (before, between) in [text.split_at(text.len() / 2), (&text, &[]), (&[], &text)] {
        let found = framed(std::iter::once([before, &PICTURE, between, &PICTURE, before].concat()));
        assert_eq!(found, vec![Framed::Picture(Bytes::from_static(&PICTURE)); 2]);
    }
    let mut headers = http::HeaderMap::new();
    let mut lines = data.split(|&byte| byte == b'\n');
    let status = lines.next().and_then(|line| http::StatusCode::from_bytes(line).ok()).unwrap_or_default();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|&byte| byte == b':').unwrap_or(line.len()));
        let value = http::HeaderValue::from_bytes(value.strip_prefix(b":").unwrap_or(value));
        if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name), value) {
            headers.append(name, value);
        }
    }
    if let Err(why) = check_answer(status, &headers) {
        assert!(why.chars().count() <= MAX_REASON_CHARS, "{why}");
    }
}

/// Any message: it is refused, or becomes values in their ranges that say the
/// same on the wire again.
pub fn proto_conversion(data: &[u8]) {
    if let Ok(v1::PublishRequest { message: Some(message) }) = v1::PublishRequest::decode(data) {
        match message {
            v1::publish_request::Message::Hello(hello) => {
                if let Ok(hello) = convert::hello_from_wire(hello) {
                    assert!(hello.ttl <= convert::MAX_TTL && hello.wanted_fps <= convert::MAX_FPS);
                    assert_eq!(convert::hello_from_wire(convert::hello_to_wire(&hello)), Ok(hello));
                }
            }
            v1::publish_request::Message::Frame(frame) => {
                if let Ok(frame) = convert::frame_from_wire(frame, CAP_BYTES as u32, LIMIT) {
                    assert!(frame.jpeg.len() <= CAP_BYTES && frame.remaining <= convert::MAX_TTL);
                    assert!(frame.size.width_px <= LIMIT.width_px && frame.size.height_px <= LIMIT.height_px);
                    let again =
                        convert::frame_from_wire(convert::frame_to_wire(frame.clone()), CAP_BYTES as u32, LIMIT);
                    assert_eq!(again, Ok(frame));
                }
            }
            v1::publish_request::Message::Status(status) => {
                let _ = convert::state_from_wire(status.state);
                let detail = convert::short(status.detail);
                assert_eq!(convert::short(detail.clone()), detail, "short is not short enough");
                let counts = status.ledger.as_ref().map(convert::ingest_counts_from_wire).unwrap_or_default();
                let _ = counts.balance();
            }
        }
    }
    if let Ok(v1::PublishResponse { message: Some(message) }) = v1::PublishResponse::decode(data) {
        match message {
            v1::publish_response::Message::Welcome(welcome) => {
                if let Ok(welcome) = convert::welcome_from_wire(welcome) {
                    assert_eq!(convert::welcome_from_wire(convert::welcome_to_wire(&welcome)), Ok(welcome));
                }
            }
            v1::publish_response::Message::Pace(pace) => {
                if let Ok(pace) = convert::pace_from_wire(pace) {
                    assert_eq!(convert::pace_from_wire(convert::pace_to_wire(pace)), Ok(pace));
                }
            }
            v1::publish_response::Message::Outcome(outcome) => {
                let _ = convert::outcome_from_wire(outcome.outcome);
            }
            _ => {}
        }
    }
    let _ = v1::DetectRequest::decode(data).map(|request| Rotation::from_degrees(request.rotation_degrees));
}

/// Any picture: no more is decoded than the limit allows, by both services.
pub fn jpeg_decode(data: &[u8]) {
    let said = jpeg::read_size(data);
    let mut rgb = Vec::new();
    if let Ok(size) = jpeg::decode_rgb(data, LIMIT, &mut rgb) {
        assert_eq!(said, Ok(size));
        assert!(size.width_px <= LIMIT.width_px && size.height_px <= LIMIT.height_px);
        assert_eq!(rgb.len() as u64, 3 * size.pixels());
    }
    assert!(rgb.capacity() as u64 <= 2 * 3 * LIMIT.pixels(), "{} bytes for pixels", rgb.capacity());
    let wanted = Wanted { max_size: PictureSize::new(32, 32), max_bytes: CAP_BYTES, quality: 80 };
    if let Ok(fitted) = Downsampler::new(LIMIT).fit(Bytes::copy_from_slice(data), &wanted) {
        assert!(fitted.size.width_px <= 32 && fitted.size.height_px <= 32 && fitted.jpeg.len() <= CAP_BYTES);
    }
}

/// Any text as a manifest: what is accepted names a plain file.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(manifest) = Manifest::parse(text) {
        let file = &manifest.weights().file;
        assert!(is_plain_name(file), "{file:?} leads elsewhere");
        if let Manifest::Detector(detector) = manifest {
            let _ = Decoder::output_names(&detector.output);
        }
    }
}

/// Any text as the configuration of each service: it is refused, or it can be
/// planned and its memory computed.
pub fn configuration(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, data).expect("written");
    let path: &Path = file.path();
    if let Ok(config) = ingest_service::Config::load(Some(path), &[], &Machine::unknown()) {
        if let Ok(plans) = config.plans() {
            assert!(ingest_service::memory::budget(&config, &plans).total_bytes() > 0);
        }
        let _ = config.to_toml();
    }
    if let Ok(config) = inference_service::config::Config::load(Some(path), &[]) {
        let vision = VisionMemory { model_bytes: 1, state_bytes_per_worker: 1, scratch_bytes_per_worker: 1 };
        assert!(inference_service::budget::budget(&config, &vision).total_bytes() > 0);
    }
}

/// Any numbers as a detector's answer: faces are few, sorted, finite and inside
/// the picture. The first bytes choose the family and the limits.
pub fn postprocess(data: &[u8]) {
    let Some((&[family, score, iou, max_faces], numbers)) = data.split_first_chunk() else { return };
    let input = InputShape { channels: 3, height: 64, width: 96 };
    let strides = vec![16, 32];
    let cells = [24, 6];
    let (spec, shapes) = match family % 3 {
        0 => {
            let [cls, obj, bbox, kps] = ["cls_", "obj_", "bbox_", "kps_"].map(String::from);
            let shapes = cells.into_iter().flat_map(|cells| [1, 1, 4, 10].map(|values| vec![1, cells, values]));
            (DetectorOutput::Yunet { strides, cls, obj, bbox, kps }, shapes.collect())
        }
        1 => {
            let shapes = vec![vec![1, 15, 4, 6], vec![1, 15, 2, 3]];
            (DetectorOutput::Flatface { strides, head: "head_".into() }, shapes)
        }
        _ => {
            let spec = DetectorOutput::Ultraface { scores: "scores".into(), boxes: "boxes".into() };
            (spec, vec![vec![1, 30, 2], vec![1, 30, 4]])
        }
    };
    let decoder = Decoder::new(&spec, input, &shapes).expect("the shapes are the family's");
    // Numbers begin anew when there are too few.
    let mut numbers = numbers.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")));
    let all: Vec<f32> = numbers.by_ref().collect();
    let mut endless = all.iter().copied().chain([0.0]).cycle();
    let outputs: Vec<Vec<f32>> =
        shapes.iter().map(|shape| endless.by_ref().take(shape.iter().product()).collect()).collect();
    let limits = Limits {
        score: (f32::from(score) / 255.0).max(0.01),
        nms_iou: f32::from(iou) / 255.0,
        min_face_px: 0.0,
        max_faces: usize::from(max_faces).max(1),
    };
    let mut candidates = Vec::new();
    if decoder.decode(|output| &outputs[output], limits.score, &mut candidates).is_err() {
        return;
    }
    assert!(candidates.len() <= decoder.max_candidates());
    let fit = Fit { picture: PictureSize::new(192, 128), fitted: PictureSize::new(96, 64) };
    let (faces, _) = select(&mut candidates, &fit, &limits);
    assert!(faces.len() <= limits.max_faces);
    assert!(faces.is_sorted_by(|a, b| a.score >= b.score));
    for face in faces {
        let b = face.bounds;
        assert!(b.x >= 0.0 && b.y >= 0.0 && b.x + b.width <= 192.01 && b.y + b.height <= 128.01, "{b:?}");
        assert!(b.width >= 1.0 && b.height >= 1.0 && (limits.score..=1.0).contains(&face.score), "{face:?}");
    }
}
