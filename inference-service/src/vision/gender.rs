//! Apparent gender of one face: cut the face from the picture so that its
//! landmarks lie where the classifier learnt them, run the classifier, name a
//! gender only when it is likely enough.
//!
//! Must not remember faces: votes over the life of a track are not its work.

use flatframe_engine::{Engine, EngineError, EngineState, InputShape};

use super::crop::{Cropper, Similarity};
use super::decode::Upright;
use super::models::manifest::{CropSpec, GenderClass, GenderManifest, GenderOutput, ScoreForm};
use super::postprocess::sigmoid;
use super::preprocess::Normalizer;
use super::{Bounds, Face, GenderEstimate, Point};

/// A loaded gender classifier.
pub struct GenderClassifier {
    engine: Box<dyn Engine>,
    shape: InputShape,
    normalizer: Normalizer,
    crop: CropSpec,
    output: GenderOutput,
    min_probability: f32,
}

/// One worker's part of a [`GenderClassifier`].
pub struct GenderState {
    engine: Box<dyn EngineState>,
    cropper: Cropper,
}

impl GenderClassifier {
    /// Name of the output it reads.
    pub fn output_name(output: &GenderOutput) -> String {
        match output {
            GenderOutput::GenderSoftmax { name, .. } | GenderOutput::GenderLogit { name, .. } => name.clone(),
        }
    }

    /// A classifier on `engine`, loaded for `shape`, that names a gender from
    /// `min_probability` on. Fails when the output does not have the form that
    /// the manifest says.
    pub fn new(
        manifest: &GenderManifest,
        engine: Box<dyn Engine>,
        shape: InputShape,
        min_probability: f32,
    ) -> Result<Self, String> {
        let values = match manifest.output {
            GenderOutput::GenderSoftmax { .. } => 2,
            GenderOutput::GenderLogit { .. } => 1,
        };
        let shapes = engine.output_shapes();
        if shapes != [[1, values]] {
            return Err(format!("its output has shape {shapes:?}, this decoder reads 1 x {values}"));
        }
        Ok(Self {
            engine,
            shape,
            normalizer: Normalizer::new(&manifest.input),
            crop: manifest.crop.clone(),
            output: manifest.output.clone(),
            min_probability,
        })
    }

    /// The engine, for its memory bounds.
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Most scratch that one state takes, in bytes.
    pub fn max_scratch_bytes(&self) -> u64 {
        Cropper::max_bytes(self.shape)
    }

    /// A state of its own for one worker.
    pub fn spawn(&self) -> GenderState {
        GenderState { engine: self.engine.spawn(), cropper: Cropper::default() }
    }

    /// Apparent gender of `face` in `picture`.
    pub fn estimate(
        &self,
        state: &mut GenderState,
        picture: &Upright,
        face: &Face,
    ) -> Result<GenderEstimate, EngineError> {
        let place = match &self.crop {
            CropSpec::Aligned { targets } => {
                let landmarks = face.landmarks.unwrap_or_else(|| mean_landmarks(face.bounds));
                Similarity::between(targets, &landmarks)
            }
            CropSpec::Box { scale } => Similarity::around(face.bounds, *scale, self.shape.width as f32),
        };
        if !place.is_finite() {
            return Err(EngineError(format!("the face at {:?} has no place in the picture: {place:?}", face.bounds)));
        }
        let GenderState { engine, cropper } = state;
        cropper.crop(picture, place, &self.normalizer, self.shape, engine.input());
        engine.run()?;
        let female = female_probability(&self.output, engine.output(0));
        if !female.is_finite() {
            return Err(EngineError(format!("the gender classifier answered {:?}", engine.output(0))));
        }
        Ok(GenderEstimate::new(female, self.min_probability))
    }
}

/// Probability that the face is female, from the classifier's values.
fn female_probability(output: &GenderOutput, values: &[f32]) -> f32 {
    match output {
        GenderOutput::GenderSoftmax { values: form, classes, .. } => {
            let [female, male] = match classes[0] {
                GenderClass::Female => [values[0], values[1]],
                GenderClass::Male => [values[1], values[0]],
            };
            match form {
                // Softmax of two values is the sigmoid of their difference.
                ScoreForm::Logit => sigmoid(female - male),
                ScoreForm::Probability => female / (female + male),
            }
        }
        GenderOutput::GenderLogit { positive: GenderClass::Female, .. } => sigmoid(values[0]),
        GenderOutput::GenderLogit { positive: GenderClass::Male, .. } => sigmoid(-values[0]),
    }
}

/// Where landmarks lie in a detector's box on average, as fractions of its
/// width and height: YuNet-n on 445 faces of usgov_staff, interfaces_cc0 and
/// fairface_540, made symmetric. For detectors that give no landmarks.
const MEAN_LANDMARKS: [[f32; 2]; 5] = [[0.282, 0.39], [0.718, 0.39], [0.5, 0.591], [0.311, 0.735], [0.689, 0.735]];

fn mean_landmarks(bounds: Bounds) -> [Point; 5] {
    MEAN_LANDMARKS.map(|[x, y]| Point { x: bounds.x + x * bounds.width, y: bounds.y + y * bounds.height })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_by_table() {
        use GenderClass::{Female, Male};
        let softmax = |values, classes| GenderOutput::GenderSoftmax { name: "prob".into(), values, classes };
        let logit = |positive| GenderOutput::GenderLogit { name: "logit".into(), positive };
        for (output, values, expected) in [
            (softmax(ScoreForm::Probability, [Female, Male]), vec![0.8, 0.2], 0.8),
            (softmax(ScoreForm::Probability, [Male, Female]), vec![0.8, 0.2], 0.2),
            (softmax(ScoreForm::Logit, [Female, Male]), vec![3.0, 3.0], 0.5),
            (softmax(ScoreForm::Logit, [Male, Female]), vec![0.0, 9f32.ln()], 0.9),
            (logit(Female), vec![9f32.ln()], 0.9),
            (logit(Male), vec![9f32.ln()], 0.1),
        ] {
            let female = female_probability(&output, &values);
            assert!((female - expected).abs() < 1e-5, "{output:?} {values:?}: {female}");
        }
    }
}
