//! Fits the upright picture into the model's input: shrunk if it is too large,
//! never enlarged, in the upper left corner, black to the right and below.
//!
//! Pure: no engine, no I/O, no async. Buffers are kept to reuse their
//! allocation.

use flatframe_engine::InputShape;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::resize::RgbResizer;

use super::decode::Upright;
use super::models::manifest::{Colour, InputSpec};
use super::shape::picture_size;
use super::{Bounds, Point};

/// How a picture lies in the model's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// Size of the upright picture.
    pub picture: PictureSize,
    /// Size that it has in the input.
    pub fitted: PictureSize,
}

impl Fit {
    /// Where a point of the input lies in the picture.
    pub fn point_in_picture(&self, point: Point) -> Point {
        let scale = |picture: u32, fitted: u32| picture as f32 / fitted as f32;
        Point {
            x: point.x * scale(self.picture.width_px, self.fitted.width_px),
            y: point.y * scale(self.picture.height_px, self.fitted.height_px),
        }
    }

    /// Where a box of the input lies in the picture, cut at its edges; empty
    /// when it lies outside.
    pub fn bounds_in_picture(&self, bounds: Bounds) -> Bounds {
        let corner = |x, y| {
            let Point { x, y } = self.point_in_picture(Point { x, y });
            (x.clamp(0.0, self.picture.width_px as f32), y.clamp(0.0, self.picture.height_px as f32))
        };
        let (left, top) = corner(bounds.x, bounds.y);
        let (right, bottom) = corner(bounds.x + bounds.width, bounds.y + bounds.height);
        Bounds { x: left, y: top, width: right - left, height: bottom - top }
    }
}

/// How a pixel becomes the model's values: `(channel - mean) * scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalizer {
    colour: Colour,
    scale: f32,
    /// `-mean * scale` per channel of the model.
    offsets: Vec<f32>,
}

impl Normalizer {
    /// As the manifest says.
    pub fn new(spec: &InputSpec) -> Self {
        let offsets = spec.mean.iter().map(|mean| -mean * spec.scale).collect();
        Self { colour: spec.colour, scale: spec.scale, offsets }
    }

    /// Value of one of the model's channels for a pixel, each of red, green
    /// and blue 0 to 255.
    #[inline]
    pub fn value(&self, channel: usize, [red, green, blue]: [f32; 3]) -> f32 {
        let value = match (self.colour, channel) {
            (Colour::Grey, _) => 0.299 * red + 0.587 * green + 0.114 * blue,
            (_, 1) => green,
            (Colour::Rgb, 0) | (Colour::Bgr, 2) => red,
            (Colour::Rgb | Colour::Bgr, _) => blue,
        };
        value * self.scale + self.offsets[channel]
    }

    /// Writes one row of interleaved RGB as one row of one channel.
    fn write_row(&self, channel: usize, rgb: &[u8], row: &mut [f32]) {
        let (scale, offset) = (self.scale, self.offsets[channel]);
        match (self.colour, channel) {
            (Colour::Grey, _) => {
                fill_row(rgb, row, |red, green, blue| (0.299 * red + 0.587 * green + 0.114 * blue) * scale + offset)
            }
            (_, 1) => fill_row(rgb, row, |_, green, _| green * scale + offset),
            (Colour::Rgb, 0) | (Colour::Bgr, 2) => fill_row(rgb, row, |red, _, _| red * scale + offset),
            (Colour::Rgb | Colour::Bgr, _) => fill_row(rgb, row, |_, _, blue| blue * scale + offset),
        }
    }
}

/// One tight loop per kind of channel, so that the compiler vectorises each.
#[inline(always)]
fn fill_row(rgb: &[u8], row: &mut [f32], value: impl Fn(f32, f32, f32) -> f32) {
    for (out, pixel) in row.iter_mut().zip(rgb.chunks_exact(3)) {
        *out = value(f32::from(pixel[0]), f32::from(pixel[1]), f32::from(pixel[2]));
    }
}

