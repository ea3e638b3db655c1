//! A JPEG becomes an upright picture: pixels stay where the decoder put them,
//! and [`Upright`] says in which order to read them. This is the one place
//! where a camera's rotation is applied.

use flatframe_shared::frame::{PictureSize, Rotation};
use flatframe_shared::jpeg::{self, JpegError};

/// Decodes into memory that it keeps.
#[derive(Default)]
pub struct JpegDecoder {
    /// Kept to reuse the allocation.
    rgb: Vec<u8>,
}

/// What the JPEG decoder takes while it runs: for progressive pictures the
/// coefficients of up to four components, 16 bits each.
const DECODER_BYTES_PER_PIXEL: u64 = 8;

impl JpegDecoder {
    /// Decodes a picture of at most `limit` as encoded.
    pub fn decode(&mut self, jpeg: &[u8], limit: PictureSize, rotation: Rotation) -> Result<Upright<'_>, JpegError> {
        let stored = jpeg::decode_rgb(jpeg, limit, &mut self.rgb)?;
        Ok(Upright::new(&self.rgb, stored, rotation))
    }

    /// Most memory that decoding pictures up to `limit` takes, in bytes.
    pub fn max_bytes(limit: PictureSize) -> u64 {
        (3 + DECODER_BYTES_PER_PIXEL) * limit.pixels()
    }
}

/// An upright view of stored RGB pixels, 8 bits a channel.
///
/// Pixel (x, y) of the view is stored pixel `origin + x * step_x + y * step_y`.
#[derive(Clone, Copy)]
pub struct Upright<'a> {
    rgb: &'a [u8],
    stored: PictureSize,
    rotation: Rotation,
    origin: i32,
    step_x: i32,
    step_y: i32,
}

impl<'a> Upright<'a> {
    /// A view of `rgb`, which holds `3 * stored` bytes row by row, turned
    /// clockwise by `rotation`.
    pub fn new(rgb: &'a [u8], stored: PictureSize, rotation: Rotation) -> Self {
        assert_eq!(rgb.len() as u64, 3 * stored.pixels(), "the pixels are those of the size");
        assert!(i32::try_from(rgb.len()).is_ok(), "sides are limited to 8192 pixels, which makes 201 MB");
        let (width, height) = (stored.width_px as i32, stored.height_px as i32);
        let (origin, step_x, step_y) = match rotation {
            Rotation::None => (0, 1, width),
            Rotation::Clockwise90 => ((height - 1) * width, -width, 1),
            Rotation::HalfTurn => (height * width - 1, -1, -width),
            Rotation::Clockwise270 => (width - 1, width, -1),
        };
        Self { rgb, stored, rotation, origin, step_x, step_y }
    }

    /// Size of the upright picture.
    pub fn size(&self) -> PictureSize {
        self.rotation.turned(self.stored)
    }

    /// The pixels as stored, their size, and the rotation that makes them
    /// upright.
    pub fn stored(&self) -> (&'a [u8], PictureSize, Rotation) {
        (self.rgb, self.stored, self.rotation)
    }

    /// Red, green, blue of one pixel; `x` and `y` lie inside the picture.
    #[inline]
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = 3 * (self.origin + x as i32 * self.step_x + y as i32 * self.step_y) as usize;
        let pixel = &self.rgb[at..at + 3];
        [pixel[0], pixel[1], pixel[2]]
    }

    /// The stored bytes, and which stored pixel (x, y) is: the first, plus so
    /// many for each step to the right and down.
    pub fn layout(&self) -> (&'a [u8], i32, [i32; 2]) {
        (self.rgb, self.origin, [self.step_x, self.step_y])
    }

    /// Row `y` as interleaved RGB; `turned` is scratch for pictures that are
    /// not stored row by row.
    pub fn row<'b>(&'b self, y: usize, turned: &'b mut Vec<u8>) -> &'b [u8] {
        let width = self.size().width_px as usize;
        if self.step_x == 1 {
            let start = 3 * (self.origin + y as i32 * self.step_y) as usize;
            return &self.rgb[start..start + 3 * width];
        }
        turned.clear();
        turned.extend((0..width).flat_map(|x| self.pixel(x, y)));
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_by_table() {
        // 1 2 3
        // 4 5 6
        let rgb: Vec<u8> = (1..=6).flat_map(|value| [value; 3]).collect();
        let stored = PictureSize::new(3, 2);
        for (rotation, expected) in [
            (Rotation::None, vec![vec![1, 2, 3], vec![4, 5, 6]]),
            (Rotation::Clockwise90, vec![vec![4, 1], vec![5, 2], vec![6, 3]]),
            (Rotation::HalfTurn, vec![vec![6, 5, 4], vec![3, 2, 1]]),
            (Rotation::Clockwise270, vec![vec![3, 6], vec![2, 5], vec![1, 4]]),
        ] {
            let upright = Upright::new(&rgb, stored, rotation);
            let size = upright.size();
            assert_eq!((size.height_px as usize, size.width_px as usize), (expected.len(), expected[0].len()));
            for (y, row) in expected.iter().enumerate() {
                let pixels: Vec<u8> = (0..row.len()).map(|x| upright.pixel(x, y)[0]).collect();
                assert_eq!(&pixels, row, "{rotation:?} row {y}");
                let flat: Vec<u8> = row.iter().flat_map(|&value| [value; 3]).collect();
                assert_eq!(upright.row(y, &mut Vec::new()), flat);
            }
        }
    }
}
