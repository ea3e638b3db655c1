//! The key of everything that has a time: camera, time and a last number in
//! one integer, so that a span of time of one camera is one range of a b-tree
//! and its oldest row is the first one. Arithmetic only.

use std::ops::RangeInclusive;

const LAST_BITS: u32 = 9;
const TIME_BITS: u32 = 42;

/// Cameras that a store can tell apart.
pub const MAX_CAMERAS: usize = 1 << (63 - TIME_BITS - LAST_BITS);
/// Counters that a store can tell apart, and results of one camera within one
/// millisecond.
pub const MAX_LAST: u16 = 1 << LAST_BITS;
/// The first time that does not fit, ms since the Unix epoch: in the year 2109.
pub const END_MS: i64 = 1 << TIME_BITS;

/// Number of a camera within one store: 0 to [`MAX_CAMERAS`] - 1.
pub type CameraNumber = u16;

/// Camera, time and a last number (sequence or counter), in order of weight.
/// Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub i64);

impl Key {
    /// Puts a key together. Times before 1970 and after 2109 are brought to
    /// the nearest that fits.
    pub fn new(camera: CameraNumber, at_ms: i64, last: u16) -> Self {
        let camera = i64::from(camera) & (MAX_CAMERAS as i64 - 1);
        let at_ms = at_ms.clamp(0, END_MS - 1);
        let last = i64::from(last) & (i64::from(MAX_LAST) - 1);
        Self(camera << (TIME_BITS + LAST_BITS) | at_ms << LAST_BITS | last)
    }

    /// The camera.
    pub fn camera(self) -> CameraNumber {
        ((self.0 >> (TIME_BITS + LAST_BITS)) & (MAX_CAMERAS as i64 - 1)) as CameraNumber
    }

    /// The time, ms since the Unix epoch.
    pub fn at_ms(self) -> i64 {
        (self.0 >> LAST_BITS) & (END_MS - 1)
    }

    /// The last number.
    pub fn last(self) -> u16 {
        (self.0 & (i64::from(MAX_LAST) - 1)) as u16
    }

    /// All keys of a camera.
    pub fn of_camera(camera: CameraNumber) -> RangeInclusive<i64> {
        Self::between(camera, 0, END_MS)
    }

    /// Keys of a camera from `from_ms` to before `to_ms`. Empty when the times
    /// are.
    pub fn between(camera: CameraNumber, from_ms: i64, to_ms: i64) -> RangeInclusive<i64> {
        let first = Self::new(camera, from_ms, 0).0;
        if to_ms <= 0 || from_ms >= to_ms || from_ms >= END_MS {
            // Ends before it begins: a statement with it finds nothing.
            return RangeInclusive::new(first, first - 1);
        }
        first..=Self::new(camera, to_ms.min(END_MS) - 1, MAX_LAST - 1).0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_and_parts(a in parts(), b in parts()) {
            let (one, other) = (Key::new(a.0, a.1, a.2), Key::new(b.0, b.1, b.2));
            prop_assert_eq!((one.camera(), one.at_ms(), one.last()), a);
            prop_assert_eq!(one.cmp(&other), a.cmp(&b));
            prop_assert!(one.0 >= 0 && Key::of_camera(a.0).contains(&one.0));
            prop_assert_eq!(Key::of_camera(a.0).contains(&other.0), a.0 == b.0);
        }

        #[test]
        fn spans(camera in 0..MAX_CAMERAS as u16, from in -5_i64..20, to in -5_i64..20, at in 0_i64..20, last in 0..MAX_LAST) {
            let inside = Key::between(camera, from, to).contains(&Key::new(camera, at, last).0);
            prop_assert_eq!(inside, (from..to).contains(&at));
        }
    }

    fn parts() -> impl Strategy<Value = (u16, i64, u16)> {
        (0..MAX_CAMERAS as u16, 0..END_MS, 0..MAX_LAST)
    }

    #[test]
    fn hostile_times_stay_within_the_camera() {
        for at_ms in [i64::MIN, -1, END_MS, i64::MAX] {
            assert_eq!(Key::new(7, at_ms, 0).camera(), 7);
        }
        assert!(Key::between(7, i64::MAX, i64::MAX).is_empty());
        assert_eq!(Key::between(7, i64::MIN, i64::MAX), Key::of_camera(7));
    }
}
