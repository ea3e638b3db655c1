//! A client that looks at cameras: gets what is newest whenever it can take
//! more. Nothing is queued for it; what it missed meanwhile is gone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::{CameraId, FrameNumber, SessionId};
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
/// A picture that does not get its turn within this is left out.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Cameras with pictures that are new since the last look.
    due: VecDeque<Arc<Camera>>,
    shown: HashMap<CameraId, (SessionId, FrameNumber)>,
    last_sent: Instant,
}

impl Viewer {
    /// Begins to look, once in `interval`.
    pub fn looking(self, interval: Duration) -> Viewing {
        let mut looks = tokio::time::interval(interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Viewing { viewer: self, looks, due: VecDeque::new(), shown: HashMap::new(), last_sent: clock::now() }
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
        loop {
            while let Some(camera) = self.due.pop_front() {
                if let Some(snapshot) = self.picture(&camera).await? {
                    return Ok(Some(snapshot));
                }
            }
            tokio::select! {
                biased;
                _ = self.looks.tick() => self.look(),
                () = tokio::time::sleep_until((self.last_sent + SILENCE).into()) => return Ok(None),
            }
        }
    }

    /// Finds the cameras that have something new.
    fn look(&mut self) {
        let mut cameras = self.viewer.cameras.all();
        self.shown.retain(|id, _| cameras.binary_search_by(|camera| camera.id.cmp(id)).is_ok());
        cameras.retain(|camera| {
            let is_watched = self.viewer.watched.as_ref().is_none_or(|watched| watched.contains(&camera.id));
            is_watched && camera.newest().is_some_and(|newest| self.shown.get(&camera.id) != Some(&newest))
        });
        self.due.extend(cameras);
    }

    async fn picture(&mut self, camera: &Camera) -> Result<Option<v1::Snapshot>, Status> {
        let viewer = &self.viewer;
        let given =
            viewer.studio.picture(|| camera.snapshot(), viewer.look, clock::now() + PATIENCE, viewer.slot.clone());
        let (record, jpeg) = match given.await {
            Ok(Some(given)) => given,
            // The next look finds it again.
            Ok(None) | Err(StudioError::Late) => return Ok(None),
            Err(error) => return Err(status(&error)),
        };
        self.shown.insert(camera.id.clone(), (record.session, record.number));
        Ok(Some(viewer.wire.snapshot(camera, &record, jpeg, viewer.look.style)))
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
