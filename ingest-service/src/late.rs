//! Late frames: those that were recorded while no server took them, found on
//! disk again and taken in their order, to be sent when one does.
//!
//! The recording is the only place where they wait: this reads its files and
//! keeps a position beside them. In reading order: what became of them
//! ([`ledger`]), how far they are sent ([`position`]), what there is
//! ([`backlog`]). Sends nothing (`send/uplink/late` does) and writes no picture.

pub mod backlog;
pub mod ledger;
pub mod position;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use flatframe_shared::budget::Place;
use flatframe_shared::frame::CameraId;

use self::ledger::{LateCounts, LateLedger};
use crate::record::MAX_SEGMENTS;

/// Memory of one camera's late frames besides the one in work: its connection,
/// its list of stretches and of files while they are looked through, bytes.
pub const LATE_BYTES: u64 = (1 << 20) + MAX_SEGMENTS as u64 * 128;

/// What can be seen of the late frames of one camera; a cheap handle.
#[derive(Debug, Clone)]
pub struct LateView {
    /// Whose.
    pub camera: CameraId,
    /// What became of them.
    pub ledger: LateLedger,
    stretches: Arc<AtomicU64>,
}

impl LateView {
    /// Nothing found yet.
    pub fn new(camera: CameraId) -> Self {
        Self { camera, ledger: LateLedger::default(), stretches: Arc::default() }
    }

    /// All counters at one instant.
    pub fn counts(&self) -> LateCounts {
        self.ledger.counts()
    }

    /// Where late frames can wait, with what they hold and may hold.
    pub fn places(&self) -> [Place; 2] {
        let (flight, stretches) = (self.ledger.clone(), self.stretches.clone());
        [
            Place::new(format!("{}/late_in_flight", self.camera), 1, move || flight.counts().in_flight),
            Place::new(format!("{}/late_stretches", self.camera), MAX_SEGMENTS as u64, move || stretches.load(Relaxed)),
        ]
    }

    fn show_stretches(&self, stretches: usize) {
        self.stretches.store(stretches as u64, Relaxed);
    }
}
