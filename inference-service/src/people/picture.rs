//! Whether a camera's picture is frozen (the same, to the last noise) or dark.
//! Sees a few pixels of each frame; knows no faces.

use std::time::{Duration, Instant};

use crate::vision::Look;

/// A pixel that differs by at most so much is the same: a JPEG of the same
/// picture may be encoded anew on its way.
const SAME_LEVELS: u8 = 1;
/// With at most this share of pixels changed the picture is the same. The
/// noise of a sensor alone changes more.
const SAME_SHARE: f32 = 0.008;
/// A pixel of at most this brightness is black.
const DARK_LEVEL: u8 = 10;
/// With more than this share of black pixels the picture is dark.
const DARK_SHARE: f32 = 0.95;

/// What the newest frames of one camera looked like.
#[derive(Debug, Default)]
pub struct PictureState {
    last: Option<Look>,
    same_since: Option<Instant>,
    dark_since: Option<Instant>,
}

impl PictureState {
    /// A frame that was captured at `at`.
    pub fn frame(&mut self, at: Instant, look: Look) {
        let is_same = self.last.as_ref().is_some_and(|last| last.changed(&look, SAME_LEVELS) <= SAME_SHARE);
        self.same_since = is_same.then(|| self.same_since.unwrap_or(at));
        let is_dark = look.dark(DARK_LEVEL) > DARK_SHARE;
        self.dark_since = is_dark.then(|| self.dark_since.unwrap_or(at));
        // Compared with the first of the same pictures: a slow change is one.
        if !is_same {
            self.last = Some(look);
        }
    }

    /// Nothing is known any more: the stream was closed.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// For how long the picture has been the same.
    pub fn frozen_for(&self, now: Instant) -> Option<Duration> {
        // Every black picture is the same: that it is dark says more.
        let since = self.same_since.filter(|_| self.dark_since.is_none());
        since.map(|since| now.saturating_duration_since(since))
    }

    /// For how long it has been dark.
    pub fn dark_for(&self, now: Instant) -> Option<Duration> {
        self.dark_since.map(|since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_and_dark_by_table() {
        let start = Instant::now();
        let second = |s: u64| start + Duration::from_secs(s);
        let mut state = PictureState::default();
        for (s, grey, frozen_s, dark_s) in [
            (0, 100, None, None),
            (1, 101, Some(0), None),
            (5, 101, Some(4), None),
            // Slowly it became another picture.
            (6, 102, None, None),
            (7, 102, Some(0), None),
            (8, 50, None, None),
            (9, 4, None, Some(0)),
            (19, 4, None, Some(10)),
            (20, 90, None, None),
        ] {
            state.frame(second(s), Look::even(grey));
            let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs());
            let found = (seconds(state.frozen_for(second(s))), seconds(state.dark_for(second(s))));
            assert_eq!(found, (frozen_s, dark_s), "second {s}");
        }
        state.frame(second(21), Look::even(90));
        state.forget();
        state.frame(second(22), Look::even(90));
        assert_eq!(state.frozen_for(second(22)), None);
    }
}
