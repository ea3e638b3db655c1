//! What the figures mean. Pure: boxes, scores and labels in, shares out.
//!
//! Average precision as the reference figures have it: all-point, at an
//! overlap of 0.5. A labelled face that is too small is ignored: it is not
//! missed when it is not found, and finding it is not wrong; nor is finding
//! nothing in particular in a box that is itself too small.

use crate::vision::{Bounds, Gender, GenderEstimate};

/// Least overlap of a detection with the face that it is.
const MIN_IOU: f32 = 0.5;
/// A wrong detection is ignored below this share of the least side of a face:
/// detectors draw boxes more or less tightly.
const IGNORED_SHARE: f32 = 0.8;

/// Whether a labelled face counts: neither side is below `min_face_px`.
pub fn counts(truth: Bounds, min_face_px: f32) -> bool {
    truth.width.min(truth.height) >= min_face_px
}

/// Detections of all pictures so far.
#[derive(Debug, Clone, Default)]
pub struct DetectionTally {
    /// Score of each detection that was not ignored, and whether it is a face.
    judged: Vec<(f32, bool)>,
    /// Labelled faces that count; `None` before the first labelled picture.
    faces: Option<usize>,
}

impl DetectionTally {
    /// Adds one picture in which all faces are labelled: `detections` as score
    /// and box, `truth`, and the least side of a face that counts; all in the
    /// same pixels.
    ///
    /// Best score first, each detection takes the face that it overlaps most
    /// among those not yet taken.
    pub fn add(&mut self, detections: &[(f32, Bounds)], truth: &[Bounds], min_face_px: f32) {
        let (mut free, ignored): (Vec<Bounds>, Vec<Bounds>) =
            truth.iter().copied().partition(|bounds| counts(*bounds, min_face_px));
        *self.faces.get_or_insert(0) += free.len();
        let mut ordered: Vec<_> = detections.iter().collect();
        ordered.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        for (score, bounds) in ordered {
            let overlaps = free.iter().map(|face| bounds.iou(*face)).enumerate();
            let best = overlaps.filter(|(_, iou)| *iou >= MIN_IOU).max_by(|(_, a), (_, b)| a.total_cmp(b));
            if let Some((taken, _)) = best {
                free.swap_remove(taken);
                self.judged.push((*score, true));
            } else if ignored.iter().all(|face| bounds.iou(*face) < MIN_IOU)
                && bounds.width.min(bounds.height) >= IGNORED_SHARE * min_face_px
            {
                self.judged.push((*score, false));
            }
        }
    }

    /// Labelled faces that count; `None` when no picture was labelled.
    pub const fn faces(&self) -> Option<usize> {
        self.faces
    }

    /// Area under precision over recall, where the precision at a recall is
    /// the best at that recall or a higher one; 0 to 1. `None` without faces.
    pub fn average_precision(&self) -> Option<f64> {
        let faces = self.faces.filter(|faces| *faces > 0)?;
        let mut ordered = self.judged.clone();
        ordered.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut hits = 0;
        // Precision at each hit; between hits the recall stands still.
        let mut precisions = Vec::new();
        for (at, (_, is_face)) in ordered.iter().enumerate() {
            if *is_face {
                hits += 1;
                precisions.push(f64::from(hits) / (at + 1) as f64);
            }
        }
        let (mut best, mut sum) = (0f64, 0.0);
        for precision in precisions.into_iter().rev() {
            best = best.max(precision);
            sum += best;
        }
        Some(sum / faces as f64)
    }
}

/// How many of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    of: u64,
    those: u64,
}

impl Share {
    fn add(&mut self, is_one: bool) {
        self.of += 1;
        self.those += u64::from(is_one);
    }

    /// 0 to 1; `None` of nothing.
    pub fn share(self) -> Option<f64> {
        (self.of > 0).then(|| self.those as f64 / self.of as f64)
    }
}

/// Genders of all faces so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GenderTally {
    /// Right among those labelled female.
    pub women: Share,
    /// Right among those labelled male.
    pub men: Share,
    /// Those that the service would call unknown, among all.
    pub unknown: Share,
}

