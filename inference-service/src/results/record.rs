//! What was found in one frame, as it is kept and handed out: immutable, shared
//! by all who hold it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::{CameraId, FrameNumber, SessionId};

use crate::people::count::Counts;
use crate::people::track::FaceTrack;
use crate::vision::{Analysis, Gender};

/// Place of a result in the server's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// One analysed frame.
#[derive(Debug, Clone)]
pub struct ResultRecord {
    /// Its place; set by the bus.
    pub position: Position,
    /// Which camera.
    pub camera: CameraId,
    /// Which run of its sender.
    pub session: SessionId,
    /// Which frame of that run.
    pub number: FrameNumber,
    /// The sender's wall clock at capture, microseconds since the Unix epoch;
    /// 0 when not set.
    pub captured_unix_us: i64,
    /// When it was captured, by this server's clock.
    pub captured: Instant,
    /// When it was captured, by this server's wall clock, microseconds since
    /// the Unix epoch.
    pub observed_unix_us: i64,
    /// From capture to this record.
    pub latency: Duration,
    /// What was found.
    pub analysis: Analysis,
    /// For each face, in order, its track; `None` when there was no room.
    pub tracks: Vec<Option<FaceTrack>>,
    /// People counted so far by the camera, this frame included.
    pub counts: Counts,
    /// Name of the detector.
    pub detector: Arc<str>,
    /// Name of the gender classifier; `None` when switched off.
    pub gender_model: Option<Arc<str>>,
}

/// One frame that another replica analysed.
#[derive(Debug, Clone)]
pub struct ElsewhereResult {
    /// Its place; set by the bus.
    pub position: Position,
    /// Which camera.
    pub camera: CameraId,
    /// Name of that replica.
    pub replica: Arc<str>,
    /// What it told, as it came.
    pub body: Bytes,
}

/// Faces by apparent gender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaceCounts {
    /// All faces.
    pub faces: u32,
    /// Taken for female.
    pub female: u32,
    /// Taken for male.
    pub male: u32,
    /// Not clear, or not estimated.
    pub unknown: u32,
}

impl FaceCounts {
    /// Counts the faces of one analysis.
    pub fn of(analysis: &Analysis) -> Self {
        let mut counts = Self::default();
        for face in &analysis.faces {
            counts.faces += 1;
            match face.gender.map(|estimate| estimate.gender) {
                Some(Gender::Female) => counts.female += 1,
                Some(Gender::Male) => counts.male += 1,
                Some(Gender::Unknown) | None => counts.unknown += 1,
            }
        }
        counts
    }
}
