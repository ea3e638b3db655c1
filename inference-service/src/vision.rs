//! Faces and their gender in one picture.
//!
//! In reading order: the words (here), what an operator sets ([`VisionConfig`]),
//! who does the work ([`Analyzer`], [`AnalyzerState`]), then the steps in the
//! order of a frame: `decode`, `preprocess`, the engine ([`flatframe_engine`], or
//! `stub`), `postprocess`, `gender`; at load: `models`, `self_test`.
//!
//! Knows nothing of cameras, streams, deadlines or results; holds no async.
//! Coordinates everywhere are pixels of the upright picture, continuous: the
//! picture spans 0 to its width and height, a pixel's centre lies at +0.5.

use std::path::PathBuf;
use std::time::Duration;

use flatframe_shared::frame::PictureSize;

mod analyzer;
mod config;

mod crop;
mod decode;
mod detect;
mod gender;
mod look;
pub mod postprocess;
mod preprocess;
mod sample;
mod shape;
mod stub;

pub mod models;
mod self_test;

pub use analyzer::{Analyzer, AnalyzerState};
pub use config::{InvalidSetting, SizeText, StubEngineConfig, StubWaitPolicy, VisionConfig};
pub use look::Look;
pub use preprocess::Fit;

/// A place in the upright picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// From the left edge.
    pub x: f32,
    /// From the top edge.
    pub y: f32,
}

/// A rectangle in the upright picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bounds {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
}

impl Bounds {
    /// Area in square pixels.
    pub fn area(self) -> f32 {
        self.width * self.height
    }

    /// Intersection over union, 0 to 1; 0 when both are empty.
    pub fn iou(self, other: Self) -> f32 {
        let overlap = |a: f32, a_len: f32, b: f32, b_len: f32| ((a + a_len).min(b + b_len) - a.max(b)).max(0.0);
        let both =
            overlap(self.x, self.width, other.x, other.width) * overlap(self.y, self.height, other.y, other.height);
        let either = self.area() + other.area() - both;
        if either > 0.0 { both / either } else { 0.0 }
    }
}

/// One face in one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    /// Where it is, within the picture.
    pub bounds: Bounds,
    /// Score of the detector, 0 to 1.
    pub score: f32,
    /// Eyes, nose and mouth corners, if the detector gives them: image-left
    /// eye, image-right eye, nose, image-left and image-right mouth corner.
    /// They may lie outside the picture.
    pub landmarks: Option<[Point; 5]>,
    /// Apparent gender; `None` when gender is switched off.
    pub gender: Option<GenderEstimate>,
}

/// Apparent gender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gender {
    /// The classifier is not sure enough.
    Unknown,
    /// Female.
    Female,
    /// Male.
    Male,
}

/// What the gender classifier says of one face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenderEstimate {
    /// The likelier gender, or unknown when it is not likely enough.
    pub gender: Gender,
    /// Probability that the face is female, 0 to 1; male is the rest.
    pub female: f32,
}

impl GenderEstimate {
    /// Names the gender when its probability is at least `min_probability`.
    pub fn new(female: f32, min_probability: f32) -> Self {
        let gender = if female >= min_probability && female > 0.5 {
            Gender::Female
        } else if 1.0 - female >= min_probability && female < 0.5 {
            Gender::Male
        } else {
            Gender::Unknown
        };
        Self { gender, female }
    }

    /// Probability of the likelier gender, 0.5 to 1.
    pub fn probability(self) -> f32 {
        self.female.max(1.0 - self.female)
    }
}

/// What was found in one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// Size of the upright picture.
    pub size: PictureSize,
    /// The faces, best score first.
    pub faces: Vec<Face>,
    /// Whether more faces were found than may be reported.
    pub truncated: bool,
    /// Where the time went.
    pub timings: Timings,
    /// A few pixels of the picture; taken out when the camera's picture is
    /// judged.
    pub look: Option<Box<Look>>,
}

/// Time spent on one picture, by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// JPEG to pixels.
    pub decode: Duration,
    /// Fitting the picture into the model, the model, boxes from its output.
    pub detect: Duration,
    /// Crops and classifier, all faces together.
    pub gender: Duration,
}

