//! A frame on this side: captured, then prepared. It carries its ticket, so
//! that it cannot end without an outcome.

use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::{FrameNumber, PictureSize};
use flatframe_shared::ledger::WaitingTicket;
use tracing::Span;

/// A picture from a source, not yet looked into.
#[derive(Debug)]
pub struct CapturedFrame {
    /// When, and which one.
    pub birth: Birth,
    /// Spent by its outcome.
    pub ticket: WaitingTicket,
    /// The picture as the source gave it.
    pub jpeg: Bytes,
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
