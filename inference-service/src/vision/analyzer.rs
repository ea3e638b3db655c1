//! The whole of vision: loads the models once, gives each worker its state,
//! and takes one JPEG to faces with gender.
//!
//! Must not hide a failure: a model that is missing or wrong ends the start, a
//! picture that cannot be analysed has an error and never "no faces".

use std::sync::Arc;
use std::time::Instant;

use flatframe_engine::onnx::OnnxEngine;
use flatframe_engine::{Engine, EngineError, EngineMemory, InputShape};
use flatframe_shared::frame::{PictureSize, Rotation};

use super::decode::{JpegDecoder, Upright};
use super::detect::{Detector, DetectorState, Plan};
use super::gender::{GenderClassifier, GenderState};
use super::models::manifest::{DetectorManifest, DetectorThresholds, GenderManifest, InputSpec};
use super::models::{self, Model};
use super::postprocess::{Decoder, Limits};
use super::preprocess::Normalizer;
use super::self_test;
use super::shape::{input_shape, picture_size};
use super::stub::{self, StubEngine};
use super::{
    Analysis, AnalyzeError, Face, GenderEstimate, InvalidSetting, Look, ModelError, StubEngineConfig, Timings,
    VisionConfig, VisionMemory,
};

/// The loaded models; one per process.
pub struct Analyzer {
    loaded: Arc<Loaded>,
}

/// One worker's part of an [`Analyzer`]: model state and all scratch.
pub struct AnalyzerState {
    loaded: Arc<Loaded>,
    jpeg: JpegDecoder,
    detector: DetectorState,
    gender: Option<GenderState>,
}

/// What all workers share.
struct Loaded {
    detector_name: String,
    detector: Detector,
    gender: Option<(String, GenderClassifier)>,
    limits: Limits,
    max_picture: PictureSize,
}

impl Analyzer {
    /// Finds, checks and loads the models, and tests them on a known picture.
    ///
    /// Takes up to a second. Fails with a text that says what to do; never
    /// loads another model than the one asked for.
    pub fn load(config: &VisionConfig) -> Result<Self, ModelError> {
        config.validate()?;
        if let Some(stub) = config.stub_engine {
            tracing::warn!(?stub, "stub engine in place of the models, results are not real");
            return Self::with_stub(config, stub);
        }
        let detector: Model<DetectorManifest> = models::find("detector", &config.detector, &config.models_dir)?;
        let DetectorThresholds { score, nms_iou } = detector.manifest.thresholds;
        let gender = match config.gender.as_str() {
            "" => None,
            name => Some(load_gender(&models::find("gender", name, &config.models_dir)?, config)?),
        };
        let analyzer = Self::new(Loaded {
            detector: load_detector(&detector, config)?,
            detector_name: detector.name,
            gender,
            limits: limits(config, score, nms_iou),
            max_picture: config.max_picture.0,
        });
        // The operator's limits must not make a good model fail.
        analyzer.self_test(Limits { score, nms_iou, ..self_test::LIMITS })?;
        Ok(analyzer)
    }

    /// Without gender: the stub classifies nothing.
    fn with_stub(config: &VisionConfig, stub: StubEngineConfig) -> Result<Self, ModelError> {
        let input = stub::input();
        let mut plans = Vec::new();
        for size in input_sizes(config, "stub", &input)? {
            let shape = input_shape(input.colour.channels(), size);
            let engine = StubEngine::new(stub, shape);
            let decoder = Decoder::new(&stub::output(), shape, engine.output_shapes())
                .expect("the stub answers in the layout that it names");
            plans.push(Plan { shape, engine: Box::new(engine), decoder });
        }
        Ok(Self::new(Loaded {
            detector: Detector::new(plans, Normalizer::new(&input)),
            detector_name: "stub".into(),
            gender: None,
            limits: limits(config, 0.5, 0.5),
            max_picture: config.max_picture.0,
        }))
    }

    fn new(loaded: Loaded) -> Self {
        Self { loaded: Arc::new(loaded) }
    }

