//! What goes into the history: results, counts, covered seconds and incidents,
//! in the form in which it keeps them. Never a picture. Does nothing where no
//! history is kept.

use flatframe_shared::r#gen::v1;
use prost::Message;

use super::record::ResultRecord;
use super::wire::Wire;
use crate::history::{self, History, Record};
use crate::people::count::CountChange;
use crate::people::incidents::Incident;

/// The way into the history. Never waits.
#[derive(Clone)]
pub struct Archive {
    /// Where it is kept; `None`: nowhere.
    pub history: Option<History>,
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
        let Some(history) = &self.history else { return };
        let camera = &record.camera;
        if !self.wire.withholds_faces {
            history.offer(Record::Result {
                camera: camera.clone(),
                at_unix_ms: record.observed_unix_us.div_euclid(1000),
                position: record.position.0,
                body: body(self.wire.result(record)).into(),
            });
        }
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

    /// Keeps an incident that opened or ended.
    pub fn keep_incident(&self, incident: &Incident) {
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
