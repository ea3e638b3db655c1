//! Results as clients see them on the wire.

use std::sync::Arc;

use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::convert::{self, micros_u64, millis_u64};
use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use prost::Message;

use super::archive::LateResult;
use super::record::{FaceCounts, ResultRecord};
use super::snapshot::Style;
use crate::cameras::{Camera, CameraView};
use crate::people::count::{ByGender, Counts, CrossingCounts};
use crate::people::incidents::{Incident, IncidentKind, MAX_DETAIL_BYTES};
use crate::people::track::FaceTrack;
use crate::vision::{Face, Gender, Point};

/// What every answer depends on besides what it tells.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    /// Id of this run of the server.
    pub server_epoch: u64,
    /// Whether single faces and live counts are kept from clients (privacy
    /// mode `counts_only`).
    pub withholds_faces: bool,
}

/// Counts of one frame by gender.
pub fn face_counts(counts: FaceCounts) -> v1::FaceCounts {
    v1::FaceCounts { faces: counts.faces, female: counts.female, male: counts.male, unknown: counts.unknown }
}

/// One face without a track.
pub fn face(face: &Face) -> v1::Face {
    let point = |point: &Point| v1::Point { x_px: point.x, y_px: point.y };
    v1::Face {
        r#box: Some(v1::Box {
            x_px: face.bounds.x,
            y_px: face.bounds.y,
            width_px: face.bounds.width,
            height_px: face.bounds.height,
        }),
        score: face.score,
        landmarks: face.landmarks.iter().flatten().map(point).collect(),
        gender: face.gender.map_or(v1::Gender::Unspecified, |estimate| gender(estimate.gender)) as i32,
        female_probability: face.gender.map(|estimate| estimate.female),
        track: None,
    }
}

fn gender(gender: Gender) -> v1::Gender {
    match gender {
        Gender::Unknown => v1::Gender::Unknown,
        Gender::Female => v1::Gender::Female,
        Gender::Male => v1::Gender::Male,
    }
}

/// One incident.
pub fn incident(incident: &Incident) -> v1::Incident {
    let kind = match incident.kind {
        IncidentKind::Offline => v1::IncidentKind::Offline,
        IncidentKind::Stalled => v1::IncidentKind::Stalled,
        IncidentKind::Frozen => v1::IncidentKind::Frozen,
        IncidentKind::Dark => v1::IncidentKind::Dark,
        IncidentKind::Overloaded => v1::IncidentKind::Overloaded,
        IncidentKind::Disk => v1::IncidentKind::Disk,
        IncidentKind::Memory => v1::IncidentKind::Memory,
    };
    v1::Incident {
        incident_id: incident.id,
        camera_id: incident.camera.as_ref().map(ToString::to_string).unwrap_or_default(),
        kind: kind as i32,
        detail: incident.detail.clone(),
        started_unix_ms: incident.started_unix_ms,
        ended_unix_ms: incident.ended_unix_ms,
        replica: incident.replica.as_deref().unwrap_or_default().to_owned(),
    }
}

/// An incident that another replica told of; `None`: it is not understood.
pub fn incident_elsewhere(told: &[u8], replica: Arc<str>) -> Option<Incident> {
    let told = v1::Incident::decode(told).ok()?;
    let kind = match told.kind() {
        v1::IncidentKind::Unspecified => return None,
        v1::IncidentKind::Offline => IncidentKind::Offline,
        v1::IncidentKind::Stalled => IncidentKind::Stalled,
        v1::IncidentKind::Frozen => IncidentKind::Frozen,
        v1::IncidentKind::Dark => IncidentKind::Dark,
        v1::IncidentKind::Overloaded => IncidentKind::Overloaded,
        v1::IncidentKind::Disk => IncidentKind::Disk,
        v1::IncidentKind::Memory => IncidentKind::Memory,
    };
    let camera = match told.camera_id.as_str() {
        "" => None,
        id => Some(CameraId::parse(id).ok()?),
    };
    let is_short = told.detail.len() <= MAX_DETAIL_BYTES;
    is_short.then_some(Incident {
        id: told.incident_id,
        camera,
        kind,
        detail: told.detail,
        started_unix_ms: told.started_unix_ms,
        ended_unix_ms: told.ended_unix_ms,
        replica: Some(replica),
    })
}

/// People by gender; a count that corrections made negative is none.
pub fn people(counts: ByGender) -> v1::FaceCounts {
    let whole = |count: i64| u32::try_from(count.max(0)).unwrap_or(u32::MAX);
    let (female, male, unknown) = (whole(counts.female), whole(counts.male), whole(counts.unknown));
    v1::FaceCounts { faces: female.saturating_add(male).saturating_add(unknown), female, male, unknown }
}

fn crossing(counts: &CrossingCounts) -> v1::CrossingCounts {
    let kind = if counts.is_zone { v1::CrossingKind::Zone } else { v1::CrossingKind::Line };
    v1::CrossingCounts {
        name: counts.name.to_string(),
        kind: kind as i32,
        entered: Some(people(counts.entered)),
        left: Some(people(counts.left)),
        occupancy: counts.occupancy,
    }
}

