//! The whole program: loads the models, checks the budget, serves until told
//! to stop, and stops within a deadline. Does not parse arguments and does not
//! bind: tests and the demo start it as `main` does.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flatframe_shared::admin::{AdminState, serve_admin};
use flatframe_shared::budget::{Budget, DoesNotFit, Place};
use flatframe_shared::clock;
use flatframe_shared::frame::Pace;
use flatframe_shared::r#gen::{DESCRIPTORS, v1};
use flatframe_shared::ledger::{ServerCounts, ServerLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::process;
use flatframe_shared::rate_log::RateLog;
use flatframe_shared::resources::{Readings, ResourceApi, Resources};
use flatframe_shared::serve::{ConnectionCounts, serve_grpc};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::budget::{budget, connection_limits};
use crate::cameras::Cameras;
use crate::config::{Config, Limits, PrivacyMode};
use crate::history::query::MAX_PAGE_ROWS;
use crate::history::{self, History, HistoryWriter, IncidentQuery, OpenError, Record};
use crate::intake::admission::{Admitted, Slots};
use crate::intake::dispatch::Dispatch;
use crate::intake::link::{DRAIN_DEADLINE, Intake, MAX_OPENINGS};
use crate::intake::openings::Openings;
use crate::intake::pacing::Pacing;
use crate::intake::stream::FrameApi;
use crate::intake::worker;
use crate::metrics::{Sources, Stages, registry};
use crate::people::incidents::Incidents;
use crate::pulse;
use crate::results::archive::Archive;
use crate::results::bus::{Bus, BusLimits};
use crate::results::detect::DetectApi;
use crate::results::service::ResultApi;
use crate::results::wire::Wire;
use crate::vision::{Analyzer, ModelError};

/// Time of one frame on one worker that is assumed until it is measured.
pub const ASSUMED_SERVICE: Duration = Duration::from_millis(10);
/// Jobs in work must end so long after the rest was answered `draining`.
pub const LAST_JOB_DEADLINE: Duration = Duration::from_secs(2);
/// Connections are closed so long after streams were told to drain.
pub const CONNECTION_GRACE: Duration = Duration::from_secs(6);
/// What still waits for the history is written within this.
const HISTORY_DEADLINE: Duration = Duration::from_secs(2);
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
/// A health check asks for the name of a service, bytes.
pub const MAX_HEALTH_REQUEST_BYTES: usize = 1024;
/// Largest request of a client that carries no picture, bytes.
pub const MAX_REQUEST_BYTES: usize = 32 * 1024;
/// A health check that takes longer holds its slot in vain: a probe waits for
/// one second.
const HEALTH_DEADLINE: Duration = Duration::from_secs(2);
/// Longest life of a call that asks what the services are: tools take
/// milliseconds.
const REFLECTION_LIFETIME: Duration = Duration::from_secs(30);

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A model is missing or wrong.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The configuration needs more memory than there is.
    #[error(transparent)]
    Memory(#[from] DoesNotFit),
    /// The history cannot be opened.
    #[error(transparent)]
    History(#[from] OpenError),
    /// The system refused a thread or a socket.
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
    /// The reflection service refused its descriptors.
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A checked configuration with its models loaded and tested.
pub struct Loaded {
    config: Config,
    analyzer: Analyzer,
    /// The computed bound.
    pub budget: Budget,
}

/// Loads and tests the models and checks the budget against the memory limit.
/// Takes a second or so; binds nothing.
///
/// # Errors
/// [`StartError`], saying what to do.
pub fn load(config: Config) -> Result<Loaded, StartError> {
    let analyzer = Analyzer::load(&config.vision)?;
    let budget = budget(&config, &analyzer.memory());
    let limit = match config.limits.memory_bytes {
        0 => process::cgroup_limit_bytes(),
        bytes => Some(bytes),
    };
    if let Some(limit) = limit {
        budget.check(limit)?;
    }
    Ok(Loaded { config, analyzer, budget })
}

/// Bound sockets.
pub struct Listeners {
    /// gRPC.
    pub grpc: TcpListener,
    /// `/livez`, `/readyz`, `/metrics`.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds what the configuration says.
    ///
    /// # Errors
    /// When an address is in use or not ours.
    pub async fn bind(config: &Config) -> std::io::Result<Self> {
        let bind = async |key: &str, address: std::net::SocketAddr| {
            TcpListener::bind(address)
                .await
                .map_err(|error| std::io::Error::new(error.kind(), format!("{key} = {address}: {error}")))
        };
        Ok(Self {
            grpc: bind("listen.grpc", config.listen.grpc).await?,
            admin: bind("listen.admin", config.listen.admin).await?,
        })
    }
}

/// A running service.
pub struct Server {
    sources: Arc<Sources>,
    intake: Arc<Intake>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    admin: tokio::task::JoinHandle<()>,
    admin_stop: CancellationToken,
    pacing: tokio::task::JoinHandle<()>,
    health: tonic_health::server::HealthReporter,
    workers: Vec<JoinHandle<()>>,
    writer: Option<HistoryWriter>,
}

impl Server {
    /// Starts to serve; `shutdown` stops it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub async fn start(loaded: Loaded, listeners: Listeners, shutdown: CancellationToken) -> Result<Self, StartError> {
        let Loaded { config, analyzer, budget } = loaded;
        let dispatch = Arc::new(Dispatch::new(config.workers.threads(), ASSUMED_SERVICE));
        let stages = Arc::new(Stages::default());
        let workers = worker::start(&dispatch, &analyzer, &stages)?;
        let connections = Arc::new(ConnectionCounts::default());
        let limits = &config.limits;
        let mut resources = Resources::new(budget, Vec::new(), limits.memory_bytes, limits.soft_memory_bytes);
        let (history, writer) = match config.history.settings() {
            Some(settings) => {
                let (history, writer) = History::open(settings)?;
                end_left_open(&history);
                (Some(history), Some(writer))
            }
            None => {
                tracing::info!("no history is kept (history.file is empty)");
                (None, None)
            }
        };
        let first_incident = history.as_ref().map_or(1, History::next_incident_id);
        let incidents = Arc::new(Incidents::new(config.incidents.clone(), first_incident));
        let wire =
            Wire { server_epoch: fastrand::u64(1..), withholds_faces: config.privacy.mode == PrivacyMode::CountsOnly };
        let archive = Archive { history, wire };
        let memory = resources.memory.clone();
        let intake = intake(&config, &analyzer, dispatch.clone(), memory, archive, shutdown.clone());
        let slots = CallSlots::new(limits);
        resources.places = places(&config, &intake, &incidents, &connections, &slots);
        let sources = Arc::new(Sources {
            cameras: intake.cameras.clone(),
            detect_ledger: ServerLedger::new(),
            dispatch,
            bus: intake.bus.clone(),
            connections: connections.clone(),
            incidents,
            archive: intake.archive.clone(),
            stages,
            resources: Arc::new(resources),
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, true).await;
        let routes = routes(&config, &intake, &sources, slots, health_service)?;
        let serving = tokio::spawn(serve_grpc(
            listeners.grpc,
            routes,
            connection_limits(&config),
            connections,
            shutdown.clone(),
            CONNECTION_GRACE,
        ));
        let ready = {
            let shutdown = shutdown.clone();
            move || if shutdown.is_cancelled() { Err("stopping".to_owned()) } else { Ok(()) }
        };
        let admin = AdminState { ready: Box::new(ready), metrics: registry(sources.clone()) };
        // Answers until the end: "not ready", and the last counts.
        let admin_stop = CancellationToken::new();
        let admin = tokio::spawn(serve_admin(listeners.admin, Arc::new(admin), admin_stop.clone()));
        let pacing = Pacing::new(config.pace_size(), config.pace.min_fps);
        let pacing = tokio::spawn(pulse::run(pacing, intake.clone(), sources.clone(), shutdown.clone()));
        Ok(Self { sources, intake, shutdown, serving, admin, admin_stop, pacing, health, workers, writer })
    }

    /// The live counters.
    pub fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    /// Waits for the shutdown and for every task and thread to end; returns the
    /// last counts. Bounded by the shutdown deadline.
    pub async fn join(self) -> ServerCounts {
        self.shutdown.cancelled().await;
        set_health(&self.health, false).await;
        tracing::info!(streams = self.intake.streams(), waiting = self.sources.dispatch.waiting(), "draining");
        self.sources.dispatch.close();
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                // A worker does not unwind: a panic has ended the process.
                let _ = worker.join();
            }
        });
        let mut joined = std::pin::pin!(joined);
        if tokio::time::timeout(DRAIN_DEADLINE, joined.as_mut()).await.is_err() {
            tracing::warn!(waiting = self.sources.dispatch.waiting(), "frames still wait, answering them draining");
            self.sources.dispatch.flush();
            if tokio::time::timeout(LAST_JOB_DEADLINE, joined).await.is_err() {
                tracing::error!("a worker does not end: the engine hangs; the process ends without it");
            }
        }
        tracing::info!("workers have stopped");
        self.intake.tasks.close();
        let _ = tokio::join!(self.serving, self.pacing);
        self.intake.tasks.wait().await;
        if let Some(writer) = self.writer {
            close_history(&self.sources.archive, writer).await;
        }
        self.admin_stop.cancel();
        let _ = self.admin.await;
        let totals = self.sources.totals();
        tracing::info!(received = totals.received, queued = totals.queued, balance = totals.balance(), "stopped");
        totals
    }
}

