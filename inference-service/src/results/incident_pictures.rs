//! How it looked when an incident of a camera opened, and when it was over. In
//! memory only, bounded in bytes: the oldest pictures go first, and a restart
//! forgets them all. Nothing is kept where pictures are kept from clients.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flatframe_shared::frame::CameraId;

use crate::cameras::{Cameras, Snapshot};
use crate::people::incidents::Incident;

/// Ends that wait for the camera's next picture; more than that are not all of
/// interest to anybody.
const MAX_AWAITED: usize = 64;
/// For so many looks, one a second: an end is told before the picture that
/// brought it is analysed.
const AWAIT_LOOKS: u32 = 10;
/// What a picture holds besides its JPEG, at least: the place on the shelf.
const PLACE_BYTES: usize = 1024;

/// Which picture of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The newest one when it opened.
    Start,
    /// The first one when it was over.
    End,
}

/// The pictures of the latest incidents.
#[derive(Debug)]
pub struct IncidentPictures {
    max_bytes: usize,
    result_bytes: usize,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    kept: VecDeque<Kept>,
    bytes: usize,
    awaited: VecDeque<Awaited>,
}

#[derive(Debug)]
struct Kept {
    incident: u64,
    moment: Moment,
    snapshot: Snapshot,
    bytes: usize,
}

/// An incident that is over, of a camera that gave no new picture since.
#[derive(Debug)]
struct Awaited {
    incident: u64,
    camera: CameraId,
    looks_left: u32,
}

impl IncidentPictures {
    /// Keeps at most `max_bytes`; 0 keeps none. A picture's result takes up to
    /// `result_bytes`.
    pub fn new(max_bytes: usize, result_bytes: usize) -> Self {
        Self { max_bytes, result_bytes, shelf: Mutex::default() }
    }

    /// An incident opened, or is over.
    pub fn changed(&self, incident: &Incident, cameras: &Cameras) {
        let (Some(id), true) = (&incident.camera, self.max_bytes > 0) else { return };
        let mut shelf = lock(&self.shelf);
        if incident.ended_unix_ms.is_none() {
            if let Some(snapshot) = cameras.get(id).and_then(|camera| camera.snapshot()) {
                self.keep(&mut shelf, incident.id, Moment::Start, snapshot);
            }
            return;
        }
        if shelf.awaited.len() == MAX_AWAITED {
            shelf.awaited.pop_front();
        }
        shelf.awaited.push_back(Awaited { incident: incident.id, camera: id.clone(), looks_left: AWAIT_LOOKS });
    }

    /// Takes the pictures that incidents that are over wait for. To be called
    /// once a second.
    pub fn look(&self, cameras: &Cameras) {
        let mut shelf = lock(&self.shelf);
        for mut awaited in std::mem::take(&mut shelf.awaited) {
            let frame_of = |kept: &Kept| (kept.snapshot.record.session, kept.snapshot.record.number);
            let start = shelf.find(awaited.incident, Moment::Start).map(frame_of);
            let camera = cameras.get(&awaited.camera).filter(|camera| camera.newest() != start);
            match camera.and_then(|camera| camera.snapshot()) {
                Some(snapshot) => self.keep(&mut shelf, awaited.incident, Moment::End, snapshot),
                None if awaited.looks_left > 0 => {
                    awaited.looks_left -= 1;
                    shelf.awaited.push_back(awaited);
                }
                None => {}
            }
        }
    }

    /// The picture of `moment` of an incident of `camera`, if it is kept.
    pub fn get(&self, camera: &CameraId, incident: u64, moment: Moment) -> Option<Snapshot> {
        let shelf = lock(&self.shelf);
        let kept = shelf.find(incident, moment)?;
        (kept.snapshot.record.camera == *camera).then(|| kept.snapshot.clone())
    }

    /// Bytes that are held now.
    pub fn held_bytes(&self) -> usize {
        lock(&self.shelf).bytes
    }

    /// Most bytes that are ever held.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    fn keep(&self, shelf: &mut Shelf, incident: u64, moment: Moment, snapshot: Snapshot) {
        let bytes = snapshot.jpeg.len() + self.result_bytes + PLACE_BYTES;
        if bytes > self.max_bytes {
            return;
        }
        while shelf.bytes + bytes > self.max_bytes {
            let oldest = shelf.kept.pop_front().expect("what is counted is on the shelf");
            shelf.bytes -= oldest.bytes;
        }
        shelf.bytes += bytes;
        shelf.kept.push_back(Kept { incident, moment, snapshot, bytes });
    }
}

impl Shelf {
    fn find(&self, incident: u64, moment: Moment) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.incident == incident && kept.moment == moment)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
