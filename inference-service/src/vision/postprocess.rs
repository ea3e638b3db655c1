//! The detector's numbers become faces: decode, best first, drop what overlaps
//! a better one, map back to the upright picture.
//!
//! Pure: no engine, no I/O, no async. Coordinates that are not finite, or far
//! from any picture, never become a face.

use flatframe_engine::{EngineError, InputShape};

use super::models::manifest::DetectorOutput;
use super::preprocess::Fit;
use super::{Bounds, Face, Point};

/// A possible face, in pixels of the model's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// 0 to 1.
    pub score: f32,
    /// May reach beyond the input.
    pub bounds: Bounds,
    /// As in [`Face::landmarks`].
    pub landmarks: Option<[Point; 5]>,
}

/// What makes a candidate a face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Least score, 0 to 1.
    pub score: f32,
    /// Greatest overlap with a better face, 0 to 1.
    pub nms_iou: f32,
    /// Least length of the shorter side, in pixels of the picture.
    pub min_face_px: f32,
    /// Most faces.
    pub max_faces: usize,
}

/// Reads one detector's outputs for one input shape.
pub struct Decoder {
    input: InputShape,
    family: Family,
    cells: usize,
}

enum Family {
    Anchors(Vec<Stride>),
    /// Scores are output 0, boxes output 1.
    Corners,
}

/// Where the values of one stride's cells lie.
struct Stride {
    pixels: f32,
    columns: usize,
    cells: usize,
    score: Score,
    bbox: Field,
    kps: Field,
}

enum Score {
    /// Geometric mean of two probabilities.
    Product(Field, Field),
    /// Before sigmoid.
    Logit(Field),
}

/// Value `v` of cell `c` is `output[start + c * cell_step + v * value_step]`.
struct Field {
    output: usize,
    start: usize,
    cell_step: usize,
    value_step: usize,
}

/// The values of a [`Field`].
struct View<'a> {
    values: &'a [f32],
    cell_step: usize,
    value_step: usize,
}

impl Field {
    fn view<'a>(&self, outputs: &impl Fn(usize) -> &'a [f32]) -> View<'a> {
        let values = &outputs(self.output)[self.start..];
        View { values, cell_step: self.cell_step, value_step: self.value_step }
    }
}

impl View<'_> {
    fn get(&self, cell: usize, value: usize) -> f32 {
        self.values[cell * self.cell_step + value * self.value_step]
    }
}

/// Values of a Flatface cell: score, box, landmarks.
const HEAD_VALUES: usize = 15;

impl Decoder {
    /// Names of the outputs it reads, in the order in which it reads them.
    pub fn output_names(spec: &DetectorOutput) -> Vec<String> {
        match spec {
            DetectorOutput::Yunet { strides, cls, obj, bbox, kps } => {
                let names = |stride| [cls, obj, bbox, kps].map(|prefix| format!("{prefix}{stride}"));
                strides.iter().flat_map(names).collect()
            }
            DetectorOutput::Flatface { strides, head } => {
                strides.iter().map(|stride| format!("{head}{stride}")).collect()
            }
            DetectorOutput::Ultraface { scores, boxes } => vec![scores.clone(), boxes.clone()],
        }
    }

    /// A decoder of these outputs. Fails when their shapes are not what the
    /// family has at this input, so that decoding cannot read beyond them.
    pub fn new(spec: &DetectorOutput, input: InputShape, shapes: &[Vec<usize>]) -> Result<Self, String> {
        let grid = |stride: u32| (input.height / stride as usize, input.width / stride as usize);
        let (family, expected) = match spec {
            DetectorOutput::Yunet { strides, .. } => {
                let (mut all, mut expected) = (Vec::new(), Vec::new());
                for (at, &stride) in strides.iter().enumerate() {
                    let (rows, columns) = grid(stride);
                    let cells = rows * columns;
                    let field = |output, values| Field { output, start: 0, cell_step: values, value_step: 1 };
                    let score = Score::Product(field(4 * at, 1), field(4 * at + 1, 1));
                    let (bbox, kps) = (field(4 * at + 2, 4), field(4 * at + 3, 10));
                    all.push(Stride { pixels: stride as f32, columns, cells, score, bbox, kps });
                    expected.extend([1, 1, 4, 10].map(|values| vec![1, cells, values]));
                }
                (Family::Anchors(all), expected)
            }
            DetectorOutput::Flatface { strides, .. } => {
                let (mut all, mut expected) = (Vec::new(), Vec::new());
                for (output, &stride) in strides.iter().enumerate() {
                    let (rows, columns) = grid(stride);
                    let cells = rows * columns;
                    let field = |value| Field { output, start: value * cells, cell_step: 1, value_step: cells };
                    let (score, bbox, kps) = (Score::Logit(field(0)), field(1), field(5));
                    all.push(Stride { pixels: stride as f32, columns, cells, score, bbox, kps });
                    expected.push(vec![1, HEAD_VALUES, rows, columns]);
                }
                (Family::Anchors(all), expected)
            }
            DetectorOutput::Ultraface { .. } => {
                let boxes = shapes.first().and_then(|shape| shape.get(1)).copied().unwrap_or(0);
                (Family::Corners, vec![vec![1, boxes, 2], vec![1, boxes, 4]])
            }
        };
        if shapes != expected {
            return Err(format!("its outputs have shapes {shapes:?}, this decoder reads {expected:?}"));
        }
        let cells = match &family {
            Family::Anchors(strides) => strides.iter().map(|stride| stride.cells).sum(),
            Family::Corners => expected[0][1],
        };
        Ok(Self { input, family, cells })
    }