/// Why a picture has no analysis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnalyzeError {
    /// The picture is at fault: undecodable or too large.
    #[error("{0}")]
    Invalid(String),
    /// The engine failed; the next picture finds it fresh.
    #[error("engine failed: {0}")]
    Failed(String),
}

/// Computed bounds of the memory that analysis takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VisionMemory {
    /// Shared by all workers: weights and plans.
    pub model_bytes: u64,
    /// Per worker: the engine's tensors.
    pub state_bytes_per_worker: u64,
    /// Per worker: decoded picture, resized picture, candidates, crops.
    pub scratch_bytes_per_worker: u64,
}

/// Why the models could not be loaded. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A setting is impossible.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// No manifest of that name.
    #[error(
        "{asked}: no such model; known are {known}; put a manifest at {} or name a known one",
        looked_at.display()
    )]
    Unknown {
        /// How it was asked for: key and value of the configuration, or the
        /// name.
        asked: String,
        /// Where a manifest of that name would lie.
        looked_at: PathBuf,
        /// Names that exist.
        known: String,
    },
    /// A manifest is wrong.
    #[error("manifest of model {name:?} is not valid: {reason}")]
    Manifest {
        /// Name of the model.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights are not there.
    #[error(
        "weights of model {name:?} are missing: {file} is not embedded and not at {}; \
         `inference-service models fetch {name}` gets it from {source_url}, or says how it is made; \
         or set vision.models_dir to the folder that has it",
        looked_at.display()
    )]
    MissingWeights {
        /// Name of the model.
        name: String,
        /// Name of the file.
        file: String,
        /// Where it was looked for.
        looked_at: PathBuf,
        /// Where it comes from.
        source_url: String,
    },
    /// A file could not be read.
    #[error("{} could not be read: {error}; check that it exists and who may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The weights are not the ones the manifest describes.
    #[error(
        "weights of model {name:?} ({origin}) have sha256 {found}, the manifest says {expected}; \
         fetch the file again, or write a manifest for this one"
    )]
    WrongHash {
        /// Name of the model.
        name: String,
        /// Where they were found.
        origin: String,
        /// What the manifest says.
        expected: String,
        /// What they have.
        found: String,
    },
    /// The engine does not take the model.
    #[error("model {name:?} could not be loaded: {reason}; its manifest and its weights do not go together")]
    Engine {
        /// Name of the model.
        name: String,
        /// What the engine said.
        reason: String,
    },
    /// The model's answer to the known picture is wrong.
    #[error(
        "self-test of detector {detector:?} with gender {gender:?} failed: {reason}; \
         the model or its manifest is wrong, choose another with vision.detector or vision.gender"
    )]
    SelfTest {
        /// Name of the detector.
        detector: String,
        /// Name of the gender classifier; empty when off.
        gender: String,
        /// What was expected and what came.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_by_table() {
        let unit = Bounds { x: 0.0, y: 0.0, width: 10.0, height: 10.0 };
        let moved = |x, y| Bounds { x, y, ..unit };
        for (other, expected) in [
            (unit, 1.0),
            (moved(5.0, 0.0), 1.0 / 3.0),
            (moved(10.0, 0.0), 0.0),
            (moved(-30.0, 50.0), 0.0),
            (Bounds::default(), 0.0),
        ] {
            assert!((unit.iou(other) - expected).abs() < 1e-6, "{other:?}");
            assert_eq!(unit.iou(other), other.iou(unit));
        }
        assert_eq!(Bounds::default().iou(Bounds::default()), 0.0);
    }

    #[test]
    fn gender_band_by_table() {
        for (female, min, expected) in [
            (0.9, 0.8, Gender::Female),
            (0.1, 0.8, Gender::Male),
            (0.7, 0.8, Gender::Unknown),
            (0.3, 0.8, Gender::Unknown),
            (0.5, 0.5, Gender::Unknown),
            (0.51, 0.5, Gender::Female),
            (f32::NAN, 0.5, Gender::Unknown),
        ] {
            assert_eq!(GenderEstimate::new(female, min).gender, expected, "{female} {min}");
        }
    }
}
