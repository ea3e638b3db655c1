//! Reads a picture at points between its pixels, many at once.
//!
//! First it is found for all points where they lie, then what lies there: the
//! first is half of the work, and arithmetic that the compiler vectorises.
//!
//! Pure: no engine, no I/O, no async.

use flatframe_shared::frame::PictureSize;

use super::decode::Upright;

/// Points of one picture; a place in each list for each of them. Kept to reuse
/// the allocations.
#[derive(Default)]
pub struct Points {
    /// The stored pixel whose centre lies to the upper left.
    pixels: Vec<i32>,
    /// Its distance from the one to the right, and to the one below, in stored
    /// pixels; 0 at the edge, beyond which the picture goes on as its edge.
    to_right: Vec<i32>,
    to_below: Vec<i32>,
    /// How far the point lies on the way to those, 0 to 1.
    across: Vec<f32>,
    down: Vec<f32>,
}

impl Points {
    /// Finds where points, x and y, lie. A coordinate that is no number counts as 0.
    pub fn find(&mut self, picture: &Upright, points: impl ExactSizeIterator<Item = (f32, f32)>) {
        let count = points.len();
        let (_, origin, [step_x, step_y]) = picture.layout();
        let PictureSize { width_px, height_px } = picture.size();
        let (last_x, last_y) = (width_px as i32 - 1, height_px as i32 - 1);
        for list in [&mut self.pixels, &mut self.to_right, &mut self.to_below] {
            list.resize(count, 0);
        }
        for list in [&mut self.across, &mut self.down] {
            list.resize(count, 0.0);
        }
        let pixels = self.pixels.iter_mut().zip(&mut self.to_right).zip(&mut self.to_below);
        let shares = self.across.iter_mut().zip(&mut self.down);
        for ((((pixel, to_right), to_below), (across, down)), (x, y)) in pixels.zip(shares).zip(points) {
            // A pixel's centre lies at +0.5. Not `clamp`, which has to look
            // for bounds that are no numbers.
            let x = (x - 0.5).max(0.0).min(last_x as f32);
            let y = (y - 0.5).max(0.0).min(last_y as f32);
            let (left, top) = (x as i32, y as i32);
            // Never wraps: a picture's bytes are counted in an i32. Checks for it
            // would be most of the work in the development profile.
            *pixel = origin.wrapping_add(left.wrapping_mul(step_x)).wrapping_add(top.wrapping_mul(step_y));
            *to_right = if left < last_x { step_x } else { 0 };
            *to_below = if top < last_y { step_y } else { 0 };
            *across = x - left as f32;
            *down = y - top as f32;
        }
    }

    /// Most memory that as many points take, in bytes.
    pub const fn max_bytes(count: usize) -> u64 {
        // Three distances and two shares, in lists that grow to twice what is needed.
        (2 * count * (3 * size_of::<i32>() + 2 * size_of::<f32>())) as u64
    }

    /// Red, green and blue at each point, between the four pixels around it. The
    /// fourth value says nothing: four are what a register holds.
    pub fn read(&self, picture: &Upright) -> impl Iterator<Item = [f32; 4]> {
        let (rgb, ..) = picture.layout();
        let pixels = self.pixels.iter().zip(&self.to_right).zip(&self.to_below);
        let shares = self.across.iter().zip(&self.down);
        pixels.zip(shares).map(move |(((&pixel, &to_right), &to_below), (&across, &down))| {
            let upper = mix(four(rgb, pixel), four(rgb, pixel + to_right), across);
            let below = pixel + to_below;
            let lower = mix(four(rgb, below), four(rgb, below + to_right), across);
            mix(upper, lower, down)
        })
    }
}

/// A pixel and one value more.
#[inline(always)]
fn four(rgb: &[u8], pixel: i32) -> [f32; 4] {
    let rest = &rgb[3 * pixel as usize..];
    match rest.first_chunk() {
        Some(four) => four.map(f32::from),
        // The last pixel of all.
        None => [f32::from(rest[0]), f32::from(rest[1]), f32::from(rest[2]), 0.0],
    }
}

/// From `a` to `b`, as far as `share` says.
#[inline(always)]
fn mix(a: [f32; 4], b: [f32; 4], share: f32) -> [f32; 4] {
    let mut mixed = a;
    for lane in 0..4 {
        mixed[lane] += (b[lane] - a[lane]) * share;
    }
    mixed
}

#[cfg(test)]
mod tests {
    use flatframe_shared::frame::Rotation;
    use proptest::prelude::*;

    use super::*;

    fn read(picture: &Upright, x: f32, y: f32) -> [f32; 3] {
        let mut points = Points::default();
        points.find(picture, [(x, y)].into_iter());
        let [red, green, blue, _] = points.read(picture).next().expect("one point");
        [red, green, blue]
    }

    #[test]
    fn between_pixels_by_table() {
        // Columns 0 and 100, rows 0 and 40 more; the second colour is 1 more, the third 2 more.
        let rgb: Vec<u8> = [0, 100, 40, 140].iter().flat_map(|value| [*value, value + 1, value + 2]).collect();
        let picture = Upright::new(&rgb, PictureSize::new(2, 2), Rotation::None);
        for ((x, y), expected) in [
            ((0.5, 0.5), 0.0),
            ((1.5, 0.5), 100.0),
            ((1.0, 0.5), 50.0),
            ((0.75, 1.0), 45.0),
            ((-3.0, 0.75), 10.0),
            ((9.0, 9.0), 140.0),
        ] {
            assert_eq!(read(&picture, x, y), [expected, expected + 1.0, expected + 2.0], "{x} {y}");
        }
        // Turned clockwise the lower left pixel comes first.
        let turned = Upright::new(&rgb, PictureSize::new(2, 2), Rotation::Clockwise90);
        assert_eq!(read(&turned, 0.5, 0.5)[0], 40.0);
        assert_eq!(read(&turned, 1.0, 0.5)[0], 20.0);
    }

    #[test]
    fn every_pixel_of_every_rotation() {
        let rgb: Vec<u8> = (0..18).collect();
        for rotation in [Rotation::None, Rotation::Clockwise90, Rotation::HalfTurn, Rotation::Clockwise270] {
            let picture = Upright::new(&rgb, PictureSize::new(3, 2), rotation);
            let size = picture.size();
            for (x, y) in (0..size.height_px).flat_map(|y| (0..size.width_px).map(move |x| (x, y))) {
                let expected = picture.pixel(x as usize, y as usize).map(f32::from);
                assert_eq!(read(&picture, x as f32 + 0.5, y as f32 + 0.5), expected, "{rotation:?} {x} {y}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_point_reads_inside_the_picture(
            x in -1e30f32..1e30, y in -1e30f32..1e30, width in 1u32..5, height in 1u32..5,
        ) {
            let size = PictureSize::new(width, height);
            let rgb = vec![7; 3 * size.pixels() as usize];
            for rotation in [Rotation::None, Rotation::Clockwise90, Rotation::HalfTurn, Rotation::Clockwise270] {
                let value = read(&Upright::new(&rgb, size, rotation), x, y);
                prop_assert!(value.iter().all(|channel| (channel - 7.0).abs() < 1e-3));
            }
        }
    }

    #[test]
    fn what_is_no_number_reads_inside_the_picture() {
        let picture = Upright::new(&[7; 3], PictureSize::new(1, 1), Rotation::None);
        assert_eq!(read(&picture, f32::NAN, f32::INFINITY), [7.0; 3]);
    }
}
