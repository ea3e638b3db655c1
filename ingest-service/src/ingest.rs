//! The running service: all cameras and the operator's ports, started together
//! and stopped in stages, each of which logs one line. Everything it starts is
//! joined in [`Ingest::join`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::admin::{AdminState, serve_admin};
use flatframe_shared::budget::{Budget, DoesNotFit, Place};
use flatframe_shared::config::ConfigError;
use flatframe_shared::r#gen::v1::admin_service_server::AdminServiceServer;
use flatframe_shared::histogram::Histogram;
use flatframe_shared::ledger::IngestCounts;
use flatframe_shared::outcome::{DropReason, Outcome};
use flatframe_shared::process;
use flatframe_shared::resources::{Readings, ResourceApi, Resources, StageTime};
use flatframe_shared::serve::{ConnectionCounts, ConnectionLimits, Protocol, serve};
use flatframe_shared::supervisor::Supervisor;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::board::{Board, Fitness, Strain};
use crate::camera::{Camera, CameraView, join};
use crate::config::Config;
use crate::memory::budget;
use crate::metrics::{Sources, registry};
use crate::plan::CameraPlan;
use crate::record::{Recording, RecordingWriter};
use crate::send::uplink;

/// Most connections to the operator's gRPC port.
const MAX_ADMIN_CONNECTIONS: usize = 8;
/// Calls to the operator's gRPC port may finish for so long at shutdown.
const ADMIN_GRACE: Duration = Duration::from_millis(500);
/// Connections to the server may close for so long at shutdown.
const CONNECTIONS_GRACE: Duration = Duration::from_millis(500);
/// What waits for the disk may be written for so long at shutdown, while the
/// last answers come.
const RECORDING_GRACE: Duration = Duration::from_secs(4);
/// Between two looks at readiness.
const HEALTH_TICK: Duration = Duration::from_secs(1);
/// Between two summary lines of one camera.
const SUMMARY_PERIOD: Duration = Duration::from_secs(60);

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration needs more memory than there is.
    #[error(transparent)]
    Memory(#[from] DoesNotFit),
    /// A port cannot be bound.
    #[error("{key} = {address} cannot be bound: {reason}")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        address: String,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// A configuration that can work: cameras read, budget computed and compared
/// with the memory there is. Nothing is bound or opened.
#[derive(Debug)]
pub struct Checked {
    config: Config,
    plans: Vec<CameraPlan>,
    budget: Budget,
}

/// Checks a configuration and that its budget fits the memory limit.
///
/// # Errors
/// [`StartError::Config`] or [`StartError::Memory`], naming the key.
pub fn check(config: Config) -> Result<Checked, StartError> {
    let plans = config.plans()?;
    let budget = budget(&config, &plans);
    let limit = match config.limits.memory_bytes {
        // Nothing limits it but the machine itself.
        0 => process::cgroup_limit_bytes().or_else(|| Board::default().machine().memory_bytes),
        bytes => Some(bytes),
    };
    if let Some(limit) = limit {
        budget.check(limit)?;
    }
    Ok(Checked { config, plans, budget })
}

impl Checked {
    /// The computed bound of resident memory.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// A running ingest-service.
#[derive(Debug)]
pub struct Ingest {
    sources: Arc<Sources>,
    cameras: Vec<Camera>,
    shutdown: CancellationToken,
    /// Stops capture when this is dropped without a shutdown.
    capture: DropGuard,
    /// Ends the uplinks, after capture has stopped.
    finish: DropGuard,
    /// What runs behind the connections to the server.
    connections: TaskTracker,
    /// The thread that records, if one does.
    recording: Option<RecordingWriter>,
    /// Observer and operator's ports, and what ends them.
    others: Vec<JoinHandle<()>>,
    admin: DropGuard,
    admin_address: Option<SocketAddr>,
    admin_grpc_address: Option<SocketAddr>,
}

impl Ingest {
    /// Checks the configuration, binds the operator's ports and starts all
    /// cameras on the current runtime. Cancelling `shutdown` stops capture;
    /// [`Ingest::join`] does the rest.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Self, StartError> {
        Self::start_checked(check(config)?, shutdown).await
    }

    /// As [`Ingest::start`], from a configuration already checked.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start_checked(checked: Checked, shutdown: CancellationToken) -> Result<Self, StartError> {
        let Checked { config, plans, budget } = checked;
        let admin = bind("admin.listen", &config.admin.listen).await?;
        let admin_grpc = bind("admin.grpc_listen", &config.admin.grpc_listen).await?;
        let connections = TaskTracker::new();
        let endpoint = uplink::endpoint(&config.server.address, &connections)
            .map_err(|error| ConfigError::not_allowed("server.address", &config.server.address, error.to_string()))?;

        // What is started ends with these guards, also when an error follows.
        let (capture_stop, finish_now) = (shutdown.child_token(), CancellationToken::new());
        let (capture, finish) = (capture_stop.clone().drop_guard(), finish_now.clone().drop_guard());
        let (memory_bytes, soft_bytes) = (config.limits.memory_bytes, config.limits.soft_memory_bytes);
        let mut resources = Resources::new(budget, Vec::new(), memory_bytes, soft_bytes);
        let (recording, recording_writer) = match config.recording.settings() {
            Some(settings) => {
                let (recording, writer) = Recording::start(settings, &plans).map_err(StartError::Thread)?;
                (Some(recording), Some(writer))
            }
            None => (None, None),
        };
        let mut cameras = Vec::with_capacity(plans.len());
        for plan in &plans {
            let (endpoint, stop, finish) = (endpoint.clone(), capture_stop.clone(), finish_now.clone());
            let memory = resources.memory.clone();
            let recorder = recording.as_ref().and_then(|recording| recording.recorder(plan));
            let camera = Camera::start(plan, &config.limits, memory, recorder, endpoint, stop, finish);
            cameras.push(camera.map_err(StartError::Thread)?);
        }

        let views: Vec<CameraView> = cameras.iter().map(|camera| camera.view.clone()).collect();
        resources.places = views.iter().flat_map(CameraView::places).collect();
        resources.places.extend(recording.iter().flat_map(Recording::places));
        let sources =
            Arc::new(Sources { cameras: views, recording, resources: Arc::new(resources), board: Board::default() });
        let admin_stop = CancellationToken::new();
        let (health, health_service) = health_reporter();
        let mut others = vec![tokio::spawn(observe(sources.clone(), health, capture_stop.clone()))];
        let address_of = |listener: &Option<TcpListener>| listener.as_ref().and_then(|l| l.local_addr().ok());
        let (admin_address, admin_grpc_address) = (address_of(&admin), address_of(&admin_grpc));
        if let Some(listener) = admin {
            let (ready, stopping) = (sources.clone(), capture_stop.clone());
            let ready = move || if stopping.is_cancelled() { Err("stopping".into()) } else { ready.ready() };
            let state = AdminState { ready: Box::new(ready), metrics: registry(sources.clone()) };
            others.push(tokio::spawn(serve_admin(listener, Arc::new(state), admin_stop.clone())));
        }
        if let Some(listener) = admin_grpc {
            let api = ResourceApi { resources: sources.resources.clone(), readings: Arc::new(readings(&sources)) };
            let routes = Routes::new(AdminServiceServer::new(api)).add_service(health_service);
            let limits = ConnectionLimits { max_connections: MAX_ADMIN_CONNECTIONS, ..ConnectionLimits::default() };
            let counts = Arc::new(ConnectionCounts::default());
            others.push(tokio::spawn(serve(
                listener,
                Protocol::Grpc,
                routes,
                limits,
                counts,
                admin_stop.clone(),
                ADMIN_GRACE,
            )));
        }
        tracing::info!(
            cameras = cameras.len(),
            server = config.server.address,
            budget_bytes = sources.resources.budget.total_bytes(),
            "capturing"
        );
        Ok(Self {
            sources,
            cameras,
            shutdown,
            capture,
            finish,
            connections,
            recording: recording_writer,
            others,
            admin: admin_stop.drop_guard(),
            admin_address,
            admin_grpc_address,
        })
    }

    /// The cameras, for their live counters.
    pub fn cameras(&self) -> &[CameraView] {
        &self.sources.cameras
    }

    /// Counts of all cameras together, now.
    pub fn totals(&self) -> IngestCounts {
        self.sources.totals()
    }

    /// All that is shown to operators; stays readable after [`Ingest::join`].
    pub fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    /// The computed bound of resident memory.
    pub fn budget(&self) -> &Budget {
        &self.sources.resources.budget
    }

    /// Where data can wait, with what it holds and may hold.
    pub fn places(&self) -> &[Place] {
        &self.sources.resources.places
    }

    /// Address of `/livez`, `/readyz`, `/metrics`, if bound.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Address of the operator's gRPC services, if bound.
    pub fn admin_grpc_address(&self) -> Option<SocketAddr> {
        self.admin_grpc_address
    }

    /// Waits for the shutdown, then stops in stages: capture, what waits, what
    /// is on its way, the operator's ports. Returns the final counts, with
    /// nothing waiting or in flight. Takes at most
    /// [`flatframe_shared::shutdown::SHUTDOWN_DEADLINE`].
    pub async fn join(self) -> IngestCounts {
        let Self { sources, mut cameras, shutdown, capture, finish, connections, recording, others, admin, .. } = self;
        shutdown.cancelled().await;
        drop(capture);
        let started = Instant::now();
        for camera in &mut cameras {
            camera.join_source().await;
        }
        tracing::info!(after_ms = started.elapsed().as_millis() as u64, "capture has stopped");

        cameras.iter().for_each(Camera::close);
        let mut uplinks = Vec::with_capacity(cameras.len());
        for camera in cameras {
            uplinks.push(camera.join_preparing().await);
        }
        let totals = sources.totals();
        tracing::info!(
            dropped = totals.dropped(DropReason::Shutdown),
            in_flight = totals.in_flight,
            "frames that waited are counted"
        );

        // No camera offers a frame any more; the disk takes its time beside the
        // last answers.
        let closing = recording.map(|writer| tokio::task::spawn_blocking(move || writer.close(RECORDING_GRACE)));
        drop(finish);
        for mut uplink in uplinks {
            join(&mut uplink).await;
        }
        connections.close();
        if timeout(CONNECTIONS_GRACE, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "connections to the server do not end");
        }
        let totals = sources.totals();
        tracing::info!(lost = totals.lost, "streams to the server are closed");

        if let (Some(closing), Some(recording)) = (closing, &sources.recording) {
            let is_whole = closing.await.unwrap_or(false);
            if !is_whole {
                tracing::warn!("the disk is too slow: the last frames are not recorded");
            }
            let recorded: u64 = recording.cameras().map(|(_, camera)| camera.recorded).sum();
            tracing::info!(recorded, "the recording is closed");
        }
        drop(admin);
        for mut task in others {
            join(&mut task).await;
        }
        tracing::info!(
            captured = totals.captured,
            sent = totals.sent,
            analyzed = totals.answered(Outcome::Analyzed),
            ledger_balance = totals.balance(),
            after_ms = started.elapsed().as_millis() as u64,
            "stopped"
        );
        totals
    }
}

async fn bind(key: &'static str, address: &str) -> Result<Option<TcpListener>, StartError> {
    if address.is_empty() {
        return Ok(None);
    }
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|reason| StartError::Bind { key, address: address.into(), reason })
}

fn readings(sources: &Arc<Sources>) -> Readings {
    let (balance, latency) = (sources.clone(), sources.clone());
    Readings {
        balance: Box::new(move || balance.totals().balance()),
        stages: Box::new(move || {
            let mut all = Histogram::default().snapshot();
            for camera in &latency.cameras {
                all.merge(&camera.latency().snapshot());
            }
            StageTime::of("capture_to_answer", &all).into_iter().collect()
        }),
    }
}

/// Keeps `grpc.health.v1` true to the cameras, looks at memory, tells the
/// supervisor that the service lives, and writes one summary line per camera
/// and minute.
async fn observe(sources: Arc<Sources>, health: HealthReporter, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(HEALTH_TICK);
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
