//! What a detector and a gender classifier make of the faces in view: boxes and
//! landmarks with noise, misses (single ones and bursts), false faces (at
//! random and at places that look like one), second boxes, suppression of
//! overlapping boxes, and a gender that is wrong in the same way for the same
//! person.

use std::time::Duration;

use fastrand::Rng;
use inference_service::vision::{Bounds, Face, Gender, GenderEstimate, Point};

use super::view::{SIZE, Seen};
use super::walk::Person;
use super::{between, centred, normal};

/// Of two boxes that overlap by more, the worse one goes (IoU).
const NMS_IOU: f32 = 0.4;
/// Single misses of a face that is in full view.
const MISSES: f64 = 0.04;
/// Bursts of misses: how often one begins, per second, and how long it lasts on
/// average, in seconds. Together 4 % of the time.
const BURSTS_PER_SECOND: f64 = 0.1;
const BURST_S: f64 = 0.4;
/// False faces per frame anywhere.
const FALSE_FACES: f64 = 0.04;
/// Places that look like a face, and how often one is taken for one.
const FALSE_PLACES: usize = 3;
const FALSE_PLACE_SHARE: f64 = 0.015;
/// Second boxes on the same face, per face.
const DOUBLES: f64 = 0.006;
/// Time in which the slow part of all errors is renewed, in seconds.
const SLOW_S: f64 = 0.6;
/// Time in which the gender classifier's error is renewed, in seconds.
const GENDER_SLOW_S: f64 = 1.5;

/// What the detector is like with one person.
#[derive(Debug, Clone)]
struct Habit {
    /// Standard deviation of box errors, in face sizes: 3 to 8 %.
    noise: f64,
    /// Slow part of the errors of x, y and of the size's logarithm.
    slow: [f64; 3],
    /// Mean log-odds of the right gender: below 0 for the few who are taken
    /// for the other gender for good.
    gender_odds: f64,
    gender_error: f64,
    burst_until: Duration,
    last: Option<Duration>,
}

/// The detector with its memory.
#[derive(Debug)]
pub struct Detector {
    rng: Rng,
    habits: Vec<Habit>,
    false_places: Vec<Bounds>,
}

impl Detector {
    /// A detector for these people.
    pub fn new(people: &[Person], mut rng: Rng) -> Self {
        let habits = people.iter().map(|_| Habit {
            noise: between(&mut rng, 0.03, 0.08),
            slow: [0.0; 3],
            gender_odds: 2.2 + 1.3 * normal(&mut rng),
            gender_error: normal(&mut rng),
            burst_until: Duration::ZERO,
            last: None,
        });
        let habits = habits.collect();
        let false_places = (0..FALSE_PLACES).map(|_| anywhere(&mut rng)).collect();
        Self { rng, habits, false_places }
    }

    /// What it finds in a frame, best score first, each with whose visit it is.
    pub fn detect(
        &mut self,
        people: &[Person],
        seen: &[(usize, usize, Seen)],
        at: Duration,
    ) -> Vec<(Face, Option<usize>)> {
        let mut found = Vec::new();
        for (person, visit, seen) in seen {
            if let Some(face) = self.see(*person, &people[*person], seen, at) {
                if self.rng.f64() < DOUBLES {
                    let mut double = face.clone();
                    double.bounds.x += face.bounds.width * between(&mut self.rng, -0.35, 0.35) as f32;
                    double.bounds.width *= between(&mut self.rng, 0.55, 0.8) as f32;
                    double.bounds.height *= between(&mut self.rng, 0.55, 0.8) as f32;
                    double.score *= 0.8;
                    found.push((double, None));
                }
                found.push((face, Some(*visit)));
            }
        }
        for place in 0..self.false_places.len() {
            if self.rng.f64() < FALSE_PLACE_SHARE {
                let bounds = self.false_places[place];
                found.push((self.invent(bounds), None));
            }
        }
        if self.rng.f64() < FALSE_FACES {
            let bounds = anywhere(&mut self.rng);
            found.push((self.invent(bounds), None));
        }
        found.sort_by(|a, b| b.0.score.total_cmp(&a.0.score));
        let mut kept: Vec<(Face, Option<usize>)> = Vec::new();
        for (face, origin) in found {
            if kept.iter().all(|(other, _)| other.bounds.iou(face.bounds) <= NMS_IOU) {
                kept.push((face, origin));
            }
        }
        kept
    }

