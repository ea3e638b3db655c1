//! Cuts a face from a picture so that it lies in the crop as a classifier
//! learnt it: where it lies, and the means of what lies there.
//!
//! Pure: no engine, no I/O, no async.

use flatframe_engine::InputShape;

use super::decode::Upright;
use super::preprocess::Normalizer;
use super::sample::Points;
use super::{Bounds, Point};

/// Turns, scales and moves points of the crop to points of the picture:
/// `x' = a x - b y + tx`, `y' = b x + a y + ty`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    a: f32,
    b: f32,
    tx: f32,
    ty: f32,
}

impl Similarity {
    /// The inverse of the one that brings `landmarks` of the picture closest
    /// to `targets` of the crop, by the sum of squared distances in the crop.
    ///
    /// Umeyama, "Least-squares estimation of transformation parameters between
    /// two point patterns" (1991), in the closed form for two dimensions
    /// without reflection.
    pub fn between(targets: &[[f32; 2]; 5], landmarks: &[Point; 5]) -> Self {
        let mean = |of: fn(&[f32; 2], &Point) -> f32| {
            targets.iter().zip(landmarks).map(|(target, landmark)| of(target, landmark)).sum::<f32>() / 5.0
        };
        let (from_x, from_y) = (mean(|from, _| from[0]), mean(|from, _| from[1]));
        let (to_x, to_y) = (mean(|_, to| to.x), mean(|_, to| to.y));
        let (mut dot, mut cross, mut square) = (0.0, 0.0, 0.0);
        for ([x, y], to) in targets.iter().zip(landmarks) {
            let (x, y, u, v) = (x - from_x, y - from_y, to.x - to_x, to.y - to_y);
            dot += x * u + y * v;
            cross += x * v - y * u;
            square += u * u + v * v;
        }
        // Landmarks that all coincide give a crop of one colour, not an error.
        let scale = square / (dot * dot + cross * cross).max(1e-6);
        let (a, b) = (dot * scale, cross * scale);
        Self { a, b, tx: to_x - a * from_x + b * from_y, ty: to_y - b * from_x - a * from_y }
    }

    /// An upright square crop of `side_px` around the middle of `bounds`,
    /// `scale` times as wide as its longer side.
    pub fn around(bounds: Bounds, scale: f32, side_px: f32) -> Self {
        let side = bounds.width.max(bounds.height) * scale;
        let corner = |start: f32, length: f32| start + (length - side) / 2.0;
        Self { a: side / side_px, b: 0.0, tx: corner(bounds.x, bounds.width), ty: corner(bounds.y, bounds.height) }
    }

    /// Whether it has a place at all.
    pub fn is_finite(self) -> bool {
        [self.a, self.b, self.tx, self.ty].into_iter().all(f32::is_finite)
    }

    /// Picture pixels per crop pixel.
    fn scale(self) -> f32 {
        self.a.hypot(self.b)
    }

    fn apply(self, x: f32, y: f32) -> (f32, f32) {
        (self.a * x - self.b * y + self.tx, self.b * x + self.a * y + self.ty)
    }
}

/// Most samples per crop pixel and direction. As in training.
const MAX_SAMPLES: f32 = 4.0;

/// One worker's scratch for crops; kept to reuse the allocations.
#[derive(Default)]
pub struct Cropper {
    /// Where the samples of a row of the crop lie across it, in its pixels;
    /// those of one pixel stand together.
    columns: Vec<f32>,
    points: Points,
    /// Mean of the samples of each pixel of a row so far.
    means: Vec<[f32; 4]>,
}

