//! What an operator sets about models and analysis. Checks values that can be
//! judged without a model; what depends on the model is checked when it loads.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use flatframe_shared::frame::PictureSize;
use serde::{Deserialize, Serialize};

/// Most input sizes that may be loaded at once; each holds a plan in memory.
pub const MAX_INPUT_SIZES: usize = 4;
/// Most faces that may be reported per picture.
pub const MAX_FACES: usize = 1024;
/// Sides of the largest picture may lie in this range, in pixels.
const PICTURE_SIDE_PX: std::ops::RangeInclusive<u32> = 32..=8192;
/// Longest time the stub engine may take per picture, in microseconds.
const MAX_STUB_US: u32 = 60_000_000;

/// Settings of the table `[vision]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VisionConfig {
    /// Folder with weights (`FILE.onnx`) and further manifests (`NAME.toml`).
    /// A manifest there comes before an embedded one of the same name.
    pub models_dir: PathBuf,
    /// Name of the detector's manifest.
    pub detector: String,
    /// Name of the gender classifier's manifest; empty switches gender off.
    pub gender: String,
    /// Input sizes of the detector, as `"WIDTHxHEIGHT"` in pixels, at most 4.
    /// A picture goes to the one that shrinks it least, among equals to the
    /// smallest. Empty: the sizes that the detector's manifest names.
    pub input_sizes: Vec<SizeText>,
    /// Most faces reported per picture, 1 to 1024; more set `truncated`.
    pub max_faces: usize,
    /// Least score of a face, above 0 and up to 1. Absent: as the detector's
    /// manifest says.
    pub score_threshold: Option<f32>,
    /// Faces whose shorter side is below this are ignored, in pixels of the
    /// picture; 0 keeps all.
    pub min_face_px: f32,
    /// Of two boxes that overlap by more than this (intersection over union,
    /// 0 to 1) the one with the better score is kept. Absent: as the
    /// detector's manifest says.
    pub nms_iou: Option<f32>,
    /// Least probability, 0.5 to 1, at which a gender is named rather than
    /// `unknown`. Absent: as the gender classifier's manifest says.
    pub gender_threshold: Option<f32>,
    /// Largest picture accepted, as `"WIDTHxHEIGHT"` in pixels as encoded.
    /// Decides how much memory each worker needs.
    pub max_picture: SizeText,
    /// For load tests only: in place of the models, an engine that merely
    /// takes time. Never set in production.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stub_engine: Option<StubEngineConfig>,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            models_dir: "models".into(),
            detector: "flatface-det".into(),
            gender: "flatface-gender".into(),
            input_sizes: Vec::new(),
            max_faces: 64,
            score_threshold: None,
            min_face_px: 0.0,
            nms_iou: None,
            gender_threshold: None,
            max_picture: SizeText(PictureSize::new(1920, 1080)),
            stub_engine: None,
        }
    }
}

/// Settings of the table `[vision.stub_engine]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StubEngineConfig {
    /// Time per picture, in microseconds, up to 10,000,000.
    pub time_us: u32,
    /// How the time is spent.
    #[serde(default)]
    pub wait: StubWaitPolicy,
    /// Whether every picture shows one face, in its upper left quarter.
    #[serde(default)]
    pub face: bool,
}

/// How the stub engine spends its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StubWaitPolicy {
    /// Keeps the core busy, as a model does.
    #[default]
    Busy,
    /// Leaves the core to others, as an accelerator does.
    Sleep,
}

