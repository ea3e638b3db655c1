//! Between the wire and the words of this crate: the only code that knows
//! both. Checks what comes in and says what was wrong; never trusts a length,
//! an enum or a number of the other side.
//!
//! `stream` has the messages of a camera's stream; `count` has outcomes,
//! reasons, states and ledgers.

mod count;
mod stream;

use std::time::Duration;

pub use count::{
    ingest_counts_from_wire, ingest_counts_to_wire, outcome_from_wire, outcome_to_wire, reason_to_wire,
    server_counts_to_wire, state_from_wire, state_to_wire,
};
pub use stream::{
    frame_from_wire, frame_to_wire, hello_from_wire, hello_to_wire, pace_from_wire, pace_to_wire, welcome_from_wire,
    welcome_to_wire,
};

/// The version of the protocol spoken here.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest time to live of a frame.
pub const MAX_TTL: Duration = Duration::from_secs(60);
/// Highest rate a camera may announce, frames per second.
pub const MAX_FPS: f32 = 240.0;
/// Longest text taken from a peer, bytes.
const MAX_TEXT_BYTES: usize = 256;

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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_stay_short(text in ".{0,400}") {
            prop_assert!(short(text).len() <= MAX_TEXT_BYTES);
        }
    }
}
