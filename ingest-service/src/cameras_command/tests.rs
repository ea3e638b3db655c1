//! What is printed is a configuration that works.

use flatframe_shared::frame::PictureSize;

use super::*;
use crate::config::Config;
use crate::source::spec::SourceSpec;
use crate::source::v4l2::attached::Offer;
use crate::source::v4l2::device::Identity;
use crate::source::v4l2::mode::FourCc;

fn offer(format: &[u8; 4], sizes: Sizes, intervals: Vec<Intervals>) -> Offer {
    Offer { format: FourCc(u32::from_le_bytes(*format)), sizes, intervals }
}

fn device(path: &str, stable: Option<&str>, card: &str, offers: Vec<Offer>) -> Attached {
    let identity = Identity { card: card.into(), driver: "uvcvideo".into(), bus: "usb-1".into(), captures: true };
    Attached { path: path.into(), stable: stable.map(Into::into), found: Ok(Found { identity, offers }) }
}

fn parsed(text: &str) -> Config {
    let config: Config = toml::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    config
}

#[test]
fn it_parses_and_can_work() {
    let sizes = Sizes::Exact(vec![PictureSize::new(640, 480), PictureSize::new(1280, 720)]);
    let intervals = vec![Intervals::Exact(vec![(1, 30), (2, 15)]), Intervals::Exact(vec![])];
    let range = Sizes::Range { from: PictureSize::new(32, 32), to: PictureSize::new(3280, 2464), step: (2, 2) };
    let any = vec![Intervals::Range { shortest: (1, 60), longest: (1, 1) }];
    let by_id = "/dev/v4l/by-id/usb-\"Odd\"_cam-index0";
    let video = [
        device("/dev/video0", Some(by_id), "Odd \"cam\"\n[server]\x1b[2J", vec![offer(b"MJPG", sizes, intervals)]),
        device("/dev/video2", None, "unicam", vec![offer(b"pRAA", range.clone(), any.clone())]),
        device("/dev/video4", None, "vivid", vec![offer(b"YUYV", range, any)]),
        Attached { path: "/dev/video6".into(), stable: None, found: Err("no permission for /dev/video6".into()) },
    ];
    let pi = ["0 : imx219 [3280x2464] (/base/soc/i2c)", "1 : ov5647 [2592x1944] (/base/soc/i2c2)"];
    let (text, cameras) = configuration(&video, &Ok(list::parsed(&pi.join("\n"))));
    let config = parsed(&text);
    let sources: Vec<_> = config.plans().expect("it works").into_iter().map(|plan| plan.source).collect();
    assert_eq!(cameras, 4);
    assert_eq!(
        sources,
        [
            SourceSpec::V4l2(by_id.into()),
            SourceSpec::V4l2("/dev/video4".into()),
            SourceSpec::Rpicam(0),
            SourceSpec::Rpicam(1)
        ]
    );
    for line in [
        "#   MJPG  640x480 at 30, 7.50 fps; 1280x720",
        "# taken by default: MJPG 640x480; width_px, height_px and fps choose",
        "#   pRAA (not read)  32x32 to 3280x2464 at 1 to 60 fps",
        "# no permission for /dev/video6",
        "# Raspberry Pi camera 1: ov5647 [2592x1944]",
    ] {
        assert!(text.contains(line), "{line} missing in {text}");
    }
    assert!(text.contains("rpicam") && !text.contains('\x1b'));
}

#[test]
fn nothing_attached() {
    let (text, cameras) = configuration(&[], &Err("rpicam-hello is not installed".into()));
    assert_eq!((cameras, parsed(&text).camera.len()), (0, 0));
    assert!(text.contains("# Raspberry Pi cameras: rpicam-hello is not installed"), "{text}");
}
