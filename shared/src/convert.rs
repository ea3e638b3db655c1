//! Between the wire and the words of this crate: the only code that knows
//! both. Checks what comes in and says what was wrong; never trusts a length,
//! an enum or a number of the other side.

use std::time::Duration;

use crate::frame::{
    CameraHello, CameraId, CameraState, FrameNumber, Pace, PictureSize, Rotation, ServerWelcome, SessionId, WireFrame,
};
use crate::r#gen::v1;
use crate::ledger::{IngestCounts, ServerCounts};
use crate::outcome::{DropReason, Outcome};

/// The version of the protocol spoken here.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest time to live of a frame.
pub const MAX_TTL: Duration = Duration::from_secs(60);
/// Highest rate a camera may announce, frames per second.
pub const MAX_FPS: f32 = 240.0;
/// Longest text taken from a peer, bytes.
const MAX_TEXT_BYTES: usize = 256;
/// Length of a W3C traceparent.
const TRACEPARENT_BYTES: usize = 55;

/// A message that cannot be what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} is not allowed: {allowed}")]
pub struct InvalidMessage {
    field: &'static str,
    value: String,
    allowed: String,
}

impl InvalidMessage {
    fn new(field: &'static str, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), allowed: allowed.into() }
    }
}

/// A hello as sent.
pub fn hello_to_wire(hello: &CameraHello) -> v1::Hello {
    v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        camera_id: hello.camera.to_string(),
        session_id: hello.session.0,
        software: hello.software.clone(),
        rotation_degrees: hello.rotation.degrees(),
        wanted_fps: hello.wanted_fps,
        ttl_ms: millis_u32(hello.ttl),
        display_name: hello.display_name.clone(),
    }
}

/// A hello as received. The protocol version is the caller's to compare with
/// [`PROTOCOL_VERSION`], since a wrong one has a status of its own.
///
/// # Errors
/// The first field that is out of range.
pub fn hello_from_wire(hello: v1::Hello) -> Result<CameraHello, InvalidMessage> {
    let camera = CameraId::parse(&hello.camera_id)
        .map_err(|error| InvalidMessage::new("hello.camera_id", "...", error.to_string()))?;
    let rotation = Rotation::from_degrees(hello.rotation_degrees)
        .map_err(|error| InvalidMessage::new("hello.rotation_degrees", error.0, "use 0, 90, 180 or 270"))?;
    if !(hello.wanted_fps > 0.0 && hello.wanted_fps <= MAX_FPS) {
        return Err(InvalidMessage::new("hello.wanted_fps", hello.wanted_fps, format!("use above 0, up to {MAX_FPS}")));
    }
    let ttl = Duration::from_millis(u64::from(hello.ttl_ms));
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(InvalidMessage::new("hello.ttl_ms", hello.ttl_ms, format!("use 1 to {}", MAX_TTL.as_millis())));
    }
    Ok(CameraHello {
        camera,
        session: SessionId(hello.session_id),
        software: short(hello.software),
        rotation,
        wanted_fps: hello.wanted_fps,
        ttl,
        display_name: short(hello.display_name),
    })
}

/// A welcome as sent.
pub fn welcome_to_wire(welcome: &ServerWelcome) -> v1::Welcome {
    v1::Welcome {
        protocol_version: PROTOCOL_VERSION,
        max_frame_bytes: welcome.max_frame_bytes,
        max_width_px: welcome.max_size.width_px,
        max_height_px: welcome.max_size.height_px,
        window: welcome.window,
        pace: Some(pace_to_wire(welcome.pace)),
        software: welcome.software.clone(),
    }
}