/// Counts of a camera; who is there now only when that is known.
fn counts(counts: &Counts, is_watching: bool) -> v1::CameraCounts {
    v1::CameraCounts {
        now: is_watching.then(|| people(counts.now)),
        visits: Some(people(counts.visits)),
        crossings: counts.crossings.iter().map(crossing).collect(),
        truncated: counts.truncated,
        uncertain: counts.uncertain,
    }
}

fn track(record: &ResultRecord, track: &FaceTrack) -> v1::Track {
    v1::Track {
        track_id: track.id.0,
        is_visit: track.confirmed,
        gender: record.gender_model.as_ref().map_or(v1::Gender::Unspecified, |_| gender(track.gender)) as i32,
        female_probability: record.gender_model.as_ref().map(|_| track.female),
        age_ms: millis_u64(record.captured.saturating_duration_since(track.first_seen)),
    }
}

impl Wire {
    /// One result.
    pub fn result(self, record: &ResultRecord) -> v1::FrameResult {
        let with_track = |(index, found): (usize, &Face)| v1::Face {
            track: record.tracks.get(index).and_then(Option::as_ref).map(|found| track(record, found)),
            ..face(found)
        };
        let faces = record.analysis.faces.iter().enumerate().map(with_track);
        v1::FrameResult {
            position: record.position.0,
            server_epoch: self.server_epoch,
            camera_id: record.camera.to_string(),
            session_id: record.session.0,
            frame_number: record.number.0,
            captured_unix_us: record.captured_unix_us,
            latency_us: micros_u64(record.latency),
            width_px: record.analysis.size.width_px,
            height_px: record.analysis.size.height_px,
            faces: if self.withholds_faces { Vec::new() } else { faces.collect() },
            truncated: record.analysis.truncated,
            detector: record.detector.to_string(),
            gender_model: record.gender_model.as_deref().unwrap_or_default().to_owned(),
            counts: (!self.withholds_faces).then(|| counts(&record.counts, true)),
            observed_unix_us: record.observed_unix_us,
            faces_withheld: self.withholds_faces,
            late: false,
            replica: String::new(),
        }
    }

    /// One result of a late frame, known `now_us`: no tracks, no counts, no
    /// place among those of now.
    pub fn late_result(self, late: &LateResult, now_us: i64) -> v1::FrameResult {
        let analysis = &late.analysis;
        let latency_us = now_us.saturating_sub(late.captured_unix_us);
        v1::FrameResult {
            position: 0,
            server_epoch: self.server_epoch,
            camera_id: late.camera.to_string(),
            session_id: late.session.0,
            frame_number: late.number.0,
            captured_unix_us: late.captured_unix_us,
            latency_us: u64::try_from(latency_us).unwrap_or(0),
            width_px: analysis.size.width_px,
            height_px: analysis.size.height_px,
            faces: if self.withholds_faces { Vec::new() } else { analysis.faces.iter().map(face).collect() },
            truncated: analysis.truncated,
            detector: late.detector.to_string(),
            gender_model: late.gender_model.as_deref().unwrap_or_default().to_owned(),
            counts: None,
            observed_unix_us: late.captured_unix_us,
            faces_withheld: self.withholds_faces,
            late: true,
            replica: String::new(),
        }
    }

    /// One camera, with its open incidents.
    pub fn camera<'a>(self, view: &CameraView, incidents: impl IntoIterator<Item = &'a Incident>) -> v1::CameraInfo {
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
            counts: (!self.withholds_faces).then(|| counts(&view.people, view.is_watching)),
            incidents: incidents.into_iter().map(incident).collect(),
            replica: String::new(),
        }
    }

    /// One picture of `camera`, of the frame of `record`.
    pub fn snapshot(self, camera: &Camera, record: &ResultRecord, jpeg: Bytes, style: Style) -> v1::Snapshot {
        let style = match style {
            Style::Annotated => v1::SnapshotStyle::Annotated,
            Style::Blurred => v1::SnapshotStyle::Blurred,
            Style::Plain => v1::SnapshotStyle::Plain,
        };
        v1::Snapshot {
            camera_id: record.camera.to_string(),
            jpeg,
            style: style as i32,
            age_ms: millis_u64(clock::now().saturating_duration_since(record.captured)),
            state: convert::state_to_wire(camera.state()) as i32,
            result: Some(self.result(record)),
        }
    }

    /// The newest result of a camera, and how old it is.
    pub fn latest<'a>(
        self,
        view: &CameraView,
        incidents: impl IntoIterator<Item = &'a Incident>,
    ) -> v1::GetLatestResponse {
        v1::GetLatestResponse {
            camera: Some(self.camera(view, incidents)),
            result: view.latest.as_ref().map(|record| self.result(record)),
            age_ms: view.latest.as_ref().map(|record| millis_u64(clock::now().duration_since(record.captured))),
        }
    }
}
