//! How people walk: from place to place in metres, with pauses, at their own
//! speed, swaying a little. The camera stands at the origin and looks along z.

use fastrand::Rng;
use inference_service::vision::Gender;

use super::{Scenario, TICKS_PER_SECOND, between, normal};

/// Half of the view's width at a distance of one metre, as a camera with 60
/// degrees has it.
const HALF_VIEW: f64 = 0.577;
/// Time in which a walker takes up a new speed or direction, in seconds.
const TURN_S: f64 = 0.35;

/// Someone's head at one tick.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// To the right of the camera's axis, metres.
    pub x: f64,
    /// From the camera, metres.
    pub z: f64,
    /// Above the usual height because of the step, metres.
    pub bob: f64,
    /// Turn to the picture's right, radians; 0 looks at the camera.
    pub yaw: f64,
}

/// One person.
#[derive(Debug, Clone)]
pub struct Person {
    /// Apparent gender.
    pub gender: Gender,
    /// Height of the middle of the face above the ground, metres.
    pub height: f64,
    /// Width of the face, metres.
    pub face_width: f64,
    /// Height of the face's box as a multiple of its width.
    pub face_shape: f64,
    /// How this face's landmarks differ from the average, in face widths.
    pub features: [[f64; 2]; 5],
    /// First tick of the walk.
    pub first_tick: usize,
    /// The walk, tick by tick.
    pub heads: Vec<Head>,
}

/// A place to go to and what happens there.
#[derive(Debug, Clone, Copy)]
struct Leg {
    x: f64,
    z: f64,
    pause_s: f64,
}

fn leg(x: f64, z: f64, pause_s: f64) -> Leg {
    Leg { x, z, pause_s }
}

/// Everyone of a scene, in the order in which they come.
pub fn people(scenario: Scenario, count: usize, rng: &mut Rng) -> Vec<Person> {
    let mut at_s = 1.0;
    let people = (0..count).map(|number| {
        let (legs, speed) = plan(scenario, number, rng);
        let person = walk(&legs, speed, at_s, rng);
        let every_s = match scenario {
            Scenario::Crossings => 2.2,
            Scenario::Occlusions => 3.0,
            Scenario::ReEntries => 3.2,
            Scenario::Crowd => 1.4,
        };
        // Exponential intervals: people come in bunches.
        at_s += -(1.0 - rng.f64()).ln() * every_s;
        person
    });
    people.collect()
}

fn plan(scenario: Scenario, number: usize, rng: &mut Rng) -> (Vec<Leg>, f64) {
    let speed = between(rng, 0.45, 1.35);
    let legs = match scenario {
        Scenario::Crossings => walk_by(1.3, 3.6, rng),
        // One of seven stands in front: the others pass behind.
        Scenario::Occlusions if number.is_multiple_of(7) => {
            let (z, x) = (between(rng, 0.9, 1.5), between(rng, -0.35, 0.35));
            let pause_s = between(rng, 15.0, 40.0);
            vec![leg(side(rng) * outside(z), z, 0.0), leg(x, z, pause_s), leg(side(rng) * outside(z), z, 0.0)]
        }
        Scenario::Occlusions => walk_by(1.7, 3.8, rng),
        Scenario::ReEntries => {
            let mut legs = stroll(rng);
            for _ in 0..[0, 0, 1, 2][rng.usize(..4)] {
                if let Some(last) = legs.last_mut() {
                    last.pause_s = between(rng, 2.5, 15.0);
                }
                legs.extend(stroll(rng));
            }
            legs
        }
        Scenario::Crowd => match rng.usize(..4) {
            0 => walk_by(1.3, 3.6, rng),
            1 => from_door(rng),
            2 => stroll(rng),
            _ => {
                let (z, x) = (between(rng, 1.0, 2.5), between(rng, -0.6, 0.6));
                let pause_s = between(rng, 5.0, 25.0);
                vec![leg(side(rng) * outside(z), z, 0.0), leg(x, z, pause_s), leg(side(rng) * outside(z), z, 0.0)]
            }
        },
    };
    (legs, speed)
}

fn side(rng: &mut Rng) -> f64 {
    if rng.bool() { 1.0 } else { -1.0 }
}

/// Just out of view at the side.
fn outside(z: f64) -> f64 {
    z * HALF_VIEW + 0.35
}

