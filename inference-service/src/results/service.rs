//! The calls of clients: live results, the newest result and picture, all
//! cameras, incidents, what was. An error is an error: an unknown camera is
//! NOT_FOUND, "no frame yet" is a state, and neither is ever an empty list.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::convert::{millis_u64, short};
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::{CameraId, PictureSize};
use flatframe_shared::r#gen::v1;
use flatframe_shared::serve::Connection;
use futures_util::stream;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::archive::Archive;
use super::bus::{Bus, Subscriber, Taken};
use super::query::{self, CountRules, Pages};
use super::record::Position;
use super::snapshot::{PaintError, Painter, Style, Wanted};
use super::wire;
use crate::cameras::{Camera, Cameras, Snapshot};
use crate::config::{PrivacyConfig, PrivacyMode};
use crate::intake::admission::{CallDeadline, CallSlot};
use crate::people::incidents::{Change, IncidentWatch, Incidents};
use crate::vision::{Bounds, Gender};

/// Most cameras that one call may name.
pub(super) const MAX_WATCHED: usize = 256;
/// When to try again for a subscription.
const SUBSCRIBE_RETRY: Duration = Duration::from_secs(5);
/// More people are on no side of any line.
const MAX_OCCUPANCY: i64 = 1_000_000;
/// Narrower snapshots show nothing.
const MIN_SNAPSHOT_WIDTH_PX: u32 = 32;

