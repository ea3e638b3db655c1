//! The newest picture of a camera for people: upright, with its faces marked
//! or made unrecognisable. Decodes and encodes into memory that it keeps, one
//! picture at a time; keeps no picture.

use flatframe_shared::frame::{PictureSize, Rotation};
use flatframe_shared::jpeg::{self, JpegError};
use flatframe_shared::resize::RgbResizer;

use crate::vision::{Bounds, Gender};

/// Qualities of the JPEG that goes out, 1 to 100: the first that is not too
/// large.
const QUALITIES: [u8; 3] = [75, 50, 25];
/// A face that is made unrecognisable has so many cells across: fewer than the
/// eye needs to tell one person from another.
const CELLS: u32 = 5;
/// Hair and ears are hidden too: the box grows by this share on every side.
const BLUR_MARGIN: f32 = 0.25;

/// How a snapshot looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Boxes around the faces, coloured by gender.
    Annotated,
    /// Faces in coarse cells.
    Blurred,
    /// As it came.
    Plain,
}

/// What is to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The picture as it came.
    pub jpeg: &'a [u8],
    /// What makes it upright.
    pub rotation: Rotation,
    /// Its faces, in pixels of the upright picture, with their gender.
    pub faces: &'a [(Bounds, Gender)],
    /// How it is to look.
    pub style: Style,
    /// Most pixels across; `None`: as it came.
    pub max_width_px: Option<u32>,
}

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaintError {
    /// The picture cannot be decoded; it was analysed, so it can.
    #[error(transparent)]
    Jpeg(#[from] JpegError),
    /// At every quality it is too large.
    #[error("it takes {bytes} bytes and may take {max_bytes}: ask for a smaller max_width_px")]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// What it may take.
        max_bytes: usize,
    },
}

/// Draws snapshots.
#[derive(Default)]
pub struct Painter {
    /// All kept to reuse their allocations.
    stored: Vec<u8>,
    upright: Vec<u8>,
    small: Vec<u8>,
    resizer: RgbResizer,
}

impl Painter {
    /// Bound of the memory of a painter at work on pictures up to `limit`, in
    /// bytes: three pictures, what the JPEG decoder takes, and a JPEG that is
    /// as large as its picture, in a buffer that grows by doubling.
    pub fn max_bytes(limit: PictureSize) -> u64 {
        (3 * 3 + 8 + 2 * 3) * limit.pixels()
    }

    /// The snapshot, a JPEG of at most `max_bytes`.
    ///
    /// # Errors
    /// [`PaintError`].
    pub fn paint(&mut self, wanted: &Wanted<'_>, limit: PictureSize, max_bytes: usize) -> Result<Vec<u8>, PaintError> {
        let stored = jpeg::decode_rgb(wanted.jpeg, limit, &mut self.stored)?;
        let full = wanted.rotation.turned(stored);
        let size = match wanted.max_width_px {
            Some(width) => full.fitted(PictureSize::new(width, full.height_px)),
            None => full,
        };
        turn(&self.stored, stored, wanted.rotation, &mut self.upright);
        let pixels = if size == full {
            &mut self.upright
        } else {
            self.small.resize(3 * size.pixels() as usize, 0);
            self.resizer.resize(&self.upright, full, &mut self.small, size);
            &mut self.small
        };
        let scale = size.width_px as f32 / full.width_px as f32;
        for (bounds, gender) in wanted.faces {
            match wanted.style {
                Style::Annotated => frame(pixels, size, &scaled(*bounds, scale, 0.0), colour(*gender)),
                Style::Blurred => coarsen(pixels, size, &scaled(*bounds, scale, BLUR_MARGIN)),
                Style::Plain => {}
            }
        }
        let mut out = Vec::new();
        for quality in QUALITIES {
            jpeg::encode_rgb(pixels, size, quality, &mut out)?;
            if out.len() <= max_bytes {
                out.shrink_to_fit();
                return Ok(out);
            }
        }
        Err(PaintError::TooLarge { bytes: out.len(), max_bytes })
    }
}

impl std::fmt::Debug for Painter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Painter")
    }
}

