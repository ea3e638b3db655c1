//! The result bus over a run of the service: one task, joined at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::people::incidents::Incidents;
use crate::replicas::Replicas;
use crate::replicas::follow::{Listener, Told};
use crate::results::bus::Bus;
use crate::results::record::{ElsewhereResult, Position};
use crate::results::wire;

/// What still waits is published within this at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// Hands what others tell to the clients that watch here.
struct Audience {
    bus: Arc<Bus>,
    incidents: Arc<Incidents>,
}

impl Listener for Audience {
    fn result(&self, told: Told) {
        let Told { replica, camera, body } = told;
        self.bus.publish_elsewhere(ElsewhereResult { position: Position(0), camera, replica, body });
    }

    fn missed(&self, results: u64) {
        self.bus.publish_missed(results);
    }

    fn incident(&self, replica: Arc<str>, body: &[u8]) {
        match wire::incident_elsewhere(body, replica) {
            Some(incident) => self.incidents.heard(incident),
            // Of a newer replica: this one cannot tell what it is.
            None => self.incidents.not_understood(),
        }
    }

    fn missed_incidents(&self, changes: u64) {
        self.incidents.missed(changes);
    }
}

/// The task that speaks to the bus.
pub(super) struct Sharing {
    replicas: Arc<Replicas>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Sharing {
    pub(super) fn start(
        replicas: Arc<Replicas>,
        bus: Arc<Bus>,
        incidents: Arc<Incidents>,
        max_result_bytes: usize,
    ) -> Self {
        let stop = CancellationToken::new();
        let audience = Arc::new(Audience { bus, incidents });
        let task = replicas.clone().run(audience, max_result_bytes, stop.clone());
        let task = tokio::spawn(task);
        Self { replicas, task, stop }
    }

    /// Publishes what still waits, then ends. To be called when nothing more
    /// is offered.
    pub(super) async fn finish(self) {
        let Self { replicas, mut task, stop } = self;
        replicas.outbox.close();
        if tokio::time::timeout(FLUSH_DEADLINE, &mut task).await.is_err() {
            stop.cancel();
            let _ = task.await;
        }
        let (published, left) = (replicas.counts.published.load(Relaxed), replicas.outbox.counts.left.load(Relaxed));
        tracing::info!(published, left, "left the result bus");
    }
}
