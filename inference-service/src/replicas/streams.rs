//! What the bus is made of: subjects, and the three streams that keep what is
//! told on them. Knows what they are called and how much they hold, not what
//! is in a message.
//!
//! | stream | subjects | keeps |
//! |---|---|---|
//! | `NAME_results` | `NAME.result.CAMERA` | every result, bounded by age, bytes and number for each camera; on disk |
//! | `NAME_incidents` | `NAME.incident` | the latest incidents, bounded by age and number; on disk |
//! | `NAME_now` | `NAME.camera.CAMERA`, `NAME.people.CAMERA` | the newest message of each; in the servers' memory |

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use flatframe_shared::frame::CameraId;

use super::config::BusSettings;

/// Most that the newest state of all cameras may take on the bus, in bytes.
const MAX_NOW_BYTES: i64 = 256 << 20;
/// Results sent twice within what they may wait and this are kept once.
const DUPLICATE_MARGIN: Duration = Duration::from_secs(60);

/// Incidents that the bus keeps, each told when it opens and when it is over.
const MAX_INCIDENTS: i64 = 512;
/// Most that they may take, in bytes.
const MAX_INCIDENT_BYTES: i64 = 4 << 20;

/// Names on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Stream of results.
    pub results: String,
    /// Stream of incidents.
    pub incidents: String,
    /// Where every incident is told.
    pub incident: String,
    /// Stream of what is now.
    pub now: String,
    prefix: String,
}

/// What a subject tells of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Its results.
    Result,
    /// Its state.
    Camera,
    /// Who is in front of it.
    People,
}

impl Topic {
    fn word(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Camera => "camera",
            Self::People => "people",
        }
    }
}

impl Names {
    /// Of the bus `name`.
    pub fn new(name: &str) -> Self {
        Self {
            results: format!("{name}_results"),
            incidents: format!("{name}_incidents"),
            incident: format!("{name}.incident"),
            now: format!("{name}_now"),
            prefix: name.to_owned(),
        }
    }

    /// Where `topic` of `camera` is told. A dot separates words of a subject:
    /// in a camera's id it becomes `=`, which no id has.
    pub fn subject(&self, topic: Topic, camera: &CameraId) -> String {
        format!("{}.{}.{}", self.prefix, topic.word(), camera.as_str().replace('.', "="))
    }

    /// Where `topic` of every camera is told.
    pub fn all(&self, topic: Topic) -> String {
        format!("{}.{}.*", self.prefix, topic.word())
    }

    /// The camera that `subject` is of.
    pub fn camera(subject: &str) -> Option<CameraId> {
        let token = subject.rsplit('.').next()?;
        CameraId::parse(&token.replace('=', ".")).ok()
    }
}

/// Makes all streams, or gives them the bounds of `settings`.
///
/// # Errors
/// What the bus said.
pub async fn ensure(context: &Context, settings: &BusSettings, names: &Names) -> Result<(), String> {
    let base = Config {
        discard: DiscardPolicy::Old,
        allow_direct: true,
        num_replicas: settings.copies,
        max_age: settings.max_age,
        ..Config::default()
    };
    let results = Config {
        name: names.results.clone(),
        subjects: vec![names.all(Topic::Result)],
        max_bytes: i64::try_from(settings.max_bytes).unwrap_or(i64::MAX),
        max_messages_per_subject: i64::try_from(settings.max_messages_per_camera).unwrap_or(i64::MAX),
        duplicate_window: (settings.late + DUPLICATE_MARGIN).min(settings.max_age),
        storage: StorageType::File,
        ..base.clone()
    };
    let incidents = Config {
        name: names.incidents.clone(),
        subjects: vec![names.incident.clone()],
        max_messages: MAX_INCIDENTS,
        max_bytes: MAX_INCIDENT_BYTES,
        duplicate_window: results.duplicate_window,
        storage: StorageType::File,
        ..base.clone()
    };
    // What was in front of a camera a second ago is on no disk.
    let now = Config {
        name: names.now.clone(),
        subjects: vec![names.all(Topic::Camera), names.all(Topic::People)],
        max_bytes: MAX_NOW_BYTES,
        max_messages_per_subject: 1,
        storage: StorageType::Memory,
        ..base
    };
    for config in [results, incidents, now] {
        let name = config.name.clone();
        context.create_or_update_stream(config).await.map_err(|error| format!("stream {name}: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_camera_has_a_subject_of_its_own() {
        let names = Names::new("flatframe");
        for id in ["bus-7.front_door", "a", "a.b.c"] {
            let id = CameraId::parse(id).expect("an id");
            let subject = names.subject(Topic::Result, &id);
            assert_eq!(subject.split('.').count(), 3, "{subject}");
            assert_eq!(Names::camera(&subject), Some(id));
        }
        assert_eq!(Names::camera("flatframe.result.*"), None);
    }
}
