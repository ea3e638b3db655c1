//! The words of the path of one frame: who took it, which one it is, how large
//! it is, how it must be turned. Holds no picture memory of its own but
//! [`WireFrame::jpeg`], which is shared and immutable.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// Longest camera id, in bytes.
pub const MAX_CAMERA_ID_BYTES: usize = 64;

/// Stable id of a camera: 1 to 64 of `a-z`, `A-Z`, `0-9`, `.`, `_`, `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CameraId(Arc<str>);

/// A text that cannot be a camera id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("camera id {shown:?} is not allowed: use 1 to {MAX_CAMERA_ID_BYTES} of a-z, A-Z, 0-9, '.', '_', '-'")]
pub struct InvalidCameraId {
    shown: String,
}

impl CameraId {
    /// Checks and takes a camera id.
    pub fn parse(text: &str) -> Result<Self, InvalidCameraId> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > MAX_CAMERA_ID_BYTES || !text.chars().all(allowed) {
            // A hostile id must not fill the log: show the beginning only.
            let shown = text.chars().take(MAX_CAMERA_ID_BYTES).collect();
            return Err(InvalidCameraId { shown });
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CameraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CameraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of a frame: starts at 1 and only grows within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameNumber(pub u64);

impl fmt::Display for FrameNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random id of one run of a camera's sender; frame numbers compare within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// Width and height of a picture in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PictureSize {
    /// Columns.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
}

impl PictureSize {
    /// A size of `width_px` columns and `height_px` rows.
    pub const fn new(width_px: u32, height_px: u32) -> Self {
        Self { width_px, height_px }
    }

    /// Number of pixels.
    pub const fn pixels(self) -> u64 {
        self.width_px as u64 * self.height_px as u64
    }

    /// Whether this size lies within `limit` in both directions.
    pub const fn fits(self, limit: PictureSize) -> bool {
        self.width_px <= limit.width_px && self.height_px <= limit.height_px
    }

    /// The largest size of the same shape that fits into `limit`, never
    /// larger than this one and at least 1x1.
    pub fn fitted(self, limit: PictureSize) -> PictureSize {
        if self.fits(limit) {
            return self;
        }
        let scale = f64::min(
            f64::from(limit.width_px) / f64::from(self.width_px),
            f64::from(limit.height_px) / f64::from(self.height_px),
        );
        let side = |px: u32, limit_px: u32| ((f64::from(px) * scale).round() as u32).clamp(1, limit_px);
        PictureSize::new(side(self.width_px, limit.width_px), side(self.height_px, limit.height_px))
    }
}

impl fmt::Display for PictureSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width_px, self.height_px)
    }
}

/// Clockwise rotation that makes a camera's pictures upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotation {
    /// The camera stands upright.
    #[default]
    None,
    /// 90 degrees.
    Clockwise90,
    /// 180 degrees: the camera hangs upside down.
    HalfTurn,
    /// 270 degrees.
    Clockwise270,
}

/// An angle that is not a quarter turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rotation of {0} degrees is not allowed: use 0, 90, 180 or 270")]
pub struct InvalidRotation(pub u32);

impl Rotation {
    /// The rotation of so many degrees clockwise.
    pub fn from_degrees(degrees: u32) -> Result<Self, InvalidRotation> {
        match degrees {
            0 => Ok(Self::None),
            90 => Ok(Self::Clockwise90),
            180 => Ok(Self::HalfTurn),
            270 => Ok(Self::Clockwise270),
            other => Err(InvalidRotation(other)),
        }
    }

    /// Degrees clockwise.
    pub fn degrees(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Clockwise90 => 90,
            Self::HalfTurn => 180,
            Self::Clockwise270 => 270,
        }
    }

    /// Size of a picture of `size` after the rotation.
    pub fn turned(self, size: PictureSize) -> PictureSize {
        match self {
            Self::None | Self::HalfTurn => size,
            Self::Clockwise90 | Self::Clockwise270 => PictureSize::new(size.height_px, size.width_px),
        }
    }
}