/// From one side to the other; some stop on the way, some turn back.
fn walk_by(near: f64, far: f64, rng: &mut Rng) -> Vec<Leg> {
    let (z, from) = (between(rng, near, far), side(rng));
    let to_z = (z + between(rng, -0.4, 0.4)).max(near);
    let mut legs = vec![leg(from * outside(z), z, 0.0)];
    let to = match rng.f64() {
        share if share < 0.25 => {
            legs.push(leg(between(rng, -0.3, 0.3) * z, z, between(rng, 0.5, 6.0)));
            -from
        }
        share if share < 0.35 => {
            legs.push(leg(between(rng, -0.2, 0.2) * z, z, between(rng, 0.0, 1.0)));
            from
        }
        _ => -from,
    };
    legs.push(leg(to * outside(to_z), to_z, 0.0));
    legs
}

/// In at a side, to a place or two in view, out at a side.
fn stroll(rng: &mut Rng) -> Vec<Leg> {
    let z = between(rng, 1.2, 3.2);
    let mut legs = vec![leg(side(rng) * outside(z), z, 0.0)];
    for _ in 0..1 + rng.usize(..2) {
        let z = between(rng, 1.0, 3.2);
        legs.push(leg(between(rng, -0.45, 0.45) * z, z, between(rng, 0.3, 5.0)));
    }
    let z = between(rng, 1.2, 3.2);
    legs.push(leg(side(rng) * outside(z), z, 0.0));
    legs
}

/// Through a door at the back, towards the camera, past it on one side.
fn from_door(rng: &mut Rng) -> Vec<Leg> {
    let door = side(rng) * 0.9 + between(rng, -0.2, 0.2);
    let mut legs = vec![leg(door, 5.2, 0.0)];
    if rng.f64() < 0.4 {
        legs.push(leg(between(rng, -0.6, 0.6), between(rng, 1.5, 3.0), between(rng, 0.5, 8.0)));
    }
    legs.push(leg(side(rng) * between(rng, 0.1, 0.8), 0.35, 0.0));
    legs
}

fn walk(legs: &[Leg], speed: f64, at_s: f64, rng: &mut Rng) -> Person {
    let dt = 1.0 / TICKS_PER_SECOND;
    let [start, rest @ ..] = legs else { unreachable!("a plan begins somewhere") };
    let (mut x, mut z, mut vx, mut vz) = (start.x, start.z, 0.0, 0.0);
    let (mut heads, mut yaw, mut sway) = (Vec::new(), 0.0, [0.0f64; 2]);
    let mut step = rng.f64();
    let mut glance = 0.0;
    for leg in rest {
        let mut waited_s = 0.0;
        loop {
            let (dx, dz) = (leg.x - x, leg.z - z);
            let far = dx.hypot(dz);
            let arrived = far < 0.12;
            if arrived {
                waited_s += dt;
                if waited_s > leg.pause_s {
                    break;
                }
            }
            let wanted = if arrived { 0.0 } else { speed };
            vx += (wanted * dx / far.max(1e-9) - vx) * dt / TURN_S;
            vz += (wanted * dz / far.max(1e-9) - vz) * dt / TURN_S;
            x += vx * dt;
            z += vz * dt;
            // Walkers look where they go, half-way to the camera; those who
            // stand look about. Who walks away shows no face: a yaw beyond
            // sight.
            let pace = vx.hypot(vz);
            if rng.f64() < dt / 2.0 {
                glance = 0.5 * normal(rng);
            }
            let heading = vx.atan2(-vz);
            let look = if pace < 0.2 {
                glance
            } else if heading.abs() > 2.1 {
                heading
            } else {
                0.55 * heading + 0.4 * glance
            };
            yaw += (look - yaw) * dt / 0.25;
            step += dt * (0.9 + pace);
            for sway in &mut sway {
                *sway += (-*sway * dt / 0.8) + 0.02 * normal(rng) * dt.sqrt();
            }
            let bob = 0.02 * (pace / 1.2) * (std::f64::consts::TAU * step).sin();
            heads.push(Head { x: x + sway[0], z: z + sway[1], bob, yaw });
        }
    }
    Person {
        gender: if rng.bool() { Gender::Female } else { Gender::Male },
        height: 1.58 + 0.1 * normal(rng).clamp(-2.0, 2.0),
        face_width: between(rng, 0.145, 0.175),
        face_shape: between(rng, 1.15, 1.4),
        features: [(); 5].map(|()| [0.02 * normal(rng), 0.02 * normal(rng)]),
        first_tick: (at_s * TICKS_PER_SECOND) as usize,
        heads,
    }
}