/// Incidents that the last run left open ended with it, if not before.
fn end_left_open(history: &History) {
    let now_ms = clock::unix_us().div_euclid(1000);
    let query = IncidentQuery {
        camera: None,
        from_unix_ms: 0,
        to_unix_ms: now_ms.saturating_add(1),
        only_open: true,
        after: None,
        limit: MAX_PAGE_ROWS,
    };
    match history.query_incidents(&query, clock::now() + HISTORY_DEADLINE) {
        Ok(open) => open.into_iter().for_each(|incident| {
            let end = now_ms.max(incident.opened_unix_ms);
            history.offer(Record::Incident(history::Incident { resolved_unix_ms: Some(end), ..incident }));
        }),
        Err(error) => tracing::warn!(%error, "incidents that the last run left open stay open in the history"),
    }
}

/// Writes what still waits for the disk.
async fn close_history(archive: &Archive, writer: HistoryWriter) {
    let closed = tokio::task::spawn_blocking(move || writer.close(HISTORY_DEADLINE)).await;
    if !closed.unwrap_or(false) {
        let state = archive.history.as_ref().map(History::state);
        tracing::error!(?state, "the disk is too slow: what was not yet in the history is lost");
    }
}

async fn set_health(health: &tonic_health::server::HealthReporter, serving: bool) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let status = if serving { Serving } else { NotServing };
    for service in ["", "flatframe.v1.FrameService", "flatframe.v1.ResultService", "flatframe.v1.DetectService"] {
        health.set_service_status(service, status).await;
    }
}

