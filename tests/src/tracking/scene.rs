//! Scenes with a known truth: people walk through the view of a camera, a
//! detector sees them as detectors do. Deterministic by seed; the walks of a
//! seed are the same at every frame rate.
//!
//! In reading order: what a scene is (here), how people walk (`walk`), what of
//! them can be seen (`view`), what the detector makes of it (`detector`).
//! Knows nothing of the tracker, least of all its constants.

mod detector;
mod view;
mod walk;

use std::time::Duration;

use fastrand::Rng;
use flatframe_shared::frame::PictureSize;
use inference_service::vision::{Bounds, Face, Gender};

use super::score::Boxes;
use detector::Detector;
use view::View;

/// Steps of the simulated world, per second.
const TICKS_PER_SECOND: f64 = 60.0;
/// Time out of sight after which the truth calls the same person a new visit.
pub const NEW_VISIT_AFTER: Duration = Duration::from_secs(2);

/// What people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// They walk by in both directions, in front of each other.
    Crossings,
    /// Some stand in front for long, others pass behind them.
    Occlusions,
    /// Half of them leave and come back, once or twice.
    ReEntries,
    /// All of it at once, and people who come through a door towards the
    /// camera: up to about fifteen faces in view.
    Crowd,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Crossings, Self::Occlusions, Self::ReEntries, Self::Crowd];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crossings => "crossings",
            Self::Occlusions => "occlusions",
            Self::ReEntries => "re-entries",
            Self::Crowd => "crowd",
        }
    }
}

/// Which scene.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// What people do.
    pub scenario: Scenario,
    /// Decides everything that is random.
    pub seed: u64,
    /// Frames per second that get analysed; each comes up to a fifth of the
    /// interval early or late.
    pub fps: f64,
    /// People in the scene.
    pub people: usize,
}

/// One analysed frame.
#[derive(Debug, Clone, Default)]
pub struct SceneFrame {
    /// Since the beginning of the scene.
    pub at: Duration,
    /// What the detector found, best score first.
    pub faces: Vec<Face>,
    /// Whose visit each of them is; `None` for what is no face.
    pub origins: Vec<Option<usize>>,
    /// The faces that can be seen, by visit.
    pub truth: Boxes,
}

/// One person in view, from appearing until out of sight for
/// [`NEW_VISIT_AFTER`].
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// Who.
    pub person: usize,
    /// What they are; `Unknown`: not told.
    pub gender: Gender,
    /// Analysed frames in which the face can be seen.
    pub frames: u32,
    /// Analysed frames in which the detector found it.
    pub detections: u32,
}

/// A scene with its truth.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Size of all pictures.
    pub size: PictureSize,
    /// In order of time.
    pub frames: Vec<SceneFrame>,
    /// By number.
    pub visits: Vec<Visit>,
}

impl Scene {
    /// Plays a scene.
    pub fn new(recipe: &Recipe) -> Self {
        let mut rng = Rng::with_seed(recipe.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ recipe.scenario as u64);
        let people = walk::people(recipe.scenario, recipe.people, &mut rng);
        let mut detector = Detector::new(&people, rng.fork());
        let view = View::new(&people);

        // Visits by person: from what can be seen at every tick, whatever the
        // frame rate.
        let mut visits = Vec::new();
        let mut visit_at = vec![Vec::new(); people.len()];
        for (person, seen) in view.seen.iter().enumerate() {
            let mut last_seen: Option<usize> = None;
            for (tick, face) in seen.iter().enumerate() {
                if face.is_some() {
                    let gap = last_seen.map(|last| Duration::from_secs_f64((tick - last) as f64 / TICKS_PER_SECOND));
                    match gap {
                        Some(gap) if gap <= NEW_VISIT_AFTER => {}
                        _ => visits.push(Visit { person, gender: people[person].gender, frames: 0, detections: 0 }),
                    }
                    last_seen = Some(tick);
                }
                visit_at[person].push(face.is_some().then(|| visits.len() - 1));
            }
        }

        let (mut frames, mut number) = (Vec::new(), 0);
        loop {
            let late = 0.4 * (rng.f64() - 0.5);
            let tick = ((f64::from(number) + 0.5 + late) / recipe.fps * TICKS_PER_SECOND) as usize;
            number += 1;
            if tick >= view.ticks {
                break;
            }
            let visible: Vec<_> = (0..people.len())
                .filter_map(|person| Some((person, visit_at[person].get(tick).copied()??, view.at(person, tick)?)))
                .collect();
            let mut frame = SceneFrame {
                at: Duration::from_secs_f64(tick as f64 / TICKS_PER_SECOND),
                truth: visible.iter().map(|(_, visit, seen)| (*visit as u64, seen.bounds)).collect(),
                ..SceneFrame::default()
            };
            for (_, visit, _) in &visible {
                visits[*visit].frames += 1;
            }
            for (face, origin) in detector.detect(&people, &visible, frame.at) {
                if let Some(visit) = origin {
                    visits[visit].detections += 1;
                }
                frame.faces.push(face);
                frame.origins.push(origin);
            }
            frames.push(frame);
        }
        Self { size: view::SIZE, frames, visits }
    }

    /// The faces that can be seen, frame by frame.
    pub fn truth(&self) -> Vec<Boxes> {
        self.frames.iter().map(|frame| frame.truth.clone()).collect()
    }

    /// What a tracker that knows the truth would say of what was detected: the
    /// best that is possible with this detector.
    pub fn followed_perfectly(&self) -> Vec<Boxes> {
        let known = |frame: &SceneFrame| {
            let faces = frame.faces.iter().zip(&frame.origins);
            faces.filter_map(|(face, origin)| Some((origin.map(|visit| visit as u64)?, face.bounds))).collect()
        };
        self.frames.iter().map(known).collect()
    }

    /// Visits that a count must contain: visible in at least so many analysed
    /// frames, whether or not the detector saw them.
    pub fn countable(&self, confirm_frames: u32) -> impl Iterator<Item = (usize, &Visit)> {
        self.visits.iter().enumerate().filter(move |(_, visit)| visit.frames >= confirm_frames)
    }
}

/// A number from the normal distribution (Box and Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// A number from `low` to `high`.
fn between(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.f64()
}

/// A box from its centre and size.
fn centred(x: f64, y: f64, width: f64, height: f64) -> Bounds {
    Bounds { x: (x - width / 2.0) as f32, y: (y - height / 2.0) as f32, width: width as f32, height: height as f32 }
}
