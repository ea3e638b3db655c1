//! Who is connected, and room for one more at the cap: the connection that is
//! longest without a call gives way, so that many idle ones cannot lock others
//! out. A connection that carries a call never gives way. Closes nothing
//! itself: it cancels a token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::calls::CallWatch;

/// The connections of one listener.
pub(super) struct Roster {
    members: Arc<Mutex<Members>>,
    /// One permit for each connection that may be open.
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Members {
    next: u64,
    connections: HashMap<u64, Connected>,
}

struct Connected {
    calls: CallWatch,
    /// Cancelled to make it give way.
    gives_way: CancellationToken,
}

/// A place among the connections, not taken yet.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A connection's entry; it leaves with this.
pub(super) struct Member {
    id: u64,
    members: Arc<Mutex<Members>>,
    _place: Place,
}

impl Roster {
    /// At most `max` connections at once.
    pub(super) fn new(max: usize) -> Self {
        Self { members: Arc::default(), places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))) }
    }

    /// A free place, if there is one.
    pub(super) fn place(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok().map(|_permit| Place { _permit })
    }

    /// Tells the connection that is longest without a call to end; `false` when
    /// all carry calls.
    pub(super) fn make_room(&self) -> bool {
        let members = lock(&self.members);
        let idle = members.connections.values().filter(|connected| !connected.gives_way.is_cancelled());
        let idle = idle.filter_map(|connected| Some((connected.calls.idle_since()?, &connected.gives_way)));
        match idle.min_by_key(|(since, _): &(Instant, _)| *since) {
            Some((_, gives_way)) => {
                gives_way.cancel();
                true
            }
            None => false,
        }
    }

    /// Waits for the place of one that was told to end.
    pub(super) async fn place_made(&self) -> Place {
        Place { _permit: self.places.clone().acquire_owned().await.expect("the semaphore is never closed") }
    }

    /// Enters a connection with `calls` at `place`; it must end when
    /// `gives_way` is cancelled.
    pub(super) fn enter(&self, place: Place, calls: CallWatch, gives_way: CancellationToken) -> Member {
        let mut members = lock(&self.members);
        let id = members.next;
        members.next += 1;
        members.connections.insert(id, Connected { calls, gives_way });
        Member { id, members: self.members.clone(), _place: place }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        lock(&self.members).connections.remove(&self.id);
    }
}

fn lock(members: &Mutex<Members>) -> MutexGuard<'_, Members> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}