/// One worker's scratch for fitting pictures.
#[derive(Default)]
pub struct Preprocessor {
    resizer: RgbResizer,
    /// The shrunk picture, as stored; kept to reuse the allocation.
    shrunk: Vec<u8>,
    /// One upright row of a turned picture; kept to reuse the allocation.
    row: Vec<u8>,
}

impl Preprocessor {
    /// Writes the picture into `input`, which has `shape`.
    pub fn fit(&mut self, picture: &Upright, normalizer: &Normalizer, shape: InputShape, input: &mut [f32]) -> Fit {
        let fit = Fit { picture: picture.size(), fitted: picture.size().fitted(picture_size(shape)) };
        if fit.fitted == fit.picture {
            write_planes(picture, normalizer, shape, &mut self.row, input);
            return fit;
        }
        let (rgb, stored, rotation) = picture.stored();
        // Turning is its own inverse for sizes.
        let target = rotation.turned(fit.fitted);
        self.shrunk.resize(3 * target.pixels() as usize, 0);
        self.resizer.resize(rgb, stored, &mut self.shrunk, target);
        let shrunk = Upright::new(&self.shrunk, target, rotation);
        write_planes(&shrunk, normalizer, shape, &mut self.row, input);
        fit
    }

    /// Most memory that fitting pictures up to `picture` into inputs up to
    /// `input` takes, in bytes: the shrunk picture, and between the two passes
    /// of the resizer a picture shrunk in one direction only.
    pub fn max_bytes(picture: PictureSize, input: PictureSize) -> u64 {
        let longer = |size: PictureSize| u64::from(size.width_px.max(size.height_px));
        let between = longer(picture) * longer(input);
        // Coefficients: for each target pixel a window of source pixels.
        let coefficients = 4 * 2 * 2 * longer(picture);
        3 * (input.pixels() + between + longer(input)) + coefficients
    }
}

fn write_planes(picture: &Upright, normalizer: &Normalizer, shape: InputShape, row: &mut Vec<u8>, input: &mut [f32]) {
    let size = picture.size();
    let (width, height) = (size.width_px as usize, size.height_px as usize);
    let plane = shape.width * shape.height;
    assert_eq!(input.len(), shape.len(), "the input has the shape that it was loaded for");
    for y in 0..height {
        let rgb = picture.row(y, row);
        for channel in 0..shape.channels {
            let out = &mut input[channel * plane + y * shape.width..][..shape.width];
            let (inside, right) = out.split_at_mut(width);
            normalizer.write_row(channel, rgb, inside);
            right.fill(normalizer.offsets[channel]);
        }
    }
    for (channel, values) in input.chunks_exact_mut(plane).enumerate() {
        values[height * shape.width..].fill(normalizer.offsets[channel]);
    }
}

#[cfg(test)]
mod tests {
    use flatframe_shared::frame::Rotation;
    use proptest::prelude::*;

    use super::*;
    use crate::vision::config::SizeText;

    const BLACK_IS: f32 = -0.5;

    fn normalizer(colour: Colour) -> Normalizer {
        Normalizer::new(&InputSpec {
            size: SizeText(PictureSize::new(8, 6)),
            also: Vec::new(),
            range: None,
            colour,
            mean: vec![50.0; colour.channels()],
            scale: 0.01,
        })
    }

    fn fit(rgb: &[u8], stored: PictureSize, rotation: Rotation, colour: Colour, shape: InputShape) -> (Fit, Vec<f32>) {
        // What was in the input before must not shine through.
        let mut input = vec![f32::NAN; shape.len()];
        let picture = Upright::new(rgb, stored, rotation);
        let fit = Preprocessor::default().fit(&picture, &normalizer(colour), shape, &mut input);
        (fit, input)
    }

