//! The computed bound of this service's resident memory, part by part. Every
//! number is a configuration value or a named constant; nothing is measured
//! here.

use flatframe_shared::budget::Budget;

use crate::config::{Config, LimitsConfig};
use crate::late::LATE_BYTES;
use crate::plan::CameraPlan;
use crate::prepare::downsample::SCRATCH_BYTES_PER_PIXEL;
use crate::record::{MAX_SEGMENTS, RecordPolicy, SEGMENT_ENTRY_BYTES, WRITER_BYTES};
use crate::source::spec::SourceSpec;
use crate::source::{mjpeg_child, mjpeg_http, rtsp, v4l2};

/// Resident memory of the service with no camera open, with a margin: measured
/// 6.4 MiB on x86-64 (release build; 8.8 MiB for a development build).
const BASELINE_BYTES: u64 = 10 << 20;
/// Stacks, channels, HTTP/2 state and allocator slack of one camera, with a
/// margin: measured 1.5 MiB.
const CAMERA_BYTES: u64 = 2 << 20;
/// A JPEG's tables at each of decoding (four of 12 KiB) and encoding (8 KiB),
/// the whole decoder's, looks at frames, and the like.
const CODEC_BYTES: u64 = 256 << 10;
/// What tonic and HTTP/2 hold of a frame beside its own bytes while it is
/// written: one encoded copy.
const COPIES_PER_FRAME: u64 = 2;
/// RGB canvas, still background and JPEG of a test card, per pixel, in bytes.
const CARD_BYTES_PER_PIXEL: u64 = 9;

/// Pictures of one camera that are held at once: in the making, in the raw
/// slot, and with the prepare thread.
pub(crate) const PICTURES: u64 = 3;

/// The bound for `plans` under the limits of `config`.
pub fn budget(config: &Config, plans: &[CameraPlan]) -> Budget {
    let limits: &LimitsConfig = &config.limits;
    let cameras = plans.len() as u64;
    let mib = |bytes: u64| flatframe_shared::budget::Bytes(bytes).to_string();
    let mut budget = Budget::default();
    budget.add("baseline", BASELINE_BYTES, None, "the service without cameras, measured, with a margin".into());
    budget.add(
        "cameras",
        cameras * CAMERA_BYTES,
        Some("camera"),
        format!("{cameras} cameras x {} for threads, tasks and connections", mib(CAMERA_BYTES)),
    );

    let picture = limits.max_picture_bytes as u64;
    budget.add(
        "pictures",
        cameras * PICTURES * picture,
        Some("limits.max_picture_bytes"),
        format!("{cameras} cameras x (framer + raw slot + in work) x {}", mib(picture)),
    );

    let pixels = u64::from(limits.max_source_width_px) * u64::from(limits.max_source_height_px);
    let scratch = pixels * SCRATCH_BYTES_PER_PIXEL + CODEC_BYTES;
    budget.add(
        "scratch",
        cameras * scratch,
        Some("limits.max_source_width_px, limits.max_source_height_px"),
        format!(
            "{cameras} cameras x ({}x{} px x {SCRATCH_BYTES_PER_PIXEL} B + {})",
            limits.max_source_width_px,
            limits.max_source_height_px,
            mib(CODEC_BYTES)
        ),
    );

    let mailbox = limits.mailbox_bytes as u64;
    budget.add(
        "mailboxes",
        cameras * mailbox,
        Some("limits.mailbox_bytes"),
        format!("{cameras} cameras x {}", mib(mailbox)),
    );

    let (window, frame) = (limits.max_in_flight as u64, limits.max_frame_bytes as u64);
    budget.add(
        "in flight",
        cameras * window * frame * COPIES_PER_FRAME,
        Some("limits.max_in_flight"),
        format!("{cameras} cameras x {window} frames x {} x {COPIES_PER_FRAME} (as taken, as written)", mib(frame)),
    );

    let sources: u64 = plans.iter().map(source_bytes).sum();
    let about = "read and device buffers, pixels, test cards; a child (rpicam-vid, ffmpeg) has its memory beside this";
    budget.add("sources", sources, None, about.into());
    if let Some(settings) = config.recording.settings() {
        let recorded = |policy| plans.iter().filter(|plan| plan.record == policy).count() as u64;
        let (continuous, motion) = (recorded(RecordPolicy::Continuous), recorded(RecordPolicy::Motion));
        let (queue, before) = (settings.queue_bytes as u64, settings.around.before_bytes as u64);
        // With what one other camera left behind, while it is looked through.
        let lists =
            (continuous + motion + recorded(RecordPolicy::Outage) + 1) * MAX_SEGMENTS as u64 * SEGMENT_ENTRY_BYTES;
        let picture = limits.max_frame_bytes as u64;
        budget.add(
            "recording",
            WRITER_BYTES + picture + queue + motion * before + lists,
            Some("recording.queue_bytes"),
            format!(
                "queue of {} + {motion} cameras x {} from before motion + {} for lists of segments and the writer",
                mib(queue),
                mib(before),
                mib(lists + WRITER_BYTES + picture)
            ),
        );
        if settings.late.is_some() {
            let late = plans.iter().filter(|plan| plan.record != RecordPolicy::Off).count() as u64;
            budget.add(
                "late frames",
                late * (LATE_BYTES + (1 + COPIES_PER_FRAME) * frame),
                Some("limits.max_frame_bytes"),
                format!(
                    "{late} cameras x ({} for connection and lists + {} x {} (read, as taken, as written))",
                    mib(LATE_BYTES),
                    1 + COPIES_PER_FRAME,
                    mib(frame)
                ),
            );
        }
    }
    budget
}

fn source_bytes(plan: &CameraPlan) -> u64 {
    match plan.source {
        SourceSpec::Pattern => plan.asked_size().pixels() * CARD_BYTES_PER_PIXEL,
        SourceSpec::Files(_) => 64 << 10,
        SourceSpec::MjpegHttp(_) => 2 * mjpeg_http::READ_BUFFER_BYTES as u64,
        SourceSpec::Rpicam(_) | SourceSpec::Ffmpeg(_) => mjpeg_child::READ_BUFFER_BYTES as u64,
        SourceSpec::V4l2(_) => (u64::from(v4l2::BUFFERS) + PICTURES) * v4l2::most_bytes(plan.prepare.source_size),
        SourceSpec::Rtsp(_) => rtsp::most_bytes(plan),
    }
}