fn intake(
    config: &Config,
    analyzer: &Analyzer,
    dispatch: Arc<Dispatch>,
    memory: Arc<MemoryWatch>,
    archive: Archive,
    shutdown: CancellationToken,
) -> Arc<Intake> {
    let limits = config.limits.clone();
    let bus = BusLimits {
        max_subscribers: limits.max_subscribers,
        queue: limits.subscriber_queue,
        ring: limits.result_ring,
        stall: Duration::from_secs(limits.subscriber_stall_s),
    };
    Arc::new(Intake {
        max_size: config.vision.max_picture.0,
        dispatch,
        memory,
        cameras: Arc::new(Cameras::new(
            limits.max_cameras,
            config.people.clone(),
            config.people.tracking(&config.vision),
        )),
        bus: Arc::new(Bus::new(bus)),
        archive,
        keeps_pictures: config.privacy.mode != PrivacyMode::CountsOnly,
        detector: analyzer.detector_name().into(),
        gender_model: analyzer.gender_name().map(Into::into),
        openings: Openings::new(MAX_OPENINGS),
        slots: Arc::new(Semaphore::new(limits.max_streams)),
        warnings: RateLog::default(),
        first_pace: Mutex::new(Pace { max_fps: None, max_size: config.pace_size() }),
        shutdown,
        tasks: TaskTracker::new(),
        limits,
    })
}