    /// A state of its own for one worker.
    pub fn spawn(&self) -> AnalyzerState {
        AnalyzerState {
            loaded: self.loaded.clone(),
            jpeg: JpegDecoder::default(),
            detector: self.loaded.detector.spawn(),
            gender: self.loaded.gender.as_ref().map(|(_, classifier)| classifier.spawn()),
        }
    }

    /// Name of the detector.
    pub fn detector_name(&self) -> &str {
        &self.loaded.detector_name
    }

    /// Name of the gender classifier; `None` when gender is switched off.
    pub fn gender_name(&self) -> Option<&str> {
        self.loaded.gender.as_ref().map(|(name, _)| name.as_str())
    }

    /// Bounds of the memory that analysis takes.
    pub fn memory(&self) -> VisionMemory {
        let Loaded { detector, gender, max_picture, .. } = &*self.loaded;
        let classifier = gender.as_ref().map(|(_, classifier)| classifier);
        let engines: Vec<EngineMemory> = detector
            .plans()
            .iter()
            .map(|plan| &*plan.engine)
            .chain(classifier.map(|classifier| classifier.engine()))
            .map(|engine| engine.memory())
            .collect();
        let sum = |of: fn(&EngineMemory) -> u64| engines.iter().map(of).sum::<u64>();
        let max = |of: fn(&EngineMemory) -> u64| engines.iter().map(of).max().unwrap_or(0);
        VisionMemory {
            model_bytes: max(|engine| engine.process_bytes) + sum(|engine| engine.model_bytes),
            // A worker runs one engine at a time.
            state_bytes_per_worker: sum(|engine| engine.held_bytes) + max(|engine| engine.running_bytes),
            scratch_bytes_per_worker: JpegDecoder::max_bytes(*max_picture)
                + detector.max_scratch_bytes(*max_picture)
                + classifier.map_or(0, GenderClassifier::max_scratch_bytes),
        }
    }

    fn self_test(&self, limits: Limits) -> Result<(), ModelError> {
        let mut state = self.spawn();
        for plan in 0..self.loaded.detector.plans().len() {
            let analysis = state
                .analyze_with(self_test::PICTURE, Rotation::None, self_test::MAX_PICTURE, Some(plan), &limits)
                .map_err(|error| error.to_string());
            analysis.and_then(|analysis| self_test::check(&analysis)).map_err(|reason| ModelError::SelfTest {
                detector: self.detector_name().into(),
                gender: self.gender_name().unwrap_or_default().into(),
                reason: format!("input {}: {reason}", picture_size(self.loaded.detector.plans()[plan].shape)),
            })?;
        }
        Ok(())
    }
}

impl AnalyzerState {
    /// Finds the faces in one JPEG, which `rotation` makes upright.
    pub fn analyze(&mut self, jpeg: &[u8], rotation: Rotation) -> Result<Analysis, AnalyzeError> {
        let Loaded { max_picture, limits, .. } = &*self.loaded;
        let (max_picture, limits) = (*max_picture, *limits);
        self.analyze_with(jpeg, rotation, max_picture, None, &limits)
    }

    /// Finds the faces in an upright picture that is decoded already, without
    /// gender, best score first; and whether there were more than may be
    /// reported. `rgb` holds `3 * width * height` bytes, row by row.
    ///
    /// # Errors
    /// [`AnalyzeError::Failed`] when the engine fails.
    pub fn detect_rgb(&mut self, rgb: &[u8], size: PictureSize) -> Result<(Vec<Face>, bool), AnalyzeError> {
        let Loaded { detector, limits, .. } = &*self.loaded;
        let picture = Upright::new(rgb, size, Rotation::None);
        let plan = detector.plan_for(size);
        detector
            .detect(&mut self.detector, plan, &picture, limits)
            .map_err(|error: EngineError| AnalyzeError::Failed(error.0))
    }

