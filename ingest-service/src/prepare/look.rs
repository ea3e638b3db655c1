//! A tiny picture of each frame, and what it tells: whether something moved,
//! and whether the picture is frozen or dark. Pure: the caller brings pixels and
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use flatframe_shared::jpeg::planes::PlaneView;

const COLUMNS: usize = 64;
const ROWS: usize = 36;

/// A cell that differs by more than this moved: above the noise of a mean, below
/// the difference of skin and wall in poor light.
const MOVED_LEVELS: u8 = 10;
/// With at most this share of cells changed at all, the picture is the same. A
/// mean hides most of a sensor's noise, but not to the last level; MOVED_LEVELS
/// would call every quiet room frozen.
const SAME_SHARE: f32 = 0.008;
/// A cell of at most this brightness is black.
const DARK_LEVEL: u8 = 10;
/// With more than this share of black cells the picture is dark.
const DARK_SHARE: f32 = 0.95;
/// So long it must last before it is said: as long as the server waits with its
/// incident.
const LASTS: Duration = Duration::from_secs(30);

/// Brightness of a frame in 64 x 36 cells, each the mean of its pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct Look {
    cells: [u8; COLUMNS * ROWS],
}

impl Look {
    /// Of a luma plane of at least one pixel.
    pub fn of(luma: PlaneView<'_>) -> Self {
        let (width, height) = (luma.size.width_px as usize, luma.size.height_px as usize);
        let part = |index: usize, cells: usize, side: usize| {
            let first = index * side / cells;
            first..((index + 1) * side / cells).max(first + 1)
        };
        let mut cells = [0; COLUMNS * ROWS];
        for (y, line) in cells.chunks_exact_mut(COLUMNS).enumerate() {
            let rows = part(y, ROWS, height);
            let mut sums = [0u32; COLUMNS];
            for row in rows.clone() {
                let pixels = luma.row(row);
                for (x, sum) in sums.iter_mut().enumerate() {
                    *sum += pixels[part(x, COLUMNS, width)].iter().map(|&pixel| u32::from(pixel)).sum::<u32>();
                }
            }
            for (x, (cell, sum)) in line.iter_mut().zip(sums).enumerate() {
                let count = (rows.len() * part(x, COLUMNS, width).len()) as u32;
                *cell = ((sum + count / 2) / count) as u8;
            }
        }
        Self { cells }
    }

    /// Share of the cells, 0 to 1, that differ by more than `levels`.
    fn changed(&self, other: &Self, levels: u8) -> f32 {
        let pairs = self.cells.iter().zip(&other.cells);
        pairs.filter(|(a, b)| a.abs_diff(**b) > levels).count() as f32 / self.cells.len() as f32
    }

    fn is_dark(&self) -> bool {
        let black = self.cells.iter().filter(|cell| **cell <= DARK_LEVEL).count();
        black as f32 / self.cells.len() as f32 > DARK_SHARE
    }
}

/// Lets a frame pass when something moved since the last one that passed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MotionPolicy {
    /// Share of the picture that must change, in percent.
    pub percent: f32,
    /// A frame passes after so long, whether something moved or not.
    pub keepalive: Duration,
}

/// What is known of motion in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// Something moves.
    Moving,
    /// Nothing does.
    Still,
    /// Nobody looked. Counts as moving: what cannot be judged is recorded.
    Unknown,
}

/// The state of one camera's motion gate.
#[derive(Default)]
pub struct MotionGate {
    passed: Option<(Look, Instant)>,
}

impl MotionGate {
    /// Whether the frame of `now` passes. Compared with the last that did: a
    /// slow movement is one.
    pub fn passes(&mut self, now: Instant, look: &Look, policy: MotionPolicy) -> bool {
        let is_still = self.passed.as_ref().is_some_and(|(last, at)| {
            100.0 * last.changed(look, MOVED_LEVELS) < policy.percent
                && now.saturating_duration_since(*at) < policy.keepalive
        });
        if !is_still {
            self.passed = Some((look.clone(), now));
        }
        !is_still
    }
}

/// What a camera's picture looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PictureCondition {
    /// Nothing is wrong with it.
    #[default]
    Good,
    /// The same for 30 s, to the last noise.
    Frozen,
    /// Black for 30 s.
    Dark,
}

impl PictureCondition {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Good, Self::Frozen, Self::Dark];

    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Frozen => "frozen",
            Self::Dark => "dark",
        }
    }
}

/// The newest condition of one camera, for those who show it; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct ConditionCell(Arc<AtomicU8>);

impl ConditionCell {
    /// The newest condition.
    pub fn get(&self) -> PictureCondition {
        PictureCondition::ALL[usize::from(self.0.load(Ordering::Relaxed)).min(PictureCondition::ALL.len() - 1)]
    }