/// Slots of calls that cost memory.
struct CallSlots {
    detect: Slots,
    clients: Slots,
    health_checks: Slots,
    health_watches: Slots,
    queries: Slots,
    snapshots: Slots,
    incident_watches: Slots,
}

impl CallSlots {
    fn new(limits: &Limits) -> Self {
        Self {
            detect: Slots::new(limits.max_detect_calls, "limits.max_detect_calls"),
            clients: Slots::new(limits.max_subscribers + MAX_SMALL_CALLS, "limits.max_subscribers"),
            health_checks: Slots::new(MAX_HEALTH_CHECKS, "health checks"),
            health_watches: Slots::new(MAX_HEALTH_WATCHES, "health watches"),
            queries: Slots::new(MAX_QUERIES, "questions to the history"),
            snapshots: Slots::new(MAX_SNAPSHOTS, "snapshots"),
            incident_watches: Slots::new(MAX_INCIDENT_WATCHES, "clients that watch incidents"),
        }
    }
}

fn places(
    config: &Config,
    intake: &Arc<Intake>,
    incidents: &Arc<Incidents>,
    connections: &Arc<ConnectionCounts>,
    slots: &CallSlots,
) -> Vec<Place> {
    use std::sync::atomic::Ordering::Relaxed;
    let limits = &config.limits;
    let frames = limits.max_streams as u64 * u64::from(limits.window) + limits.max_detect_calls as u64;
    let (dispatch, cameras, bus) = (intake.dispatch.clone(), intake.cameras.clone(), intake.bus.clone());
    let (streams, subscribers, held, connections) = (intake.clone(), bus.clone(), bus.clone(), connections.clone());
    let queued = limits.max_subscribers as u64 * limits.subscriber_queue as u64;
    let openings = intake.openings.clone();
    let (tracks, incidents) = (cameras.clone(), incidents.clone());
    let incident_cap = Incidents::cap(limits.max_cameras);
    let taken = |name: &str, slots: &Slots| {
        let live = slots.clone();
        Place::new(name, slots.cap() as u64, move || live.taken() as u64)
    };
    let mut places = vec![
        Place::new("incidents", incident_cap as u64, move || incidents.live() as u64),
        Place::new("schedule", frames, move || dispatch.waiting() as u64),
        Place::new("openings", MAX_OPENINGS as u64, move || openings.live() as u64),
        taken("detect_calls", &slots.detect),
        taken("client_calls", &slots.clients),
        taken("health_checks", &slots.health_checks),
        taken("health_watches", &slots.health_watches),
        taken("queries", &slots.queries),
        taken("snapshots", &slots.snapshots),
        taken("incident_watches", &slots.incident_watches),
        Place::new("streams", limits.max_streams as u64, move || streams.streams() as u64),
        Place::new("cameras", limits.max_cameras as u64, move || cameras.len() as u64),
        Place::new("connections", limits.max_connections as u64, move || connections.open.load(Relaxed)),
        Place::new("subscribers", limits.max_subscribers as u64, move || subscribers.subscribers() as u64),
        Place::new("subscriber_queues", queued, move || bus.waiting() as u64),
        Place::new("result_ring", limits.result_ring as u64, move || held.held() as u64),
    ];
    // How many faces there are now is kept from clients then.
    if config.privacy.mode != PrivacyMode::CountsOnly {
        let cap = limits.max_cameras * config.people.max_tracks;
        places.push(Place::new("tracks", cap as u64, move || tracks.tracks() as u64));
    }
    places
}

