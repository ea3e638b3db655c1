//! The calls of clients: live results, the newest result and picture, all
//! cameras, incidents, what was. An error is an error: an unknown camera is
//! NOT_FOUND, "no frame yet" is a state, and neither is ever an empty list.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::convert::short;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use flatframe_shared::serve::Connection;
use futures_util::stream;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::archive::Archive;
use super::bus::Bus;
use super::elsewhere::{self, Place};
use super::hearing::Hearing;
use super::incident_pictures::{IncidentPictures, Moment};
use super::incident_stream::{self, IncidentStream};
use super::pages::Pages;
use super::query::{self, CountRules};
use super::record::Position;
use super::snapshot::Style;
use super::studio::{Look, Studio};
use super::viewer::{self, Viewer};
use super::watch::{self, Watch};
use crate::cameras::{Camera, Cameras};
use crate::config::{PrivacyConfig, PrivacyMode};
use crate::intake::admission::{CallDeadline, CallSlot};
use crate::people::incidents::Incidents;
use crate::replicas::Replicas;

/// Most cameras that one call may name.
pub(super) const MAX_WATCHED: usize = 256;
/// When to try again for a subscription.
const SUBSCRIBE_RETRY: Duration = Duration::from_secs(5);
/// More people are on no side of any line.
const MAX_OCCUPANCY: i64 = 1_000_000;
/// Narrower snapshots show nothing.
const MIN_SNAPSHOT_WIDTH_PX: u32 = 32;
/// Pictures of each camera that a viewer gets who does not say, per second.
const VIEWING_FPS: f32 = 2.0;
/// Most that a viewer may ask for, per second.
const MAX_VIEWING_FPS: f32 = 10.0;

