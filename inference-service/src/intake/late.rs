//! Late frames: those that a camera's device kept while no server took them.
//! They come on streams of their own, few at once, each with one frame in work,
//! and only as fast as live cameras leave over. Their results go into the
//! history, each at most once, and nowhere else: what is known of now never
//! hears of them.
//!
//! In reading order: what is left over ([`leftover`]), who is next ([`gate`]),
//! one [`stream`], the [`reply`] to one frame.

pub mod gate;
pub mod leftover;
pub mod reply;
pub mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flatframe_shared::frame::{CameraId, SessionId};
use flatframe_shared::ledger::ServerLedger;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::gate::Gate;

/// What the streams of late frames share.
#[derive(Debug)]
pub struct Late {
    /// What became of late frames, of all cameras.
    pub ledger: ServerLedger,
    /// Lets through as many frames as there is time for.
    pub gate: Gate,
    max_streams: usize,
    /// One permit for each stream; a permit is the memory of its frame.
    slots: Arc<Semaphore>,
    open: Mutex<HashMap<CameraId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    session: SessionId,
    ended: CancellationToken,
    gone: CancellationToken,
}

/// Why there is no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoStream {
    /// Another sender has it.
    #[error("late frames of camera {0} come from another sender already: give each camera its own id")]
    InUse(CameraId),
    /// All slots are taken.
    #[error("{0} streams of late frames are open, which is the limit (limits.max_late_streams)")]
    Full(usize),
    /// The stream before has frames in work.
    #[error("the late stream of camera {0} that broke is still being ended")]
    Ending(CameraId),
}

/// The place of one stream; free again when this is dropped, after its last
/// frame was answered.
#[derive(Debug)]
pub struct LatePlace {
    late: Arc<Late>,
    camera: CameraId,
    /// Cancelled to end the stream from outside.
    pub ended: CancellationToken,
    gone: CancellationToken,
    /// Its memory; kept also until the sender has taken the answers.
    pub slot: Arc<OwnedSemaphorePermit>,
}

impl Late {
    /// At most `max_streams` at once.
    pub fn new(max_streams: usize) -> Arc<Self> {
        Arc::new(Self {
            ledger: ServerLedger::new(),
            gate: Gate::default(),
            max_streams,
            slots: Arc::new(Semaphore::new(max_streams)),
            open: Mutex::default(),
        })
    }

    /// Most streams at once.
    pub fn max_streams(&self) -> usize {
        self.max_streams
    }

    /// Streams open or answering.
    pub fn streams(&self) -> usize {
        self.max_streams - self.slots.available_permits()
    }

    /// A place for the stream of `camera`. One that the same session still has
    /// is ended and waited for, at most `patience`: its frames must be settled
    /// before it is known which results there are.
    ///
    /// # Errors
    /// [`NoStream`].
    pub async fn place(
        self: &Arc<Self>,
        camera: &CameraId,
        session: SessionId,
        patience: Duration,
    ) -> Result<LatePlace, NoStream> {
        let before = match lock(&self.open).get(camera) {
            Some(entry) if entry.session != session => return Err(NoStream::InUse(camera.clone())),
            Some(entry) => {
                entry.ended.cancel();
                Some(entry.gone.clone())
            }
            None => None,
        };
        if let Some(gone) = before
            && tokio::time::timeout(patience, gone.cancelled()).await.is_err()
        {
            return Err(NoStream::Ending(camera.clone()));
        }
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| NoStream::Full(self.max_streams))?;
        let (ended, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut open = lock(&self.open);
        // Someone else was quicker.
        if open.contains_key(camera) {
            return Err(NoStream::InUse(camera.clone()));
        }
        open.insert(camera.clone(), Entry { session, ended: ended.clone(), gone: gone.clone() });
        Ok(LatePlace { late: self.clone(), camera: camera.clone(), ended, gone, slot: Arc::new(slot) })
    }
}

impl Drop for LatePlace {
    fn drop(&mut self) {
        lock(&self.late.open).remove(&self.camera);
        self.gone.cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const NONE: Duration = Duration::ZERO;

    #[tokio::test]
    async fn one_stream_for_each_camera() {
        let late = Late::new(2);
        let camera = |id| CameraId::parse(id).expect("valid");
        let first = late.place(&camera("a"), SessionId(1), PATIENCE).await.expect("room");
        let other = late.place(&camera("a"), SessionId(2), PATIENCE).await.expect_err("taken");
        assert_eq!(other, NoStream::InUse(camera("a")));

        // The same sender comes back: the stream before is ended, and waited for.
        let again = late.place(&camera("a"), SessionId(1), NONE).await.expect_err("has a frame in work");
        assert_eq!(again, NoStream::Ending(camera("a")));
        assert!(first.ended.is_cancelled());
        let a = camera("a");
        let (again, ()) = tokio::join!(late.place(&a, SessionId(1), PATIENCE), async { drop(first) });
        let again = again.expect("the one before is gone");

        let _second = late.place(&camera("b"), SessionId(1), PATIENCE).await.expect("room");
        let third = late.place(&camera("c"), SessionId(1), PATIENCE).await.expect_err("full");
        assert_eq!((third, late.streams()), (NoStream::Full(2), 2));
        drop(again);
        late.place(&camera("c"), SessionId(1), PATIENCE).await.expect("room again");
    }
}