    /// Gender of one face of [`AnalyzerState::detect_rgb`] in the same picture;
    /// `None` when gender is switched off.
    ///
    /// # Errors
    /// [`AnalyzeError::Failed`] when the engine fails.
    pub fn estimate_rgb(
        &mut self,
        rgb: &[u8],
        size: PictureSize,
        face: &Face,
    ) -> Result<Option<GenderEstimate>, AnalyzeError> {
        let (Some((_, classifier)), Some(state)) = (&self.loaded.gender, &mut self.gender) else { return Ok(None) };
        let picture = Upright::new(rgb, size, Rotation::None);
        let estimate = classifier.estimate(state, &picture, face);
        estimate.map(Some).map_err(|error| AnalyzeError::Failed(error.0))
    }

    /// With the plan of the given index, or the best one for the picture.
    fn analyze_with(
        &mut self,
        jpeg: &[u8],
        rotation: Rotation,
        max_picture: PictureSize,
        plan: Option<usize>,
        limits: &Limits,
    ) -> Result<Analysis, AnalyzeError> {
        let loaded = self.loaded.clone();
        let failed = |error: EngineError| AnalyzeError::Failed(error.0);

        let start = Instant::now();
        let picture =
            self.jpeg.decode(jpeg, max_picture, rotation).map_err(|error| AnalyzeError::Invalid(error.to_string()))?;
        let decoded = Instant::now();

        let plan = plan.unwrap_or_else(|| loaded.detector.plan_for(picture.size()));
        let (mut faces, truncated) =
            loaded.detector.detect(&mut self.detector, plan, &picture, limits).map_err(failed)?;
        let detected = Instant::now();

        if let (Some((_, classifier)), Some(state)) = (&loaded.gender, &mut self.gender) {
            for face in &mut faces {
                face.gender = Some(classifier.estimate(state, &picture, face).map_err(failed)?);
            }
        }
        let timings = Timings { decode: decoded - start, detect: detected - decoded, gender: detected.elapsed() };
        let look = Some(Box::new(Look::of(&picture)));
        Ok(Analysis { size: picture.size(), faces, truncated, timings, look })
    }
}

fn load_detector(model: &Model<DetectorManifest>, config: &VisionConfig) -> Result<Detector, ModelError> {
    let Model { name, manifest, onnx } = model;
    let invalid = |reason| ModelError::Manifest { name: name.clone(), reason };
    let names = Decoder::output_names(&manifest.output);
    let mut plans = Vec::new();
    for size in input_sizes(config, name, &manifest.input)? {
        let shape = input_shape(manifest.input.colour.channels(), size);
        let engine = load_engine(name, onnx, shape, &names)?;
        let decoder = Decoder::new(&manifest.output, shape, engine.output_shapes()).map_err(invalid)?;
        plans.push(Plan { shape, engine: Box::new(engine), decoder });
    }
    Ok(Detector::new(plans, Normalizer::new(&manifest.input)))
}

/// The configured input sizes, or the model's own; each fits the model.
fn input_sizes(config: &VisionConfig, name: &str, input: &InputSpec) -> Result<Vec<PictureSize>, ModelError> {
    let sizes = match config.input_sizes.as_slice() {
        [] => input.default_sizes().collect(),
        sizes => sizes.iter().map(|size| size.0).collect(),
    };
    for &size in &sizes {
        input.admits(size).map_err(|allowed| InvalidSetting {
            key: "input_sizes",
            value: format!("{:?}", config.input_sizes),
            allowed: format!("{allowed} with detector {name:?}"),
        })?;
    }
    Ok(sizes)
}

fn limits(config: &VisionConfig, score: f32, nms_iou: f32) -> Limits {
    Limits {
        score: config.score_threshold.unwrap_or(score),
        nms_iou: config.nms_iou.unwrap_or(nms_iou),
        min_face_px: config.min_face_px,
        max_faces: config.max_faces,
    }
}

fn load_gender(model: &Model<GenderManifest>, config: &VisionConfig) -> Result<(String, GenderClassifier), ModelError> {
    let Model { name, manifest, onnx } = model;
    let shape = input_shape(manifest.input.colour.channels(), manifest.input.size.0);
    let output = GenderClassifier::output_name(&manifest.output);
    let engine = load_engine(name, onnx, shape, &[output])?;
    let min_probability = config.gender_threshold.unwrap_or(manifest.thresholds.probability);
    let classifier = GenderClassifier::new(manifest, Box::new(engine), shape, min_probability)
        .map_err(|reason| ModelError::Manifest { name: name.clone(), reason })?;
    Ok((name.clone(), classifier))
}