    /// A new one.
    pub fn set(&self, condition: PictureCondition) {
        self.0.store(condition as u8, Ordering::Relaxed);
    }
}

/// Follows the looks of one camera.
#[derive(Default)]
pub struct PictureState {
    last: Option<Look>,
    same_since: Option<Instant>,
    dark_since: Option<Instant>,
}

impl PictureState {
    /// What the picture looks like with the frame of `now`.
    pub fn frame(&mut self, now: Instant, look: &Look) -> PictureCondition {
        let is_same = self.last.as_ref().is_some_and(|last| last.changed(look, 0) <= SAME_SHARE);
        self.same_since = is_same.then(|| self.same_since.unwrap_or(now));
        self.dark_since = look.is_dark().then(|| self.dark_since.unwrap_or(now));
        // Compared with the first of the same pictures: a slow change is one.
        if !is_same {
            self.last = Some(look.clone());
        }
        let lasts = |since: Option<Instant>| since.is_some_and(|since| now.saturating_duration_since(since) >= LASTS);
        match (lasts(self.dark_since), lasts(self.same_since)) {
            // Every black picture is the same: that it is dark says more.
            (true, _) => PictureCondition::Dark,
            (false, true) if self.dark_since.is_none() => PictureCondition::Frozen,
            _ => PictureCondition::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use flatframe_shared::frame::PictureSize;
    use flatframe_shared::jpeg::planes::Plane;

    use super::*;

    fn look(size: PictureSize, pixel: impl Fn(u32, u32) -> u8) -> Look {
        let mut plane = Plane::default();
        plane.fit(size);
        for y in 0..size.height_px {
            for x in 0..size.width_px {
                plane.row_mut(y as usize)[x as usize] = pixel(x, y);
            }
        }
        Look::of(plane.view())
    }

    fn even(grey: u8) -> Look {
        look(PictureSize::new(64, 36), |_, _| grey)
    }

    #[test]
    fn any_size_is_looked_at() {
        for (width, height) in [(1, 1), (40, 23), (64, 36), (321, 179)] {
            let size = PictureSize::new(width, height);
            assert!(look(size, |_, _| 90) == look(PictureSize::new(640, 360), |_, _| 90), "{size}");
            let halves = look(size, |x, _| if 2 * x < width { 0 } else { 200 });
            let bright = halves.cells.iter().filter(|&&cell| cell > 100).count();
            assert!(width == 1 || (bright as f32 / halves.cells.len() as f32 - 0.5).abs() < 0.03, "{size}");
        }
    }

    #[test]
    fn motion_by_table() {
        let policy = MotionPolicy { percent: 2.0, keepalive: Duration::from_secs(5) };
        let size = PictureSize::new(320, 180);
        let visitor = |left: u32| look(size, move |x, y| if x / 32 == left && y / 45 == 2 { 200 } else { 80 });
        let (start, mut gate) = (Instant::now(), MotionGate::default());
        for (ms, look, passes) in [
            (0, even(80), true),
            (100, even(80), false),
            (200, even(88), false),
            // A tenth of the columns, a quarter of the rows.
            (300, visitor(2), true),
            (400, visitor(2), false),
            (500, visitor(3), true),
            (5400, visitor(3), false),
            (5500, visitor(3), true),
            (5600, visitor(3), false),
        ] {
            assert_eq!(gate.passes(start + Duration::from_millis(ms), &look, policy), passes, "{ms} ms");
        }
    }

    #[test]
    fn conditions_by_table() {
        use PictureCondition::{Dark, Frozen, Good};
        let (start, mut state) = (Instant::now(), PictureState::default());
        let noisy = |seed: u32| {
            look(PictureSize::new(640, 360), move |x, y| {
                100 + (x * 7 + y * 13 + seed * (x + 3 * y)).wrapping_mul(2_654_435_761).to_le_bytes()[3] / 16
            })
        };
        for (second, look, condition) in [
            (0, even(100), Good),
            (1, even(100), Good),
            (30, even(100), Good),
            (31, even(100), Frozen),
            (40, even(100), Frozen),
            (41, even(101), Good),
            // A quiet room has noise.
            (50, noisy(1), Good),
            (100, noisy(2), Good),
            (150, noisy(3), Good),
            (151, even(4), Good),
            (180, even(4), Good),
            (181, even(5), Dark),
            (200, even(4), Dark),
            (201, even(90), Good),
        ] {
            assert_eq!(state.frame(start + Duration::from_secs(second), &look), condition, "second {second}");
        }
        let cell = ConditionCell::default();
        for condition in PictureCondition::ALL {
            cell.set(condition);
            assert_eq!(cell.get(), condition);
        }
    }
}