/// What a camera says of itself when its stream opens.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraHello {
    /// Stable id.
    pub camera: CameraId,
    /// This run of the sender.
    pub session: SessionId,
    /// Name and version of the sending software.
    pub software: String,
    /// What makes its pictures upright.
    pub rotation: Rotation,
    /// Rate it would like to send, frames per second.
    pub wanted_fps: f32,
    /// Age at which its frames are worthless.
    pub ttl: Duration,
    /// Name for people; may be empty.
    pub display_name: String,
    /// Whether this is a stream of late frames.
    pub late: bool,
}

/// Rate and size that the server asks a camera for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Most frames per second worth capturing; `None`: the camera's own rate.
    pub max_fps: Option<f32>,
    /// Pictures larger than this are downsampled before sending.
    pub max_size: PictureSize,
}

/// What the server tells a camera when its stream opens.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerWelcome {
    /// Largest JPEG accepted, in bytes.
    pub max_frame_bytes: u32,
    /// Largest picture accepted.
    pub max_size: PictureSize,
    /// Most credits the stream may hold.
    pub window: u32,
    /// Rate and size to start with.
    pub pace: Pace,
    /// Name and version of the server.
    pub software: String,
    /// On a stream of late frames: only those captured after this time are
    /// taken, microseconds since the Unix epoch. `None`: late frames are not.
    pub late_after_unix_us: Option<i64>,
}

/// One frame as it travels: durations instead of times, so that the two clocks
/// need not agree.
#[derive(Clone, PartialEq)]
pub struct WireFrame {
    /// Which frame of the session.
    pub number: FrameNumber,
    /// Time since capture, the estimated transit included.
    pub age: Duration,
    /// Time left from arrival until the frame is worthless.
    pub remaining: Duration,
    /// Wall clock of the sender at capture, microseconds since the Unix epoch;
    /// 0 when not set. For display only, but for late frames.
    pub captured_unix_us: i64,
    /// Size as encoded.
    pub size: PictureSize,
    /// W3C traceparent of the capture span; empty when not traced.
    pub traceparent: String,
    /// The picture.
    pub jpeg: Bytes,
}

impl fmt::Debug for WireFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireFrame")
            .field("number", &self.number)
            .field("age", &self.age)
            .field("remaining", &self.remaining)
            .field("size", &self.size)
            .field("jpeg_bytes", &self.jpeg.len())
            .finish_non_exhaustive()
    }
}

/// State of a camera as a client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CameraState {
    /// Being opened or re-opened.
    Connecting,
    /// Pictures arrive.
    Live,
    /// Open, but no picture for too long.
    Stalled,
    /// Could not be opened; tried again later.
    Down,
    /// Its stream to the server is closed.
    Offline,
}

impl CameraState {
    /// The state in one word, as used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::Stalled => "stalled",
            Self::Down => "down",
            Self::Offline => "offline",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn camera_ids() {
        for good in ["a", "bus-7", "Door.left_2", &"x".repeat(64)] {
            assert_eq!(CameraId::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "bus 7", "a/b", "ä", "\n", &"x".repeat(65)] {
            let error = CameraId::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("1 to 64"), "{error}");
            assert!(error.len() < 250, "a hostile id must stay short: {error}");
        }
    }

    #[test]
    fn fitted_keeps_shape_and_limit() {
        let limit = PictureSize::new(320, 240);
        for (from, to) in [
            ((320, 240), (320, 240)),
            ((100, 20), (100, 20)),
            ((640, 480), (320, 240)),
            ((1280, 720), (320, 180)),
            ((720, 1280), (135, 240)),
            ((100_000, 10), (320, 1)),
        ] {
            let fitted = PictureSize::new(from.0, from.1).fitted(limit);
            assert_eq!(fitted, PictureSize::new(to.0, to.1), "{from:?}");
        }
    }

    #[test]
    fn rotations() {
        for degrees in [0, 90, 180, 270] {
            assert_eq!(Rotation::from_degrees(degrees).map(Rotation::degrees), Ok(degrees));
        }
        assert_eq!(Rotation::from_degrees(45), Err(InvalidRotation(45)));
        let size = PictureSize::new(4, 3);
        assert_eq!(Rotation::Clockwise90.turned(size), PictureSize::new(3, 4));
        assert_eq!(Rotation::HalfTurn.turned(size), size);
    }
}