impl GenderTally {
    /// Adds one face. Right is what lies on its label's side of 0.5.
    pub fn add(&mut self, label: Gender, estimate: GenderEstimate) {
        match label {
            Gender::Female => self.women.add(estimate.female >= 0.5),
            Gender::Male => self.men.add(estimate.female < 0.5),
            // Nothing is known of it.
            Gender::Unknown => return,
        }
        self.unknown.add(estimate.gender == Gender::Unknown);
    }

    /// Right among all; `None` without a labelled face.
    pub fn accuracy(self) -> Option<f64> {
        let Self { women, men, .. } = self;
        Share { of: women.of + men.of, those: women.those + men.those }.share()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A square of 20 pixels, far from those of other numbers.
    fn face(number: u32) -> Bounds {
        Bounds { x: 100.0 * number as f32, y: 0.0, width: 20.0, height: 20.0 }
    }

    /// Detections and labelled faces of one picture.
    type Judged = (Vec<(f32, Bounds)>, Vec<Bounds>);

    fn ap(pictures: &[Judged], min_face_px: f32) -> Option<f64> {
        let mut tally = DetectionTally::default();
        for (detections, truth) in pictures {
            tally.add(detections, truth, min_face_px);
        }
        tally.average_precision()
    }

    fn assert_ap(pictures: &[Judged], min_face_px: f32, expected: f64) {
        let found = ap(pictures, min_face_px).expect("there are faces");
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}: {pictures:?}");
    }

    #[test]
    fn by_hand() {
        // Both found: 1. One of two: recall ends at a half.
        assert_ap(&[(vec![(0.9, face(0)), (0.8, face(1))], vec![face(0), face(1)])], 0.0, 1.0);
        assert_ap(&[(vec![(0.9, face(0))], vec![face(0), face(1)])], 0.0, 0.5);
        assert_ap(&[(vec![], vec![face(0)])], 0.0, 0.0);
        // Hit, miss, hit: precision 1 up to recall 1/2, then 2/3.
        let detections = vec![(0.9, face(0)), (0.8, face(5)), (0.7, face(1))];
        assert_ap(&[(detections, vec![face(0), face(1)])], 0.0, 0.5 + 0.5 * 2.0 / 3.0);
        // Miss, hit, hit: the envelope lifts 1/2 to 2/3.
        let detections = vec![(0.9, face(5)), (0.8, face(0)), (0.7, face(1))];
        assert_ap(&[(detections, vec![face(0), face(1)])], 0.0, 2.0 / 3.0);
        // A second box on the same face is wrong, but comes after all recall.
        assert_ap(&[(vec![(0.9, face(0)), (0.8, face(0))], vec![face(0)])], 0.0, 1.0);
        assert_ap(&[(vec![(0.9, face(0)), (0.8, face(0)), (0.7, face(1))], vec![face(0), face(1)])], 0.0, 5.0 / 6.0);
    }

    #[test]
    fn scores_are_compared_across_pictures() {
        // The wrong box of the empty picture comes between the two hits.
        let pictures = [
            (vec![(0.9, face(0))], vec![face(0)]),
            (vec![(0.8, face(0))], vec![]),
            (vec![(0.7, face(0))], vec![face(0)]),
        ];
        assert_ap(&pictures, 0.0, 0.5 + 0.5 * 2.0 / 3.0);
    }

    #[test]
    fn overlap_decides() {
        // 20 x 20 against 20 x 10 inside it: IoU 1/2 counts, a little less does not.
        let half = Bounds { height: 10.0, ..face(0) };
        assert_ap(&[(vec![(0.9, half)], vec![face(0)])], 0.0, 1.0);
        assert_ap(&[(vec![(0.9, Bounds { height: 9.9, ..half })], vec![face(0)])], 0.0, 0.0);
        // The better detection takes the face that it overlaps most, so that
        // the other one is left for the other: 21 of 39 and 24 of 36 columns.
        let (left, right) = (Bounds { width: 30.0, ..face(0) }, Bounds { x: 9.0, width: 30.0, ..face(0) });
        let between = Bounds { x: 6.0, width: 30.0, ..face(0) };
        assert_ap(&[(vec![(0.9, between), (0.8, left)], vec![left, right])], 0.0, 1.0);
    }

