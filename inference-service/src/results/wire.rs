//! Results as clients see them on the wire.

use flatframe_shared::clock;
use flatframe_shared::convert::{self, micros_u64, millis_u64};
use flatframe_shared::r#gen::v1;

use super::record::{FaceCounts, ResultRecord};
use crate::cameras::CameraView;
use crate::vision::{Face, Gender, Point};

/// Counts by gender.
pub fn counts(counts: FaceCounts) -> v1::FaceCounts {
    v1::FaceCounts { faces: counts.faces, female: counts.female, male: counts.male, unknown: counts.unknown }
}

/// One face.
pub fn face(face: &Face) -> v1::Face {
    let point = |point: &Point| v1::Point { x_px: point.x, y_px: point.y };
    let gender = match face.gender.map(|estimate| estimate.gender) {
        None => v1::Gender::Unspecified,
        Some(Gender::Unknown) => v1::Gender::Unknown,
        Some(Gender::Female) => v1::Gender::Female,
        Some(Gender::Male) => v1::Gender::Male,
    };
    v1::Face {
        r#box: Some(v1::Box {
            x_px: face.bounds.x,
            y_px: face.bounds.y,
            width_px: face.bounds.width,
            height_px: face.bounds.height,
        }),
        score: face.score,
        landmarks: face.landmarks.iter().flatten().map(point).collect(),
        gender: gender as i32,
        female_probability: face.gender.map(|estimate| estimate.female),
    }
}

/// One result of the run `server_epoch` of this server.
pub fn result(record: &ResultRecord, server_epoch: u64) -> v1::FrameResult {
    v1::FrameResult {
        position: record.position.0,
        server_epoch,
        camera_id: record.camera.to_string(),
        session_id: record.session.0,
        frame_number: record.number.0,
        captured_unix_us: record.captured_unix_us,
        latency_us: micros_u64(record.latency),
        width_px: record.analysis.size.width_px,
        height_px: record.analysis.size.height_px,
        faces: record.analysis.faces.iter().map(face).collect(),
        truncated: record.analysis.truncated,
        detector: record.detector.to_string(),
        gender_model: record.gender_model.as_deref().unwrap_or_default().to_owned(),
    }
}

/// One camera.
pub fn camera(view: &CameraView) -> v1::CameraInfo {
    v1::CameraInfo {
        camera_id: view.hello.camera.to_string(),
        display_name: view.hello.display_name.clone(),
        state: convert::state_to_wire(view.state) as i32,
        last_frame_age_ms: view.last_frame_age.map(millis_u64),
        analyzed_fps: view.analyzed_fps,
        wanted_fps: view.hello.wanted_fps,
        pace: Some(convert::pace_to_wire(view.pace)),
        ledger: Some(convert::server_counts_to_wire(&view.counts)),
        ingest_ledger: view.ingest_counts.as_ref().map(convert::ingest_counts_to_wire),
        detail: view.detail.clone(),
    }
}

/// The newest result of a camera, and how old it is.
pub fn latest(view: &CameraView, server_epoch: u64) -> v1::GetLatestResponse {
    v1::GetLatestResponse {
        camera: Some(camera(view)),
        result: view.latest.as_ref().map(|record| result(record, server_epoch)),
        age_ms: view.latest.as_ref().map(|record| millis_u64(clock::now().duration_since(record.captured))),
    }
}
