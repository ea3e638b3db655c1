//! What goes into the history and onto the result bus: results, counts, covered
//! seconds and incidents, in the form in which they are kept. Never a picture.
//! Does nothing where there is neither.

use std::sync::Arc;

use bytes::Bytes;
use flatframe_shared::clock;
use flatframe_shared::frame::{CameraId, FrameNumber, SessionId};
use flatframe_shared::r#gen::v1;
use prost::Message;

use super::record::ResultRecord;
use super::wire::{self, Wire};
use crate::history::{self, DropReason, History, Record};
use crate::people::count::CountChange;
use crate::people::incidents::Incident;
use crate::replicas::Replicas;
use crate::vision::Analysis;

/// What was found in one late frame.
#[derive(Debug)]
pub struct LateResult {
    /// Which camera.
    pub camera: CameraId,
    /// Which run of its sender of late frames.
    pub session: SessionId,
    /// Which frame of that run.
    pub number: FrameNumber,
    /// When it was captured by the sender's clock, microseconds since the Unix
    /// epoch.
    pub captured_unix_us: i64,
    /// What was found.
    pub analysis: Analysis,
    /// Name of the detector.
    pub detector: Arc<str>,
    /// Name of the gender classifier; `None` when switched off.
    pub gender_model: Option<Arc<str>>,
}

/// The way into the history and onto the bus. Never waits.
#[derive(Clone)]
pub struct Archive {
    /// Where it is kept; `None`: nowhere.
    pub history: Option<History>,
    /// The bus that replicas share; `None`: there is none.
    pub replicas: Option<Arc<Replicas>>,
    /// How results look.
    pub wire: Wire,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("keeps", &self.history.is_some()).finish()
    }
}

impl Archive {
    /// Keeps one result and what it changed in the counts. In the privacy mode
    /// that withholds faces, the counts alone.
    pub fn keep(&self, record: &ResultRecord, changes: Vec<CountChange>, covered: Option<(i64, i64)>) {
        let camera = &record.camera;
        let is_kept = self.history.is_some() && !self.wire.withholds_faces;
        if is_kept || self.replicas.is_some() {
            // Both share it: a result is written down once.
            let body = Bytes::from(body(self.wire.result(record)));
            if let Some(replicas) = &self.replicas {
                replicas.offer_result(camera, record.session, record.number, body.clone());
            }
            if let Some(history) = self.history.as_ref().filter(|_| is_kept) {
                history.offer(Record::Result {
                    camera: camera.clone(),
                    at_unix_ms: record.observed_unix_us.div_euclid(1000),
                    position: record.position.0,
                    late_us: None,
                    body,
                });
            }
        }
        let Some(history) = &self.history else { return };
        for CountChange { counter, at_unix_s, change } in changes {
            let whole = |count: i64| count.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            history.offer(Record::Count {
                camera: camera.clone(),
                at_unix_s,
                counter: counter.to_string(),
                change: history::Change {
                    female: whole(change.female),
                    male: whole(change.male),
                    unknown: whole(change.unknown),
                },
            });
        }
        if let Some((from_unix_s, to_unix_s)) = covered {
            history.offer(Record::Covered { camera: camera.clone(), from_unix_s, to_unix_s });
        }
    }

    /// Keeps the result of a late frame at the time of its capture; the history
    /// takes it only if it is newer than all late results of the camera.
    ///
    /// # Errors
    /// Why not: [`DropReason::Invalid`] for ever, any other now.
    pub fn keep_late(&self, late: LateResult) -> Result<(), DropReason> {
        let Some(history) = &self.history else { return Err(DropReason::Closed) };
        // What is taken while nothing is written is dropped, and its sender would
        // not send it again.
        if history.state().paused.is_some() {
            return Err(DropReason::Paused);
        }
        let captured_us = late.captured_unix_us;
        history.try_offer(Record::Result {
            camera: late.camera.clone(),
            at_unix_ms: captured_us.div_euclid(1000),
            position: 0,
            late_us: Some(captured_us),
            body: body(self.wire.late_result(&late, clock::unix_us())).into(),
        })
    }

    /// Keeps an incident that opened or ended here, and tells the others.
    pub fn keep_incident(&self, incident: &Incident) {
        if let Some(replicas) = &self.replicas {
            let is_over = incident.ended_unix_ms.is_some();
            replicas.offer_incident(incident.id, is_over, wire::incident(incident).encode_to_vec().into());
        }
        let Some(history) = &self.history else { return };
        history.offer(Record::Incident(history::Incident {
            id: incident.id,
            camera: incident.camera.clone(),
            kind: incident.kind.as_str().into(),
            detail: incident.detail.clone(),
            opened_unix_ms: incident.started_unix_ms,
            resolved_unix_ms: incident.ended_unix_ms,
        }));
    }
}

/// A result as it is kept: what the key says, and what is the same in most, is
/// left out.
fn body(result: v1::FrameResult) -> Vec<u8> {
    v1::FrameResult { camera_id: String::new(), ..result }.encode_to_vec()
}

/// A result as it was, of `camera`.
///
/// # Errors
/// When the row is not one; a damaged file.
pub fn from_body(body: &[u8], camera: &str) -> Result<v1::FrameResult, prost::DecodeError> {
    Ok(v1::FrameResult { camera_id: camera.to_owned(), ..v1::FrameResult::decode(body)? })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use flatframe_shared::frame::PictureSize;

    use super::*;
    use crate::history::{HistorySettings, Surroundings};
    use crate::vision::Timings;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A late result of second `at_s`, whose detector has a name of so many bytes.
    fn late(at_s: i64, name_bytes: usize) -> LateResult {
        let size = PictureSize::new(64, 48);
        LateResult {
            camera: CameraId::parse("a").expect("valid"),
            session: SessionId(1),
            number: FrameNumber(1),
            captured_unix_us: clock::unix_us() - 3_600_000_000 + at_s * 1_000_000,
            analysis: Analysis { size, faces: Vec::new(), truncated: false, timings: Timings::default(), look: None },
            detector: "x".repeat(name_bytes).into(),
            gender_model: None,
        }
    }

    #[test]
    fn what_can_never_be_kept_is_told_from_what_cannot_now() {
        let folder = tempfile::tempdir().expect("folder");
        let free_bytes = Arc::new(AtomicU64::new(u64::MAX));
        let free = Arc::clone(&free_bytes);
        let surroundings =
            Surroundings { free_bytes: Arc::new(move |_: &Path| Ok(free.load(Relaxed))), ..Surroundings::default() };
        let settings = HistorySettings::new(folder.path().join("history.sqlite"));
        let (history, writer) = History::open_in(settings, surroundings).expect("opens");
        let wire = Wire { server_epoch: 1, withholds_faces: false };
        let archive = Archive { history: Some(history.clone()), replicas: None, wire };
        assert_eq!(archive.keep_late(late(1, 8)), Ok(()));
        assert_eq!(archive.keep_late(late(2, 70_000)), Err(DropReason::Invalid), "too large");

        // The writer sees at its next turn that the disk is full; what it was
        // given until then is lost, and nothing is taken after it.
        free_bytes.store(0, Relaxed);
        let _ = archive.keep_late(late(3, 8));
        assert!(history.flush(PATIENCE));
        assert_eq!(archive.keep_late(late(4, 8)), Err(DropReason::Paused));
        assert!(writer.close(PATIENCE));
    }
}
