//! Answers about cameras that other replicas serve: from what they tell on the
//! result bus. What the bus cannot answer is an error or is said in the answer;
//! it never looks like a camera that is not there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::convert::millis_u64;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use prost::Message;
use tonic::Status;

use super::archive::from_body;
use super::record::ElsewhereResult;
use super::wire::Wire;
use crate::cameras::{Camera, Cameras};
use crate::replicas::Replicas;
use crate::replicas::directory::Elsewhere;
use crate::replicas::lookup::{From, Stored, Unanswered};

/// When to try again while the bus is away.
const RETRY: Duration = Duration::from_secs(1);

/// Who serves a camera.
pub enum Place {
    /// This replica, or nobody and this one did last.
    Here(Arc<Camera>),
    /// Another one.
    Elsewhere(Elsewhere),
}

/// Finds a camera.
///
/// # Errors
/// NOT_FOUND: nobody knows it. UNAVAILABLE: it is not served here, and the bus
/// that knows the others is away.
pub fn find(cameras: &Cameras, replicas: Option<&Replicas>, id: &CameraId) -> Result<Place, Status> {
    let here = cameras.get(id);
    let told = replicas.and_then(|replicas| replicas.directory.get(id));
    match (here, told) {
        (Some(camera), Some(told)) if is_newer(&told, &camera) => Ok(Place::Elsewhere(told)),
        (Some(camera), _) => Ok(Place::Here(camera)),
        (None, Some(told)) => Ok(Place::Elsewhere(told)),
        (None, None) => match replicas.and_then(not_known) {
            Some(why) => {
                let message = format!("camera {id} is not served here, and {why}");
                Err(ErrorKind::Unavailable.status(message))
            }
            None => {
                let message = format!("camera {id} has not connected since the service started");
                Err(ErrorKind::NotFound.status(message))
            }
        },
    }
}

/// Why there may be cameras of others that are not known here.
fn not_known(replicas: &Replicas) -> Option<String> {
    replicas.unheard().or_else(|| {
        let (is_short, most) = (replicas.directory.is_short(clock::now()), replicas.directory.max_cameras());
        is_short.then(|| format!("of other replicas at most {most} cameras are known (bus.max_cameras)"))
    })
}

/// Whether another replica told of a camera after its stream ended here.
fn is_newer(told: &Elsewhere, camera: &Camera) -> bool {
    camera.offline_since().is_some_and(|since| told.heard > since)
}

/// What only the replica can do that serves the camera.
pub fn only_there(told: &Elsewhere, what: &str) -> Status {
    ErrorKind::Precondition
        .status(format!("camera {} is served by replica {}: {what} there", told.camera, told.replica))
}

/// The newest result of a camera of another replica.
///
/// # Errors
/// UNAVAILABLE.
pub async fn latest(replicas: &Replicas, told: &Elsewhere, wire: Wire) -> Result<v1::GetLatestResponse, Status> {
    let newest = replicas.newest(&told.camera).await.map_err(unanswered)?;
    let result = newest.map(|stored| decoded(&stored, &told.camera, wire)).transpose()?;
    let age_us = result.as_ref().map(|result| clock::unix_us().saturating_sub(result.observed_unix_us));
    Ok(v1::GetLatestResponse {
        camera: Some(camera(told, wire)?),
        result,
        age_ms: age_us.map(|age_us| u64::try_from(age_us).unwrap_or(0) / 1000),
    })
}

/// All cameras: those of `own`, and those of the other replicas.
pub fn list(
    cameras: &Cameras,
    replicas: Option<&Replicas>,
    wire: Wire,
    own: impl Fn(&Arc<Camera>) -> v1::CameraInfo,
) -> v1::ListCamerasResponse {
    let mut all: BTreeMap<_, _> = cameras.all().iter().map(|camera| (camera.id.clone(), own(camera))).collect();
    let Some(replicas) = replicas else {
        return v1::ListCamerasResponse { cameras: all.into_values().collect(), incomplete: String::new() };
    };
    let mut not_understood = None;
    for told in replicas.directory.all() {
        if cameras.get(&told.camera).is_none_or(|here| is_newer(&told, &here)) {
            match camera(&told, wire) {
                Ok(info) => drop(all.insert(told.camera, info)),
                // Of a newer replica: the others are there all the same.
                Err(status) => not_understood = Some(format!("camera {}: {}", told.camera, status.message())),
            }
        }
    }
    let incomplete = not_known(replicas).map(|why| format!("cameras of other replicas are as last told: {why}"));
    let incomplete = incomplete.or(not_understood).unwrap_or_default();
    v1::ListCamerasResponse { cameras: all.into_values().collect(), incomplete }
}

