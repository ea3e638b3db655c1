//! How many calls of each kind there may be at once, and every place where
//! something can wait, with its cap.

use std::sync::Arc;

use flatframe_shared::budget::Place;
use flatframe_shared::serve::ConnectionCounts;

use crate::config::{Config, Limits, PrivacyMode};
use crate::intake::admission::Slots;
use crate::intake::link::{Intake, MAX_OPENINGS};
use crate::people::incidents::Incidents;
use crate::results::incident_pictures::IncidentPictures;

/// Most calls of clients at once besides `Watch`, `Detect`, health and cameras.
pub const MAX_SMALL_CALLS: usize = 64;
/// Most health checks at once: clients that hold every other slot must not make
/// a probe fail.
pub const MAX_HEALTH_CHECKS: usize = 16;
/// Most clients that watch the health at once.
pub const MAX_HEALTH_WATCHES: usize = 16;
/// Most questions to the history at once.
pub const MAX_QUERIES: usize = 4;
/// Most snapshots at once, waiting for the painter or being taken.
pub const MAX_SNAPSHOTS: usize = 4;
/// Most clients that watch incidents at once.
pub const MAX_INCIDENT_WATCHES: usize = 32;
/// Most clients that watch pictures at once.
pub const MAX_VIEWERS: usize = 16;
/// Most connections of the page at once: a browser opens up to six.
pub const MAX_PAGE_CONNECTIONS: usize = 64;
/// A health check asks for the name of a service, bytes.
pub const MAX_HEALTH_REQUEST_BYTES: usize = 1024;
/// Largest request of a client that carries no picture, bytes.
pub const MAX_REQUEST_BYTES: usize = 32 * 1024;

/// Slots of calls that cost memory.
pub struct CallSlots {
    /// `Detect`.
    pub detect: Slots,
    /// All calls of clients that have none of their own.
    pub clients: Slots,
    /// Health checks.
    pub health_checks: Slots,
    /// Watches of the health.
    pub health_watches: Slots,
    /// Questions to the history.
    pub queries: Slots,
    /// `GetSnapshot`.
    pub snapshots: Slots,
    /// `WatchIncidents`.
    pub incident_watches: Slots,
    /// `WatchSnapshots`.
    pub viewers: Slots,
}

impl CallSlots {
    /// All free.
    pub fn new(limits: &Limits) -> Self {
        Self {
            detect: Slots::new(limits.max_detect_calls, "limits.max_detect_calls"),
            clients: Slots::new(limits.max_subscribers + MAX_SMALL_CALLS, "limits.max_subscribers"),
            health_checks: Slots::new(MAX_HEALTH_CHECKS, "health checks"),
            health_watches: Slots::new(MAX_HEALTH_WATCHES, "health watches"),
            queries: Slots::new(MAX_QUERIES, "questions to the history"),
            snapshots: Slots::new(MAX_SNAPSHOTS, "snapshots"),
            incident_watches: Slots::new(MAX_INCIDENT_WATCHES, "clients that watch incidents"),
            viewers: Slots::new(MAX_VIEWERS, "clients that watch pictures"),
        }
    }
}

/// Every place where something can wait.
pub fn places(
    config: &Config,
    intake: &Arc<Intake>,
    (incidents, pictures): (&Arc<Incidents>, &Arc<IncidentPictures>),
    [connections, page_connections]: [&Arc<ConnectionCounts>; 2],
    slots: &CallSlots,
) -> Vec<Place> {
    use std::sync::atomic::Ordering::Relaxed;
    let limits = &config.limits;
    let frames = limits.max_streams as u64 * u64::from(limits.window) + limits.max_detect_calls as u64;
    let (dispatch, cameras, bus) = (intake.dispatch.clone(), intake.cameras.clone(), intake.bus.clone());
    let (streams, subscribers, held, connections) = (intake.clone(), bus.clone(), bus.clone(), connections.clone());
    let queued = limits.max_subscribers as u64 * limits.subscriber_queue as u64;
    let openings = intake.openings.clone();
    let (late, late_dispatch) = (intake.late.clone(), intake.dispatch.clone());
    let late_cap = late.max_streams();
    let page_connections = page_connections.clone();
    let (tracks, incidents, pictures) = (cameras.clone(), incidents.clone(), pictures.clone());
    let picture_cap = pictures.max_bytes() as u64;
    let incident_cap = Incidents::cap(limits.max_cameras);
    let taken = |name: &str, slots: &Slots| {
        let live = slots.clone();
        Place::new(name, slots.cap() as u64, move || live.taken() as u64)
    };
    let mut places = vec![
        Place::new("incidents", incident_cap as u64, move || incidents.live() as u64),
        Place::new("incident_picture_bytes", picture_cap, move || pictures.held_bytes() as u64),
        Place::new("schedule", frames, move || dispatch.waiting() as u64),
        Place::new("openings", MAX_OPENINGS as u64, move || openings.live() as u64),
        taken("detect_calls", &slots.detect),
        taken("client_calls", &slots.clients),
        taken("health_checks", &slots.health_checks),
        taken("health_watches", &slots.health_watches),
        taken("queries", &slots.queries),
        taken("snapshots", &slots.snapshots),
        taken("incident_watches", &slots.incident_watches),
        taken("viewers", &slots.viewers),
        Place::new("late_streams", late.max_streams() as u64, move || late.streams() as u64),
        Place::new("late_frames", late_cap as u64, move || late_dispatch.late_waiting() as u64),
        Place::new("streams", limits.max_streams as u64, move || streams.streams() as u64),
        Place::new("cameras", limits.max_cameras as u64, move || cameras.len() as u64),
        Place::new("connections", limits.max_connections as u64, move || connections.open.load(Relaxed)),
        Place::new("page_connections", MAX_PAGE_CONNECTIONS as u64, move || page_connections.open.load(Relaxed)),
        Place::new("subscribers", limits.max_subscribers as u64, move || subscribers.subscribers() as u64),
        Place::new("subscriber_queues", queued, move || bus.waiting() as u64),
        Place::new("result_ring", limits.result_ring as u64, move || held.held() as u64),
    ];
    if let Some(replicas) = intake.archive.replicas.clone() {
        let cap = replicas.outbox.max_bytes() as u64;
        let (board, directory) = (replicas.clone(), replicas.clone());
        places.push(Place::new("bus_outbox_bytes", cap, move || replicas.outbox.bytes() as u64));
        places.push(Place::new("bus_board", limits.max_cameras as u64, move || board.board.len() as u64));
        let cap = directory.directory.max_cameras() as u64;
        places.push(Place::new("bus_cameras", cap, move || directory.directory.len() as u64));
    }
    // How many faces there are now is kept from clients then.
    if config.privacy.mode != PrivacyMode::CountsOnly {
        let cap = limits.max_cameras * config.people.max_tracks;
        places.push(Place::new("tracks", cap as u64, move || tracks.tracks() as u64));
    }
    places
}
