//! A client that watches incidents: those known when it came, then every
//! change.

use std::collections::HashSet;

use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::service::stopping;
use super::wire;
use crate::people::incidents::{Change, IncidentWatch};

/// What a client watches.
pub struct IncidentStream {
    /// Where it stands.
    pub watch: IncidentWatch,
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
    loop {
        let change = if stream.only_known {
            stream.watch.take()?
        } else {
            tokio::select! {
                biased;
                () = stream.shutdown.cancelled() => return Some((Err(stopping()), None)),
                change = stream.watch.next() => change,
            }
        };
        let message = match change {
            Change::Gap(missed) => v1::watch_incidents_response::Message::Gap(v1::IncidentGap { missed }),
            Change::Incident(incident) => {
                let is_wanted = match (&stream.cameras, &incident.camera) {
                    (None, _) => true,
                    (Some(cameras), Some(camera)) => cameras.contains(camera),
                    (Some(_), None) => false,
                };
                if !is_wanted {
                    continue;
                }
                v1::watch_incidents_response::Message::Incident(wire::incident(&incident))
            }
        };
        return Some((Ok(v1::WatchIncidentsResponse { message: Some(message) }), Some(stream)));
    }
}
