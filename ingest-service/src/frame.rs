//! A frame on this side: captured, then prepared. It carries its ticket, so
//! that it cannot end without an outcome.

use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::{FrameNumber, PictureSize};
use flatframe_shared::ledger::WaitingTicket;
use flatframe_shared::outcome::DropReason;
use tracing::Span;

/// A picture as a source gives it, not yet looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// A whole JPEG.
    Jpeg(Bytes),
    /// Pixels, from a device or a decoder that gives no JPEG.
    Raw(RawPicture),
}

impl Picture {
    /// The JPEG, if it is one.
    pub fn as_jpeg(&self) -> Option<&Bytes> {
        match self {
            Self::Jpeg(jpeg) => Some(jpeg),
            Self::Raw(_) => None,
        }
    }
}

/// A picture in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPicture {
    /// How the pixels lie in `bytes`.
    pub layout: PixelLayout,
    /// Both sides even.
    pub size: PictureSize,
    /// Bytes from one row of the first plane to the next; at least a row's
    /// bytes. Rows of NV12's second plane are as far apart, of I420's second
    /// and third half as far.
    pub stride: usize,
    /// All planes, one after the other, each of whole strides.
    pub bytes: Bytes,
}

/// How pixels lie in memory. Colours are BT.601 with luma 16 to 235, as cameras
/// and video give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelLayout {
    /// One plane of Y U Y V: two pixels in four bytes.
    Yuyv,
    /// A plane of Y, then one of U V, half as wide and high.
    Nv12,
    /// A plane of Y, then one of U and one of V, each half as wide and high.
    I420,
}

/// A picture from a source, not yet looked into.
#[derive(Debug)]
pub struct CapturedFrame {
    /// When, and which one.
    pub birth: Birth,
    /// Spent by its outcome.
    pub ticket: WaitingTicket,
    /// The picture as the source gave it.
    pub picture: Picture,
    /// What it is wanted for.
    pub purpose: Purpose,
}

/// What a captured frame is wanted for: to be sent, to be recorded, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Purpose {
    /// Whether the recording wants it.
    pub is_recorded: bool,
    /// Why it is not sent: its outcome after it was recorded. `None`: it is to
    /// be sent.
    pub unsent: Option<DropReason>,
    /// Whether no server took frames when it was captured or prepared: what is
    /// recorded of those can be sent late.
    pub is_of_outage: bool,
}

/// A picture ready to be sent.
#[derive(Debug)]
pub struct PreparedFrame {
    /// When, and which one.
    pub birth: Birth,
    /// Spent by its outcome.
    pub ticket: WaitingTicket,
    /// The picture as it travels.
    pub jpeg: Bytes,
    /// Its size.
    pub size: PictureSize,
}

/// What stays the same from capture to the answer.
#[derive(Debug, Clone)]
pub struct Birth {
    /// Number within the session.
    pub number: FrameNumber,
    /// Monotonic time of capture.
    pub captured: Instant,
    /// Wall clock at capture, microseconds since the Unix epoch; 0 when that
    /// clock is not set. For display only.
    pub captured_unix_us: i64,
    /// Age at which the frame is worthless.
    pub ttl: Duration,
    /// From capture to the answer; disabled unless traces are on.
    pub span: Span,
}

impl Birth {
    /// Time since capture.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.captured)
    }

    /// Whether the frame is worthless by now.
    pub fn expired(&self, now: Instant) -> bool {
        self.age(now) >= self.ttl
    }
}