/// A welcome as received.
///
/// # Errors
/// The first field that is out of range.
pub fn welcome_from_wire(welcome: v1::Welcome) -> Result<ServerWelcome, InvalidMessage> {
    if welcome.protocol_version != PROTOCOL_VERSION {
        let allowed = format!("this sender speaks version {PROTOCOL_VERSION}; update one of the two");
        return Err(InvalidMessage::new("welcome.protocol_version", welcome.protocol_version, allowed));
    }
    if welcome.max_frame_bytes == 0 || welcome.window == 0 {
        let value = format!("{} bytes, window {}", welcome.max_frame_bytes, welcome.window);
        return Err(InvalidMessage::new("welcome limits", value, "must be above 0"));
    }
    let max_size = size_from_wire("welcome.max_size", welcome.max_width_px, welcome.max_height_px)?;
    let pace = welcome.pace.ok_or_else(|| InvalidMessage::new("welcome.pace", "absent", "must be there"))?;
    Ok(ServerWelcome {
        max_frame_bytes: welcome.max_frame_bytes,
        max_size,
        window: welcome.window,
        pace: pace_from_wire(pace)?,
        software: short(welcome.software),
    })
}

/// A pace as sent.
pub fn pace_to_wire(pace: Pace) -> v1::Pace {
    v1::Pace {
        max_fps: pace.max_fps.unwrap_or(0.0),
        max_width_px: pace.max_size.width_px,
        max_height_px: pace.max_size.height_px,
    }
}

/// A pace as received.
///
/// # Errors
/// The first field that is out of range.
pub fn pace_from_wire(pace: v1::Pace) -> Result<Pace, InvalidMessage> {
    if !(pace.max_fps >= 0.0 && pace.max_fps.is_finite()) {
        return Err(InvalidMessage::new("pace.max_fps", pace.max_fps, "use 0 (no limit) or above"));
    }
    Ok(Pace {
        max_fps: (pace.max_fps > 0.0).then_some(pace.max_fps),
        max_size: size_from_wire("pace.max_size", pace.max_width_px, pace.max_height_px)?,
    })
}

fn size_from_wire(field: &'static str, width_px: u32, height_px: u32) -> Result<PictureSize, InvalidMessage> {
    let size = PictureSize::new(width_px, height_px);
    if size.pixels() == 0 {
        return Err(InvalidMessage::new(field, size, "both sides must be above 0"));
    }
    Ok(size)
}

/// A frame as sent.
pub fn frame_to_wire(frame: WireFrame) -> v1::Frame {
    v1::Frame {
        number: frame.number.0,
        age_us: micros_u64(frame.age),
        remaining_us: micros_u64(frame.remaining),
        captured_unix_us: frame.captured_unix_us,
        width_px: frame.size.width_px,
        height_px: frame.size.height_px,
        traceparent: frame.traceparent,
        jpeg: frame.jpeg,
    }
}

/// A frame as received; `max_bytes` and `max_size` are what the welcome said.
///
/// # Errors
/// The first field that is out of range. The number of the frame is valid all
/// the same: read it before.
pub fn frame_from_wire(frame: v1::Frame, max_bytes: u32, max_size: PictureSize) -> Result<WireFrame, InvalidMessage> {
    if frame.jpeg.len() > max_bytes as usize {
        let value = format!("{} bytes", frame.jpeg.len());
        return Err(InvalidMessage::new("frame.jpeg", value, format!("at most {max_bytes} bytes")));
    }
    if frame.jpeg.is_empty() {
        return Err(InvalidMessage::new("frame.jpeg", "empty", "must be a JPEG"));
    }
    let size = size_from_wire("frame size", frame.width_px, frame.height_px)?;
    if !size.fits(max_size) {
        return Err(InvalidMessage::new("frame size", size, format!("at most {max_size}")));
    }
    let remaining = Duration::from_micros(frame.remaining_us);
    if remaining > MAX_TTL {
        return Err(InvalidMessage::new(
            "frame.remaining_us",
            frame.remaining_us,
            format!("at most {}", MAX_TTL.as_micros()),
        ));
    }
    let age = Duration::from_micros(frame.age_us);
    if age > MAX_TTL {
        return Err(InvalidMessage::new("frame.age_us", frame.age_us, format!("at most {}", MAX_TTL.as_micros())));
    }
    let traceparent = if frame.traceparent.len() == TRACEPARENT_BYTES { frame.traceparent } else { String::new() };
    Ok(WireFrame {
        number: FrameNumber(frame.number),
        age,
        remaining,
        captured_unix_us: frame.captured_unix_us,
        size,
        traceparent,
        jpeg: frame.jpeg,
    })
}

