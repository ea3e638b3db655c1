//! What the server takes from one camera right now: written by the uplink,
//! read by capture and prepare, so that a frame nobody wants is neither decoded
//! nor sent. Holds the newest terms only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flatframe_shared::frame::PictureSize;

/// What a connected server takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Most frames per second; `None`: the camera's own rate.
    pub max_fps: Option<f32>,
    /// Larger pictures are downsampled first.
    pub max_size: PictureSize,
    /// Largest JPEG, in bytes.
    pub max_frame_bytes: usize,
}

/// The newest terms of one camera; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct TermsCell(Arc<Mutex<Known>>);

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    now: Option<Terms>,
    last: Option<Terms>,
}

impl TermsCell {
    /// The terms; `None` when no server takes frames.
    pub fn get(&self) -> Option<Terms> {
        self.lock().now
    }

    /// The terms, or the last ones there were: what is recorded while there is
    /// no server is made as it would be sent.
    pub fn known(&self) -> Option<Terms> {
        self.lock().last
    }

    /// New terms, or none.
    pub fn set(&self, terms: Option<Terms>) {
        let mut known = self.lock();
        *known = Known { now: terms, last: terms.or(known.last) };
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A copy in, a copy out: there is no half-written state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