fn load_engine(name: &str, onnx: &[u8], shape: InputShape, outputs: &[String]) -> Result<OnnxEngine, ModelError> {
    OnnxEngine::load(onnx, shape, outputs).map_err(|error| ModelError::Engine { name: name.into(), reason: error.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{Gender, StubWaitPolicy};

    fn state_of(config: &VisionConfig) -> AnalyzerState {
        Analyzer::load(config).unwrap_or_else(|error| panic!("{error}")).spawn()
    }

    #[test]
    fn the_embedded_models_need_no_folder() {
        let config = VisionConfig { models_dir: "/nowhere".into(), ..VisionConfig::default() };
        let analysis = state_of(&config).analyze(self_test::PICTURE, Rotation::None).expect("a good picture");
        assert_eq!(analysis.size, self_test::MAX_PICTURE);
        let [face] = analysis.faces.as_slice() else { panic!("{analysis:?}") };
        let estimate = face.gender.expect("gender is on");
        assert!(matches!(estimate.gender, Gender::Female | Gender::Unknown), "{estimate:?}");
    }

    #[test]
    fn a_wide_picture_wastes_no_input() {
        let analyzer = Analyzer::load(&VisionConfig::default()).unwrap_or_else(|error| panic!("{error}"));
        for (picture, input) in [((640, 480), (320, 256)), ((640, 360), (320, 192)), ((480, 640), (320, 256))] {
            let detector = &analyzer.loaded.detector;
            let plan = &detector.plans()[detector.plan_for(PictureSize::new(picture.0, picture.1))];
            assert_eq!(picture_size(plan.shape), PictureSize::new(input.0, input.1), "{picture:?}");
        }
    }

    #[test]
    fn workers_take_their_state_along() {
        fn is_shared<T: Send + Sync>() {}
        fn is_moved<T: Send>() {}
        is_shared::<Analyzer>();
        is_moved::<AnalyzerState>();
    }

    #[test]
    fn the_stub_answers_as_configured() {
        for (face, wait) in [(true, StubWaitPolicy::Sleep), (false, StubWaitPolicy::Busy)] {
            let stub_engine = Some(StubEngineConfig { time_us: 1, wait, face });
            let config = VisionConfig { stub_engine, ..VisionConfig::default() };
            let analysis = state_of(&config).analyze(self_test::PICTURE, Rotation::None).expect("a good picture");
            assert_eq!(analysis.faces.len(), usize::from(face));
            assert!(analysis.faces.iter().all(|face| face.landmarks.is_some() && face.gender.is_none()));
        }
    }

    #[test]
    fn input_sizes_are_compared_with_the_model() {
        let input_sizes = vec!["320x250".parse().expect("a size")];
        let refused = Analyzer::load(&VisionConfig { input_sizes, ..VisionConfig::default() });
        let message = refused.err().expect("250 is no multiple of 32").to_string();
        for part in ["vision.input_sizes", "320x250", "multiples of 32", "flatface-det"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn more_sizes_and_larger_pictures_need_more_memory() {
        let memory = |sizes: &[&str], max_picture: &str| {
            let input_sizes = sizes.iter().map(|size| size.parse().expect("a size")).collect();
            let max_picture = max_picture.parse().expect("a size");
            let config = VisionConfig { input_sizes, max_picture, gender: String::new(), ..VisionConfig::default() };
            Analyzer::load(&config).unwrap_or_else(|error| panic!("{error}")).memory()
        };
        let one = memory(&["320x256"], "640x480");
        let two = memory(&["320x256", "640x384"], "640x480");
        let large = memory(&["320x256"], "1920x1080");
        assert!(two.model_bytes > one.model_bytes && two.state_bytes_per_worker > one.state_bytes_per_worker);
        assert!(large.scratch_bytes_per_worker > one.scratch_bytes_per_worker + 3 * 1920 * 1080);
        assert_eq!(large.state_bytes_per_worker, one.state_bytes_per_worker);
    }
}