/// What is said of counts where there are several replicas.
const COUNTS_OF_THIS_REPLICA: &str =
    "counts of what this replica served: ask every replica that keeps a history, and add them up";

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
    /// How it looked then.
    pub incident_pictures: Arc<IncidentPictures>,
    /// What clients may see.
    pub privacy: PrivacyConfig,
    /// Makes pictures for people.
    pub studio: Arc<Studio>,
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
    type WatchSnapshotsStream = Answers<v1::WatchSnapshotsResponse>;

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
        let watch = Watch {
            subscriber,
            wire: self.archive.wire,
            hearing: Hearing::new(self.replicas()),
            shutdown: self.shutdown.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), watch::next))))
    }

    async fn get_latest(
        &self,
        request: Request<v1::GetLatestRequest>,
    ) -> Result<Response<v1::GetLatestResponse>, Status> {
        let id = camera_id(&request.into_inner().camera_id)?;
        let camera = match (elsewhere::find(&self.cameras, self.replicas(), &id)?, self.replicas()) {
            (Place::Here(camera), _) => camera,
            (Place::Elsewhere(told), Some(replicas)) => {
                return Ok(Response::new(elsewhere::latest(replicas, &told, self.archive.wire).await?));
            }
            (Place::Elsewhere(told), None) => return Err(elsewhere::only_there(&told, "ask")),
        };
        let incidents = self.incidents.open_of(Some(&camera.id));
        Ok(Response::new(self.archive.wire.latest(&camera.view(), incidents.iter().map(|one| &**one))))
    }

    async fn list_cameras(
        &self,
        _request: Request<v1::ListCamerasRequest>,
    ) -> Result<Response<v1::ListCamerasResponse>, Status> {
        let open = self.incidents.open_by_camera();
        let info = |camera: &Arc<Camera>| {
            let incidents = open.get(&camera.id).into_iter().flatten();
            self.archive.wire.camera(&camera.view(), incidents.map(|one| &**one))
        };
        Ok(Response::new(elsewhere::list(&self.cameras, self.replicas(), self.archive.wire, info)))
    }

    async fn query_results(
        &self,
        request: Request<v1::QueryResultsRequest>,
    ) -> Result<Response<Self::QueryResultsStream>, Status> {
        if self.privacy.mode == PrivacyMode::CountsOnly {
            return Err(denied("single results are kept from clients"));
        }
        let slot = request.extensions().get::<CallSlot>().cloned();
        let first = Pages::new(&self.archive, &request.into_inner(), self.call_deadline, slot).await?;
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
        let incomplete = self.replicas().map_or(String::new(), |_| COUNTS_OF_THIS_REPLICA.to_owned());
        Ok(Response::new(v1::QueryCountsResponse { series, incomplete }))
    }

    async fn watch_incidents(
        &self,
        request: Request<v1::WatchIncidentsRequest>,
    ) -> Result<Response<Self::WatchIncidentsStream>, Status> {
        if self.shutdown.is_cancelled() {
            return Err(stopping());
        }
        let v1::WatchIncidentsRequest { camera_ids, only_known } = request.into_inner();
        let watch = IncidentStream {
            watch: self.incidents.watch(),
            hearing: Hearing::new(self.replicas()),
            cameras: watched(&camera_ids)?,
            only_known,
            shutdown: self.shutdown.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(watch), incident_stream::next))))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        let (deadline, slot) = (self.deadline(&request), request.extensions().get::<CallSlot>().cloned());
        let request = request.into_inner();
        let camera = self.camera(&request.camera_id, "pictures stay on it, ask")?;
        let look = Look { style: self.style(request.style)?, max_width_px: max_width(request.max_width_px)? };
        let incident = request.incident_id.map(|id| moment(request.moment).map(|moment| (id, moment))).transpose()?;
        let wanted = || match incident {
            Some((id, moment)) => self.incident_pictures.get(&camera.id, id, moment),
            None => camera.snapshot(),
        };
        let given = self.studio.clone().picture(wanted, look, Some(deadline), slot).await;
        let (record, jpeg) = given.map_err(|error| viewer::status(&error))?.ok_or_else(|| match incident {
            Some((id, _)) => ErrorKind::NotFound.status(format!(
                "no such picture of incident {id} of camera {} is kept: only the latest are, until a restart \
                 (incidents.picture_bytes)",
                camera.id
            )),
            None => ErrorKind::Precondition.status(format!("no picture of camera {} was analysed yet", camera.id)),
        })?;
        let snapshot = self.archive.wire.snapshot(&camera, &record, jpeg, look.style);
        Ok(Response::new(v1::GetSnapshotResponse { snapshot: Some(snapshot) }))
    }

    async fn watch_snapshots(
        &self,
        request: Request<v1::WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        if self.shutdown.is_cancelled() {
            return Err(stopping());
        }
        let slot = request.extensions().get::<CallSlot>().cloned();
        let request = request.into_inner();
        let look = Look { style: self.style(request.style)?, max_width_px: max_width(request.max_width_px)? };
        let interval = viewing_interval(request.max_fps)?;
        let viewer = Viewer {
            cameras: self.cameras.clone(),
            watched: watched(&request.camera_ids)?,
            studio: self.studio.clone(),
            look,
            wire: self.archive.wire,
            slot,
            shutdown: self.shutdown.clone(),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(viewer.looking(interval)), viewer::next))))
    }

    async fn reset_occupancy(
        &self,
        request: Request<v1::ResetOccupancyRequest>,
    ) -> Result<Response<v1::ResetOccupancyResponse>, Status> {
        let v1::ResetOccupancyRequest { camera_id, name, occupancy } = request.into_inner();
        let camera = self.camera(&camera_id, "set it")?;
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

    fn replicas(&self) -> Option<&Replicas> {
        self.archive.replicas.as_deref()
    }

    /// A camera that is served here; `otherwise`: what to do at the replica
    /// that serves it.
    fn camera(&self, id: &str, otherwise: &str) -> Result<Arc<Camera>, Status> {
        match elsewhere::find(&self.cameras, self.replicas(), &camera_id(id)?)? {
            Place::Here(camera) => Ok(camera),
            Place::Elsewhere(told) => Err(elsewhere::only_there(&told, otherwise)),
        }
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

fn moment(asked: i32) -> Result<Moment, Status> {
    match v1::IncidentMoment::try_from(asked) {
        Ok(v1::IncidentMoment::Unspecified | v1::IncidentMoment::Start) => Ok(Moment::Start),
        Ok(v1::IncidentMoment::End) => Ok(Moment::End),
        Err(_) => Err(ErrorKind::Invalid.status(format!("moment = {asked}: use START or END"))),
    }
}

fn max_width(asked: u32) -> Result<Option<u32>, Status> {
    match asked {
        0 => Ok(None),
        width if width < MIN_SNAPSHOT_WIDTH_PX => {
            let message = format!("max_width_px = {width}: use 0 (as it came) or at least {MIN_SNAPSHOT_WIDTH_PX}");
            Err(ErrorKind::Invalid.status(message))
        }
        width => Ok(Some(width)),
    }
}

/// Time between two looks of a viewer.
fn viewing_interval(max_fps: f32) -> Result<Duration, Status> {
    let fps = if max_fps == 0.0 { VIEWING_FPS } else { max_fps };
    // Slower than once an hour is not looking.
    if !(1.0 / 3600.0..=MAX_VIEWING_FPS).contains(&fps) {
        let message =
            format!("max_fps = {max_fps}: use more than 0 and at most {MAX_VIEWING_FPS}, or 0 for {VIEWING_FPS}");
        return Err(ErrorKind::Invalid.status(message));
    }
    Ok(Duration::from_secs_f32(1.0 / fps))
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