    #[test]
    fn channels_by_table() {
        let shape = |channels| InputShape { channels, height: 1, width: 2 };
        for (colour, expected) in [
            (Colour::Rgb, vec![0.5, BLACK_IS, 1.0, BLACK_IS, 1.5, BLACK_IS]),
            (Colour::Bgr, vec![1.5, BLACK_IS, 1.0, BLACK_IS, 0.5, BLACK_IS]),
            (Colour::Grey, vec![0.299 + 0.587 * 1.5 + 0.114 * 2.0 - 0.5, BLACK_IS]),
        ] {
            let (_, input) =
                fit(&[100, 150, 200], PictureSize::new(1, 1), Rotation::None, colour, shape(colour.channels()));
            let near = input.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near, "{colour:?}: {input:?} is not {expected:?}");
            let pixel = [100.0, 150.0, 200.0];
            for (channel, plane) in expected.chunks(2).enumerate() {
                assert!((normalizer(colour).value(channel, pixel) - plane[0]).abs() < 1e-5, "{colour:?} {channel}");
            }
        }
    }

    #[test]
    fn a_turned_camera_gives_the_same_input() {
        // A picture of four flat quarters, and the same as a camera stores it
        // that hangs on its side or upside down.
        let upright = PictureSize::new(32, 24);
        let quarter = |x: u32, y: u32| [200, 20, 90, 150][(usize::from(x >= 16)) + 2 * usize::from(y >= 12)];
        let shape = InputShape { channels: 3, height: 12, width: 20 };
        for rotation in [Rotation::None, Rotation::Clockwise90, Rotation::HalfTurn, Rotation::Clockwise270] {
            let stored = rotation.turned(upright);
            let mut rgb = vec![0; 3 * stored.pixels() as usize];
            for y in 0..24 {
                for x in 0..32 {
                    let (column, row) = match rotation {
                        Rotation::None => (x, y),
                        Rotation::Clockwise90 => (y, 31 - x),
                        Rotation::HalfTurn => (31 - x, 23 - y),
                        Rotation::Clockwise270 => (23 - y, x),
                    };
                    let at = 3 * (row * stored.width_px + column) as usize;
                    rgb[at..at + 3].fill(quarter(x, y));
                }
            }
            let (fit, input) = fit(&rgb, stored, rotation, Colour::Rgb, shape);
            assert_eq!(fit, Fit { picture: upright, fitted: PictureSize::new(16, 12) }, "{rotation:?}");
            for (x, y, expected) in [(3, 2, 200), (12, 2, 20), (3, 9, 90), (12, 9, 150)] {
                let value = input[y * shape.width + x];
                assert!((value - (expected as f32 - 50.0) * 0.01).abs() < 0.011, "{rotation:?} ({x}, {y}): {value}");
            }
            assert!((0..12).all(|y| input[y * shape.width + 16..(y + 1) * shape.width].iter().all(|&v| v == BLACK_IS)));
        }
    }

    proptest! {
        #[test]
        fn every_value_is_written_and_boxes_come_back(
            width in 1u32..200, height in 1u32..200, columns in 1usize..60, rows in 1usize..60,
        ) {
            let shape = InputShape { channels: 1, height: rows, width: columns };
            let stored = PictureSize::new(width, height);
            let rgb = vec![255; 3 * stored.pixels() as usize];
            let (fit, input) = fit(&rgb, stored, Rotation::None, Colour::Grey, shape);
            prop_assert!(fit.fitted.fits(picture_size(shape)) && fit.fitted.fits(stored));
            prop_assert!(input.iter().all(|value| value.is_finite()));
            let white = input.iter().filter(|&&value| (value - 2.05).abs() < 0.02).count();
            prop_assert_eq!(white as u64, fit.fitted.pixels());

            let whole = Bounds { x: 0.0, y: 0.0, width: columns as f32, height: rows as f32 };
            let back = fit.bounds_in_picture(whole);
            prop_assert!(back.width <= width as f32 + 0.01 && back.height <= height as f32 + 0.01);
            let fitted = Bounds { width: fit.fitted.width_px as f32, height: fit.fitted.height_px as f32, ..whole };
            let back = fit.bounds_in_picture(fitted);
            prop_assert!((back.width - width as f32).abs() < 0.01 && (back.height - height as f32).abs() < 0.01);
        }
    }
}