/// Copies a stored picture into its upright form.
fn turn(stored: &[u8], size: PictureSize, rotation: Rotation, upright: &mut Vec<u8>) {
    upright.clear();
    let (width, height) = (size.width_px as usize, size.height_px as usize);
    let pixel = |x: usize, y: usize| 3 * (y * width + x);
    let turned = rotation.turned(size);
    for y in 0..turned.height_px as usize {
        match rotation {
            Rotation::None => upright.extend_from_slice(&stored[pixel(0, y)..pixel(0, y + 1)]),
            _ => {
                for x in 0..turned.width_px as usize {
                    let at = match rotation {
                        Rotation::None => pixel(x, y),
                        Rotation::Clockwise90 => pixel(y, height - 1 - x),
                        Rotation::HalfTurn => pixel(width - 1 - x, height - 1 - y),
                        Rotation::Clockwise270 => pixel(width - 1 - y, x),
                    };
                    upright.extend_from_slice(&stored[at..at + 3]);
                }
            }
        }
    }
}

/// Told apart also by those who see no red or no green.
fn colour(gender: Gender) -> [u8; 3] {
    match gender {
        Gender::Female => [240, 160, 40],
        Gender::Male => [60, 160, 240],
        Gender::Unknown => [230, 230, 230],
    }
}

/// A rectangle of whole pixels, the ends exclusive.
struct Area {
    x: std::ops::Range<u32>,
    y: std::ops::Range<u32>,
}

/// `bounds` in a picture that is `scale` times as large, grown by `margin` of
/// its sides. It may reach over the border.
fn scaled(bounds: Bounds, scale: f32, margin: f32) -> Bounds {
    Bounds {
        x: (bounds.x - margin * bounds.width) * scale,
        y: (bounds.y - margin * bounds.height) * scale,
        width: bounds.width * (1.0 + 2.0 * margin) * scale,
        height: bounds.height * (1.0 + 2.0 * margin) * scale,
    }
}

/// The pixels of `bounds` that lie in the picture.
fn area(bounds: &Bounds, size: PictureSize) -> Area {
    // `as` takes what is below 0 for 0, and what is not a number.
    let range = |from: f32, length: f32, side: u32| {
        let (from, to) = (from.floor().max(0.0) as u32, (from + length).ceil().max(0.0) as u32);
        from.min(side)..to.min(side).max(from.min(side))
    };
    Area { x: range(bounds.x, bounds.width, size.width_px), y: range(bounds.y, bounds.height, size.height_px) }
}

/// Draws the border of `bounds`, as thick as the picture needs to be seen.
fn frame(rgb: &mut [u8], size: PictureSize, bounds: &Bounds, colour: [u8; 3]) {
    let thick = (size.width_px / 240).max(2);
    let Area { x, y } = area(bounds, size);
    for row in y.clone() {
        for column in x.clone() {
            let on_border =
                row - y.start < thick || y.end - row <= thick || column - x.start < thick || x.end - column <= thick;
            if on_border {
                put(rgb, size, column, row, colour);
            }
        }
    }
}

/// Replaces `bounds` by a few cells of their mean colour.
fn coarsen(rgb: &mut [u8], size: PictureSize, bounds: &Bounds) {
    let Area { x, y } = area(bounds, size);
    let cell = (x.len().max(y.len()) as u32).div_ceil(CELLS).max(1);
    for top in y.clone().step_by(cell as usize) {
        for left in x.clone().step_by(cell as usize) {
            let (rows, columns) = (top..(top + cell).min(y.end), left..(left + cell).min(x.end));
            let mut sum = [0u64; 3];
            for (row, column) in rows.clone().flat_map(|row| columns.clone().map(move |column| (row, column))) {
                let at = 3 * (row * size.width_px + column) as usize;
                sum.iter_mut().zip(&rgb[at..at + 3]).for_each(|(sum, value)| *sum += u64::from(*value));
            }
            let count = (rows.len() * columns.len()) as u64;
            let mean = sum.map(|sum| (sum / count) as u8);
            for (row, column) in rows.flat_map(|row| columns.clone().map(move |column| (row, column))) {
                put(rgb, size, column, row, mean);
            }
        }
    }
}