/// An outcome as sent.
pub fn outcome_to_wire(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Analyzed => v1::Outcome::Analyzed,
        Outcome::Expired => v1::Outcome::Expired,
        Outcome::Shed => v1::Outcome::Shed,
        Outcome::Invalid => v1::Outcome::Invalid,
        Outcome::Failed => v1::Outcome::Failed,
        Outcome::Draining => v1::Outcome::Draining,
    }
}

/// An outcome as received.
///
/// # Errors
/// When it is not one of this version.
pub fn outcome_from_wire(outcome: i32) -> Result<Outcome, InvalidMessage> {
    let known = Outcome::ALL.iter().copied().find(|known| outcome_to_wire(*known) as i32 == outcome);
    known.ok_or_else(|| InvalidMessage::new("outcome", outcome, "not an outcome of protocol version 1"))
}

/// A reason as sent.
pub fn reason_to_wire(reason: DropReason) -> v1::DropReason {
    match reason {
        DropReason::Superseded => v1::DropReason::Superseded,
        DropReason::Paced => v1::DropReason::Paced,
        DropReason::Still => v1::DropReason::Still,
        DropReason::Expired => v1::DropReason::Expired,
        DropReason::Corrupt => v1::DropReason::Corrupt,
        DropReason::TooLarge => v1::DropReason::TooLarge,
        DropReason::Offline => v1::DropReason::Offline,
        DropReason::Shutdown => v1::DropReason::Shutdown,
    }
}

/// A camera state as sent.
pub fn state_to_wire(state: CameraState) -> v1::CameraState {
    match state {
        CameraState::Connecting => v1::CameraState::Connecting,
        CameraState::Live => v1::CameraState::Live,
        CameraState::Stalled => v1::CameraState::Stalled,
        CameraState::Down => v1::CameraState::Down,
        CameraState::Offline => v1::CameraState::Offline,
    }
}

/// A camera state as received; `None` when it is not one of this version.
pub fn state_from_wire(state: i32) -> Option<CameraState> {
    use CameraState::{Connecting, Down, Live, Offline, Stalled};
    [Connecting, Live, Stalled, Down, Offline].into_iter().find(|known| state_to_wire(*known) as i32 == state)
}

/// The sender's counters as sent.
pub fn ingest_counts_to_wire(counts: &IngestCounts) -> v1::IngestLedger {
    let dropped = DropReason::ALL
        .iter()
        .filter(|reason| counts.dropped(**reason) > 0)
        .map(|&reason| v1::DropCount { reason: reason_to_wire(reason) as i32, frames: counts.dropped(reason) })
        .collect();
    v1::IngestLedger {
        captured: counts.captured,
        dropped,
        sent: counts.sent,
        answered: answered_to_wire(&counts.answered),
        lost: counts.lost,
        waiting: counts.waiting,
        in_flight: counts.in_flight,
    }
}

/// The sender's counters as received; reasons and outcomes of later versions
/// are left out.
pub fn ingest_counts_from_wire(ledger: &v1::IngestLedger) -> IngestCounts {
    let mut counts = IngestCounts {
        captured: ledger.captured,
        sent: ledger.sent,
        lost: ledger.lost,
        waiting: ledger.waiting,
        in_flight: ledger.in_flight,
        ..IngestCounts::default()
    };
    for drop in &ledger.dropped {
        if let Some(reason) = DropReason::ALL.iter().find(|reason| reason_to_wire(**reason) as i32 == drop.reason) {
            counts.dropped[reason.index()] = drop.frames;
        }
    }
    for answer in &ledger.answered {
        if let Ok(outcome) = outcome_from_wire(answer.outcome) {
            counts.answered[outcome.index()] = answer.frames;
        }
    }
    counts
}

/// The server's counters as sent.
pub fn server_counts_to_wire(counts: &ServerCounts) -> v1::ServerLedger {
    v1::ServerLedger { received: counts.received, answered: answered_to_wire(&counts.answered), queued: counts.queued }
}

