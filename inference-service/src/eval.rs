//! `inference-service eval`: how good a detector and a gender classifier are on
//! a folder of labelled pictures, so that users can judge a model on their own.
//!
//! Decode, detect and gender are those of the service. Must not choose: it
//! prints figures. What the figures mean is in `score`, what may be in the
//! folder in `dataset`, how its pictures are read in `picture`.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flatframe_shared::frame::PictureSize;
use serde::Serialize;

pub mod dataset;
pub mod picture;
pub mod score;

use dataset::{Dataset, DatasetError, Row};
use picture::{Picture, PictureReader};
use score::{DetectionTally, GenderTally};

use crate::vision::models;
use crate::vision::models::manifest::{InputSpec, Manifest};
use crate::vision::{Analyzer, AnalyzerState, Bounds, Face, ModelError, SizeText, VisionConfig};

/// Detections are counted from this score on; precision at lower scores no
/// longer changes the figure.
const LEAST_SCORE: f32 = 0.02;
/// Of two boxes that overlap more, the better one stays.
const NMS_IOU: f32 = 0.45;
/// Most detections counted for one picture.
const MAX_DETECTIONS: usize = 1024;

/// What to judge, and on what.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Folder with manifest.csv and its pictures (JPEG; a rotation in the EXIF
    /// data is not applied).
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Detector to judge; as configured when left out.
    #[arg(long, value_name = "NAME")]
    pub detector: Option<String>,
    /// Gender classifier to judge, "" for none; as configured when left out.
    #[arg(long, value_name = "NAME")]
    pub gender: Option<String>,
    /// Ignore faces whose shorter side is below this, in pixels of the picture
    /// as it is judged (after --max-side).
    #[arg(long, value_name = "PX", default_value_t = 0.0, value_parser = min_face)]
    pub min_face: f32,
    /// Shrink pictures whose longer side is above this, in pixels, and let the
    /// detector see them at this size if it takes other sizes than its own.
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(u32).range(32..=8192))]
    pub max_side: Option<u32>,
    /// End with one line of JSON.
    #[arg(long)]
    pub json: bool,
}

fn min_face(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|px| (0.0..=65535.0).contains(px)).ok_or_else(|| "use 0 to 65535 pixels".to_owned())
}

/// Why nothing could be judged.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A model is missing or wrong.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The detector does not take pictures of that size.
    #[error("--max-side {side_px}: detector {detector:?} takes {allowed}")]
    MaxSide {
        /// As asked for.
        side_px: u32,
        /// Name of the detector.
        detector: String,
        /// What it takes.
        allowed: String,
    },
    /// The folder's manifest is missing or wrong.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The engine failed on a picture: its figures would mean nothing.
    #[error("{}: {reason}", picture.display())]
    Engine {
        /// The picture.
        picture: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// There is no picture that can be read.
    #[error("none of the {0} pictures can be read")]
    NoPicture(usize),
}

/// The figures. Shares are 0 to 1; `None` where there is nothing to say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Pictures that were judged.
    pub pictures: usize,
    /// Pictures that could not be read; they are in no other figure.
    pub bad_pictures: usize,
    /// Labelled faces that count.
    pub faces: Option<usize>,
    /// Average precision of the detector at an overlap of 0.5, all-point.
    pub ap50: Option<f64>,
    /// Share of right genders at a threshold of 0.5, of the largest face of
    /// each picture with a labelled gender in which a face was found.
    pub gender_accuracy: Option<f64>,
    /// The same for those labelled F.
    pub gender_accuracy_women: Option<f64>,
    /// The same for those labelled M.
    pub gender_accuracy_men: Option<f64>,
    /// Share of these faces whose gender the service would call unknown.
    pub unknown_share: Option<f64>,
    /// Pictures that show a face by their labels (a gender, or a box that
    /// counts) in which none was found at the detector's own threshold.
    pub no_face_found: Option<usize>,
    /// Mean time for decode, shrink, detect, and gender of the largest face;
    /// one thread, milliseconds.
    pub ms_per_picture: f64,
}

