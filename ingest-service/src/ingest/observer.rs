//! What happens once a second beside the frames: health is kept true to the
//! cameras, memory and the board are looked at, the supervisor hears that the
//! service lives, and once a minute each camera gets its summary line. Decides
//! nothing itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::outcome::Outcome;
use flatframe_shared::supervisor::Supervisor;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use crate::board::{Fitness, Strain};
use crate::camera::CameraView;
use crate::metrics::Sources;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// Between two summary lines of one camera.
const SUMMARY_PERIOD: Duration = Duration::from_secs(60);

/// Keeps `grpc.health.v1` true to the cameras, looks at memory, tells the
/// supervisor that the service lives, and writes one summary line per camera
/// and minute.
pub(super) async fn run(sources: Arc<Sources>, health: HealthReporter, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    let mut summary_due = Instant::now() + SUMMARY_PERIOD;
    let mut strains = [None; 4];
    let supervisor = Supervisor::from_environment();
    supervisor.ready();
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        set_health(&health, sources.ready().is_ok()).await;
        sources.resources.memory.look();
        supervisor.alive(&sources.status_line());
        strains = tell_strains(strains, sources.board.fitness());
        if Instant::now() < summary_due {
            continue;
        }
        summary_due += SUMMARY_PERIOD;
        for camera in &sources.cameras {
            summarize(camera);
        }
    }
    supervisor.stopping();
    set_health(&health, false).await;
}

/// Logs what began or ended to slow the machine down since `before`.
fn tell_strains(before: [Option<bool>; 4], fitness: Fitness) -> [Option<bool>; 4] {
    for ((strain, before), now) in Strain::ALL.into_iter().zip(before).zip(fitness.strains) {
        let (strain, celsius) = (strain.as_str(), fitness.temperature_celsius);
        match (before, now) {
            (Some(true), Some(true)) => {}
            (_, Some(true)) => tracing::warn!(strain, celsius, "the board is strained"),
            (Some(true), Some(false)) => tracing::info!(strain, celsius, "the board is no longer strained"),
            _ => {}
        }
    }
    fitness.strains
}

async fn set_health(health: &HealthReporter, serving: bool) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    health.set_service_status("", if serving { Serving } else { NotServing }).await;
}

fn summarize(camera: &CameraView) {
    let (counts, status) = (camera.counts(), camera.status());
    let p99 = camera.latency().quantile(0.99);
    tracing::info!(
        camera = %camera.id(),
        state = status.state.as_str(),
        source_fps = status.fps,
        connected = camera.connected(),
        captured = counts.captured,
        sent = counts.sent,
        analyzed = counts.answered(Outcome::Analyzed),
        lost = counts.lost,
        p99_ms = p99.map(|p99| p99.as_millis() as u64),
        ledger_balance = counts.balance(),
        "summary"
    );
}
