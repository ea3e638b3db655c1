//! The result bus over a run of the service: one task, joined at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::replicas::Replicas;
use crate::replicas::follow::{Listener, Told};
use crate::results::bus::Bus;
use crate::results::record::{ElsewhereResult, Position};

/// What still waits is published within this at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// Hands what others tell to the clients that watch here.
struct Audience(Arc<Bus>);

impl Listener for Audience {
    fn result(&self, told: Told) {
        let Told { replica, camera, body } = told;
        self.0.publish_elsewhere(ElsewhereResult { position: Position(0), camera, replica, body });
    }

    fn missed(&self, results: u64) {
        self.0.publish_missed(results);
    }
}

/// The task that speaks to the bus.
pub(super) struct Sharing {
    replicas: Arc<Replicas>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Sharing {
    pub(super) fn start(replicas: Arc<Replicas>, bus: Arc<Bus>, max_result_bytes: usize) -> Self {
        let stop = CancellationToken::new();
        let task = replicas.clone().run(Arc::new(Audience(bus)), max_result_bytes, stop.clone());
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