    fn see(&mut self, number: usize, person: &Person, seen: &Seen, at: Duration) -> Option<Face> {
        let (rng, habit) = (&mut self.rng, &mut self.habits[number]);
        let since_s = habit.last.map_or(f64::INFINITY, |last| (at - last).as_secs_f64());
        habit.last = Some(at);
        for slow in &mut habit.slow {
            *slow = renewed(*slow, since_s, SLOW_S, rng);
        }
        habit.gender_error = renewed(habit.gender_error, since_s, GENDER_SLOW_S, rng);

        if at >= habit.burst_until && rng.f64() < 1.0 - (-BURSTS_PER_SECOND * since_s.min(10.0)).exp() {
            habit.burst_until = at + Duration::from_secs_f64(-(1.0 - rng.f64()).ln() * BURST_S);
        }
        let width = f64::from(seen.bounds.width);
        // Half hidden is missed every other time, small and turned more often.
        let small = 0.06 * ((32.0 - width) / 12.0).clamp(0.0, 1.0);
        let turned = 0.3 * ((seen.yaw.abs() - 0.8) / 0.6).clamp(0.0, 1.0);
        let missed = MISSES + small + turned + (seen.hidden - 0.15).max(0.0) * 1.4;
        if rng.f64() < missed || at < habit.burst_until {
            return None;
        }

        // Two thirds of the variance are new in each frame; one box in fifty
        // is far off.
        let far_off = if rng.f64() < 0.02 { 2.5 } else { 1.0 };
        let noise = habit.noise * far_off * (1.0 + seen.hidden) * if width < 30.0 { 1.3 } else { 1.0 };
        let mut error = |at: usize| noise * (0.58 * habit.slow[at] + 0.81 * normal(rng));
        let (right, down, larger) = (error(0), error(1), (1.2 * error(2)).exp());
        let bounds = seen.bounds;
        let (height, stretch) = (f64::from(bounds.height), (0.4 * noise * normal(rng)).exp());
        let middle = (f64::from(bounds.x) + width / 2.0, f64::from(bounds.y) + height / 2.0);
        let landmarks = seen.landmarks.map(|point| Point {
            x: point.x + (width * 0.6 * noise * normal(rng)) as f32,
            y: point.y + (width * 0.6 * noise * normal(rng)) as f32,
        });

        let unsure = 1.0 + 0.5 * seen.yaw.abs() + if width < 40.0 { 0.5 } else { 0.0 };
        let odds = habit.gender_odds / unsure + 0.9 * habit.gender_error + 0.6 * unsure * normal(rng);
        let odds = if person.gender == Gender::Female { odds } else { -odds };
        let score = (0.93 - 0.3 * seen.hidden - 0.1 * seen.yaw.abs() + 0.05 * normal(rng)).clamp(0.3, 1.0);
        Some(Face {
            bounds: centred(
                middle.0 + width * right,
                middle.1 + height * down,
                width * larger * stretch,
                height * larger / stretch,
            ),
            score: score as f32,
            landmarks: Some(landmarks),
            gender: Some(GenderEstimate::new(1.0 / (1.0 + (-odds).exp()) as f32, 0.8)),
        })
    }

    /// A face where there is none.
    fn invent(&mut self, bounds: Bounds) -> Face {
        let rng = &mut self.rng;
        let bounds = Bounds {
            x: bounds.x + bounds.width * 0.08 * normal(rng) as f32,
            y: bounds.y + bounds.height * 0.08 * normal(rng) as f32,
            ..bounds
        };
        let at =
            |right: f32, down: f32| Point { x: bounds.x + bounds.width * right, y: bounds.y + bounds.height * down };
        let mut landmarks = [at(0.3, 0.4), at(0.7, 0.4), at(0.5, 0.6), at(0.35, 0.75), at(0.65, 0.75)];
        for point in &mut landmarks {
            point.x += bounds.width * 0.1 * normal(rng) as f32;
            point.y += bounds.height * 0.1 * normal(rng) as f32;
        }
        Face {
            bounds,
            score: between(rng, 0.45, 0.8) as f32,
            landmarks: Some(landmarks),
            gender: Some(GenderEstimate::new(rng.f32(), 0.8)),
        }
    }
}

/// An autocorrelated error of variance 1 after `since_s` seconds.
fn renewed(error: f64, since_s: f64, memory_s: f64, rng: &mut Rng) -> f64 {
    let kept = (-since_s / memory_s).exp();
    kept * error + (1.0 - kept * kept).sqrt() * normal(rng)
}

fn anywhere(rng: &mut Rng) -> Bounds {
    let width = 20.0 * 5.0f64.powf(rng.f64());
    let x = between(rng, 0.0, f64::from(SIZE.width_px));
    let y = between(rng, 0.0, f64::from(SIZE.height_px));
    centred(x, y, width, width * between(rng, 1.1, 1.4))
}
