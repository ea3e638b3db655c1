//! How well faces are followed: scenes with a known truth ([`scene`]), the
//! tracker of the service run on them (here), and scores from the literature
//! ([`score`]). Deterministic by seed; no pictures, no models, no clock. Only
//! [`clip`] has real people, whom the models find.

pub mod clip;
pub mod pairing;
pub mod scene;
pub mod score;
pub mod table;

use std::time::{Duration, Instant};

use inference_service::people::track::{Ended, TrackId, TrackSettings, Tracker};

use scene::Scene;
use score::{Boxes, Score, Trajectories};

/// What the tracker said of a scene.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// The faces of confirmed tracks by frame, as a client sees them live.
    pub frames: Vec<Boxes>,
    /// Every track that was a visit, as it ended.
    pub visits: Vec<Ended>,
    /// Time the tracker took for each frame.
    pub times: Vec<Duration>,
}

/// Runs the tracker on a scene.
pub fn follow(scene: &Scene, settings: TrackSettings) -> Followed {
    let (mut tracker, mut followed, start) = (Tracker::new(settings), Followed::default(), Instant::now());
    let mut end = start;
    for frame in &scene.frames {
        end = start + frame.at;
        let began = Instant::now();
        let tracks = tracker.frame(end, scene.size, &frame.faces);
        followed.times.push(began.elapsed());
        followed.visits.extend(tracks.ended.into_iter().filter(|track| track.confirmed));
        let seen = frame.faces.iter().zip(&tracks.faces);
        let visits =
            seen.filter_map(|(face, track)| track.filter(|track| track.confirmed).map(|t| (t.id, face.bounds)));
        followed.frames.push(visits.map(|(TrackId(id), bounds)| (id, bounds)).collect());
    }
    let rest = tracker.expire(end + settings.lost_after + Duration::from_secs(1));
    followed.visits.extend(rest.into_iter().filter(|track| track.confirmed));
    followed
}

/// Runs the tracker on a scene and scores it.
pub fn measure(scene: &Scene, settings: TrackSettings) -> Score {
    let followed = follow(scene, settings);
    let truth = scene.truth();
    let score = Trajectories::new(&truth, &followed.frames).score();
    let ceiling = Trajectories::new(&truth, &scene.followed_perfectly()).score();
    Score::new(scene, &followed, settings.confirm_frames, score, ceiling)
}
