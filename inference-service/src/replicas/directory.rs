//! The cameras that other replicas serve, as they last told of them. Bounded;
//! holds what they said as it came, and knows nothing of it. No async, no I/O.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::CameraId;

/// Most that may be told of one camera, in bytes.
pub const MAX_INFO_BYTES: usize = 8 << 10;
/// Replicas tell every second: what is older is not known any more.
pub const SILENCE: Duration = Duration::from_secs(5);

/// A camera of another replica.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// Which camera.
    pub camera: CameraId,
    /// Name of the replica.
    pub replica: Arc<str>,
    /// When it last told of the camera.
    pub heard: Instant,
    /// What it told.
    pub info: Bytes,
}

impl Elsewhere {
    /// For how long nothing was told of it, when that is too long.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.heard)).filter(|silence| *silence > SILENCE)
    }
}

/// All of them.
#[derive(Debug)]
pub struct Directory {
    max_cameras: usize,
    known: Mutex<Known>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    cameras: HashMap<CameraId, Elsewhere>,
    /// When there was no room for one last.
    refused: Option<Instant>,
}

impl Directory {
    /// Nobody told anything yet; keeps at most `max_cameras`.
    pub fn new(max_cameras: usize) -> Self {
        Self { max_cameras, known: Mutex::default(), refused: AtomicU64::new(0) }
    }

    /// Another replica told of a camera. When there is no room, one of which
    /// nothing was told for long makes some, if there is one.
    pub fn put(&self, told: Elsewhere, now: Instant) {
        let mut known = self.lock();
        let Known { cameras, refused } = &mut *known;
        if cameras.len() >= self.max_cameras && !cameras.contains_key(&told.camera) {
            let silent = cameras.values().filter(|one| one.silent_for(now).is_some()).min_by_key(|one| one.heard);
            let Some(silent) = silent.map(|one| one.camera.clone()) else {
                *refused = Some(now);
                self.refused.fetch_add(1, Relaxed);
                return;
            };
            cameras.remove(&silent);
        }
        cameras.insert(told.camera.clone(), told);
    }

    /// The camera of that id.
    pub fn get(&self, camera: &CameraId) -> Option<Elsewhere> {
        self.lock().cameras.get(camera).cloned()
    }

    /// All cameras, in no order.
    pub fn all(&self) -> Vec<Elsewhere> {
        self.lock().cameras.values().cloned().collect()
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.lock().cameras.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most that are known at once.
    pub fn max_cameras(&self) -> usize {
        self.max_cameras
    }

    /// Whether others serve cameras that are not known for want of room.
    pub fn is_short(&self, now: Instant) -> bool {
        self.lock().refused.is_some_and(|at| now.saturating_duration_since(at) <= SILENCE)
    }

    /// What was told of cameras for which there was no room, in messages.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_nothing_makes_room() {
        let (directory, start) = (Directory::new(2), Instant::now());
        let tell = |camera: &str, at: Instant| {
            let camera = CameraId::parse(camera).expect("an id");
            directory.put(Elsewhere { camera, replica: "b".into(), heard: at, info: Bytes::new() }, at);
        };
        tell("a", start);
        tell("b", start);
        assert!(!directory.is_short(start), "full, and nothing is missing");
        tell("c", start + SILENCE);
        assert_eq!((directory.len(), directory.refused()), (2, 1), "both still live");
        assert!(directory.is_short(start + SILENCE) && !directory.is_short(start + 3 * SILENCE));
        tell("b", start + SILENCE);
        tell("c", start + SILENCE + Duration::from_secs(1));
        let known = |id: &str| directory.get(&CameraId::parse(id).expect("an id")).is_some();
        assert_eq!((known("a"), known("b"), known("c")), (false, true, true));
    }
}
