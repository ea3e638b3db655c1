//! The cameras known since start. Bounded; a camera that was offline longest
//! makes room for a new one, and its counts stay in the totals.

mod camera;
mod rate;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flatframe_shared::frame::{CameraHello, CameraId, Pace};
use flatframe_shared::ledger::ServerCounts;

pub use self::camera::{Camera, CameraView, Reported, Snapshot};
use crate::intake::link::{Outbound, StreamLink};
use crate::intake::schedule::QueueId;
use crate::people::People;
use crate::people::config::PeopleConfig;
use crate::people::track::TrackSettings;

/// The queue of single calls; cameras' queues begin after it.
pub const DETECT_QUEUE: QueueId = QueueId(0);

/// All cameras.
#[derive(Debug)]
pub struct Cameras {
    max_cameras: usize,
    people: PeopleConfig,
    tracking: TrackSettings,
    next_queue: AtomicU64,
    state: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    cameras: HashMap<CameraId, Arc<Camera>>,
    /// Counts of cameras that made room.
    retired: ServerCounts,
}

/// Why a camera's stream is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its id streams from elsewhere.
    #[error("camera {0} is already streaming from another sender: give each camera its own id")]
    InUse(CameraId),
    /// All cameras are online and there are as many as allowed.
    #[error("{0} cameras are online, which is the limit (limits.max_cameras)")]
    Full(usize),
}

impl Cameras {
    /// Keeps at most `max_cameras`, and follows and counts people as `people`
    /// and `tracking` say.
    pub fn new(max_cameras: usize, people: PeopleConfig, tracking: TrackSettings) -> Self {
        let next_queue = AtomicU64::new(DETECT_QUEUE.0 + 1);
        Self { max_cameras, people, tracking, next_queue, state: Mutex::default() }
    }

    /// Opens a stream for the camera of `hello`. A stream of the same session
    /// that still stands is ended: its sender has come back.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &self,
        hello: &CameraHello,
        pace: Pace,
        link: impl FnOnce(Arc<Camera>) -> (Arc<StreamLink>, Outbound),
    ) -> Result<(Arc<StreamLink>, Outbound), OpenError> {
        let mut state = lock(&self.state);
        if let Some(camera) = state.cameras.get(&hello.camera).cloned() {
            return camera.open(hello, pace, link);
        }
        if state.cameras.len() >= self.max_cameras && !state.retire_one() {
            return Err(OpenError::Full(self.max_cameras));
        }
        let queue = QueueId(self.next_queue.fetch_add(1, Relaxed));
        let people = People::new(&hello.camera, &self.people, self.tracking);
        let camera = Arc::new(Camera::new(hello, queue, pace, people));
        let opened = camera.open(hello, pace, link)?;
        state.cameras.insert(hello.camera.clone(), camera);
        Ok(opened)
    }

    /// Ends the stream that the session of `hello` still has; `false` when it
    /// has none.
    pub fn end_previous(&self, hello: &CameraHello) -> bool {
        self.get(&hello.camera).is_some_and(|camera| camera.end_stream_of(hello.session))
    }

    /// The camera of that id.
    pub fn get(&self, id: &CameraId) -> Option<Arc<Camera>> {
        lock(&self.state).cameras.get(id).cloned()
    }

    /// All cameras, by id.
    pub fn all(&self) -> Vec<Arc<Camera>> {
        let mut cameras: Vec<_> = lock(&self.state).cameras.values().cloned().collect();
        cameras.sort_by(|a, b| a.id.cmp(&b.id));
        cameras
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        lock(&self.state).cameras.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tracks of all cameras now.
    pub fn tracks(&self) -> usize {
        self.all().iter().map(|camera| camera.tracks()).sum()
    }

    /// Counts of cameras that made room for others.
    pub fn retired(&self) -> ServerCounts {
        lock(&self.state).retired
    }
}

impl Registry {
    /// Forgets the camera that is offline longest; `false` when there is none.
    fn retire_one(&mut self) -> bool {
        let longest = self
            .cameras
            .values()
            .filter(|camera| camera.ledger.counts().queued == 0)
            .filter_map(|camera| Some((camera.offline_since()?, camera.id.clone())))
            .min_by_key(|(since, _)| *since);
        let Some((_, id)) = longest else { return false };
        if let Some(camera) = self.cameras.remove(&id) {
            self.retired += camera.ledger.counts();
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
