//! The manifest of a model, `models/NAME.toml`: all that must be known to feed
//! it and to read its answer. `models/README.md` explains the keys by example.
//!
//! Knows no engine and reads no file; a manifest that parses is consistent in
//! itself, but was not yet compared with its weights.

mod check;

use flatframe_shared::frame::PictureSize;
use serde::Deserialize;

use self::check::demand;
use crate::vision::config::SizeText;

/// Largest weights that are fetched or described, in bytes. Models for the
/// processor are far smaller.
pub const MAX_WEIGHTS_BYTES: u64 = 256 << 20;

/// What a model is for, and how to use it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Manifest {
    /// Finds faces.
    Detector(DetectorManifest),
    /// Estimates the gender of one face.
    Gender(GenderManifest),
}

/// Manifest of a face detector.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorManifest {
    /// The weights and where they come from.
    pub weights: Weights,
    /// What the model wants.
    pub input: InputSpec,
    /// What it answers.
    pub output: DetectorOutput,
    /// When a box is a face.
    pub thresholds: DetectorThresholds,
}

/// Manifest of a gender classifier.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenderManifest {
    /// The weights and where they come from.
    pub weights: Weights,
    /// What the model wants.
    pub input: InputSpec,
    /// Which part of the picture it wants.
    pub crop: CropSpec,
    /// What it answers.
    pub output: GenderOutput,
    /// When a gender is named.
    pub thresholds: GenderThresholds,
}

/// The weights and where they come from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// File name, without a folder.
    pub file: String,
    /// Whether the binary carries the file; otherwise it lies in
    /// `vision.models_dir`.
    #[serde(default)]
    pub embedded: bool,
    /// SHA-256 of the file, 64 lowercase hex digits.
    pub sha256: String,
    /// SPDX id of the licence.
    pub licence: String,
    /// Page or file that it comes from, or that it was converted from; for
    /// people.
    pub source: String,
    /// Address of exactly this file, `https://` or `http://`; absent when it
    /// is not offered in this form.
    pub url: Option<String>,
    /// Size of the file in bytes.
    pub bytes: Option<u64>,
    /// How the file was made from the source, if it was converted.
    #[serde(default)]
    pub note: String,
}

/// What goes into the model: `1 x channels x height x width`, each value
/// `(channel - mean) * scale` of a channel of 0 to 255.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// The size that is used when none is configured.
    pub size: SizeText,
    /// Sizes that are used beside it then, for pictures of another shape.
    #[serde(default)]
    pub also: Vec<SizeText>,
    /// Other sizes that the model takes; absent: none.
    pub range: Option<SideRange>,
    /// Order of the channels.
    pub colour: Colour,
    /// One value per channel, in the model's order.
    pub mean: Vec<f32>,
    /// For all channels.
    pub scale: f32,
}

/// Sides that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideRange {
    /// Every side is a multiple of this, in pixels.
    pub multiple_px: u32,
    /// Least side, in pixels.
    pub min_px: u32,
    /// Greatest side, in pixels.
    pub max_px: u32,
}

/// Order of the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    Grey,
}

/// How a detector's outputs become boxes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "decoder", rename_all = "lowercase", deny_unknown_fields)]
pub enum DetectorOutput {
    /// The YuNet family: transposed and put through sigmoid in the graph. Of
    /// a stride with `n` cells there are four outputs, named
    /// `{prefix}{stride}`, each `1 x n x values`.
    Yunet {
        /// Strides in pixels, smallest first.
        strides: Vec<u32>,
        /// Prefix of the face probability, 1 value.
        cls: String,
        /// Prefix of the objectness, 1 value; the score is the geometric mean
        /// of both.
        obj: String,
        /// Prefix of the box, 4 values in strides: centre from the cell's
        /// corner x, y; log width, log height.
        bbox: String,
        /// Prefix of the landmarks, 10 values in strides from the cell's
        /// corner: 5 x (x, y).
        kps: String,
    },
    /// The Flatface family: as the last convolution gives it. One output per
    /// stride, named `{prefix}{stride}`, `1 x 15 x height x width`: the logit
    /// of the score, then box and landmarks as in the YuNet family.
    Flatface {
        /// Strides in pixels, smallest first.
        strides: Vec<u32>,
        /// Prefix of the outputs.
        head: String,
    },
    /// The UltraFace family: boxes decoded in the graph.
    Ultraface {
        /// Name of the scores, `1 x n x 2`: background, face; probabilities.
        scores: String,
        /// Name of the boxes, `1 x n x 4`: left, top, right, bottom, as
        /// fractions of the input.
        boxes: String,
    },
}