/// The answers of a call that has many.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service of clients.
#[derive(Clone)]
pub struct ResultApi {
    /// The cameras.
    pub cameras: Arc<Cameras>,
    /// Where results come from.
    pub bus: Arc<Bus>,
    /// Where they are kept, and how they look.
    pub archive: Archive,
    /// States that a person should know of.
    pub incidents: Arc<Incidents>,
    /// What clients may see.
    pub privacy: PrivacyConfig,
    /// Draws snapshots, one at a time.
    pub painter: Arc<Mutex<Painter>>,
    /// Largest picture that was analysed.
    pub max_picture: PictureSize,
    /// Largest snapshot, in bytes.
    pub max_snapshot_bytes: usize,
    /// Longest that a query may take to an answer, or to its next page.
    pub call_deadline: Duration,
    /// Cancelled when the service stops.
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl v1::result_service_server::ResultService for ResultApi {
    type WatchStream = Answers<v1::WatchResponse>;
    type QueryResultsStream = Answers<v1::QueryResultsResponse>;
    type WatchIncidentsStream = Answers<v1::WatchIncidentsResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if self.shutdown.is_cancelled() {
            return Err(stopping());
        }
        let connection = request.extensions().get::<Connection>().cloned();
        let connection = connection.ok_or_else(|| ErrorKind::Internal.status("the connection is not known"))?;
        let request = request.into_inner();
        let cameras = watched(&request.camera_ids)?;
        let is_this_run = request.after_server_epoch.is_none_or(|epoch| epoch == self.archive.wire.server_epoch);
        let after = request.after_position.map(|position| Position(if is_this_run { position } else { 0 }));
        // The subscription belongs to the stream from here on: a client that
        // leaves before the first message frees it all the same.
        let subscriber = self.bus.subscribe(cameras, after, connection.cut).map_err(|full| {
            let message =
                format!("{} clients watch, which is the limit (limits.max_subscribers)", full.max_subscribers);
            ErrorKind::Exhausted { retry_after: SUBSCRIBE_RETRY }.status(message)
        })?;
        let watch = Watch { subscriber, wire: self.archive.wire, shutdown: self.shutdown.clone() };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), next))))
    }

    async fn get_latest(
        &self,
        request: Request<v1::GetLatestRequest>,
    ) -> Result<Response<v1::GetLatestResponse>, Status> {
        let camera = self.camera(&request.into_inner().camera_id)?;
        let incidents = self.incidents.open_of(Some(&camera.id));
        Ok(Response::new(self.archive.wire.latest(&camera.view(), incidents.iter().map(|one| &**one))))
    }

    async fn list_cameras(
        &self,
        _request: Request<v1::ListCamerasRequest>,
    ) -> Result<Response<v1::ListCamerasResponse>, Status> {
        let info = |camera: &Arc<Camera>| {
            let incidents = self.incidents.open_of(Some(&camera.id));
            self.archive.wire.camera(&camera.view(), incidents.iter().map(|one| &**one))
        };
        Ok(Response::new(v1::ListCamerasResponse { cameras: self.cameras.all().iter().map(info).collect() }))
    }

    async fn query_results(
        &self,
        request: Request<v1::QueryResultsRequest>,
    ) -> Result<Response<Self::QueryResultsStream>, Status> {
        if self.privacy.mode == PrivacyMode::CountsOnly {
            return Err(denied("single results are kept from clients"));
        }
        let history = query::history(&self.archive)?;
        let slot = request.extensions().get::<CallSlot>().cloned();
        let first = Pages::new(history, &request.into_inner(), self.call_deadline, slot)?;
        // The first page is asked for before the answer begins: an error is the call's status.
        let (page, rest) = first.next().await?;
        let pages = stream::unfold(Some((Some(page), rest)), |state| async {
            match state? {
                (Some(page), rest) => Some((Ok(page), Some((None, rest)))),
                (None, rest) => match rest?.next().await {
                    Ok((page, rest)) => Some((Ok(page), Some((None, rest)))),
                    Err(status) => Some((Err(status), None)),
                },
            }
        });
        Ok(Response::new(Box::pin(pages)))
    }

    async fn query_counts(
        &self,
        request: Request<v1::QueryCountsRequest>,
    ) -> Result<Response<v1::QueryCountsResponse>, Status> {
        let history = query::history(&self.archive)?;
        let few_are_withheld = self.privacy.mode == PrivacyMode::CountsOnly;
        let rules = CountRules {
            withheld_below: few_are_withheld.then(|| i64::from(self.privacy.min_visits)),
            deadline: self.deadline(&request),
            slot: request.extensions().get::<CallSlot>().cloned(),
        };
        let series = query::counts(history, request.into_inner(), rules).await?;
        Ok(Response::new(v1::QueryCountsResponse { series }))
    }

    async fn watch_incidents(
        &self,
        request: Request<v1::WatchIncidentsRequest>,
    ) -> Result<Response<Self::WatchIncidentsStream>, Status> {
        if self.shutdown.is_cancelled() {
            return Err(stopping());
        }
        let cameras = watched(&request.into_inner().camera_ids)?;
        let watch = WatchedIncidents { watch: self.incidents.watch(), cameras, shutdown: self.shutdown.clone() };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), next_incident))))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        let (deadline, slot) = (self.deadline(&request), request.extensions().get::<CallSlot>().cloned());
        let request = request.into_inner();
        let camera = self.camera(&request.camera_id)?;
        let style = self.style(request.style)?;
        let max_width_px = match request.max_width_px {
            0 => None,
            width if width < MIN_SNAPSHOT_WIDTH_PX => {
                let message = format!("max_width_px = {width}: use 0 (as it came) or at least {MIN_SNAPSHOT_WIDTH_PX}");
                return Err(ErrorKind::Invalid.status(message));
            }
            width => Some(width),
        };
        let snapshot = camera.snapshot().ok_or_else(|| {
            ErrorKind::Precondition.status(format!("no picture of camera {} was analysed yet", camera.id))
        })?;
        let (painter, limit, max_bytes) = (self.painter.clone(), self.max_picture, self.max_snapshot_bytes);
        let record = snapshot.record.clone();
        let painted = tokio::task::spawn_blocking(move || {
            // Kept until the work is done, also when the client has gone.
            let _slot = slot;
            paint(&painter, &snapshot, style, max_width_px, limit, max_bytes, deadline)
        })
        .await;
        let jpeg = painted.map_err(|_| stopping())?.map_err(|error| match error {
            PaintError::Late => ErrorKind::DeadlineExceeded.status("other snapshots were before this one"),
            PaintError::TooLarge { .. } => ErrorKind::Invalid.status(format!("the snapshot: {error}")),
            PaintError::Jpeg(_) => ErrorKind::Internal.status(format!("the snapshot: {error}")),
        })?;
        let style = match style {
            Style::Annotated => v1::SnapshotStyle::Annotated,
            Style::Blurred => v1::SnapshotStyle::Blurred,
            Style::Plain => v1::SnapshotStyle::Plain,
        };
        Ok(Response::new(v1::GetSnapshotResponse {
            jpeg,
            style: style as i32,
            frame_number: record.number.0,
            age_ms: millis_u64(clock::now().saturating_duration_since(record.captured)),
            observed_unix_us: record.observed_unix_us,
        }))
    }

    async fn reset_occupancy(
        &self,
        request: Request<v1::ResetOccupancyRequest>,
    ) -> Result<Response<v1::ResetOccupancyResponse>, Status> {
        let v1::ResetOccupancyRequest { camera_id, name, occupancy } = request.into_inner();
        let camera = self.camera(&camera_id)?;
        if !(-MAX_OCCUPANCY..=MAX_OCCUPANCY).contains(&occupancy) {
            let message = format!("occupancy = {occupancy}: use -{MAX_OCCUPANCY} to {MAX_OCCUPANCY}");
            return Err(ErrorKind::Invalid.status(message));
        }
        if !camera.set_occupancy(&name, occupancy) {
            let message = format!("camera {} has no line {:?} (people.lines)", camera.id, short(name));
            return Err(ErrorKind::NotFound.status(message));
        }
        tracing::info!(camera = %camera.id, line = name, occupancy, "occupancy set by a client");
        Ok(Response::new(v1::ResetOccupancyResponse {}))
    }
}

impl ResultApi {
    /// When the answer of a call is worthless.
    fn deadline<T>(&self, request: &Request<T>) -> Instant {
        let own = request.extensions().get::<CallDeadline>().map(|deadline| deadline.0);
        own.unwrap_or_else(|| clock::now() + self.call_deadline)
    }