impl Cropper {
    /// Writes the part of the picture that `place` says into `input`: each value
    /// is the mean of about as many samples as picture pixels lie under it.
    pub fn crop(
        &mut self,
        picture: &Upright,
        place: Similarity,
        normalizer: &Normalizer,
        shape: InputShape,
        input: &mut [f32],
    ) {
        let Self { columns, points, means } = self;
        let samples = place.scale().round().clamp(1.0, MAX_SAMPLES) as usize;
        let step = 1.0 / samples as f32;
        let weight = step * step;
        let sample = |index: usize| (index as f32 + 0.5) * step;
        columns.clear();
        columns.extend((0..shape.width).flat_map(|x| (0..samples).map(move |at| x as f32 + sample(at))));
        let plane = shape.width * shape.height;
        for y in 0..shape.height {
            means.clear();
            means.resize(shape.width, [0.0; 4]);
            for at in 0..samples {
                let v = y as f32 + sample(at);
                points.find(picture, columns.iter().map(|&u| place.apply(u, v)));
                let mut values = points.read(picture);
                for mean in &mut *means {
                    for value in values.by_ref().take(samples) {
                        for (mean, value) in mean.iter_mut().zip(value) {
                            *mean += value * weight;
                        }
                    }
                }
            }
            for (x, [red, green, blue, _]) in means.iter().enumerate() {
                for channel in 0..shape.channels {
                    input[channel * plane + y * shape.width + x] = normalizer.value(channel, [*red, *green, *blue]);
                }
            }
        }
    }

    /// Most memory that crops of `shape` take, in bytes.
    pub const fn max_bytes(shape: InputShape) -> u64 {
        let samples = shape.width * MAX_SAMPLES as usize;
        // Lists grow to twice what is needed.
        2 * (samples * size_of::<f32>() + shape.width * size_of::<[f32; 4]>()) as u64 + Points::max_bytes(samples)
    }
}

#[cfg(test)]
mod tests {
    use flatframe_shared::frame::{PictureSize, Rotation};
    use proptest::prelude::*;

    use super::*;
    use crate::vision::config::SizeText;
    use crate::vision::models::manifest::{Colour, InputSpec};

    /// dlib's template for a crop of 32 pixels.
    const TARGETS: [[f32; 2]; 5] =
        [[9.767, 9.632], [21.778, 9.627], [15.774, 16.357], [10.379, 22.405], [21.168, 22.405]];

    fn landmarks(of: impl Fn(f32, f32) -> (f32, f32)) -> [Point; 5] {
        TARGETS.map(|[x, y]| {
            let (x, y) = of(x, y);
            Point { x, y }
        })
    }

    #[test]
    fn box_crop_is_centred_and_square() {
        let place = Similarity::around(Bounds { x: 10.0, y: 20.0, width: 30.0, height: 40.0 }, 1.5, 64.0);
        let (left, top) = place.apply(0.0, 0.0);
        let (right, bottom) = place.apply(64.0, 64.0);
        for (found, expected) in [(left, -5.0), (top, 10.0), (right, 55.0), (bottom, 70.0)] {
            assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
        }
    }

    #[test]
    fn shrinking_averages() {
        // Columns of black and white, one pixel each: every mean is grey.
        let size = PictureSize::new(64, 64);
        let rgb: Vec<u8> = (0..64 * 64).flat_map(|at| [if at % 2 == 0 { 0 } else { 255 }; 3]).collect();
        let picture = Upright::new(&rgb, size, Rotation::None);
        let normalizer = Normalizer::new(&InputSpec {
            size: SizeText(PictureSize::new(8, 8)),
            also: Vec::new(),
            range: None,
            colour: Colour::Grey,
            mean: vec![0.0],
            scale: 1.0,
        });
        let shape = InputShape { channels: 1, height: 8, width: 8 };
        let mut input = vec![0.0; 64];
        let whole = Bounds { x: 0.0, y: 0.0, width: 64.0, height: 64.0 };
        Cropper::default().crop(&picture, Similarity::around(whole, 1.0, 8.0), &normalizer, shape, &mut input);
        assert!(input.iter().all(|value| (value - 127.5).abs() < 1.0), "{input:?}");
    }

