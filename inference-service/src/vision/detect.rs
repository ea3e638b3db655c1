//! Faces in one picture: the plan that shrinks it least, the model, the boxes.
//!
//! Must not decode pictures and must not know what is done with the faces.

use flatframe_engine::{Engine, EngineError, EngineState, InputShape};
use flatframe_shared::frame::PictureSize;

use super::Face;
use super::decode::Upright;
use super::postprocess::{Candidate, Decoder, Limits, select};
use super::preprocess::{Normalizer, Preprocessor};
use super::shape::picture_size;

/// A detector loaded for one or more input sizes.
pub struct Detector {
    plans: Vec<Plan>,
    normalizer: Normalizer,
}

/// A detector loaded for one input size.
pub struct Plan {
    /// What the engine was loaded for.
    pub shape: InputShape,
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Reads the engine's outputs.
    pub decoder: Decoder,
}

/// One worker's part of a [`Detector`].
pub struct DetectorState {
    engines: Vec<Box<dyn EngineState>>,
    preprocessor: Preprocessor,
    /// Kept to reuse the allocation.
    candidates: Vec<Candidate>,
}

impl Detector {
    /// A detector on at least one plan.
    pub fn new(plans: Vec<Plan>, normalizer: Normalizer) -> Self {
        assert!(!plans.is_empty(), "a detector has at least one input size");
        Self { plans, normalizer }
    }

    /// The loaded input sizes.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// Index of the plan that shrinks a picture of `size` least; among equals
    /// the smallest, because it is the fastest.
    pub fn plan_for(&self, size: PictureSize) -> usize {
        best_plan(self.plans.iter().map(|plan| picture_size(plan.shape)), size)
    }

    /// A state of its own for one worker.
    pub fn spawn(&self) -> DetectorState {
        DetectorState {
            engines: self.plans.iter().map(|plan| plan.engine.spawn()).collect(),
            preprocessor: Preprocessor::default(),
            candidates: Vec::with_capacity(self.max_candidates()),
        }
    }

    fn max_candidates(&self) -> usize {
        self.plans.iter().map(|plan| plan.decoder.max_candidates()).max().unwrap_or(0)
    }

    /// Faces in `picture` by the plan of index `plan`, best score first, and
    /// whether there were more than `limits` allow.
    pub fn detect(
        &self,
        state: &mut DetectorState,
        plan: usize,
        picture: &Upright,
        limits: &Limits,
    ) -> Result<(Vec<Face>, bool), EngineError> {
        let engine = &mut state.engines[plan];
        let Plan { shape, decoder, .. } = &self.plans[plan];
        let fit = state.preprocessor.fit(picture, &self.normalizer, *shape, engine.input());
        engine.run()?;
        decoder.decode(|index| engine.output(index), limits.score, &mut state.candidates)?;
        Ok(select(&mut state.candidates, &fit, limits))
    }

    /// Most scratch that one state takes for pictures up to `max_picture`, in
    /// bytes.
    pub fn max_scratch_bytes(&self, max_picture: PictureSize) -> u64 {
        let fits = self.plans.iter().map(|plan| Preprocessor::max_bytes(max_picture, picture_size(plan.shape)));
        fits.max().unwrap_or(0) + (self.max_candidates() * size_of::<Candidate>()) as u64
    }
}

fn best_plan(plans: impl Iterator<Item = PictureSize>, picture: PictureSize) -> usize {
    let cost = |plan: PictureSize| (std::cmp::Reverse(picture.fitted(plan).pixels()), plan.pixels());
    plans.enumerate().min_by_key(|(_, plan)| cost(*plan)).map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_by_table() {
        let ladder = [(320, 256), (320, 192), (640, 480), (256, 320)].map(|(w, h)| PictureSize::new(w, h));
        for (picture, expected) in [
            ((320, 256), (320, 256)), // fits exactly
            ((320, 180), (320, 192)), // the smallest that holds it whole
            ((100, 100), (320, 192)),
            ((240, 320), (256, 320)), // upright beats lying
            ((480, 270), (640, 480)), // whole in the largest beats shrunk in a smaller one
            ((1920, 1080), (640, 480)),
            ((1080, 1920), (640, 480)),
        ] {
            let chosen = ladder[best_plan(ladder.into_iter(), PictureSize::new(picture.0, picture.1))];
            assert_eq!(chosen, PictureSize::new(expected.0, expected.1), "{picture:?}");
        }
    }
}