fn put(rgb: &mut [u8], size: PictureSize, x: u32, y: u32, colour: [u8; 3]) {
    let at = 3 * (y * size.width_px + x) as usize;
    rgb[at..at + 3].copy_from_slice(&colour);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: PictureSize = PictureSize::new(640, 480);

    /// A picture of noise, so that what was made coarse can be told.
    fn noise(size: PictureSize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        let rgb: Vec<u8> = (0..3 * size.pixels()).map(|_| random.u8(..)).collect();
        let mut jpeg = Vec::new();
        jpeg::encode_rgb(&rgb, size, 95, &mut jpeg).expect("encode");
        jpeg
    }

    fn painted(wanted: &Wanted<'_>) -> (Vec<u8>, PictureSize) {
        let jpeg = Painter::default().paint(wanted, LIMIT, 1 << 20).expect("a good picture");
        let mut rgb = Vec::new();
        let size = jpeg::decode_rgb(&jpeg, LIMIT, &mut rgb).expect("a snapshot is a JPEG");
        (rgb, size)
    }

    /// Mean difference of neighbouring pixels in a rectangle.
    fn detail(rgb: &[u8], size: PictureSize, x: std::ops::Range<u32>, y: std::ops::Range<u32>) -> f64 {
        let count = (x.len() * y.len()) as f64;
        let at = |x: u32, y: u32| f64::from(rgb[3 * (y * size.width_px + x) as usize]);
        let pairs = y.flat_map(|y| x.clone().map(move |x| (x, y)));
        pairs.map(|(x, y)| (at(x, y) - at(x + 1, y)).abs()).sum::<f64>() / count
    }

    #[test]
    fn a_blurred_face_has_no_detail_left_and_the_rest_keeps_its() {
        let size = PictureSize::new(320, 240);
        let jpeg = noise(size);
        let faces = [(Bounds { x: 100.0, y: 80.0, width: 60.0, height: 60.0 }, Gender::Female)];
        let wanted =
            Wanted { jpeg: &jpeg, rotation: Rotation::None, faces: &faces, style: Style::Blurred, max_width_px: None };
        let (rgb, size) = painted(&wanted);
        let (inside, outside) = (detail(&rgb, size, 90..170, 70..150), detail(&rgb, size, 200..300, 70..150));
        assert!(inside < 6.0 && outside > 30.0, "{inside} {outside}");
    }

    #[test]
    fn boxes_follow_size_and_rotation() {
        let stored = PictureSize::new(240, 320);
        let jpeg = noise(stored);
        // In the upright picture of 320 x 240; it reaches over the border.
        let faces = [(Bounds { x: 200.0, y: 100.0, width: 200.0, height: 60.0 }, Gender::Male)];
        let wanted = Wanted {
            jpeg: &jpeg,
            rotation: Rotation::Clockwise90,
            faces: &faces,
            style: Style::Annotated,
            max_width_px: Some(160),
        };
        let (rgb, size) = painted(&wanted);
        assert_eq!(size, PictureSize::new(160, 120));
        let at = 3 * (50 * 160 + 130);
        let near = |want: [u8; 3]| rgb[at..at + 3].iter().zip(want).all(|(have, want)| have.abs_diff(want) < 60);
        assert!(near(colour(Gender::Male)), "{:?}", &rgb[at..at + 3]);
    }

    #[test]
    fn one_that_is_too_large_gets_coarser_then_is_refused() {
        let jpeg = noise(PictureSize::new(320, 240));
        let wanted =
            Wanted { jpeg: &jpeg, rotation: Rotation::None, faces: &[], style: Style::Plain, max_width_px: None };
        let mut painter = Painter::default();
        let fine = painter.paint(&wanted, LIMIT, 1 << 20).expect("room").len();
        let coarser = painter.paint(&wanted, LIMIT, fine - 1).expect("room at another quality");
        assert!(coarser.len() < fine);
        assert!(matches!(painter.paint(&wanted, LIMIT, 100), Err(PaintError::TooLarge { max_bytes: 100, .. })));
    }

    #[test]
    fn turning_agrees_with_the_analysis() {
        // 1 2 3
        // 4 5 6
        let rgb: Vec<u8> = (1..=6).flat_map(|value| [value; 3]).collect();
        for (rotation, expected) in [
            (Rotation::None, [1, 2, 3, 4, 5, 6]),
            (Rotation::Clockwise90, [4, 1, 5, 2, 6, 3]),
            (Rotation::HalfTurn, [6, 5, 4, 3, 2, 1]),
            (Rotation::Clockwise270, [3, 6, 2, 5, 1, 4]),
        ] {
            let mut upright = Vec::new();
            turn(&rgb, PictureSize::new(3, 2), rotation, &mut upright);
            assert_eq!(upright.chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>(), expected, "{rotation:?}");
        }
    }

    #[test]
    fn faces_that_are_nowhere_harm_nothing() {
        let jpeg = noise(PictureSize::new(64, 48));
        for x in [f32::NAN, f32::INFINITY, -1e9, 1e9] {
            for style in [Style::Annotated, Style::Blurred, Style::Plain] {
                let faces = [(Bounds { x, y: 1.0, width: 20.0, height: x }, Gender::Unknown)];
                painted(&Wanted {
                    jpeg: &jpeg,
                    rotation: Rotation::None,
                    faces: &faces,
                    style,
                    max_width_px: Some(32),
                });
            }
        }
    }
}
