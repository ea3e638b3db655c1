//! Whether two sides find the same faces in the same pictures: ratios between
//! sides that do different work say nothing.

use anyhow::{Context, bail, ensure};
use flatframe_shared::r#gen::v1;
use inference_service::vision::Bounds;
use serde::Deserialize;

use super::client::Answer;

/// Two boxes that overlap by more than this show the same face.
const SAME_FACE_IOU: f32 = 0.5;
/// Probabilities of a gender may differ by this much: decoders, resizers and
/// crops round differently, and a gender is named from a threshold on.
const SAME_GENDER: f32 = 0.15;

/// One face as a side reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Where, in pixels of the picture.
    pub bounds: Bounds,
    /// Named gender: "female", "male" or "unknown".
    pub gender: String,
    /// Probability that it is a woman, 0 to 1.
    pub female: f32,
}

/// How well two sides agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Pictures compared.
    pub pictures: usize,
    /// Faces in them.
    pub faces: usize,
    /// Least overlap of a face with itself.
    pub least_iou: f32,
    /// Faces with the same named gender.
    pub same_gender: usize,
    /// Greatest difference of a face's probabilities.
    pub gender_difference: f32,
}

impl Default for Agreement {
    fn default() -> Self {
        Self { pictures: 0, faces: 0, least_iou: 1.0, same_gender: 0, gender_difference: 0.0 }
    }
}

impl Agreement {
    /// Compares one more picture.
    ///
    /// # Errors
    /// When the faces are not the same: another number, another place, or
    /// another gender. Between "unknown" and a gender the probability decides.
    pub fn add(&mut self, ours: &[Found], theirs: &[Found]) -> anyhow::Result<()> {
        let picture = self.pictures + 1;
        ensure!(
            ours.len() == theirs.len(),
            "picture {picture}: we find {} faces, the peer {}",
            ours.len(),
            theirs.len()
        );
        let mut left: Vec<&Found> = theirs.iter().collect();
        for face in ours {
            let overlap = |other: &&Found| face.bounds.iou(other.bounds);
            let best = (0..left.len()).max_by(|&a, &b| overlap(&left[a]).total_cmp(&overlap(&left[b])));
            let other = left.swap_remove(best.expect("as many faces are left as of ours"));
            let (iou, difference) = (overlap(&other), (face.female - other.female).abs());
            ensure!(iou > SAME_FACE_IOU, "picture {picture}: our face at {:?} is none of the peer's", face.bounds);
            let opposite =
                face.gender != other.gender && ![&face.gender, &other.gender].iter().any(|g| *g == "unknown");
            ensure!(
                !opposite && difference <= SAME_GENDER,
                "picture {picture}: the face at {:?} is {} ({:.2}) to us, {} ({:.2}) to the peer",
                face.bounds,
                face.gender,
                face.female,
                other.gender,
                other.female
            );
            self.least_iou = self.least_iou.min(iou);
            self.same_gender += usize::from(face.gender == other.gender);
            self.gender_difference = self.gender_difference.max(difference);
            self.faces += 1;
        }
        self.pictures = picture;
        Ok(())
    }

    /// Whether the comparison says anything.
    ///
    /// # Errors
    /// When there was no face in any picture.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.faces > 0, "there is no face in any of the {} pictures: use others", self.pictures);
        Ok(())
    }
}

/// The answer of the HTTP peer.
#[derive(Deserialize)]
struct HttpAnswer {
    faces: Vec<HttpFace>,
}

#[derive(Deserialize)]
struct HttpFace {
    r#box: [f32; 4],
    gender: String,
    female: f32,
}

/// The faces of an answer.
///
/// # Errors
/// When it is not an answer of the kind.
pub fn found(answer: Answer) -> anyhow::Result<Vec<Found>> {
    match answer {
        Answer::Grpc(answer) => answer.faces.iter().map(found_in).collect(),
        Answer::Http(json) => {
            let answer: HttpAnswer = serde_json::from_slice(&json).context("the HTTP peer's answer")?;
            let found = |HttpFace { r#box: [x, y, width, height], gender, female }| Found {
                bounds: Bounds { x, y, width, height },
                gender,
                female,
            };
            Ok(answer.faces.into_iter().map(found).collect())
        }
    }
}

fn found_in(face: &v1::Face) -> anyhow::Result<Found> {
    let bounds = face.r#box.context("a face without a box")?;
    let gender = match face.gender() {
        v1::Gender::Female => "female",
        v1::Gender::Male => "male",
        v1::Gender::Unknown => "unknown",
        v1::Gender::Unspecified => bail!("a face without gender"),
    };
    Ok(Found {
        bounds: Bounds { x: bounds.x_px, y: bounds.y_px, width: bounds.width_px, height: bounds.height_px },
        gender: gender.into(),
        female: face.female_probability.context("a face without a probability")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32, gender: &str, female: f32) -> Found {
        Found { bounds: Bounds { x, y: 0.0, width: 40.0, height: 40.0 }, gender: gender.into(), female }
    }

    #[test]
    fn the_same_in_another_order() {
        let mut agreement = Agreement::default();
        let ours = [face(0.0, "female", 0.9), face(100.0, "unknown", 0.79)];
        let theirs = [face(102.0, "female", 0.81), face(1.0, "female", 0.92)];
        agreement.add(&ours, &theirs).expect("the same faces");
        agreement.add(&[], &[]).expect("no face on either side");
        assert_eq!((agreement.pictures, agreement.faces, agreement.same_gender), (2, 2, 1));
        assert!((0.89..0.91).contains(&agreement.least_iou), "{agreement:?}");
        agreement.check().expect("there were faces");
    }

    #[test]
    fn other_work_is_refused() {
        let ours = [face(0.0, "female", 0.9)];
        for (theirs, says) in [
            (vec![], "we find 1 faces, the peer 0"),
            (vec![face(60.0, "female", 0.9)], "none of the peer's"),
            (vec![face(0.0, "male", 0.1)], "male"),
            (vec![face(0.0, "unknown", 0.6)], "unknown"),
        ] {
            let error = Agreement::default().add(&ours, &theirs).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(Agreement::default().check().is_err(), "no face says nothing");
    }

    #[test]
    fn answers_of_the_http_peer_are_read() {
        let json = r#"{"width": 9, "height": 9, "faces": [{"box": [1, 2, 3, 4.5], "score": 0.9, "landmarks": [[1, 2]],
                      "female": 0.25, "gender": "unknown"}]}"#;
        let found = found(Answer::Http(json.into())).expect("an answer");
        let bounds = Bounds { x: 1.0, y: 2.0, width: 3.0, height: 4.5 };
        assert_eq!(found, [Found { bounds, gender: "unknown".into(), female: 0.25 }]);
    }
}
