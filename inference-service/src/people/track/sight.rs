//! A face as the tracker sees it: in shares of the picture, checked. What comes
//! from a detector is not trusted here: a box that is none never reaches a
//! track's state.

use flatframe_shared::frame::PictureSize;
use serde::{Deserialize, Serialize};

use super::motion::Seen;
use crate::people::vote;
use crate::vision::{Bounds, Face, GenderEstimate, Point};

/// A box farther outside of the picture than its whole width is none.
const PLACE_RANGE: std::ops::RangeInclusive<f64> = -1.0..=2.0;
/// Share of the picture's width and height that a face can have.
const SIZE_RANGE: std::ops::RangeInclusive<f64> = 1e-4..=2.0;
/// A landmark farther from the middle of the box than so many box sizes is
/// not believed.
const LANDMARK_REACH: f32 = 2.0;

/// Centre and size of a box as shares of the picture's width and height, from
/// the upper left corner. The same for every size of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spot {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Spot {
    fn of(bounds: Bounds, size: PictureSize) -> Option<Self> {
        let [width_px, height_px] = [f64::from(size.width_px), f64::from(size.height_px)];
        let Bounds { x, y, width, height } = bounds;
        let [x, y, width, height] = [x, y, width, height].map(f64::from);
        let spot = Self {
            x: (x + width / 2.0) / width_px,
            y: (y + height / 2.0) / height_px,
            width: width / width_px,
            height: height / height_px,
        };
        // NaN and infinity lie in no range.
        let inside = PLACE_RANGE.contains(&spot.x) && PLACE_RANGE.contains(&spot.y);
        (inside && SIZE_RANGE.contains(&spot.width) && SIZE_RANGE.contains(&spot.height)).then_some(spot)
    }

    /// Whether it can be a face's; one from outside may hold anything.
    pub fn is_sound(&self) -> bool {
        let is_size = |size: f64| size.is_finite() && size > 0.0;
        self.x.is_finite() && self.y.is_finite() && is_size(self.width) && is_size(self.height)
    }

    /// Whether the centre lies in the picture.
    pub fn is_inside(&self) -> bool {
        (0.0..=1.0).contains(&self.x) && (0.0..=1.0).contains(&self.y)
    }

    /// The centre in pixels of a picture.
    pub fn centre(&self, size: PictureSize) -> Point {
        Point { x: (self.x * f64::from(size.width_px)) as f32, y: (self.y * f64::from(size.height_px)) as f32 }
    }

    /// Share of the smaller box that lies in the other, 0 to 1.
    pub fn covered(&self, other: &Self) -> f64 {
        let overlap = |a: f64, a_len: f64, b: f64, b_len: f64| {
            ((a + a_len / 2.0).min(b + b_len / 2.0) - (a - a_len / 2.0).max(b - b_len / 2.0)).max(0.0)
        };
        let both =
            overlap(self.x, self.width, other.x, other.width) * overlap(self.y, self.height, other.y, other.height);
        both / (self.width * self.height).min(other.width * other.height)
    }
}

/// Where the landmarks lie in their box: x and y from its middle, in box sizes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shape([f32; 10]);

/// Share of the newest in a track's shape: heads turn.
const SHAPE_SHARE: f32 = 0.4;

impl Shape {
    fn of(landmarks: &[Point; 5], bounds: Bounds) -> Option<Self> {
        let mut shape = [0.0; 10];
        for (point, place) in landmarks.iter().zip(shape.chunks_exact_mut(2)) {
            place[0] = (point.x - bounds.x) / bounds.width - 0.5;
            place[1] = (point.y - bounds.y) / bounds.height - 0.5;
        }
        shape.iter().all(|value| value.abs() <= LANDMARK_REACH).then_some(Self(shape))
    }

    /// Mean square of the differences, in box sizes.
    pub fn difference(&self, other: &Self) -> f64 {
        let sum: f32 = self.0.iter().zip(other.0).map(|(a, b)| (a - b).powi(2)).sum();
        f64::from(sum) / 10.0
    }

    /// Takes in what was seen now.
    pub fn follow(&mut self, seen: &Self) {
        for (value, seen) in self.0.iter_mut().zip(seen.0) {
            *value += SHAPE_SHARE * (seen - *value);
        }
    }
}

/// One face of the frame in work.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    pub spot: Spot,
    pub seen: Seen,
    pub shape: Option<Shape>,
    pub gender: Option<GenderEstimate>,
    /// What the gender estimate is worth, 0 to 1.
    pub quality: f32,
}

impl Sight {
    /// `None`: its box is none.
    pub fn of(face: &Face, size: PictureSize) -> Option<Self> {
        let spot = Spot::of(face.bounds, size)?;
        let landmarks = face.landmarks.as_ref();
        let shape = landmarks.and_then(|landmarks| Shape::of(landmarks, face.bounds));
        let frontal = landmarks.filter(|_| shape.is_some()).map(vote::frontality);
        let quality = vote::quality(face.bounds.width.min(face.bounds.height), frontal);
        Some(Self { spot, seen: Seen::from(&spot), shape, gender: face.gender, quality })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: PictureSize = PictureSize::new(640, 480);

    #[test]
    fn a_box_that_is_none_is_refused() {
        let good = Bounds { x: 320.0, y: 240.0, width: 64.0, height: 48.0 };
        let spot = Spot::of(good, SIZE).expect("a box");
        assert_eq!(spot, Spot { x: 0.55, y: 0.55, width: 0.1, height: 0.1 });
        assert_eq!(spot.centre(PictureSize::new(320, 240)), Point { x: 176.0, y: 132.0 });
        for bad in [
            Bounds { x: f32::NAN, ..good },
            Bounds { y: f32::INFINITY, ..good },
            Bounds { width: -64.0, ..good },
            Bounds { height: 0.0, ..good },
            Bounds { width: f32::MAX, ..good },
            Bounds { x: -1e9, ..good },
        ] {
            assert_eq!(Spot::of(bad, SIZE), None, "{bad:?}");
        }
        assert_eq!(Spot::of(good, PictureSize::new(0, 0)), None);
    }

    #[test]
    fn landmarks_that_are_none_are_no_shape() {
        let bounds = Bounds { x: 10.0, y: 10.0, width: 20.0, height: 20.0 };
        let good = [Point { x: 20.0, y: 20.0 }; 5];
        assert_eq!(Shape::of(&good, bounds), Some(Shape([0.0; 10])));
        for bad in [f32::NAN, f32::NEG_INFINITY, 1e9] {
            let mut landmarks = good;
            landmarks[2].x = bad;
            assert_eq!(Shape::of(&landmarks, bounds), None);
        }
    }

    #[test]
    fn covered_by_table() {
        let unit = Spot { x: 0.5, y: 0.5, width: 0.2, height: 0.2 };
        for (other, expected) in [
            (unit, 1.0),
            (Spot { x: 0.6, ..unit }, 0.5),
            (Spot { width: 0.1, height: 0.1, ..unit }, 1.0),
            (Spot { x: 0.9, ..unit }, 0.0),
        ] {
            assert!((unit.covered(&other) - expected).abs() < 1e-9, "{other:?}");
        }
    }
}
