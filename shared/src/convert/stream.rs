//! The messages of a camera's stream.

use std::time::Duration;

use super::{InvalidMessage, MAX_FPS, MAX_TTL, PROTOCOL_VERSION, micros_u64, millis_u32, short};
use crate::frame::{
    CameraHello, CameraId, FrameNumber, Pace, PictureSize, Rotation, ServerWelcome, SessionId, WireFrame,
};
use crate::r#gen::v1;

/// Length of a W3C traceparent.
const TRACEPARENT_BYTES: usize = 55;

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
        late: hello.late,
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
        late: hello.late,
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
        late_after_unix_us: welcome.late_after_unix_us,
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
        late_after_unix_us: welcome.late_after_unix_us,
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
            late: true,
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
            late_after_unix_us: Some(7),
        };
        let wire = welcome_to_wire(&welcome);
        assert_eq!(welcome_from_wire(wire.clone()), Ok(welcome));
        assert!(welcome_from_wire(v1::Welcome { protocol_version: 2, ..wire }).is_err());
    }
}
