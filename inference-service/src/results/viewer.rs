//! A client that looks at cameras: gets what is newest whenever it can take
//! more. Nothing is queued for it; what it missed meanwhile is gone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::{CameraId, FrameNumber, MAX_CAMERA_ID_BYTES, SessionId};
use flatframe_shared::r#gen::v1;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::service::stopping;
use super::snapshot::PaintError;
use super::studio::{Look, Studio, StudioError};
use super::wire::Wire;
use crate::cameras::{Camera, Cameras};
use crate::intake::admission::CallSlot;

/// Without a new picture for so long the client is told that the stream lives.
const SILENCE: Duration = Duration::from_secs(5);

/// What a viewer looks at and how.
pub struct Viewer {
    /// All cameras.
    pub cameras: Arc<Cameras>,
    /// Those that it watches; `None`: all.
    pub watched: Option<HashSet<CameraId>>,
    /// Where its pictures are made.
    pub studio: Arc<Studio>,
    /// How they look.
    pub look: Look,
    /// How results look.
    pub wire: Wire,
    /// Kept while it looks.
    pub slot: Option<CallSlot>,
    /// Cancelled when the service stops.
    pub shutdown: CancellationToken,
}

/// A viewer with what it was shown.
pub struct Viewing {
    viewer: Viewer,
    looks: Interval,
    /// Cameras with pictures that are new since the last look. Their ids only:
    /// a camera that makes room for another meanwhile is gone.
    due: VecDeque<CameraId>,
    /// The picture that is being made, or waits for its turn.
    making: Option<Making>,
    shown: HashMap<CameraId, (SessionId, FrameNumber)>,
    last_sent: Instant,
}

type Making = Pin<Box<dyn Future<Output = Result<Option<v1::Snapshot>, Status>> + Send>>;

/// Bound of what is kept of a viewer that was shown `cameras`, in bytes.
pub fn max_bytes(cameras: usize) -> u64 {
    let one = 2 * size_of::<(CameraId, (SessionId, FrameNumber))>() + 2 * MAX_CAMERA_ID_BYTES;
    (size_of::<Viewing>() + cameras * one) as u64
}

impl Viewer {
    /// Begins to look, once in `interval`.
    pub fn looking(self, interval: Duration) -> Viewing {
        let mut looks = tokio::time::interval(interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (due, shown) = (VecDeque::new(), HashMap::new());
        Viewing { viewer: self, looks, due, making: None, shown, last_sent: clock::now() }
    }
}

/// The next message of a viewer; the last one says that the service stops.
pub async fn next(viewing: Option<Viewing>) -> Option<(Result<v1::WatchSnapshotsResponse, Status>, Option<Viewing>)> {
    let mut viewing = viewing?;
    let shutdown = viewing.viewer.shutdown.clone();
    let message = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Some((Err(stopping()), None)),
        message = viewing.message() => message,
    };
    Some(match message {
        Ok(snapshot) => {
            viewing.last_sent = clock::now();
            (Ok(v1::WatchSnapshotsResponse { snapshot }), Some(viewing))
        }
        Err(status) => (Err(status), None),
    })
}

impl Viewing {
    /// A picture; `None` after a time without one.
    async fn message(&mut self) -> Result<Option<v1::Snapshot>, Status> {
        let silence = tokio::time::sleep_until((self.last_sent + SILENCE).into());
        let mut silence = std::pin::pin!(silence);
        loop {
            if let Some(making) = &mut self.making {
                let made = tokio::select! {
                    biased;
                    made = making => made,
                    // It keeps its place in the row.
                    () = &mut silence => return Ok(None),
                };
                self.making = None;
                if let Some(snapshot) = made? {
                    self.note(&snapshot);
                    return Ok(Some(snapshot));
                }
            } else if let Some(id) = self.due.pop_front() {
                self.making = self.viewer.cameras.get(&id).map(|camera| self.viewer.picture(camera));
            } else {
                tokio::select! {
                    biased;
                    () = &mut silence => return Ok(None),
                    _ = self.looks.tick() => self.look(),
                }
            }
        }
    }

    /// Finds the cameras that have something new.
    fn look(&mut self) {
        let cameras = self.viewer.cameras.all();
        self.shown.retain(|id, _| cameras.binary_search_by(|camera| camera.id.cmp(id)).is_ok());
        let is_due = |camera: &&Arc<Camera>| {
            let is_watched = self.viewer.watched.as_ref().is_none_or(|watched| watched.contains(&camera.id));
            is_watched && camera.newest().is_some_and(|newest| self.shown.get(&camera.id) != Some(&newest))
        };
        self.due.extend(cameras.iter().filter(is_due).map(|camera| camera.id.clone()));
    }

    fn note(&mut self, snapshot: &v1::Snapshot) {
        let Some(result) = &snapshot.result else { return };
        if let Ok(id) = CameraId::parse(&snapshot.camera_id) {
            self.shown.insert(id, (SessionId(result.session_id), FrameNumber(result.frame_number)));
        }
    }
}

impl Viewer {
    /// Makes the newest picture of `camera`.
    fn picture(&self, camera: Arc<Camera>) -> Making {
        let (studio, look, wire, slot) = (self.studio.clone(), self.look, self.wire, self.slot.clone());
        Box::pin(async move {
            let given = studio.picture(|| camera.snapshot(), look, None, slot).await;
            let given = given.map_err(|error| status(&error))?;
            Ok(given.map(|(record, jpeg)| wire.snapshot(&camera, &record, jpeg, look.style)))
        })
    }
}

/// What a client is told when there is no picture.
pub fn status(error: &StudioError) -> Status {
    match error {
        StudioError::Late => ErrorKind::DeadlineExceeded.status(error.to_string()),
        StudioError::Paint(PaintError::TooLarge { .. }) => ErrorKind::Invalid.status(format!("the snapshot: {error}")),
        StudioError::Paint(PaintError::Jpeg(_)) => ErrorKind::Internal.status(format!("the snapshot: {error}")),
        StudioError::Stopped(_) => stopping(),
    }
}
