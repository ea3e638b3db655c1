//! What a camera that moves between replicas shows, and whether it can: in its
//! way are deadlines of half a second. A move in which more than that passed
//! from one frame to the next shows nothing, and another camera moves.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use e2e::pair::Inference;
use inference_service::replicas::handover::{HAND_OVER_DEADLINE, TAKE_OVER_DEADLINE};

use crate::replica::{Client, bus_of, latest};
use crate::sender::Sender;

/// Longest wait for a move in which the machine did not stand still.
pub const MOVES_PATIENCE: Duration = Duration::from_secs(300);

/// What the newest result of a camera with one face says of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct People {
    /// Visits so far.
    pub visits: u32,
    /// Whether some of them may be counted twice, or missing.
    pub is_uncertain: bool,
    /// Number of the face's track.
    pub track_id: u64,
    /// Whether that is a visit.
    pub is_visit: bool,
}

/// Who is in front of a camera, as the replica says that serves it.
pub async fn people(client: &Client, camera: &str) -> People {
    let result = latest(client, camera).await.expect("an answer").result.expect("was analysed");
    let track = result.faces[0].track.expect("is followed");
    let counts = result.counts.expect("is counted");
    People {
        visits: counts.visits.expect("visits").faces,
        is_uncertain: counts.uncertain,
        track_id: track.track_id,
        is_visit: track.is_visit,
    }
}

/// The times between one step of a move and the next.
pub struct Steps {
    last: Instant,
    longest: Duration,
}

impl Steps {
    /// None yet.
    pub fn begin() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO }
    }

    /// Sends so many frames, a step each.
    pub async fn send(&mut self, camera: &mut Sender, frames: u32) {
        for _ in 0..frames {
            camera.send(1).await;
            self.step();
        }
    }

    /// A step is done.
    pub fn step(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// What was since the last step does not count.
    pub fn skip(&mut self) {
        self.last = Instant::now();
    }

    /// Whether each was done before any deadline within it can have passed.
    pub fn were_quick(&self) -> bool {
        self.longest < HAND_OVER_DEADLINE.min(TAKE_OVER_DEADLINE)
    }
}

/// Batches that failed, connections made, and whether the bus is there: what is
/// the same before and after was not away meanwhile.
pub fn hold_on_the_bus(service: &Inference) -> (u64, u64, bool) {
    let bus = bus_of(service);
    (bus.counts.failed.load(Relaxed), bus.counts.connected.load(Relaxed), bus.away().is_none())
}