    #[test]
    fn a_slope_stays_a_slope() {
        // Red and green grow to the right, red and blue downwards, so that every sample and every
        // mean of samples is what lies at the middle.
        let size = PictureSize::new(60, 50);
        let pixels = (0..50u8).flat_map(|y| (0..60u8).map(move |x| [2 * x + y, x, y]));
        let rgb: Vec<u8> = pixels.flatten().collect();
        let picture = Upright::new(&rgb, size, Rotation::None);
        let normalizer = Normalizer::new(&InputSpec {
            size: SizeText(PictureSize::new(7, 6)),
            also: Vec::new(),
            range: None,
            colour: Colour::Rgb,
            mean: vec![0.0; 3],
            scale: 1.0,
        });
        let shape = InputShape { channels: 3, height: 6, width: 7 };
        let (mut cropper, mut input) = (Cropper::default(), vec![0.0; shape.len()]);
        // One to four samples in each direction, turned; larger and smaller with the same scratch.
        for (a, b) in [(0.9, 0.2), (4.4, 0.8), (2.0, -0.3), (2.9, 0.7), (3.9, -0.5)] {
            let place = Similarity { a, b, tx: 15.0, ty: 14.0 };
            cropper.crop(&picture, place, &normalizer, shape, &mut input);
            for (index, found) in input.iter().enumerate() {
                let (channel, y, x) = (index / 42, index % 42 / 7, index % 7);
                let (x, y) = place.apply(x as f32 + 0.5, y as f32 + 0.5);
                let (x, y) = (x - 0.5, y - 0.5);
                let expected = [2.0 * x + y, x, y][channel];
                assert!((found - expected).abs() < 1e-2, "{place:?} {channel} {x} {y}: {found}, not {expected}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_similarity_is_found_again(
            scale in 0.1f32..20.0, angle in -3.1f32..3.1, tx in -500f32..500.0, ty in -500f32..500.0,
        ) {
            let truth = Similarity { a: scale * angle.cos(), b: scale * angle.sin(), tx, ty };
            let found = Similarity::between(&TARGETS, &landmarks(|x, y| truth.apply(x, y)));
            for [x, y] in TARGETS {
                let (a, b) = (truth.apply(x, y), found.apply(x, y));
                prop_assert!((a.0 - b.0).hypot(a.1 - b.1) < 0.02, "{a:?} {b:?}");
            }
        }

        #[test]
        fn no_nearby_similarity_is_better(
            noise in prop::collection::vec((-4f32..4.0, -4f32..4.0), 5),
            (da, db, dx, dy) in (-0.2f32..0.2, -0.2f32..0.2, -2f32..2.0, -2f32..2.0),
        ) {
            let mut to = landmarks(|x, y| (2.0 * x + 40.0, 2.0 * y + 7.0));
            for (point, (x, y)) in to.iter_mut().zip(noise) {
                *point = Point { x: point.x + x, y: point.y + y };
            }
            let error = |place: Similarity| -> f32 {
                // Distances in the crop are those in the picture by the scale.
                let square = |([x, y], to): (&[f32; 2], &Point)| {
                    let (u, v) = place.apply(*x, *y);
                    ((u - to.x).powi(2) + (v - to.y).powi(2)) / place.scale().powi(2)
                };
                TARGETS.iter().zip(&to).map(square).sum()
            };
            let best = Similarity::between(&TARGETS, &to);
            let other = Similarity { a: best.a + da, b: best.b + db, tx: best.tx + dx, ty: best.ty + dy };
            prop_assert!(error(best) <= error(other) + 1e-2);
        }

        #[test]
        fn any_landmarks_give_a_finite_place(places in prop::collection::vec((-1e5f32..1e5, -1e5f32..1e5), 5)) {
            let spread = Similarity::between(&TARGETS, &std::array::from_fn(|at| Point { x: places[at].0, y: places[at].1 }));
            let one = Similarity::between(&TARGETS, &[Point { x: places[0].0, y: places[0].1 }; 5]);
            for Similarity { a, b, tx, ty } in [spread, one] {
                prop_assert!([a, b, tx, ty].into_iter().all(f32::is_finite));
            }
        }
    }
}