fn answered_to_wire(answered: &[u64; Outcome::COUNT]) -> Vec<v1::OutcomeCount> {
    Outcome::ALL
        .iter()
        .zip(answered)
        .filter(|(_, frames)| **frames > 0)
        .map(|(&outcome, &frames)| v1::OutcomeCount { outcome: outcome_to_wire(outcome) as i32, frames })
        .collect()
}

/// Whole milliseconds, capped.
pub fn millis_u32(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Whole milliseconds, capped.
pub fn millis_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole microseconds, capped.
pub fn micros_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A peer's text, cut to 256 bytes at a character.
pub fn short(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let cut = (0..=MAX_TEXT_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn hello() -> CameraHello {
        CameraHello {
            camera: CameraId::parse("bus-7").expect("valid"),
            session: SessionId(7),
            software: "test".into(),
            rotation: Rotation::Clockwise90,
            wanted_fps: 5.0,
            ttl: Duration::from_secs(1),
            display_name: "Bus 7".into(),
        }
    }

    #[test]
    fn hello_there_and_back() {
        assert_eq!(hello_from_wire(hello_to_wire(&hello())), Ok(hello()));
        let wire = hello_to_wire(&hello());
        for (wrong, field) in [
            (v1::Hello { camera_id: "no spaces".into(), ..wire.clone() }, "camera_id"),
            (v1::Hello { rotation_degrees: 45, ..wire.clone() }, "rotation_degrees"),
            (v1::Hello { wanted_fps: f32::NAN, ..wire.clone() }, "wanted_fps"),
            (v1::Hello { wanted_fps: 0.0, ..wire.clone() }, "wanted_fps"),
            (v1::Hello { ttl_ms: 0, ..wire.clone() }, "ttl_ms"),
            (v1::Hello { ttl_ms: 60_001, ..wire }, "ttl_ms"),
        ] {
            let error = hello_from_wire(wrong).expect_err(field).to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn frame_there_and_back() {
        let limit = PictureSize::new(640, 480);
        let frame = WireFrame {
            number: FrameNumber(3),
            age: Duration::from_micros(10),
            remaining: Duration::from_millis(900),
            captured_unix_us: 1,
            size: PictureSize::new(320, 240),
            traceparent: String::new(),
            jpeg: Bytes::from_static(b"jpeg"),
        };
        let wire = frame_to_wire(frame.clone());
        assert_eq!(frame_from_wire(wire.clone(), 4, limit), Ok(frame));
        for (wrong, field) in [
            (v1::Frame { jpeg: Bytes::from_static(b"12345"), ..wire.clone() }, "frame.jpeg"),
            (v1::Frame { jpeg: Bytes::new(), ..wire.clone() }, "frame.jpeg"),
            (v1::Frame { width_px: 641, ..wire.clone() }, "frame size"),
            (v1::Frame { height_px: 0, ..wire.clone() }, "frame size"),
            (v1::Frame { remaining_us: u64::MAX, ..wire.clone() }, "remaining_us"),
            (v1::Frame { age_us: u64::MAX, ..wire }, "age_us"),
        ] {
            let error = frame_from_wire(wrong, 4, limit).expect_err(field).to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn welcome_there_and_back() {
        let welcome = ServerWelcome {
            max_frame_bytes: 1000,
            max_size: PictureSize::new(640, 480),
            window: 2,
            pace: Pace { max_fps: None, max_size: PictureSize::new(320, 240) },
            software: "test".into(),
        };
        let wire = welcome_to_wire(&welcome);
        assert_eq!(welcome_from_wire(wire.clone()), Ok(welcome));
        assert!(welcome_from_wire(v1::Welcome { protocol_version: 2, ..wire }).is_err());
    }

    #[test]
    fn counts_there_and_back() {
        let mut counts =
            IngestCounts { captured: 10, sent: 6, lost: 1, waiting: 1, in_flight: 2, ..Default::default() };
        counts.dropped[DropReason::Still.index()] = 3;
        counts.answered[Outcome::Shed.index()] = 3;
        assert_eq!(ingest_counts_from_wire(&ingest_counts_to_wire(&counts)), counts);
    }

    proptest! {
        #[test]
        fn texts_stay_short(text in ".{0,400}") {
            prop_assert!(short(text).len() <= MAX_TEXT_BYTES);
        }
    }
}
