//! How good trajectories are, by the measures of the literature.
//!
//! - MOTA and identity switches: Bernardin and Stiefelhagen 2008, "Evaluating
//!   multiple object tracking performance: the CLEAR MOT metrics", at IoU 0.5.
//! - IDF1: Ristani et al. 2016, "Performance measures and a data set for
//!   multi-target, multi-camera tracking": one global pairing of true and
//!   predicted trajectories, at IoU 0.5.
//! - HOTA with its parts DetA and AssA: Luiten et al. 2021, "HOTA: a higher
//!   order metric for evaluating multi-object tracking", mean over IoU
//!   thresholds 0.05, 0.10 to 0.95; pairs per frame are found once, by IoU
//!   weighted with how well the trajectories agree overall, as the authors'
//!   own program (TrackEval) does.
//!
//! And what a count is about: visits counted, missed, counted too much, and
//! their gender.

use std::collections::HashMap;

use inference_service::people::track::TrackId;
use inference_service::vision::{Bounds, Gender};
use serde_json::{Map, Value, json};

use super::Followed;
use super::pairing::best;
use super::scene::Scene;

/// The boxes of one frame, each with the number of its trajectory; no number
/// twice.
pub type Boxes = Vec<(u64, Bounds)>;

/// Overlap from which a predicted box is the true one, for MOTA and IDF1.
const IOU: f64 = 0.5;
/// Thresholds of HOTA: so many steps of 0.05.
const HOTA_STEPS: usize = 19;

/// Scores of trajectories.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TrajectoryScore {
    /// Share of boxes with the right identity throughout, 0 to 1.
    pub idf1: f64,
    /// Geometric mean of detection and association, 0 to 1.
    pub hota: f64,
    /// Its part about detections, 0 to 1.
    pub det_a: f64,
    /// Its part about associations, 0 to 1.
    pub ass_a: f64,
    /// 1 less the errors per true box; may be below 0.
    pub mota: f64,
    /// Times that a true trajectory went on under another number.
    pub id_switches: f64,
}

/// True and predicted trajectories of a scene, numbered without holes.
#[derive(Debug)]
pub struct Trajectories {
    true_ids: Vec<u64>,
    predicted_ids: Vec<u64>,
    /// By frame: numbers of the true and the predicted boxes, and the overlap
    /// of each pair (IoU), true ones by row.
    frames: Vec<(Vec<usize>, Vec<usize>, Vec<f64>)>,
    true_frames: Vec<f64>,
    predicted_frames: Vec<f64>,
}

impl Trajectories {
    /// Takes both, frame by frame.
    pub fn new(truth: &[Boxes], predicted: &[Boxes]) -> Self {
        let (mut true_numbers, mut predicted_numbers) = (Numbers::default(), Numbers::default());
        let frames = truth.iter().zip(predicted).map(|(truth, predicted)| {
            let overlaps =
                truth.iter().flat_map(|(_, a)| predicted.iter().map(|(_, b)| f64::from(a.iou(*b)))).collect();
            (true_numbers.count(truth), predicted_numbers.count(predicted), overlaps)
        });
        let frames = frames.collect();
        Self {
            frames,
            true_ids: true_numbers.ids,
            predicted_ids: predicted_numbers.ids,
            true_frames: true_numbers.frames,
            predicted_frames: predicted_numbers.frames,
        }
    }

    /// All scores.
    pub fn score(&self) -> TrajectoryScore {
        let boxes = self.true_frames.iter().sum::<f64>() + self.predicted_frames.iter().sum::<f64>();
        let agreed = self.agreed();
        let id_true_positives: f64 = self
            .identities_of(&agreed)
            .iter()
            .enumerate()
            .filter_map(|(row, column)| Some(agreed[row * self.predicted_ids.len() + (*column)?]))
            .sum();
        let (mota, id_switches) = self.clear();
        let [hota, det_a, ass_a] = self.hota();
        TrajectoryScore { idf1: 2.0 * id_true_positives / boxes.max(1.0), hota, det_a, ass_a, mota, id_switches }
    }

    /// True trajectories with the predicted one that is most theirs, one to
    /// one, as IDF1 pairs them.
    pub fn identities(&self) -> HashMap<u64, u64> {
        let pairs = self.identities_of(&self.agreed());
        let pairs = pairs.into_iter().enumerate();
        pairs.filter_map(|(row, column)| Some((self.true_ids[row], self.predicted_ids[column?]))).collect()
    }

    fn identities_of(&self, agreed: &[f64]) -> Vec<Option<usize>> {
        let columns = self.predicted_ids.len();
        best(self.true_ids.len(), columns, |row, column| agreed[row * columns + column])
    }

    /// Frames in which a true and a predicted trajectory overlap, for each
    /// pair.
    fn agreed(&self) -> Vec<f64> {
        let columns = self.predicted_ids.len();
        let mut agreed = vec![0.0; self.true_ids.len() * columns];
        self.each_pair(|a, b, iou| agreed[a * columns + b] += if iou >= IOU { 1.0 } else { 0.0 });
        agreed
    }

