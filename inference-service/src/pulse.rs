//! What happens once a second beside the frames: memory is looked at, cameras
//! are told the pace that is worth keeping, tracks that were lost end, states
//! that last become incidents, late frames are let in as far as there is time,
//! the other replicas are told of each camera, the supervisor is told that the
//! service lives, overload is told when it begins and ends, and once a minute
//! each camera gets its summary line. Decides nothing itself.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use flatframe_shared::clock;
use flatframe_shared::frame::{CameraId, Pace};
use flatframe_shared::outcome::Outcome;
use flatframe_shared::supervisor::Supervisor;
use tokio_util::sync::CancellationToken;

use crate::cameras::Camera;
use crate::history::History;
use crate::intake::dispatch::Dispatch;
use crate::intake::late::leftover::{Leftover, Tick};
use crate::intake::link::Intake;
use crate::intake::pacing::{Demand, Load, Pacing, is_noticeable};
use crate::metrics::Sources;
use crate::people::incidents::{Condition, Incident, IncidentKind};

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// Looks between two summary lines of one camera.
const SUMMARY_TICKS: u64 = 60;

/// Runs until `shutdown`.
pub async fn run(mut pacing: Pacing, intake: Arc<Intake>, sources: Arc<Sources>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut detected_before = 0;
    let (mut leftover, mut live_before) = (Leftover::default(), (0, 0));
    let supervisor = Supervisor::from_environment();
    supervisor.ready();
    for tick in 0u64.. {
        if shutdown.run_until_cancelled(ticks.tick()).await.is_none() {
            supervisor.stopping();
            // Nobody looks any more: what is open ends with this run.
            write_down(&intake, &sources, Vec::new());
            return;
        }
        let detected = detected(&sources);
        let other_fps = (detected - detected_before) as f64 / TICK.as_secs_f64();
        detected_before = detected;
        sources.resources.memory.look();
        if intake.dispatch.done() > 0 {
            tell_paces(&mut pacing, &intake, other_fps);
        }
        if intake.late.max_streams() > 0 {
            let live = (sources.live_totals().received, intake.dispatch.given_up());
            intake.late.gate.set_fps(leftover.tick(left_over(&intake, live, live_before, pacing.is_overloaded())));
            live_before = live;
            intake.dispatch.tidy_late();
        }
        sources.cameras.all().iter().for_each(|camera| camera.expire(clock::now()));
        tell_incidents(&intake, &sources, pacing.is_overloaded());
        tell_replicas(&intake, &sources);
        supervisor.alive(&format!("{} streams of cameras", intake.streams()));
        if tick % SUMMARY_TICKS == SUMMARY_TICKS - 1 {
            sources.cameras.all().iter().for_each(|camera| summarize(camera));
        }
    }
}

/// Tells what lasts, and writes down what became an incident or ended.
fn tell_incidents(intake: &Intake, sources: &Sources, is_overloaded: bool) {
    let now = clock::now();
    let mut conditions = Vec::new();
    // A camera that went to another replica is not offline.
    for camera in sources.cameras.all().into_iter().filter(|camera| !intake.archive.is_elsewhere(camera)) {
        let found = camera.conditions(now).into_iter();
        conditions.extend(found.map(|(kind, since, detail)| Condition {
            camera: Some(camera.id.clone()),
            kind,
            since,
            detail,
        }));
    }
    let mut tell = |kind, detail: String| {
        conditions.push(Condition { camera: None, kind, since: Duration::ZERO, detail });
    };
    if is_overloaded {
        tell(IncidentKind::Overloaded, "cameras are asked for less than they would like to send".into());
    }
    if intake.memory.is_pressed() {
        tell(IncidentKind::Memory, "resident memory is above limits.soft_memory_bytes".into());
    }
    if let Some(why) = intake.archive.history.as_ref().and_then(|history| history.state().paused) {
        tell(IncidentKind::Disk, format!("history is not written: {why}"));
    }
    write_down(intake, sources, conditions);
    sources.incident_pictures.look(&sources.cameras);
}

/// Takes all states that there are; what became an incident by it or ended is
/// logged, kept and told.
fn write_down(intake: &Intake, sources: &Sources, conditions: Vec<Condition>) {
    for incident in sources.incidents.look(conditions, clock::now(), clock::unix_us().div_euclid(1000)) {
        let camera = incident.camera.as_ref().map_or("", CameraId::as_str);
        let Incident { id, kind, detail, .. } = &*incident;
        match incident.ended_unix_ms {
            None => tracing::warn!(id, camera, kind = kind.as_str(), detail, "incident begins"),
            Some(end) => {
                let lasted_s = (end - incident.started_unix_ms).max(0) / 1000;
                tracing::info!(id, camera, kind = kind.as_str(), lasted_s, "incident is over");
            }
        }
        intake.archive.keep_incident(&incident);
        sources.incident_pictures.changed(&incident, &sources.cameras);
    }
}