/// Judges and prints; figures go to `out`, bad pictures to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(args: &EvalArgs, config: &VisionConfig, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let report = |bad: &BadPicture| eprintln!("inference-service: {bad}");
    let judged = match judge(args, config, report) {
        Ok(judged) => judged,
        Err(error) => {
            eprintln!("inference-service: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    write!(out, "{judged}")?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&judged.figures).expect("numbers with names are JSON"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A picture that was left out.
#[derive(Debug)]
pub struct BadPicture {
    path: PathBuf,
    reason: String,
}

impl fmt::Display for BadPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is left out: {}", self.path.display(), self.reason)
    }
}

/// What was judged on what, and how good it is.
#[derive(Debug)]
pub struct Judged {
    /// Name of the detector.
    pub detector: String,
    /// Name of the gender classifier, unless it was off.
    pub gender: Option<String>,
    /// Which rows of the manifest.
    pub rows: String,
    /// How good.
    pub figures: Figures,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { detector, gender, rows, figures } = self;
        let share = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.3}"));
        let number = |value: Option<usize>| value.map_or_else(|| "-".into(), |value| value.to_string());
        writeln!(f, "models           {detector}, gender {}", gender.as_deref().unwrap_or("off"))?;
        writeln!(f, "rows             {rows}")?;
        writeln!(f, "pictures         {} ({} could not be read)", figures.pictures, figures.bad_pictures)?;
        writeln!(f, "AP at IoU 0.5    {} ({} labelled faces)", share(figures.ap50), number(figures.faces))?;
        writeln!(
            f,
            "gender accuracy  {} (women {}, men {}), {} unknown",
            share(figures.gender_accuracy),
            share(figures.gender_accuracy_women),
            share(figures.gender_accuracy_men),
            share(figures.unknown_share)
        )?;
        writeln!(f, "no face found    {}", number(figures.no_face_found))?;
        writeln!(f, "ms per picture   {:.2}", figures.ms_per_picture)
    }
}

/// Judges the models on the folder; `on_bad` hears of every picture that is
/// left out.
///
/// # Errors
/// [`EvalError`].
pub fn judge(args: &EvalArgs, config: &VisionConfig, on_bad: impl Fn(&BadPicture)) -> Result<Judged, EvalError> {
    let dataset = Dataset::read(&args.data)?;
    let mut config = VisionConfig { stub_engine: None, ..config.clone() };
    config.detector = args.detector.clone().unwrap_or(config.detector);
    config.gender = args.gender.clone().unwrap_or(config.gender);
    let Manifest::Detector(detector) = models::list(&config.detector, &config.models_dir)?.manifest else {
        let reason = "kind = \"gender\", but a detector is wanted here".into();
        return Err(ModelError::Manifest { name: config.detector, reason }.into());
    };
    let face_score = config.score_threshold.unwrap_or(detector.thresholds.score);
    if let Some(side_px) = args.max_side {
        config.input_sizes = input_sizes(&detector.input, side_px);
        for size in &config.input_sizes {
            let refused = |allowed| EvalError::MaxSide { side_px, detector: config.detector.clone(), allowed };
            detector.input.admits(size.0).map_err(refused)?;
        }
    }
    let analyzer = Analyzer::load(&VisionConfig {
        score_threshold: Some(LEAST_SCORE.min(face_score)),
        nms_iou: Some(NMS_IOU),
        max_faces: MAX_DETECTIONS,
        min_face_px: 0.0,
        ..config.clone()
    })?;

    let mut judge = Judge {
        state: analyzer.spawn(),
        face_score,
        min_face_px: args.min_face,
        detections: DetectionTally::default(),
        genders: GenderTally::default(),
        no_face: None,
        time: Duration::ZERO,
    };
    let mut reader = PictureReader::new(config.max_picture.0, args.max_side);
    let (mut pictures, mut bad_pictures) = (0, 0);
    for row in &dataset.rows {
        match reader.read(&row.picture) {
            Ok(picture) => {
                let failed = |reason| EvalError::Engine { picture: row.picture.clone(), reason };
                judge.add(row, &picture).map_err(failed)?;
                pictures += 1;
            }
            Err(reason) => {
                on_bad(&BadPicture { path: row.picture.clone(), reason });
                bad_pictures += 1;
            }
        }
    }
    if pictures == 0 {
        return Err(EvalError::NoPicture(bad_pictures));
    }
    let Judge { detections, genders, no_face, time, .. } = judge;
    Ok(Judged {
        detector: analyzer.detector_name().into(),
        gender: analyzer.gender_name().map(Into::into),
        rows: dataset.chosen(),
        figures: Figures {
            pictures,
            bad_pictures,
            faces: detections.faces(),
            ap50: detections.average_precision(),
            gender_accuracy: genders.accuracy(),
            gender_accuracy_women: genders.women.share(),
            gender_accuracy_men: genders.men.share(),
            unknown_share: genders.unknown.share(),
            no_face_found: no_face,
            ms_per_picture: time.as_secs_f64() * 1e3 / pictures as f64,
        },
    })
}