    fn each_pair(&self, mut visit: impl FnMut(usize, usize, f64)) {
        for (truth, predicted, overlaps) in &self.frames {
            for (row, a) in truth.iter().enumerate() {
                for (column, b) in predicted.iter().enumerate() {
                    visit(*a, *b, overlaps[row * predicted.len() + column]);
                }
            }
        }
    }

    /// MOTA and identity switches. A pair that was one in the frame before
    /// stays one while it overlaps.
    fn clear(&self) -> (f64, f64) {
        let (mut hits, mut errors, mut switches) = (0.0, 0.0, 0.0);
        let mut ever = vec![None; self.true_ids.len()];
        let mut before: Vec<Option<usize>> = ever.clone();
        for (truth, predicted, overlaps) in &self.frames {
            let pairs = best(truth.len(), predicted.len(), |row, column| {
                let iou = overlaps[row * predicted.len() + column];
                let kept = before[truth[row]] == Some(predicted[column]);
                if iou < IOU { 0.0 } else { iou + if kept { 1000.0 } else { 0.0 } }
            });
            before.fill(None);
            for (row, column) in pairs.iter().enumerate() {
                let Some(column) = column else { continue };
                let (a, b) = (truth[row], predicted[*column]);
                if ever[a].is_some_and(|earlier| earlier != b) {
                    switches += 1.0;
                }
                (ever[a], before[a]) = (Some(b), Some(b));
                hits += 1.0;
            }
            let paired = pairs.iter().flatten().count();
            errors += (predicted.len() - paired) as f64;
        }
        let boxes: f64 = self.true_frames.iter().sum();
        ((hits - errors - switches) / boxes.max(1.0), switches)
    }

    /// HOTA, DetA, AssA.
    fn hota(&self) -> [f64; 3] {
        let columns = self.predicted_ids.len();
        let union = |agreed: f64, a: usize, b: usize| self.true_frames[a] + self.predicted_frames[b] - agreed;
        // How much of two trajectories lies on each other, each frame shared
        // out among the boxes that overlap in it.
        let mut shared = vec![0.0; self.true_ids.len() * columns];
        for (truth, predicted, overlaps) in &self.frames {
            let row_sum = |row: usize| overlaps[row * predicted.len()..][..predicted.len()].iter().sum::<f64>();
            let column_sum = |column: usize| (0..truth.len()).map(|row| overlaps[row * predicted.len() + column]).sum();
            let rows: Vec<f64> = (0..truth.len()).map(row_sum).collect();
            let sums: Vec<f64> = (0..predicted.len()).map(column_sum).collect();
            for (row, a) in truth.iter().enumerate() {
                for (column, b) in predicted.iter().enumerate() {
                    let iou = overlaps[row * predicted.len() + column];
                    let all = rows[row] + sums[column] - iou;
                    if all > f64::EPSILON {
                        shared[a * columns + b] += iou / all;
                    }
                }
            }
        }
        let mut hits = vec![HashMap::<(usize, usize), f64>::new(); HOTA_STEPS];
        for (truth, predicted, overlaps) in &self.frames {
            let iou = |row: usize, column: usize| overlaps[row * predicted.len() + column];
            let pairs = best(truth.len(), predicted.len(), |row, column| {
                let (a, b) = (truth[row], predicted[column]);
                let agreed = shared[a * columns + b];
                iou(row, column) * agreed / union(agreed, a, b)
            });
            for (row, column) in pairs.iter().enumerate() {
                let Some(column) = *column else { continue };
                for (step, hits) in hits.iter_mut().enumerate() {
                    if iou(row, column) >= 0.05 * (step + 1) as f64 - f64::EPSILON {
                        *hits.entry((truth[row], predicted[column])).or_default() += 1.0;
                    }
                }
            }
        }
        let boxes = self.true_frames.iter().sum::<f64>() + self.predicted_frames.iter().sum::<f64>();
        let mut mean = [0.0; 3];
        for hits in &hits {
            let found: f64 = hits.values().sum();
            let det_a = found / (boxes - found).max(1.0);
            let ass_a: f64 = hits.iter().map(|(&(a, b), n)| n * n / union(*n, a, b).max(1.0)).sum();
            let ass_a = ass_a / found.max(1.0);
            for (mean, value) in mean.iter_mut().zip([(det_a * ass_a).sqrt(), det_a, ass_a]) {
                *mean += value / HOTA_STEPS as f64;
            }
        }
        mean
    }
}

/// Numbers trajectories from 0 in the order in which they come.
#[derive(Default)]
struct Numbers {
    by_id: HashMap<u64, usize>,
    ids: Vec<u64>,
    frames: Vec<f64>,
}

