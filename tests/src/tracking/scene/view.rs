//! What of the people can be seen: their faces in the picture, unless someone
//! nearer hides them, they are cut by the border, too small, or turned away.

use flatframe_shared::frame::PictureSize;
use inference_service::vision::{Bounds, Point};

use super::centred;
use super::walk::{Head, Person};

/// Every picture has this size.
pub const SIZE: PictureSize = PictureSize::new(640, 480);
/// Focal length in pixels: 60 degrees across.
const FOCAL_PX: f64 = 554.0;
/// Height of the camera above the ground, metres.
const CAMERA_M: f64 = 2.0;
/// The camera looks down: its axis lies this far below the horizon, pixels.
const TILT_PX: f64 = 98.0;
/// Faces narrower than this are not looked for.
const MIN_WIDTH_PX: f64 = 20.0;
/// Faces wider than this are too close to be faces.
const MAX_WIDTH_PX: f64 = 150.0;
/// Share of the face that must be in the picture.
const MIN_INSIDE: f64 = 0.6;
/// Share of the face that others may hide.
pub const MAX_HIDDEN: f64 = 0.6;
/// Turn of the head beyond which there is no face to see, radians.
const MAX_YAW: f64 = 1.4;

/// Eyes, nose, mouth corners of the average face: to the right, down and
/// towards the viewer from its middle, in face widths.
const FEATURES: [[f64; 3]; 5] =
    [[-0.21, -0.13, 0.0], [0.21, -0.13, 0.0], [0.0, 0.08, 0.22], [-0.16, 0.3, 0.05], [0.16, 0.3, 0.05]];

/// One face as it is in the picture.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Its true box.
    pub bounds: Bounds,
    /// Its true landmarks.
    pub landmarks: [Point; 5],
    /// Share that is hidden or outside, 0 to [`MAX_HIDDEN`].
    pub hidden: f64,
    /// Turn of the head, radians.
    pub yaw: f64,
}

/// What can be seen of everyone at every tick.
#[derive(Debug)]
pub struct View {
    /// Ticks of the scene.
    pub ticks: usize,
    /// By person, then by tick.
    pub seen: Vec<Vec<Option<Seen>>>,
}

impl View {
    /// Looks at everyone.
    pub fn new(people: &[Person]) -> Self {
        let ticks = people.iter().map(|person| person.first_tick + person.heads.len()).max().unwrap_or(0);
        let mut seen = vec![Vec::with_capacity(ticks); people.len()];
        for tick in 0..ticks {
            let mut here: Vec<_> = people
                .iter()
                .enumerate()
                .filter_map(|(number, person)| {
                    let head = person.heads.get(tick.checked_sub(person.first_tick)?)?;
                    (head.z > 0.25).then_some((number, person, head))
                })
                .collect();
            seen.iter_mut().for_each(|seen| seen.push(None));
            here.sort_by(|a, b| a.2.z.total_cmp(&b.2.z));
            let mut nearer: Vec<Bounds> = Vec::new();
            for (number, person, head) in here {
                let face = project(person, head);
                seen[number][tick] = look(person, head, face, &nearer);
                let (x, y) = (f64::from(face.x + face.width / 2.0), f64::from(face.y + face.height / 2.0));
                let (width, height) = (f64::from(face.width), f64::from(face.height));
                // Head with hair and neck, then shoulders down to the ground.
                nearer.push(centred(x, y - 0.05 * height, 1.25 * width, 1.4 * height));
                nearer.push(centred(x, y + 0.75 * height + 500.0, 2.7 * width, 1000.0));
            }
        }
        Self { ticks, seen }
    }

    /// Someone's face at a tick.
    pub fn at(&self, person: usize, tick: usize) -> Option<Seen> {
        self.seen[person][tick]
    }
}

fn project(person: &Person, head: &Head) -> Bounds {
    let scale = FOCAL_PX / head.z;
    let x = 320.0 + scale * head.x;
    let y = 240.0 - TILT_PX + scale * (CAMERA_M - person.height - head.bob);
    centred(x, y, scale * person.face_width, scale * person.face_width * person.face_shape)
}

fn look(person: &Person, head: &Head, bounds: Bounds, nearer: &[Bounds]) -> Option<Seen> {
    let width = f64::from(bounds.width);
    if !(MIN_WIDTH_PX..=MAX_WIDTH_PX).contains(&width) || head.yaw.abs() > MAX_YAW {
        return None;
    }
    let picture = Bounds { x: 0.0, y: 0.0, width: SIZE.width_px as f32, height: SIZE.height_px as f32 };
    let inside = share(bounds, picture);
    // Two people hide no more together than each of them does alone plus the
    // other; counting some of it twice makes it a little harder.
    let covered: f64 =
        nearer.chunks(2).map(|body| body.iter().map(|part| share(bounds, *part)).fold(0.0, f64::max)).sum();
    let hidden = covered + (1.0 - inside);
    if inside < MIN_INSIDE || covered > MAX_HIDDEN {
        return None;
    }
    let (x, y) = (f64::from(bounds.x) + width / 2.0, f64::from(bounds.y + bounds.height / 2.0));
    let (sin, cos) = head.yaw.sin_cos();
    let mut landmarks = [Point::default(); 5];
    for ((point, [right, down, towards]), own) in landmarks.iter_mut().zip(FEATURES).zip(person.features) {
        let right = (right + own[0]) * cos + towards * sin;
        *point = Point { x: (x + width * right) as f32, y: (y + width * (down + own[1])) as f32 };
    }
    Some(Seen { bounds, landmarks, hidden: hidden.min(1.0), yaw: head.yaw })
}

/// Share of `part` that lies in `whole`.
fn share(part: Bounds, whole: Bounds) -> f64 {
    let overlap = |a: f32, a_len: f32, b: f32, b_len: f32| ((a + a_len).min(b + b_len) - a.max(b)).max(0.0);
    let both = overlap(part.x, part.width, whole.x, whole.width) * overlap(part.y, part.height, whole.y, whole.height);
    f64::from(both / part.area())
}