/// Sizes at which a picture of this longer side is seen whole and unshrunk,
/// where the model takes more than one: square, and the two shapes of most
/// cameras, which cost less.
fn input_sizes(input: &InputSpec, side_px: u32) -> Vec<SizeText> {
    let Some(range) = input.range else { return vec![input.size] };
    let raised = |px: u32| px.max(range.min_px).next_multiple_of(range.multiple_px);
    let (long, short) = (raised(side_px), raised(side_px * 3 / 4));
    let mut sizes = vec![(long, long), (long, short), (short, long)];
    sizes.dedup();
    sizes.into_iter().map(|(width, height)| SizeText(PictureSize::new(width, height))).collect()
}

/// The models at work, and what came of it.
struct Judge {
    state: AnalyzerState,
    face_score: f32,
    min_face_px: f32,
    detections: DetectionTally,
    genders: GenderTally,
    no_face: Option<usize>,
    time: Duration,
}

impl Judge {
    fn add(&mut self, row: &Row, picture: &Picture) -> Result<(), String> {
        let start = Instant::now();
        let found = self.state.detect_rgb(picture.rgb, picture.size).map_err(|error| error.to_string())?.0;
        let faces = found.iter().filter(|face| face.score >= self.face_score);
        let largest = faces.max_by(|a, b| a.bounds.area().total_cmp(&b.bounds.area()));
        let estimate = match largest {
            Some(face) => {
                self.state.estimate_rgb(picture.rgb, picture.size, face).map_err(|error| error.to_string())?
            }
            None => None,
        };
        self.time += picture.time + start.elapsed();

        let mut shows_face = row.gender.is_some();
        if let Some(boxes) = &row.boxes {
            let truth: Vec<Bounds> = boxes.iter().map(|bounds| scaled(*bounds, picture.factor)).collect();
            shows_face |= truth.iter().any(|bounds| score::counts(*bounds, self.min_face_px));
            let detected: Vec<_> = found.iter().map(|Face { score, bounds, .. }| (*score, *bounds)).collect();
            self.detections.add(&detected, &truth, self.min_face_px);
        }
        if shows_face {
            *self.no_face.get_or_insert(0) += usize::from(largest.is_none());
        }
        if let (Some(label), Some(estimate)) = (row.gender, estimate) {
            self.genders.add(label, estimate);
        }
        Ok(())
    }
}

fn scaled(bounds: Bounds, factor: f32) -> Bounds {
    let Bounds { x, y, width, height } = bounds;
    Bounds { x: x * factor, y: y * factor, width: width * factor, height: height * factor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::models::manifest::{Colour, SideRange};

    fn input(range: Option<SideRange>) -> InputSpec {
        let size = "320x256".parse().expect("a size");
        InputSpec { size, also: Vec::new(), range, colour: Colour::Bgr, mean: vec![0.0; 3], scale: 1.0 }
    }

    #[test]
    fn sizes_by_table() {
        let range = Some(SideRange { multiple_px: 32, min_px: 64, max_px: 1920 });
        for (range, side_px, expected) in [
            (range, 320, vec!["320x320", "320x256", "256x320"]),
            (range, 416, vec!["416x416", "416x320", "320x416"]),
            (range, 300, vec!["320x320", "320x256", "256x320"]),
            (range, 32, vec!["64x64"]),
            (None, 416, vec!["320x256"]),
        ] {
            let sizes: Vec<String> = input_sizes(&input(range), side_px).into_iter().map(String::from).collect();
            assert_eq!(sizes, expected, "{side_px}");
        }
    }
}