    fn camera(&self, id: &str) -> Result<Arc<Camera>, Status> {
        let id = camera_id(id)?;
        self.cameras.get(&id).ok_or_else(|| {
            ErrorKind::NotFound.status(format!("camera {id} has not connected since the service started"))
        })
    }

    /// How a snapshot may look.
    fn style(&self, asked: i32) -> Result<Style, Status> {
        let style = match v1::SnapshotStyle::try_from(asked) {
            Ok(v1::SnapshotStyle::Unspecified | v1::SnapshotStyle::Annotated) => Style::Annotated,
            Ok(v1::SnapshotStyle::Blurred) => Style::Blurred,
            Ok(v1::SnapshotStyle::Plain) => Style::Plain,
            Err(_) => return Err(ErrorKind::Invalid.status(format!("style = {asked} is not a style: use 0 to 3"))),
        };
        match (self.privacy.mode, style, asked) {
            (PrivacyMode::CountsOnly, ..) => Err(denied("no picture leaves the service")),
            (PrivacyMode::Full, ..) | (PrivacyMode::Blurred, Style::Blurred, _) => Ok(style),
            // Who asked for nothing special gets what there is.
            (PrivacyMode::Blurred, _, 0) => Ok(Style::Blurred),
            (PrivacyMode::Blurred, ..) => Err(denied("faces are made unrecognisable: ask for SNAPSHOT_STYLE_BLURRED")),
        }
    }
}

/// Paints one snapshot; waits for the one before.
fn paint(
    painter: &Mutex<Painter>,
    snapshot: &Snapshot,
    style: Style,
    max_width_px: Option<u32>,
    limit: PictureSize,
    max_bytes: usize,
    deadline: Instant,
) -> Result<Vec<u8>, PaintError> {
    let mut painter = painter.lock().unwrap_or_else(PoisonError::into_inner);
    if Instant::now() >= deadline {
        return Err(PaintError::Late);
    }
    let record = &snapshot.record;
    let voted = |index: usize| record.tracks.get(index).copied().flatten().map(|track| track.gender);
    let faces = record.analysis.faces.iter().enumerate();
    let mut faces: Vec<_> = faces.map(|(index, face)| (face.bounds, voted(index).unwrap_or(Gender::Unknown))).collect();
    if style == Style::Blurred && record.analysis.truncated {
        // There are faces whose place is not known.
        let PictureSize { width_px, height_px } = record.analysis.size;
        let whole = Bounds { x: 0.0, y: 0.0, width: width_px as f32, height: height_px as f32 };
        faces.push((whole, Gender::Unknown));
    }
    let wanted = Wanted { jpeg: &snapshot.jpeg, rotation: snapshot.rotation, faces: &faces, style, max_width_px };
    painter.paint(&wanted, limit, max_bytes)
}

struct WatchedIncidents {
    watch: IncidentWatch,
    cameras: Option<HashSet<CameraId>>,
    shutdown: CancellationToken,
}

/// The next message of a watch of incidents; the last one says that the
/// service stops.
async fn next_incident(
    watched: Option<WatchedIncidents>,
) -> Option<(Result<v1::WatchIncidentsResponse, Status>, Option<WatchedIncidents>)> {
    let mut watched = watched?;
    loop {
        let change = tokio::select! {
            biased;
            () = watched.shutdown.cancelled() => return Some((Err(stopping()), None)),
            change = watched.watch.next() => change,
        };
        let message = match change {
            Change::Gap(missed) => v1::watch_incidents_response::Message::Gap(v1::IncidentGap { missed }),
            Change::Incident(incident) => {
                let is_wanted = match (&watched.cameras, &incident.camera) {
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
        return Some((Ok(v1::WatchIncidentsResponse { message: Some(message) }), Some(watched)));
    }
}

struct Watch {
    subscriber: Subscriber,
    wire: wire::Wire,
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
        Taken::Result(record) => v1::watch_response::Message::Result(watch.wire.result(&record)),
        Taken::Gap { missed, last_missed } => {
            v1::watch_response::Message::Gap(v1::Gap { missed, last_missed_position: last_missed.0 })
        }
    };
    Some((Ok(v1::WatchResponse { message: Some(message) }), Some(watch)))
}

fn watched(ids: &[String]) -> Result<Option<HashSet<CameraId>>, Status> {
    if ids.len() > MAX_WATCHED {
        return Err(too_many_cameras(ids.len()));
    }
    if ids.is_empty() {
        return Ok(None);
    }
    ids.iter().map(|id| camera_id(id)).collect::<Result<_, _>>().map(Some)
}

fn denied(why: &str) -> Status {
    ErrorKind::Denied.status(format!("{why} (privacy.mode)"))
}

pub(super) fn too_many_cameras(ids: usize) -> Status {
    ErrorKind::Invalid.status(format!("{ids} camera ids are too many: use at most {MAX_WATCHED}, or none for all"))
}

pub(super) fn camera_id(text: &str) -> Result<CameraId, Status> {
    CameraId::parse(text).map_err(|error| ErrorKind::Invalid.status(short(error.to_string())))
}

pub(super) fn stopping() -> Status {
    ErrorKind::Unavailable.status("the service is stopping: connect to another or try later")
}
