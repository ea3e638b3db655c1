//! Resizes pictures. Knows two kinds, interleaved RGB and single planes, with 8
//! bits a channel, so that the library's code for all others is not compiled.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::frame::PictureSize;
use crate::jpeg::planes::{Plane, PlaneView, Rect};

/// Which pixels count for one of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filter {
    /// Those around it, the nearer the more: a triangle as wide as the
    /// shrinking asks for.
    #[default]
    Triangle,
    /// Those under it, all alike.
    Mean,
}

/// Resizes RGB pictures with memory that it keeps between calls: at most one
/// picture that is shrunk in one direction only.
#[derive(Debug, Clone, Default)]
pub struct RgbResizer {
    filter: Filter,
    resizer: Resizer,
}

impl RgbResizer {
    /// A resizer with that filter.
    pub fn new(filter: Filter) -> Self {
        Self { filter, resizer: Resizer::new() }
    }

    /// Resizes `from`, of `from_size`, into `to`, of `to_size`.
    ///
    /// # Panics
    /// When a buffer does not hold `3 * width * height` bytes.
    pub fn resize(&mut self, from: &[u8], from_size: PictureSize, to: &mut [u8], to_size: PictureSize) {
        let from = TypedImageRef::<U8x3>::from_buffer(from_size.width_px, from_size.height_px, from)
            .expect("the source buffer holds a picture of its size");
        let mut to = TypedImage::<U8x3>::from_buffer(to_size.width_px, to_size.height_px, to)
            .expect("the target buffer holds a picture of its size");
        let filter = match self.filter {
            Filter::Triangle => FilterType::Bilinear,
            Filter::Mean => FilterType::Box,
        };
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        self.resizer.resize_typed(&from, &mut to, &options).expect("the whole source is resized");
    }
}

/// Resizes planes with memory that it keeps between calls: at most one plane
/// that is shrunk in one direction only.
#[derive(Debug, Clone, Default)]
pub struct PlaneResizer {
    resizer: Resizer,
}

impl PlaneResizer {
    /// Resizes `part` of `from` into `to`, which becomes as large as `size`. A
    /// pixel is made of those around it, the nearer the more; those outside of
    /// the part do not count.
    ///
    /// # Panics
    /// When the part does not lie inside, or a size is 0.
    pub fn resize(&mut self, from: &Plane, part: Rect, to: &mut Plane, size: PictureSize) {
        to.fit(size);
        let PlaneView { pixels, stride, size: from_size } = from.view();
        let whole = TypedImageRef::<U8>::from_buffer(stride as u32, from_size.height_px, pixels)
            .expect("a plane has all of its rows");
        let Rect { left_px, top_px, size: PictureSize { width_px, height_px } } = part;
        let part = TypedCroppedImage::from_ref(&whole, left_px, top_px, width_px, height_px);
        let part = part.expect("the part lies inside");
        let mut to = TypedImage::<U8>::from_buffer(size.width_px, size.height_px, to.pixels_mut())
            .expect("the plane was made to fit");
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        self.resizer.resize_typed(&part, &mut to, &options).expect("the whole part is resized");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_plane_is_resized_alone() {
        let mut plane = Plane::default();
        plane.reshape(PictureSize::new(12, 10), 16, 10);
        plane.pixels_mut().fill(200);
        for row in 2..10 {
            plane.row_mut(row)[4..12].fill(60);
        }
        for (left_px, top_px, side) in [(4, 2, 8), (4, 2, 6)] {
            let rect = Rect { left_px, top_px, size: PictureSize::new(side, side) };
            let mut small = Plane::default();
            PlaneResizer::default().resize(&plane, rect, &mut small, PictureSize::new(3, 4));
            assert!(small.view().rows().flatten().all(|&pixel| pixel == 60), "{rect:?}: {small:?}");
        }
    }

    /// Halving a picture is the mean of its neighbourhood; a flat one stays
    /// flat.
    #[test]
    fn every_pixel_counts() {
        let (from_size, to_size) = (PictureSize::new(8, 8), PictureSize::new(4, 4));
        let stripes: Vec<u8> = (0..8 * 8).flat_map(|at| [if at % 2 == 0 { 0 } else { 200 }, 7, at as u8]).collect();
        let mut to = vec![0; 3 * 4 * 4];
        for (filter, reds) in [(Filter::Triangle, 70..=130), (Filter::Mean, 100..=100)] {
            RgbResizer::new(filter).resize(&stripes, from_size, &mut to, to_size);
            for pixel in to.chunks_exact(3) {
                assert!(reds.contains(&pixel[0]), "{filter:?}: {pixel:?}");
                assert_eq!(pixel[1], 7);
            }
        }
    }
}