/// What a classifier's values hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreForm {
    /// 0 to 1.
    Probability,
    /// The value before softmax.
    Logit,
}

/// When a box is a face.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorThresholds {
    /// Least score, 0 to 1.
    pub score: f32,
    /// Greatest overlap of two faces, as intersection over union, 0 to 1.
    pub nms_iou: f32,
}

/// Which part of the picture a classifier wants.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum CropSpec {
    /// Turned and scaled so that the landmarks lie where the classifier learnt
    /// them. A detector without landmarks is given those of a mean face.
    Aligned {
        /// Where they come to lie, in pixels of the input (a pixel's centre
        /// lies at +0.5), in the order of
        /// [`Face::landmarks`](crate::vision::Face).
        targets: [[f32; 2]; 5],
    },
    /// An upright square around the middle of the box.
    Box {
        /// Side of the square as a multiple of the box's longer side.
        scale: f32,
    },
}

/// How a classifier's output becomes a probability.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "decoder", rename_all = "snake_case", deny_unknown_fields)]
pub enum GenderOutput {
    /// Two values, one per class.
    GenderSoftmax {
        /// Name of the output, `1 x 2`.
        name: String,
        /// What the values hold.
        values: ScoreForm,
        /// Which value is which.
        classes: [GenderClass; 2],
    },
    /// One value: the logit of one class.
    GenderLogit {
        /// Name of the output, `1 x 1`.
        name: String,
        /// The class whose probability grows with the value.
        positive: GenderClass,
    },
}

/// A class of a gender classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenderClass {
    /// Female.
    Female,
    /// Male.
    Male,
}

/// When a gender is named.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenderThresholds {
    /// Least probability of the likelier class, 0.5 to 1; below it the gender
    /// is unknown.
    pub probability: f32,
}

impl Manifest {
    /// The weights and where they come from.
    pub const fn weights(&self) -> &Weights {
        match self {
            Self::Detector(detector) => &detector.weights,
            Self::Gender(gender) => &gender.weights,
        }
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        match &manifest {
            Self::Detector(detector) => detector.check()?,
            Self::Gender(gender) => gender.check()?,
        }
        Ok(manifest)
    }
}

impl InputSpec {
    /// The sizes that are used when none is configured.
    pub fn default_sizes(&self) -> impl Iterator<Item = PictureSize> {
        std::iter::once(&self.size).chain(&self.also).map(|size| size.0)
    }

    /// Whether the model takes this size; otherwise what it takes.
    pub fn admits(&self, size: PictureSize) -> Result<(), String> {
        let Some(SideRange { multiple_px, min_px, max_px }) = self.range else {
            return demand(size == self.size.0, || format!("{} only", self.size.0));
        };
        let good = |side: u32| (min_px..=max_px).contains(&side) && side.is_multiple_of(multiple_px);
        demand(good(size.width_px) && good(size.height_px), || {
            format!("sides of {min_px} to {max_px} pixels that are multiples of {multiple_px}")
        })
    }
}

impl Colour {
    /// Number of channels.
    pub const fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Grey => 1,
        }
    }
}

impl TryFrom<Manifest> for DetectorManifest {
    type Error = String;

    fn try_from(manifest: Manifest) -> Result<Self, String> {
        match manifest {
            Manifest::Detector(detector) => Ok(detector),
            Manifest::Gender(_) => Err("kind = \"gender\", but a detector is wanted here".into()),
        }
    }
}

impl TryFrom<Manifest> for GenderManifest {
    type Error = String;

    fn try_from(manifest: Manifest) -> Result<Self, String> {
        match manifest {
            Manifest::Gender(gender) => Ok(gender),
            Manifest::Detector(_) => Err("kind = \"detector\", but a gender classifier is wanted here".into()),
        }
    }
}

/// Whether `name` can name a file and nothing else.
pub fn is_plain_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
}
