//! What can be known of a device without one.

use std::sync::Arc;

use flatframe_shared::ledger::IngestLedger;
use flatframe_shared::memory_watch::MemoryWatch;

use super::*;
use crate::config::{CameraConfig, LimitsConfig};
use crate::prepare::RawSlot;
use crate::source::status::StatusCell;
use crate::terms::{Terms, TermsCell};

#[test]
fn why_a_device_cannot_be_opened() {
    let path = Path::new("/dev/video7");
    for (code, words) in [
        (libc::ENOENT, "is not there"),
        (libc::EACCES, "group video"),
        (libc::EPERM, "group video"),
        (libc::ENOTTY, "not a camera"),
        (libc::EBUSY, "another program"),
        (libc::ENODEV, "unplugged"),
        (libc::EIO, "Input/output error"),
    ] {
        let why = why_not_opened(path, &io::Error::from_raw_os_error(code));
        assert!(why.contains(words) && why.contains("/dev/video7"), "{why}");
    }
}

#[test]
fn what_the_driver_gives_in_place_of_what_was_asked() {
    let code = |letters: &[u8; 4]| FourCc(u32::from_le_bytes(*letters));
    let limit = PictureSize::new(1920, 1080);
    let agreed = |format, (width, height), stride| Agreed {
        format: code(format),
        size: PictureSize::new(width, height),
        stride,
        interval: None,
    };
    for (agreed, expected) in [
        (agreed(b"MJPG", (640, 480), 0), Ok(Coding::Jpeg)),
        (agreed(b"YUYV", (640, 480), 1280), Ok(Coding::Raw(PixelLayout::Yuyv))),
        (agreed(b"NV12", (640, 480), 704), Ok(Coding::Raw(PixelLayout::Nv12))),
        (agreed(b"H264", (640, 480), 0), Err("gives H264")),
        (agreed(b"MJPG", (4000, 3000), 0), Err("4000x3000")),
        (agreed(b"YUYV", (640, 480), 640), Err("rows of 640")),
        (agreed(b"YU12", (640, 480), 4096), Err("rows of 4096")),
        (agreed(b"NV12", (641, 480), 642), Err("641x480")),
    ] {
        match (check(code(b"MJPG"), &agreed, limit), expected) {
            (Ok(coding), Ok(expected)) => assert_eq!(coding, expected),
            (Err(why), Err(words)) => assert!(why.contains(words), "{why}"),
            other => panic!("{agreed:?}: {other:?}"),
        }
    }
}

fn rig(source: &str) -> (CameraPlan, Capture, IngestLedger, Arc<RawSlot>) {
    let plan = CameraPlan::new(&CameraConfig::new("a", source), &LimitsConfig::default()).expect("valid");
    let (ledger, slot, terms) = (IngestLedger::new(), Arc::<RawSlot>::default(), TermsCell::default());
    terms.set(Some(Terms { max_fps: None, max_size: PictureSize::new(640, 480), max_frame_bytes: 1 << 20 }));
    let memory = Arc::new(MemoryWatch::unlimited());
    let capture = Capture::new(&plan, ledger.clone(), StatusCell::new(), slot.clone(), terms, memory);
    (plan, capture, ledger, slot)
}

#[tokio::test]
async fn what_is_no_camera_is_said() {
    for (source, words) in [("v4l2:/dev/no-such-video", "is not there"), ("v4l2:/dev/null", "is not a camera")] {
        let (plan, mut capture, ..) = rig(source);
        let mut source = crate::source::of(&plan);
        let error = source.run_once(&mut capture, &CancellationToken::new()).await.expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn buffers_become_pictures() {
    // Of a source whose pictures are not paced.
    let (plan, mut capture, ledger, slot) = rig("pattern");
    let source = V4l2Source::new("/dev/video0".into(), &plan);
    let jpeg = crate::source::pattern::pictures(&CameraConfig::new("a", "pattern"), 1).expect("drawn").remove(0);
    let padded = [&jpeg[..], &[0; 512]].concat();
    let agreed = |size, stride| Agreed { format: FourCc(0), size, stride, interval: None };
    let (size, yuyv) = (PictureSize::new(4, 2), Coding::Raw(PixelLayout::Yuyv));

    source.take(&mut capture, Coding::Jpeg, &agreed(size, 0), &padded, true);
    let frame = slot.take().expect("a frame");
    assert_eq!(frame.picture.as_jpeg(), Some(&jpeg), "without the padding");
    frame.ticket.drop_as(DropReason::Superseded);

    // A row of 4 pixels in 10 bytes; the driver's buffer is larger.
    source.take(&mut capture, yuyv, &agreed(size, 10), &[7; 32], true);
    let frame = slot.take().expect("a frame");
    let Picture::Raw(raw) = frame.picture else { panic!("pixels") };
    assert_eq!((raw.layout, raw.size, raw.stride, raw.bytes.len()), (PixelLayout::Yuyv, size, 10, 20));
    frame.ticket.drop_as(DropReason::Superseded);

    for (coding, bytes, whole) in [
        (Coding::Jpeg, &padded[..], false),
        (Coding::Jpeg, &padded[..jpeg.len() / 2], true),
        (Coding::Jpeg, &[0; 64][..], true),
        (Coding::Jpeg, &[][..], true),
        (yuyv, &[7; 19][..], true),
    ] {
        let before = ledger.counts().dropped(DropReason::Corrupt);
        source.take(&mut capture, coding, &agreed(size, 10), bytes, whole);
        assert_eq!(ledger.counts().dropped(DropReason::Corrupt), before + 1);
    }
    slot.close();
    assert_eq!((ledger.counts().captured, ledger.counts().balance()), (7, 0));
}

#[test]
fn bytes_of_pixels() {
    let size = PictureSize::new(640, 480);
    assert_eq!(raw_bytes(PixelLayout::Yuyv, size, 1280), 614_400);
    assert_eq!(raw_bytes(PixelLayout::Nv12, size, 640), 460_800);
    assert_eq!(raw_bytes(PixelLayout::I420, size, 704), 506_880);
}