/// What the last second says of the time that is left for late frames. `live`
/// and `before`: frames that came, and jobs for which there was no time. A frame
/// that was too old when it came says nothing of the load.
fn left_over(intake: &Intake, live: (u64, u64), before: (u64, u64), is_overloaded: bool) -> Tick {
    let is_written = |history: &History| history.state().paused.is_none();
    Tick {
        live_fps: live.0.saturating_sub(before.0) as f64 / TICK.as_secs_f64(),
        given_up: live.1.saturating_sub(before.1),
        service: intake.dispatch.service(),
        workers: intake.dispatch.workers(),
        must_rest: is_overloaded
            || intake.memory.is_pressed()
            || !intake.archive.history.as_ref().is_some_and(is_written),
    }
}

/// Tells the other replicas of every camera, if there are any.
fn tell_replicas(intake: &Intake, sources: &Sources) {
    if intake.archive.replicas.is_none() {
        return;
    }
    let incidents = sources.incidents.open_by_camera();
    for camera in sources.cameras.all() {
        let open = incidents.get(&camera.id).into_iter().flatten();
        intake.archive.tell(&camera, open.map(|one| &**one));
    }
}

/// Single calls that were worked on: one that was refused or late costs
/// nothing.
fn detected(sources: &Sources) -> u64 {
    let calls = sources.detect_ledger.counts();
    [Outcome::Analyzed, Outcome::Invalid, Outcome::Failed].map(|outcome| calls.answered(outcome)).iter().sum()
}

fn tell_paces(pacing: &mut Pacing, intake: &Intake, other_fps: f64) {
    let dispatch = &intake.dispatch;
    let online: Vec<_> =
        intake.cameras.all().into_iter().filter_map(|camera| camera.stream().map(|link| (camera, link))).collect();
    let told: Vec<_> = online.iter().map(|(camera, _)| camera.pace()).collect();
    let demands: Vec<_> = told
        .iter()
        .map(|(pace, wanted_fps)| Demand { wanted_fps: f64::from(*wanted_fps), told_fps: pace.max_fps.map(f64::from) })
        .collect();
    let was_overloaded = pacing.is_overloaded();
    let load = Load {
        service: dispatch.service(),
        workers: dispatch.workers(),
        other_fps,
        memory_is_short: intake.memory.is_pressed(),
    };
    let paces = pacing.tick(&demands, load);
    // What the others get is what one more may expect: a camera that looks for
    // a server learns from it how busy this one is.
    let first_fps = paces.iter().filter_map(|pace| pace.max_fps).reduce(f32::max);
    if pacing.is_overloaded() != was_overloaded {
        tell_overload(pacing.is_overloaded(), &demands, other_fps, dispatch);
    }
    for (((camera, link), (old, _)), new) in online.iter().zip(&told).zip(paces) {
        if is_noticeable(*old, new) && camera.set_pace(new, link) {
            link.tell_pace(new);
            tracing::debug!(camera = %camera.id, max_fps = new.max_fps, size = %new.max_size, "pace");
        }
    }
    *intake.first_pace.lock().unwrap_or_else(PoisonError::into_inner) =
        Pace { max_fps: first_fps, max_size: pacing.size() };
}

fn tell_overload(begins: bool, demands: &[Demand], other_fps: f64, dispatch: &Dispatch) {
    let wanted_fps = demands.iter().map(|demand| demand.wanted_fps).sum::<f64>() + other_fps;
    let capacity_fps = dispatch.workers() as f64 / dispatch.service().as_secs_f64().max(1e-9);
    let cameras = demands.len();
    if begins {
        tracing::warn!(wanted_fps, capacity_fps, cameras, "overload begins: cameras are asked for less");
    } else {
        tracing::info!(wanted_fps, capacity_fps, cameras, "overload is over");
    }
}

fn summarize(camera: &Camera) {
    let view = camera.view();
    tracing::info!(
        camera = %camera.id,
        state = view.state.as_str(),
        analyzed_fps = view.analyzed_fps,
        pace_fps = view.pace.max_fps,
        received = view.counts.received,
        analyzed = view.counts.answered(Outcome::Analyzed),
        shed = view.counts.answered(Outcome::Shed),
        expired = view.counts.answered(Outcome::Expired),
        invalid = view.counts.answered(Outcome::Invalid),
        failed = view.counts.answered(Outcome::Failed),
        queued = view.counts.queued,
        ledger_balance = view.counts.balance(),
        "summary"
    );
}
