//! A few pixels of a picture, by which one can tell whether a camera's picture
//! changes and whether it is black. Not for faces.

use super::decode::Upright;

const COLUMNS: usize = 32;
const ROWS: usize = 24;

/// Brightness of pixels spread evenly over a picture, 0 to 255.
#[derive(Clone, PartialEq, Eq)]
pub struct Look {
    grey: [u8; COLUMNS * ROWS],
}

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").finish_non_exhaustive()
    }
}

impl Look {
    /// Of this picture.
    pub(super) fn of(picture: &Upright<'_>) -> Self {
        let size = picture.size();
        // The pixel in the middle of each cell.
        let place = |index: usize, cells: usize, side: u32| (2 * index + 1) * side as usize / (2 * cells);
        let grey = std::array::from_fn(|index| {
            let x = place(index % COLUMNS, COLUMNS, size.width_px);
            let y = place(index / COLUMNS, ROWS, size.height_px);
            let [red, green, blue] = picture.pixel(x, y).map(u32::from);
            // ITU-R BT.601, in 256ths.
            ((77 * red + 150 * green + 29 * blue) >> 8) as u8
        });
        Self { grey }
    }

    /// Every looked-at pixel as bright as this; for tests of what judges.
    pub fn even(grey: u8) -> Self {
        Self { grey: [grey; COLUMNS * ROWS] }
    }

    /// Share of the pixels, 0 to 1, that differ by more than `levels`.
    pub fn changed(&self, other: &Self, levels: u8) -> f32 {
        let pairs = self.grey.iter().zip(&other.grey);
        pairs.filter(|(a, b)| a.abs_diff(**b) > levels).count() as f32 / self.grey.len() as f32
    }

    /// Share of the pixels, 0 to 1, that are at most as bright as `level`.
    pub fn dark(&self, level: u8) -> f32 {
        self.grey.iter().filter(|grey| **grey <= level).count() as f32 / self.grey.len() as f32
    }
}

#[cfg(test)]
mod tests {
    use flatframe_shared::frame::{PictureSize, Rotation};

    use super::*;

    #[test]
    fn any_size_and_what_changed() {
        for (width, height) in [(1, 1), (33, 7), (640, 480)] {
            let rgb = vec![200; 3 * width as usize * height as usize];
            let look = Look::of(&Upright::new(&rgb, PictureSize::new(width, height), Rotation::Clockwise90));
            assert_eq!((look.changed(&Look::even(200), 0), look.dark(10)), (0.0, 0.0));
            assert_eq!((look.changed(&Look::even(203), 2), look.changed(&Look::even(202), 2)), (1.0, 0.0));
        }
        assert_eq!(Look::even(10).dark(10), 1.0);
        // The upper half is black.
        let rgb: Vec<u8> = (0..64 * 48).flat_map(|index| [if index < 64 * 24 { 0 } else { 90 }; 3]).collect();
        assert_eq!(Look::of(&Upright::new(&rgb, PictureSize::new(64, 48), Rotation::None)).dark(10), 0.5);
    }
}
