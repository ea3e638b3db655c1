//! Clips with real people as scenes: the models find the faces, and who is who
//! is known because the people keep their places from left to right.
//!
//! Where a face is, only the detector says: the true box of a person is the one
//! found at their place, or, in a frame in which none was, the last one. So the
//! scores tell of identities and of faces that were missed, not of how exact
//! the boxes are.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use flatframe_shared::frame::Rotation;
use inference_service::vision::{AnalyzerState, Bounds, Face, Gender};

use super::pairing::best;
use super::scene::{Scene, SceneFrame, Visit};
use crate::media::{mjpeg_frames, split_jpegs};

/// How far a face may be from its person's last place, in widths of it.
const REACH: f64 = 1.5;

/// A clip whose people are known.
#[derive(Debug, Clone, Copy)]
pub struct Clip {
    /// Its file.
    pub file: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// Its frames per second.
    pub fps: f64,
    /// The people in every frame, from left to right; `Unknown`: not told.
    pub people: &'static [Gender],
}

/// The clips with known answers.
pub const CLIPS: [Clip; 3] = [
    Clip {
        file: "face-demographics-walking-and-pause.mjpeg",
        name: "clip of three",
        fps: 12.5,
        people: &[Gender::Female, Gender::Male, Gender::Female],
    },
    Clip { file: "classroom.mjpeg", name: "clip of four, small", fps: 12.5, people: &[Gender::Unknown; 4] },
    Clip { file: "asl_walk_female_640x480.mp4", name: "clip of one", fps: 30.0, people: &[Gender::Female] },
];

impl Clip {
    /// What the models find in each of its frames.
    ///
    /// # Errors
    /// When the file cannot be read (a film needs the program ffmpeg), or a
    /// frame cannot be analysed.
    pub fn analyze(&self, folder: &Path, state: &mut AnalyzerState) -> anyhow::Result<Analyzed> {
        let path = folder.join(self.file);
        let analyses = frames(&path)?.into_iter().map(|jpeg| Ok(state.analyze(&jpeg, Rotation::None)?));
        let analyses: Vec<_> = analyses.collect::<anyhow::Result<_>>().with_context(|| self.file)?;
        let size = analyses.first().with_context(|| format!("{} has no frame", self.file))?.size;
        Ok(Analyzed { clip: *self, size, faces: analyses.into_iter().map(|analysis| analysis.faces).collect() })
    }
}

/// A clip in which the faces were found.
#[derive(Debug)]
pub struct Analyzed {
    clip: Clip,
    size: flatframe_shared::frame::PictureSize,
    faces: Vec<Vec<Face>>,
}

impl Analyzed {
    /// The clip as a scene of so many frames a second, at most as many as it
    /// has.
    ///
    /// # Errors
    /// When no frame shows as many faces as there are people, so that nothing
    /// says who is who.
    pub fn scene(&self, fps: f64) -> anyhow::Result<Scene> {
        let people = self.clip.people.len();
        let all = self.faces.iter().find(|faces| faces.len() == people);
        let mut places: Vec<Bounds> = all
            .with_context(|| format!("no frame of {} shows {people} faces", self.clip.file))?
            .iter()
            .map(|f| f.bounds)
            .collect();
        places.sort_by(|a, b| a.x.total_cmp(&b.x));
        let visit = |(person, gender): (usize, &Gender)| Visit { person, gender: *gender, frames: 0, detections: 0 };
        let mut visits: Vec<Visit> = self.clip.people.iter().enumerate().map(visit).collect();
        let (mut frames, mut next) = (Vec::new(), 0.0);
        for (number, faces) in self.faces.iter().enumerate() {
            let at = number as f64 / self.clip.fps;
            let origins = who(&places, faces);
            for (face, person) in faces.iter().zip(&origins).filter_map(|(face, person)| Some((face, (*person)?))) {
                places[person] = face.bounds;
            }
            ensure!(places.is_sorted_by(|a, b| a.x < b.x), "the people of {} change places", self.clip.file);
            if at + f64::EPSILON < next {
                continue;
            }
            next += 1.0 / fps;
            for person in origins.iter().flatten() {
                visits[*person].detections += 1;
            }
            visits.iter_mut().for_each(|visit| visit.frames += 1);
            let truth = places.iter().enumerate().map(|(person, bounds)| (person as u64, *bounds)).collect();
            frames.push(SceneFrame { at: Duration::from_secs_f64(at), faces: faces.clone(), origins, truth });
        }
        Ok(Scene { size: self.size, frames, visits })
    }
}

/// Whose face each one is: the person whose last place is nearest.
fn who(places: &[Bounds], faces: &[Face]) -> Vec<Option<usize>> {
    let middle = |b: Bounds| (f64::from(b.x + b.width / 2.0), f64::from(b.y + b.height / 2.0));
    best(faces.len(), places.len(), |face, person| {
        let (place, found) = (places[person], faces[face].bounds);
        let ((ax, ay), (bx, by)) = (middle(place), middle(found));
        (1.0 - (ax - bx).hypot(ay - by) / (REACH * f64::from(place.width))).max(0.0)
    })
}

/// The pictures of a clip; of a film by ffmpeg.
fn frames(path: &Path) -> anyhow::Result<Vec<Bytes>> {
    if path.extension().is_some_and(|extension| extension == "mjpeg") {
        return mjpeg_frames(path).with_context(|| format!("read {}", path.display()));
    }
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(path).args(["-c:v", "mjpeg", "-q:v", "2", "-f", "mjpeg", "-"]);
    let output = ffmpeg.output().context("run ffmpeg, which reads films: install it")?;
    ensure!(output.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(split_jpegs(output.stdout.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32) -> Face {
        let bounds = Bounds { x, y: 50.0, width: 20.0, height: 24.0 };
        Face { bounds, score: 0.9, landmarks: None, gender: None }
    }

    #[test]
    fn who_is_missed_keeps_their_place_and_what_is_nobody_is_nobodys() {
        let clip = Clip { file: "x", name: "x", fps: 10.0, people: &[Gender::Female, Gender::Male] };
        // Found right to left; one missed; both, and something far away.
        let faces = vec![vec![face(100.0), face(10.0)], vec![face(103.0)], vec![face(13.0), face(300.0), face(106.0)]];
        let analyzed = Analyzed { clip, size: flatframe_shared::frame::PictureSize::new(400, 100), faces };
        let scene = analyzed.scene(10.0).expect("two people");
        let origins: Vec<_> = scene.frames.iter().map(|frame| frame.origins.clone()).collect();
        assert_eq!(origins, [vec![Some(1), Some(0)], vec![Some(1)], vec![Some(0), None, Some(1)]]);
        let xs = |frame: usize| scene.frames[frame].truth.iter().map(|(_, bounds)| bounds.x).collect::<Vec<_>>();
        assert_eq!((xs(1), xs(2)), (vec![10.0, 103.0], vec![13.0, 106.0]));
        assert_eq!(
            scene.visits.iter().map(|visit| (visit.frames, visit.detections)).collect::<Vec<_>>(),
            [(3, 2), (3, 3)]
        );
        assert_eq!(analyzed.scene(5.0).expect("thinner").frames.len(), 2);
    }
}
