//! Lines and zones: on which side of one a place lies, and whether going from
//! one place to another crossed it. Pure geometry; knows no tracks.
//!
//! Places are shares of the picture's width and height, y pointing down.

use crate::vision::Point;

use super::config::{LineConfig, ZoneConfig};

/// A place this close to a line or a zone's border, as a share of the picture,
/// is on neither side: who stands on it would else cross it again and again.
const MARGIN: f32 = 0.01;

/// A side of a line, or of a zone's border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Left of the line; outside of the zone.
    Before,
    /// Right of the line; inside the zone.
    Beyond,
}

/// A line or a zone.
#[derive(Debug, Clone)]
pub enum Shape {
    /// From one place to another.
    Line(Point, Point),
    /// Corners in order.
    Zone(Vec<Point>),
}

impl From<&LineConfig> for Shape {
    fn from(line: &LineConfig) -> Self {
        Self::Line(point(line.from), point(line.to))
    }
}

impl From<&ZoneConfig> for Shape {
    fn from(zone: &ZoneConfig) -> Self {
        Self::Zone(zone.corners.iter().copied().map(point).collect())
    }
}

impl Shape {
    /// The side on which `place` lies; `None` when it is too close to say.
    pub fn side(&self, place: Point) -> Option<Side> {
        let (distance, is_beyond) = match self {
            Self::Line(from, to) => {
                let signed = cross(*from, *to, place) / length(*from, *to);
                (signed.abs(), signed > 0.0)
            }
            Self::Zone(corners) => {
                let nearest = edges(corners).map(|(a, b)| to_segment(a, b, place)).fold(f32::INFINITY, f32::min);
                (nearest, contains(corners, place))
            }
        };
        (distance > MARGIN).then_some(if is_beyond { Side::Beyond } else { Side::Before })
    }

    /// Whether going straight from `a` to `b`, which lie on different sides,
    /// leads through it, rather than around a line's end.
    pub fn is_crossed(&self, a: Point, b: Point) -> bool {
        match self {
            Self::Line(from, to) => {
                let opposite = |x: f32, y: f32| (x >= 0.0) != (y >= 0.0);
                opposite(cross(a, b, *from), cross(a, b, *to))
            }
            Self::Zone(_) => true,
        }
    }
}

fn point([x, y]: [f32; 2]) -> Point {
    Point { x, y }
}

/// Twice the area of the triangle; positive when `place` lies to the right of
/// the way from `from` to `to`.
fn cross(from: Point, to: Point, place: Point) -> f32 {
    (to.x - from.x) * (place.y - from.y) - (to.y - from.y) * (place.x - from.x)
}

fn length(a: Point, b: Point) -> f32 {
    (a.x - b.x).hypot(a.y - b.y)
}

fn edges(corners: &[Point]) -> impl Iterator<Item = (Point, Point)> {
    corners.iter().copied().zip(corners.iter().copied().cycle().skip(1))
}

/// Distance from `place` to the segment.
fn to_segment(a: Point, b: Point, place: Point) -> f32 {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let squared = dx * dx + dy * dy;
    let along = if squared > 0.0 { ((place.x - a.x) * dx + (place.y - a.y) * dy) / squared } else { 0.0 };
    let along = along.clamp(0.0, 1.0);
    length(place, Point { x: a.x + along * dx, y: a.y + along * dy })
}

/// Whether a ray from `place` to the right meets the border an odd number of
/// times.
fn contains(corners: &[Point], place: Point) -> bool {
    let meets = |(a, b): &(Point, Point)| {
        (a.y > place.y) != (b.y > place.y) && place.x < a.x + (place.y - a.y) / (b.y - a.y) * (b.x - a.x)
    };
    edges(corners).filter(meets).count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, y: f32) -> Point {
        Point { x, y }
    }

    #[test]
    fn sides_of_a_line() {
        // A door at the bottom: who comes down the picture enters.
        let door = Shape::Line(at(0.2, 0.6), at(0.8, 0.6));
        assert_eq!(door.side(at(0.5, 0.3)), Some(Side::Before), "above: left of the way to the right");
        assert_eq!(door.side(at(0.5, 0.9)), Some(Side::Beyond));
        assert_eq!(door.side(at(0.5, 0.605)), None, "on the line");
        assert!(door.is_crossed(at(0.5, 0.3), at(0.6, 0.9)));
        assert!(!door.is_crossed(at(0.1, 0.3), at(0.1, 0.9)), "past its left end");
        let reversed = Shape::Line(at(0.8, 0.6), at(0.2, 0.6));
        assert_eq!(reversed.side(at(0.5, 0.3)), Some(Side::Beyond));
    }

    #[test]
    fn sides_of_a_zone() {
        // The letter L, so that its hollow is outside.
        let zone =
            Shape::Zone(vec![at(0.1, 0.1), at(0.5, 0.1), at(0.5, 0.5), at(0.9, 0.5), at(0.9, 0.9), at(0.1, 0.9)]);
        for (x, y, expected) in [
            (0.3, 0.3, Some(Side::Beyond)),
            (0.7, 0.7, Some(Side::Beyond)),
            (0.7, 0.3, Some(Side::Before)),
            (0.0, 0.5, Some(Side::Before)),
            (0.505, 0.3, None),
        ] {
            assert_eq!(zone.side(at(x, y)), expected, "{x} {y}");
        }
    }
}
