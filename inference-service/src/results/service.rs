//! The calls of clients: live results, the newest result, all cameras. An
//! error is an error: an unknown camera is NOT_FOUND, "no frame yet" is a
//! state, and neither is ever an empty list.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use flatframe_shared::convert::short;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use flatframe_shared::serve::Connection;
use futures_util::stream;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::bus::{Bus, Subscriber, Taken};
use super::record::Position;
use super::wire;
use crate::cameras::Cameras;

/// Most cameras that one `Watch` may name.
const MAX_WATCHED: usize = 256;
/// When to try again for a subscription.
const SUBSCRIBE_RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// The service of clients.
#[derive(Clone)]
pub struct ResultApi {
    /// The cameras.
    pub cameras: Arc<Cameras>,
    /// Where results come from.
    pub bus: Arc<Bus>,
    /// Id of this run of the server.
    pub server_epoch: u64,
    /// Cancelled when the service stops.
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl v1::result_service_server::ResultService for ResultApi {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if self.shutdown.is_cancelled() {
            return Err(stopping());
        }
        let connection = request.extensions().get::<Connection>().cloned();
        let connection = connection.ok_or_else(|| ErrorKind::Internal.status("the connection is not known"))?;
        let request = request.into_inner();
        let cameras = watched(&request.camera_ids)?;
        let is_this_run = request.after_server_epoch.is_none_or(|epoch| epoch == self.server_epoch);
        let after = request.after_position.map(|position| Position(if is_this_run { position } else { 0 }));
        // The subscription belongs to the stream from here on: a client that
        // leaves before the first message frees it all the same.
        let subscriber = self.bus.subscribe(cameras, after, connection.cut).map_err(|full| {
            let message =
                format!("{} clients watch, which is the limit (limits.max_subscribers)", full.max_subscribers);
            ErrorKind::Exhausted { retry_after: SUBSCRIBE_RETRY }.status(message)
        })?;
        let watch = Watch { subscriber, server_epoch: self.server_epoch, shutdown: self.shutdown.clone() };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), next))))
    }

    async fn get_latest(
        &self,
        request: Request<v1::GetLatestRequest>,
    ) -> Result<Response<v1::GetLatestResponse>, Status> {
        let id = camera_id(&request.into_inner().camera_id)?;
        let camera = self.cameras.get(&id).ok_or_else(|| {
            ErrorKind::NotFound.status(format!("camera {id} has not connected since the service started"))
        })?;
        Ok(Response::new(wire::latest(&camera.view(), self.server_epoch)))
    }

    async fn list_cameras(
        &self,
        _request: Request<v1::ListCamerasRequest>,
    ) -> Result<Response<v1::ListCamerasResponse>, Status> {
        let cameras = self.cameras.all().iter().map(|camera| wire::camera(&camera.view())).collect();
        Ok(Response::new(v1::ListCamerasResponse { cameras }))
    }
}

struct Watch {
    subscriber: Subscriber,
    server_epoch: u64,
    shutdown: CancellationToken,
}

/// The next message of a watch; the last one says that the service stops.
async fn next(watch: Option<Watch>) -> Option<(Result<v1::WatchResponse, Status>, Option<Watch>)> {
    let mut watch = watch?;
    let taken = tokio::select! {
        biased;
        () = watch.shutdown.cancelled() => return Some((Err(stopping()), None)),
        taken = watch.subscriber.next() => taken,
    };
    let message = match taken {
        Taken::Result(record) => v1::watch_response::Message::Result(wire::result(&record, watch.server_epoch)),
        Taken::Gap { missed, last_missed } => {
            v1::watch_response::Message::Gap(v1::Gap { missed, last_missed_position: last_missed.0 })
        }
    };
    Some((Ok(v1::WatchResponse { message: Some(message) }), Some(watch)))
}

fn watched(ids: &[String]) -> Result<Option<HashSet<CameraId>>, Status> {
    if ids.len() > MAX_WATCHED {
        let message = format!("{} camera ids are too many: use at most {MAX_WATCHED}, or none for all", ids.len());
        return Err(ErrorKind::Invalid.status(message));
    }
    if ids.is_empty() {
        return Ok(None);
    }
    ids.iter().map(|id| camera_id(id)).collect::<Result<_, _>>().map(Some)
}

fn camera_id(text: &str) -> Result<CameraId, Status> {
    CameraId::parse(text).map_err(|error| ErrorKind::Invalid.status(short(error.to_string())))
}

fn stopping() -> Status {
    ErrorKind::Unavailable.status("the service is stopping: connect to another or try later")
}