fn routes(
    config: &Config,
    intake: &Arc<Intake>,
    sources: &Arc<Sources>,
    slots: CallSlots,
    health: HealthServer<impl Health>,
) -> Result<Routes, StartError> {
    let limits = &config.limits;
    let deadline = limits.call_deadline();
    let detect = DetectApi {
        dispatch: intake.dispatch.clone(),
        ledger: sources.detect_ledger.clone(),
        max_calls: limits.max_detect_calls,
        max_bytes: limits.max_detect_bytes,
        detector: intake.detector.clone(),
        gender_model: intake.gender_model.clone(),
        errors: Arc::default(),
    };
    let results = ResultApi {
        cameras: intake.cameras.clone(),
        bus: intake.bus.clone(),
        archive: intake.archive.clone(),
        incidents: sources.incidents.clone(),
        privacy: config.privacy.clone(),
        painter: Arc::default(),
        max_picture: config.vision.max_picture.0,
        max_snapshot_bytes: limits.max_frame_bytes as usize,
        call_deadline: deadline,
        shutdown: intake.shutdown.clone(),
    };
    let readings = Readings {
        balance: Box::new({
            let sources = sources.clone();
            move || sources.totals().balance()
        }),
        stages: Box::new({
            let sources = sources.clone();
            move || sources.stages.times()
        }),
    };
    let resources = ResourceApi { resources: sources.resources.clone(), readings: Arc::new(readings) };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let frames = v1::frame_service_server::FrameServiceServer::new(FrameApi(intake.clone()))
        .max_decoding_message_size(limits.max_message_bytes());
    let detect = v1::detect_service_server::DetectServiceServer::new(detect)
        .max_decoding_message_size(limits.max_detect_bytes as usize + MAX_REQUEST_BYTES);
    let results =
        v1::result_service_server::ResultServiceServer::new(results).max_decoding_message_size(MAX_REQUEST_BYTES);
    let resources =
        v1::admin_service_server::AdminServiceServer::new(resources).max_decoding_message_size(MAX_REQUEST_BYTES);
    let health =
        Admitted::new(health.max_decoding_message_size(MAX_HEALTH_REQUEST_BYTES), deadline.min(HEALTH_DEADLINE))
            .with_slots(slots.health_checks)
            .with_slots_of("/grpc.health.v1.Health/Watch", slots.health_watches);
    let CallSlots { detect: detect_slots, clients: client_slots, queries, snapshots, incident_watches, .. } = slots;
    let results = Admitted::new(results, deadline)
        .with_slots(client_slots.clone())
        .with_slots_of("/flatframe.v1.ResultService/QueryResults", queries.clone())
        .with_slots_of("/flatframe.v1.ResultService/QueryCounts", queries)
        .with_slots_of("/flatframe.v1.ResultService/WatchIncidents", incident_watches)
        .with_slots_of("/flatframe.v1.ResultService/GetSnapshot", snapshots);
    Ok(Routes::new(Admitted::new(frames, deadline))
        .add_service(Admitted::new(detect, deadline).with_slots(detect_slots))
        .add_service(results)
        .add_service(Admitted::new(resources, deadline).with_slots(client_slots.clone()))
        .add_service(health)
        .add_service(
            Admitted::new(reflection.max_decoding_message_size(MAX_REQUEST_BYTES), deadline)
                .with_slots(client_slots)
                .with_lifetime(REFLECTION_LIFETIME),
        ))
}