    /// Most candidates that one picture can give.
    pub fn max_candidates(&self) -> usize {
        self.cells
    }

    /// Fills `candidates` with all that score at least `min_score`, in no
    /// order. `outputs` gives the values of an output by its index.
    ///
    /// Fails when a score is not a number: a broken answer must not pass for
    /// "no faces".
    pub fn decode<'a>(
        &self,
        outputs: impl Fn(usize) -> &'a [f32],
        min_score: f32,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), EngineError> {
        candidates.clear();
        match &self.family {
            Family::Anchors(strides) => {
                for stride in strides {
                    stride.decode(&outputs, min_score, candidates)?;
                }
            }
            Family::Corners => {
                let (width, height) = (self.input.width as f32, self.input.height as f32);
                for (scores, corners) in outputs(0).chunks_exact(2).zip(outputs(1).chunks_exact(4)) {
                    let (x, y) = (corners[0] * width, corners[1] * height);
                    let bounds = Bounds { x, y, width: corners[2] * width - x, height: corners[3] * height - y };
                    if reaches(scores[1], min_score)? && is_box(bounds) {
                        // A model that is not what its manifest says may answer more than 1.
                        candidates.push(Candidate { score: scores[1].min(1.0), bounds, landmarks: None });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Stride {
    /// Adds the faces of one stride.
    ///
    /// Formulas: OpenCV `modules/objdetect/src/face_detect.cpp`,
    /// `FaceDetectorYNImpl::postProcess`.
    fn decode<'a>(
        &self,
        outputs: &impl Fn(usize) -> &'a [f32],
        min_score: f32,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), EngineError> {
        let (bbox, kps) = (self.bbox.view(outputs), self.kps.view(outputs));
        let (first, second) = match &self.score {
            Score::Product(cls, obj) => (cls.view(outputs), Some(obj.view(outputs))),
            Score::Logit(logit) => (logit.view(outputs), None),
        };
        for cell in 0..self.cells {
            let score = match &second {
                Some(second) => (first.get(cell, 0).clamp(0.0, 1.0) * second.get(cell, 0).clamp(0.0, 1.0)).sqrt(),
                None => sigmoid(first.get(cell, 0)),
            };
            if !reaches(score, min_score)? {
                continue;
            }
            let (column, row) = ((cell % self.columns) as f32, (cell / self.columns) as f32);
            let place = |view: &View, value| Point {
                x: (column + view.get(cell, value)) * self.pixels,
                y: (row + view.get(cell, value + 1)) * self.pixels,
            };
            let length = |value| bbox.get(cell, value).exp() * self.pixels;
            let (centre, width, height) = (place(&bbox, 0), length(2), length(3));
            let bounds = Bounds { x: centre.x - width / 2.0, y: centre.y - height / 2.0, width, height };
            let landmarks = std::array::from_fn(|point| place(&kps, 2 * point));
            if is_box(bounds) && landmarks.iter().all(|point: &Point| is_near(point.x) && is_near(point.y)) {
                candidates.push(Candidate { score, bounds, landmarks: Some(landmarks) });
            }
        }
        Ok(())
    }
}

fn reaches(score: f32, min_score: f32) -> Result<bool, EngineError> {
    if score.is_nan() {
        return Err(EngineError("the detector answered with a score that is not a number".into()));
    }
    Ok(score >= min_score)
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

fn is_box(bounds: Bounds) -> bool {
    let Bounds { x, y, width, height } = bounds;
    [x, y, width, height].into_iter().all(is_near) && width > 0.0 && height > 0.0
}

/// Whether a coordinate can belong to a picture; false for what is not finite.
fn is_near(pixels: f32) -> bool {
    pixels.abs() <= 1e5
}

/// The faces among `candidates`, best score first and at most
/// `limits.max_faces`, in pixels of the upright picture; and whether there
/// were more. Reorders `candidates`.
///
/// Greedy non-maximum suppression: of two that overlap too much the one with
/// the better score stays.
pub fn select(candidates: &mut [Candidate], fit: &Fit, limits: &Limits) -> (Vec<Face>, bool) {
    candidates.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
    let mut faces = Vec::new();
    for at in 0..candidates.len() {
        let candidate = candidates[at];
        // The first `faces.len()` candidates are those that became faces.
        let covered = |kept: &Candidate| kept.bounds.iou(candidate.bounds) > limits.nms_iou;
        if candidates[..faces.len()].iter().any(covered) {
            continue;
        }
        let bounds = fit.bounds_in_picture(candidate.bounds);
        if bounds.width.min(bounds.height) < limits.min_face_px.max(1.0) {
            continue;
        }
        if faces.len() == limits.max_faces {
            return (faces, true);
        }
        candidates.swap(faces.len(), at);
        let landmarks = candidate.landmarks.map(|points| points.map(|point| fit.point_in_picture(point)));
        faces.push(Face { bounds, score: candidate.score, landmarks, gender: None });
    }
    (faces, false)
}

#[cfg(test)]
mod tests;
