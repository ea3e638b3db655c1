//! A known picture with a known answer, so that a wrong model or manifest ends
//! the start and not the results.
//!
//! Judges answers only; it is the analyzer that runs the models.

use flatframe_shared::frame::PictureSize;

use super::postprocess::Limits;
use super::{Analysis, Bounds, Gender};

/// NASA's portrait of Eileen Collins, public domain; see `assets/README.md`.
pub const PICTURE: &[u8] = include_bytes!("../../assets/astronaut.jpg");
/// Size of [`PICTURE`].
pub const MAX_PICTURE: PictureSize = PictureSize::new(256, 256);
/// Limits that keep every face; score and overlap are the manifest's.
pub const LIMITS: Limits = Limits { score: 0.5, nms_iou: 0.3, min_face_px: 0.0, max_faces: 16 };

/// Where her face is, in pixels: between the boxes that YuNet-n and UltraFace
/// RFB-320 give with ONNX Runtime 1.31.1.
const FACE: Bounds = Bounds { x: 93.0, y: 50.0, width: 71.0, height: 91.0 };
/// Detectors draw their boxes more or less tightly.
const MIN_IOU: f32 = 0.5;

/// Whether `analysis` of [`PICTURE`] is right; otherwise what is wrong.
pub fn check(analysis: &Analysis) -> Result<(), String> {
    let [face] = analysis.faces.as_slice() else {
        return Err(format!("expected one face in the known picture, found {}", analysis.faces.len()));
    };
    let iou = face.bounds.iou(FACE);
    if iou < MIN_IOU {
        return Err(format!("expected the face at {FACE:?}, found it at {:?} (overlap {iou:.2})", face.bounds));
    }
    match face.gender {
        // Only the likelier side counts: how sure is for the operator to say.
        Some(estimate) if estimate.female > 0.5 => Ok(()),
        Some(estimate) => {
            Err(format!("expected {:?}, found a probability of {:.2} for it", Gender::Female, estimate.female))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{Face, GenderEstimate, Timings};

    #[test]
    fn only_the_right_answer_passes() {
        let face = |bounds, female| Face {
            bounds,
            score: 0.9,
            landmarks: None,
            gender: Some(GenderEstimate::new(female, 0.9)),
        };
        let elsewhere = Bounds { x: 10.0, ..FACE };
        for (faces, says) in [
            (vec![face(FACE, 0.8)], None),
            (vec![Face { gender: None, ..face(FACE, 0.8) }], None),
            (vec![], Some("found 0")),
            (vec![face(FACE, 0.8), face(elsewhere, 0.8)], Some("found 2")),
            (vec![face(elsewhere, 0.8)], Some("overlap")),
            (vec![face(FACE, 0.2)], Some("Female")),
            (vec![face(FACE, f32::NAN)], Some("Female")),
        ] {
            let analysis =
                Analysis { size: MAX_PICTURE, faces, truncated: false, timings: Timings::default(), look: None };
            match (check(&analysis), says) {
                (Ok(()), None) => (),
                (Err(reason), Some(says)) => assert!(reason.contains(says), "{reason}"),
                (result, says) => panic!("{result:?}, expected {says:?}: {analysis:?}"),
            }
        }
    }
}