impl Numbers {
    fn count(&mut self, boxes: &Boxes) -> Vec<usize> {
        let number = |(id, _): &(u64, Bounds)| {
            let number = *self.by_id.entry(*id).or_insert_with(|| {
                self.ids.push(*id);
                self.frames.push(0.0);
                self.ids.len() - 1
            });
            self.frames[number] += 1.0;
            number
        };
        boxes.iter().map(number).collect()
    }
}

/// All scores of one scene.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// The tracker's trajectories.
    pub tracked: TrajectoryScore,
    /// What a tracker that knows the truth would have got with the same
    /// detections.
    pub ceiling: TrajectoryScore,
    /// Visits that a count must contain: [`Scene::countable`].
    pub countable: f64,
    /// Of these, visits that the detector saw in as many frames: more than
    /// them no tracker can count.
    pub detected: f64,
    /// Visits that the tracker counted.
    pub counted: f64,
    /// Countable visits without a track of their own.
    pub missed: f64,
    /// Counted visits that are nobody's: false faces, or a second one for the
    /// same visit.
    pub extra: f64,
    /// Counted visits that got the right gender, where the truth is told.
    pub gender_right: f64,
    /// Counted visits that got the wrong gender.
    pub gender_wrong: f64,
    /// Counted visits whose gender stayed unknown.
    pub gender_unknown: f64,
    /// Median time of the tracker per frame, in microseconds.
    pub frame_us: f64,
}

/// Where one figure lies.
type Field = fn(&mut Score) -> &mut f64;

impl Score {
    /// Puts together what was measured.
    pub fn new(
        scene: &Scene,
        followed: &Followed,
        confirm_frames: u32,
        tracked: TrajectoryScore,
        ceiling: TrajectoryScore,
    ) -> Self {
        let identities = Trajectories::new(&scene.truth(), &followed.frames).identities();
        let genders: HashMap<TrackId, Gender> = followed.visits.iter().map(|visit| (visit.id, visit.gender)).collect();
        let mut score = Self { tracked, ceiling, counted: followed.visits.len() as f64, ..Self::default() };
        for (number, visit) in scene.countable(confirm_frames) {
            score.countable += 1.0;
            score.detected += f64::from(u8::from(visit.detections >= confirm_frames));
            let named = identities.get(&(number as u64)).and_then(|id| genders.get(&TrackId(*id)));
            *match named {
                None => &mut score.missed,
                Some(_) if visit.gender == Gender::Unknown => continue,
                Some(Gender::Unknown) => &mut score.gender_unknown,
                Some(gender) if *gender == visit.gender => &mut score.gender_right,
                Some(_) => &mut score.gender_wrong,
            } += 1.0;
        }
        score.extra = score.counted - identities.len() as f64;
        score.frame_us = median(followed.times.iter().map(|time| time.as_secs_f64() * 1e6));
        score
    }

    /// By how much the count is off, as a share of the truth; above 0: too
    /// many.
    pub fn count_error(&self) -> f64 {
        (self.counted - self.countable) / self.countable.max(1.0)
    }

    const FIELDS: [(&str, Field); 21] = [
        ("idf1", |s| &mut s.tracked.idf1),
        ("hota", |s| &mut s.tracked.hota),
        ("det_a", |s| &mut s.tracked.det_a),
        ("ass_a", |s| &mut s.tracked.ass_a),
        ("mota", |s| &mut s.tracked.mota),
        ("id_switches", |s| &mut s.tracked.id_switches),
        ("ceiling_idf1", |s| &mut s.ceiling.idf1),
        ("ceiling_hota", |s| &mut s.ceiling.hota),
        ("ceiling_det_a", |s| &mut s.ceiling.det_a),
        ("ceiling_ass_a", |s| &mut s.ceiling.ass_a),
        ("ceiling_mota", |s| &mut s.ceiling.mota),
        ("ceiling_id_switches", |s| &mut s.ceiling.id_switches),
        ("visits_countable", |s| &mut s.countable),
        ("visits_detected", |s| &mut s.detected),
        ("visits_counted", |s| &mut s.counted),
        ("visits_missed", |s| &mut s.missed),
        ("visits_extra", |s| &mut s.extra),
        ("gender_right", |s| &mut s.gender_right),
        ("gender_wrong", |s| &mut s.gender_wrong),
        ("gender_unknown", |s| &mut s.gender_unknown),
        ("frame_us", |s| &mut s.frame_us),
    ];

    /// Each figure's median over scenes; all 0 without one.
    pub fn median_of(scores: &[Self]) -> Self {
        let mut medians = Self::default();
        for (_, field) in Self::FIELDS {
            *field(&mut medians) = median(scores.iter().map(|score| *field(&mut score.clone())));
        }
        medians
    }

    /// The figures by name.
    pub fn json(mut self) -> Map<String, Value> {
        Self::FIELDS.iter().map(|(name, field)| (name.to_string(), json!(*field(&mut self)))).collect()
    }
}

/// The middle value, of an even number the mean of both; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (len, middle) if len % 2 == 1 => values[middle],
        (_, middle) => (values[middle - 1] + values[middle]) / 2.0,
    }
}