    #[test]
    fn small_faces_are_ignored() {
        let small = Bounds { width: 9.0, height: 30.0, ..face(1) };
        let truth = vec![face(0), small];
        // Not missed, and not wrong when found.
        assert_ap(&[(vec![(0.9, face(0))], truth.clone())], 10.0, 1.0);
        assert_ap(&[(vec![(0.95, small), (0.9, face(0))], truth.clone())], 10.0, 1.0);
        // Counted when nothing is too small.
        assert_ap(&[(vec![(0.9, face(0))], truth.clone())], 9.0, 0.5);
        // Wrong boxes: below 8 pixels ignored, from 8 on not.
        let wrong = |width| Bounds { width, height: 30.0, ..face(7) };
        assert_ap(&[(vec![(0.95, wrong(7.9)), (0.9, face(0))], truth.clone())], 10.0, 1.0);
        assert_ap(&[(vec![(0.95, wrong(8.0)), (0.9, face(0))], truth)], 10.0, 0.5);
    }

    #[test]
    fn nothing_labelled_is_not_zero() {
        assert_eq!(ap(&[], 0.0), None);
        assert_eq!(ap(&[(vec![(0.9, face(0))], vec![])], 0.0), None);
        let tally = GenderTally::default();
        assert_eq!((tally.accuracy(), tally.women.share(), tally.unknown.share()), (None, None, None));
        let mut empty = DetectionTally::default();
        assert_eq!(empty.faces(), None);
        empty.add(&[], &[], 0.0);
        assert_eq!(empty.faces(), Some(0));
    }

    #[test]
    fn genders_by_hand() {
        let mut tally = GenderTally::default();
        for (label, female) in [
            (Gender::Female, 0.9),
            (Gender::Female, 0.5),
            (Gender::Female, 0.4),
            (Gender::Male, 0.1),
            (Gender::Unknown, 0.1),
        ] {
            tally.add(label, GenderEstimate::new(female, 0.8));
        }
        assert_eq!(tally.women.share(), Some(2.0 / 3.0));
        assert_eq!((tally.men.share(), tally.accuracy(), tally.unknown.share()), (Some(1.0), Some(0.75), Some(0.5)));
    }

    /// The definition, word by word: for every hit the best precision at this
    /// or a later cut.
    fn slow_ap(mut judged: Vec<(f32, bool)>, faces: usize) -> f64 {
        judged.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let hits = |cut: usize| judged[..cut].iter().filter(|(_, is_face)| *is_face).count();
        let precision = |cut: usize| hits(cut) as f64 / cut as f64;
        let at_hits = (1..=judged.len()).filter(|cut| judged[cut - 1].1);
        at_hits.map(|cut| (cut..=judged.len()).map(precision).fold(0.0, f64::max)).sum::<f64>() / faces as f64
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(found in prop::collection::vec((0f32..1.0, any::<bool>()), 0..40), missed in 0usize..5) {
            // Each detection on a face of its own, or beside all.
            let hits = found.iter().filter(|(_, is_face)| *is_face).count();
            prop_assume!(hits + missed > 0);
            let mut tally = DetectionTally::default();
            for (score, is_face) in &found {
                let truth = if *is_face { vec![face(1)] } else { vec![] };
                tally.add(&[(*score, face(1))], &truth, 0.0);
            }
            tally.add(&[], &vec![face(1); missed], 0.0);
            let ap = tally.average_precision().expect("there are faces");
            prop_assert!((0.0..=1.0).contains(&ap));
            prop_assert!((ap - slow_ap(found, hits + missed)).abs() < 1e-9);
            // One more wrong detection, surer than all, only lowers it.
            tally.add(&[(2.0, face(1))], &[], 0.0);
            prop_assert!(tally.average_precision().expect("there are faces") <= ap);
        }
    }
}