impl VisionConfig {
    /// Checks every value that can be judged without a model.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let refuse = |key: &'static str, value: &dyn fmt::Debug, allowed: String| {
            Err(InvalidSetting { key, value: format!("{value:?}"), allowed })
        };
        if self.detector.is_empty() {
            return refuse("detector", &self.detector, "the name of a detector's manifest".into());
        }
        if self.input_sizes.len() > MAX_INPUT_SIZES {
            return refuse("input_sizes", &self.input_sizes, format!("at most {MAX_INPUT_SIZES} sizes"));
        }
        if !(1..=MAX_FACES).contains(&self.max_faces) {
            return refuse("max_faces", &self.max_faces, format!("1 to {MAX_FACES}"));
        }
        if let Some(score) = self.score_threshold
            && !(score > 0.0 && score <= 1.0)
        {
            return refuse("score_threshold", &score, "above 0 and up to 1, or leave it out".into());
        }
        if !(0.0..=f32::from(u16::MAX)).contains(&self.min_face_px) {
            return refuse("min_face_px", &self.min_face_px, "0 (off) to 65535 pixels".into());
        }
        if let Some(iou) = self.nms_iou
            && !(0.0..=1.0).contains(&iou)
        {
            return refuse("nms_iou", &iou, "0 to 1, or leave it out".into());
        }
        if let Some(probability) = self.gender_threshold
            && !(0.5..=1.0).contains(&probability)
        {
            return refuse("gender_threshold", &probability, "0.5 to 1, or leave it out".into());
        }
        let PictureSize { width_px, height_px } = self.max_picture.0;
        if !(PICTURE_SIDE_PX.contains(&width_px) && PICTURE_SIDE_PX.contains(&height_px)) {
            let (least, most) = PICTURE_SIDE_PX.into_inner();
            return refuse("max_picture", &self.max_picture, format!("sides of {least} to {most} pixels"));
        }
        if let Some(stub) = self.stub_engine
            && stub.time_us > MAX_STUB_US
        {
            return refuse("stub_engine.time_us", &stub.time_us, format!("0 to {MAX_STUB_US} microseconds"));
        }
        Ok(())
    }
}

/// A setting of `[vision]` that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vision.{key} = {value} is not allowed: use {allowed}")]
pub struct InvalidSetting {
    /// Key within `[vision]`.
    pub key: &'static str,
    /// Value as given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

/// A picture size that is written `"WIDTHxHEIGHT"`, in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SizeText(pub PictureSize);

impl FromStr for SizeText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.parse::<u16>().ok().filter(|&px| px > 0).map(u32::from);
        text.split_once('x')
            .and_then(|(width, height)| Some(Self(PictureSize::new(side(width)?, side(height)?))))
            .ok_or_else(|| format!("{text:?} is not a size: write WIDTHxHEIGHT in pixels, for example \"320x256\""))
    }
}

impl TryFrom<String> for SizeText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SizeText> for String {
    fn from(size: SizeText) -> Self {
        size.0.to_string()
    }
}

impl fmt::Debug for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.to_string(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_toml() {
        let config = VisionConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let text = toml::to_string(&config).expect("serializes");
        assert_eq!(toml::from_str::<VisionConfig>(&text).expect("parses"), config);
    }

    #[test]
    fn sizes() {
        assert_eq!("320x256".parse::<SizeText>().map(|size| size.0), Ok(PictureSize::new(320, 256)));
        for bad in ["", "320", "320x", "x256", "0x10", "320x256x3", "-1x5", "70000x1", "320 x 256"] {
            assert!(bad.parse::<SizeText>().is_err_and(|error| error.contains("WIDTHxHEIGHT")), "{bad}");
        }
    }

    #[test]
    fn refusals_name_key_value_and_what_is_allowed() {
        for (text, key, allowed) in [
            ("detector = ''", "vision.detector = \"\"", "manifest"),
            ("max_faces = 0", "vision.max_faces = 0", "1 to 1024"),
            ("max_faces = 1025", "vision.max_faces = 1025", "1 to 1024"),
            ("score_threshold = 0.0", "vision.score_threshold = 0.0", "above 0"),
            ("score_threshold = nan", "vision.score_threshold = NaN", "above 0"),
            ("min_face_px = -1.0", "vision.min_face_px = -1.0", "0 (off)"),
            ("nms_iou = 1.5", "vision.nms_iou = 1.5", "0 to 1"),
            ("gender_threshold = 0.4", "vision.gender_threshold = 0.4", "0.5 to 1"),
            ("max_picture = '9000x100'", "vision.max_picture = \"9000x100\"", "32 to 8192"),
            ("input_sizes = ['32x32', '64x64', '96x96', '128x128', '160x160']", "vision.input_sizes", "at most 4"),
            ("stub_engine = { time_us = 99999999 }", "vision.stub_engine.time_us", "microseconds"),
        ] {
            let config: VisionConfig = toml::from_str(text).expect(text);
            let message = config.validate().expect_err(text).to_string();
            assert!(message.contains(key) && message.contains(allowed), "{text}: {message}");
        }
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused() {
        for text in ["detektor = 'x'", "max_faces = 'many'", "max_picture = 7", "stub_engine = { ms = 1 }"] {
            assert!(toml::from_str::<VisionConfig>(text).is_err(), "{text}");
        }
    }
}
