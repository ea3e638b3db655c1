//! A client that watches incidents, of this replica and of others: those known
//! when it came, then every change, and whether others are heard at all.

use std::collections::HashSet;

use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::watch_incidents_response::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::hearing::Hearing;
use super::service::stopping;
use super::wire;
use crate::people::incidents::{Change, Incident, IncidentWatch};

/// What a client watches.
pub struct IncidentStream {
    /// Where it stands.
    pub watch: IncidentWatch,
    /// What the client knows of the other replicas.
    pub hearing: Hearing,
    /// Cameras that it wants; `None`: all, and the server.
    pub cameras: Option<HashSet<CameraId>>,
    /// Whether it ends after what is known.
    pub only_known: bool,
    /// Cancelled when the service stops.
    pub shutdown: CancellationToken,
}

/// The next message; the last one of a watch says that the service stops.
pub async fn next(
    stream: Option<IncidentStream>,
) -> Option<(Result<v1::WatchIncidentsResponse, Status>, Option<IncidentStream>)> {
    let mut stream = stream?;
    let message = loop {
        let change = if stream.only_known {
            if let Some(news) = stream.hearing.news() {
                break Message::Elsewhere(news);
            }
            stream.watch.take()?
        } else {
            tokio::select! {
                biased;
                () = stream.shutdown.cancelled() => return Some((Err(stopping()), None)),
                news = stream.hearing.changed() => break Message::Elsewhere(news),
                change = stream.watch.next() => change,
            }
        };
        match change {
            Change::Gap(missed) => break Message::Gap(v1::IncidentGap { missed }),
            Change::Incident(incident) if stream.wants(&incident) => {
                break Message::Incident(wire::incident(&incident));
            }
            Change::Incident(_) => {}
        }
    };
    Some((Ok(v1::WatchIncidentsResponse { message: Some(message) }), Some(stream)))
}

impl IncidentStream {
    fn wants(&self, incident: &Incident) -> bool {
        match (&self.cameras, &incident.camera) {
            (None, _) => true,
            (Some(cameras), Some(camera)) => cameras.contains(camera),
            (Some(_), None) => false,
        }
    }
}