/// A camera of another replica, as that one told; offline when it tells
/// nothing more.
fn camera(told: &Elsewhere, wire: Wire) -> Result<v1::CameraInfo, Status> {
    let mut info = v1::CameraInfo::decode(&*told.info).map_err(|_| not_understood(&told.replica))?;
    let now = clock::now();
    info.camera_id = told.camera.to_string();
    info.replica = told.replica.to_string();
    let since = millis_u64(now.saturating_duration_since(told.heard));
    info.last_frame_age_ms = info.last_frame_age_ms.map(|age_ms| age_ms.saturating_add(since));
    if let Some(silence) = told.silent_for(now) {
        info.set_state(v1::CameraState::Offline);
        info.analyzed_fps = 0.0;
        info.detail = format!("replica {} has told nothing of it for {} s", told.replica, silence.as_secs());
        if let Some(counts) = &mut info.counts {
            counts.now = None;
        }
    }
    if wire.withholds_faces {
        info.counts = None;
    }
    Ok(info)
}

/// A result of another replica as a client sees it here: at its place in this
/// replica's sequence, and with no more than the privacy mode allows here.
///
/// # Errors
/// INTERNAL: what it told is not understood.
pub fn result(told: &ElsewhereResult, wire: Wire) -> Result<v1::FrameResult, Status> {
    let found = from_body(&told.body, told.camera.as_str()).map_err(|_| not_understood(&told.replica))?;
    let found = v1::FrameResult {
        position: told.position.0,
        server_epoch: wire.server_epoch,
        replica: told.replica.to_string(),
        ..found
    };
    Ok(withheld(found, wire))
}

fn withheld(result: v1::FrameResult, wire: Wire) -> v1::FrameResult {
    if !wire.withholds_faces {
        return result;
    }
    v1::FrameResult { faces: Vec::new(), counts: None, faces_withheld: true, ..result }
}

fn decoded(stored: &Stored, camera: &CameraId, wire: Wire) -> Result<v1::FrameResult, Status> {
    let result = from_body(&stored.body, camera.as_str()).map_err(|_| not_understood(&stored.replica))?;
    let replica = if result.server_epoch == wire.server_epoch { String::new() } else { stored.replica.to_string() };
    Ok(withheld(v1::FrameResult { replica, ..result }, wire))
}

/// A page of results of one camera from the bus.
pub struct Page {
    /// Its results.
    pub results: Vec<v1::FrameResult>,
    /// Where the next page begins; `None`: there are no more.
    pub next: Option<u64>,
}

/// What a page is to hold.
#[derive(Debug, Clone, Copy)]
pub struct PageQuery {
    /// Capture times, in milliseconds since the Unix epoch, the end exclusive.
    pub span_unix_ms: (i64, i64),
    /// Place of the last result of the page before.
    pub after: Option<u64>,
    /// Most results.
    pub limit: usize,
    /// Most bytes of them as they are kept.
    pub max_bytes: usize,
    /// When the answer is worthless.
    pub deadline: Instant,
}

/// Clocks of cameras' servers and of the bus may differ by so much.
const CLOCKS_MS: i64 = 5_000;

/// One page.
///
/// # Errors
/// UNAVAILABLE, DEADLINE_EXCEEDED.
pub async fn page(replicas: &Replicas, camera: &CameraId, query: PageQuery, wire: Wire) -> Result<Page, Status> {
    let (from_ms, to_ms) = query.span_unix_ms;
    let from = query.after.map_or(From::Time(from_ms.saturating_sub(CLOCKS_MS)), From::After);
    // A result is published soon after its capture, or at the latest when it is late.
    let late_ms = i64::try_from(replicas.settings.late.as_millis()).unwrap_or(i64::MAX);
    let last_ms = to_ms.saturating_add(late_ms).saturating_add(CLOCKS_MS);
    let (mut page, mut bytes, mut damaged) = (Page { results: Vec::new(), next: None }, 0, None);
    let mut last = 0;
    let stopped = replicas.read(camera, from, query.deadline, |stored| {
        if stored.published_unix_ms > last_ms {
            return ControlFlow::Break(());
        }
        let is_full = page.results.len() >= query.limit || bytes + stored.body.len() > query.max_bytes;
        if is_full && !page.results.is_empty() {
            page.next = Some(last);
            return ControlFlow::Break(());
        }
        last = stored.sequence;
        match decoded(&stored, camera, wire) {
            Ok(result) => {
                let at_ms = result.observed_unix_us.div_euclid(1000);
                if (from_ms..to_ms).contains(&at_ms) {
                    bytes += stored.body.len();
                    page.results.push(result);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                damaged = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    stopped.await.map_err(unanswered)?;
    damaged.map_or(Ok(page), Err)
}

/// Since when the bus has every result of a camera, in milliseconds since the
/// Unix epoch; `None`: it has none.
///
/// # Errors
/// UNAVAILABLE, DEADLINE_EXCEEDED.
pub async fn complete_since(replicas: &Replicas, camera: &CameraId, deadline: Instant) -> Result<Option<i64>, Status> {
    replicas.complete_since(camera, deadline).await.map_err(unanswered)
}

fn not_understood(replica: &str) -> Status {
    let message = format!("what replica {replica} tells is not understood here: update the older of the two");
    ErrorKind::Internal.status(message)
}

fn unanswered(error: Unanswered) -> Status {
    match error {
        Unanswered::Away(_) => ErrorKind::Unavailable.status(format!("{error}: try again in {} s", RETRY.as_secs())),
        Unanswered::Late => ErrorKind::DeadlineExceeded.status(format!("{error}: ask for a shorter time")),
    }
}
