//! What a manifest may say beyond what its form allows: values are within their
//! range and fit together. Says what is wrong, with the value and what is allowed.

use flatframe_shared::frame::PictureSize;

use super::{
    CropSpec, DetectorManifest, DetectorOutput, DetectorThresholds, GenderManifest, GenderOutput, InputSpec,
    MAX_WEIGHTS_BYTES, Weights, is_plain_name,
};
use crate::vision::config::{MAX_INPUT_SIZES, SizeText};

impl DetectorManifest {
    pub(super) fn check(&self) -> Result<(), String> {
        self.weights.check()?;
        self.input.check()?;
        let DetectorThresholds { score, nms_iou } = self.thresholds;
        demand(score > 0.0 && score <= 1.0, || format!("thresholds.score = {score}: use above 0 and up to 1"))?;
        demand((0.0..=1.0).contains(&nms_iou), || format!("thresholds.nms_iou = {nms_iou}: use 0 to 1"))?;
        if let DetectorOutput::Yunet { strides, .. } | DetectorOutput::Flatface { strides, .. } = &self.output {
            let step = self.input.range.map_or(1, |range| range.multiple_px);
            let PictureSize { width_px, height_px } = self.input.size.0;
            let whole = |stride: &u32| {
                *stride > 0
                    && width_px.is_multiple_of(*stride)
                    && height_px.is_multiple_of(*stride)
                    && (self.input.range.is_none() || step.is_multiple_of(*stride))
            };
            demand(!strides.is_empty() && strides.iter().all(whole), || {
                format!("output.strides = {strides:?}: every stride must divide every side that input allows")
            })?;
        }
        Ok(())
    }
}

impl GenderManifest {
    pub(super) fn check(&self) -> Result<(), String> {
        self.weights.check()?;
        self.input.check()?;
        let one_size = self.input.range.is_none() && self.input.also.is_empty();
        demand(one_size, || "input.range, input.also: a classifier takes one size".into())?;
        let PictureSize { width_px, height_px } = self.input.size.0;
        match &self.crop {
            CropSpec::Aligned { targets } => {
                let inside =
                    |[x, y]: &[f32; 2]| (0.0..=width_px as f32).contains(x) && (0.0..=height_px as f32).contains(y);
                let apart = targets.iter().any(|target| target != &targets[0]);
                demand(targets.iter().all(inside) && apart, || {
                    "crop.targets: the five points must differ and lie inside the input".into()
                })?;
            }
            CropSpec::Box { scale } => {
                demand((0.5..=4.0).contains(scale), || format!("crop.scale = {scale}: use 0.5 to 4"))?;
                demand(width_px == height_px, || "crop.kind = \"box\": the crop, and so the input, is square".into())?;
            }
        }
        let probability = self.thresholds.probability;
        demand((0.5..=1.0).contains(&probability), || format!("thresholds.probability = {probability}: use 0.5 to 1"))?;
        if let GenderOutput::GenderSoftmax { classes: [first, second], .. } = self.output {
            demand(first != second, || "output.classes: name each class once".into())?;
        }
        Ok(())
    }
}

impl Weights {
    fn check(&self) -> Result<(), String> {
        let Self { file, sha256, .. } = self;
        demand(is_plain_name(file), || format!("weights.file = {file:?}: use a file name without a folder"))?;
        demand(self.bytes.is_none_or(|bytes| (1..=MAX_WEIGHTS_BYTES).contains(&bytes)), || {
            format!("weights.bytes = {}: use 1 to {MAX_WEIGHTS_BYTES}", self.bytes.unwrap_or_default())
        })?;
        if let Some(url) = &self.url {
            demand(url.starts_with("https://") || url.starts_with("http://"), || {
                format!("weights.url = {url:?}: use an address that begins with https:// or http://")
            })?;
        }
        let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        demand(sha256.len() == 64 && sha256.chars().all(hex), || {
            format!("weights.sha256 = {sha256:?}: use 64 lowercase hex digits")
        })
    }
}

impl InputSpec {
    fn check(&self) -> Result<(), String> {
        let channels = self.colour.channels();
        demand(self.mean.len() == channels && self.mean.iter().all(|mean| mean.is_finite()), || {
            format!("input.mean = {:?}: use {channels} numbers, one per channel", self.mean)
        })?;
        demand(self.scale.is_normal(), || format!("input.scale = {}: use a number other than 0", self.scale))?;
        demand(self.range.is_none_or(|range| range.multiple_px > 0), || {
            "input.range.multiple_px = 0: use 1 or more".into()
        })?;
        self.admits(self.size.0).map_err(|allowed| format!("input.size = {:?}: use {allowed}", self.size))?;
        demand(self.also.len() < MAX_INPUT_SIZES, || {
            format!("input.also = {:?}: use at most {} sizes", self.also, MAX_INPUT_SIZES - 1)
        })?;
        let beside = |size: &SizeText| {
            self.admits(size.0).map_err(|allowed| format!("input.also = {:?}: use {allowed}", self.also))
        };
        self.also.iter().try_for_each(beside)
    }
}

/// `Ok` when it holds.
pub(super) fn demand(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
