//! The whole program: loads the models, checks the budget, serves until told
//! to stop, and stops within a deadline. Does not parse arguments and does not
//! bind: tests and the demo start it as `main` does.

mod keeping;
pub mod security;
mod services;
mod sharing;
pub mod slots;

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flatframe_shared::admin::{AdminState, serve_admin};
use flatframe_shared::budget::{Budget, DoesNotFit};
use flatframe_shared::config::ConfigError;
use flatframe_shared::frame::Pace;
use flatframe_shared::ledger::{ServerCounts, ServerLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::process;
use flatframe_shared::rate_log::RateLog;
use flatframe_shared::renewal::{FileError, renew};
use flatframe_shared::resources::Resources;
use flatframe_shared::serve::{ConnectionCounts, Protocol, Speaks, serve};
use futures_util::future::OptionFuture;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::security::Security;
use self::services::Services;
use self::sharing::Sharing;
use self::slots::{CallSlots, places};
use crate::budget::{budget, connection_limits, page_limits, result_bytes};
use crate::cameras::Cameras;
use crate::config::{Config, PrivacyMode};
use crate::dashboard::Audience;
use crate::history::{History, HistoryWriter, OpenError};
use crate::intake::dispatch::Dispatch;
use crate::intake::late::Late;
use crate::intake::link::{DRAIN_DEADLINE, Intake, MAX_OPENINGS};
use crate::intake::openings::Openings;
use crate::intake::pacing::Pacing;
use crate::intake::worker;
use crate::metrics::stages::Stages;
use crate::metrics::{Sources, registry};
use crate::mqtt::{self, config::Broker};
use crate::people::incidents::Incidents;
use crate::pulse;
use crate::replicas::config::BusSettings;
use crate::replicas::{BusError, Replicas};
use crate::results::archive::Archive;
use crate::results::bus::{Bus, BusLimits};
use crate::results::incident_pictures::IncidentPictures;
use crate::results::wire::Wire;
use crate::vision::{Analyzer, ModelError};

/// Time of one frame on one worker that is assumed until it is measured.
pub const ASSUMED_SERVICE: Duration = Duration::from_millis(10);
/// Jobs in work must end so long after the rest was answered `draining`.
pub const LAST_JOB_DEADLINE: Duration = Duration::from_secs(2);
/// Connections are closed so long after streams were told to drain.
pub const CONNECTION_GRACE: Duration = Duration::from_secs(6);

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A model is missing or wrong.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The configuration needs more memory than there is.
    #[error(transparent)]
    Memory(#[from] DoesNotFit),
    /// A password cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate, a key or the tokens cannot be used.
    #[error("configuration: {0}")]
    File(#[from] FileError),
    /// The history cannot be opened.
    #[error(transparent)]
    History(#[from] OpenError),
    /// There is no way to the result bus.
    #[error(transparent)]
    Bus(#[from] BusError),
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
    broker: Option<Broker>,
    security: Security,
    bus: Option<BusSettings>,
    /// The computed bound.
    pub budget: Budget,
}

/// Reads certificates and tokens, loads and tests the models and checks the budget against the memory limit.
/// Takes a second or so; binds nothing.
///
/// # Errors
/// [`StartError`], saying what to do.
pub fn load(config: Config) -> Result<Loaded, StartError> {
    let broker = config.mqtt.broker()?;
    let security = Security::load(&config)?;
    let bus = config.bus.settings()?;
    let analyzer = Analyzer::load(&config.vision)?;
    let budget = budget(&config, &analyzer.memory());
    let limit = match config.limits.memory_bytes {
        0 => process::cgroup_limit_bytes(),
        bytes => Some(bytes),
    };
    if let Some(limit) = limit {
        budget.check(limit)?;
    }
    Ok(Loaded { config, analyzer, broker, security, bus, budget })
}

/// Bound sockets.
pub struct Listeners {
    /// gRPC.
    pub grpc: TcpListener,
    /// `/livez`, `/readyz`, `/metrics`.
    pub admin: TcpListener,
    /// The page; `None`: it is off.
    pub page: Option<TcpListener>,
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
            page: match config.listen.page {
                Some(address) => Some(bind("listen.page", address).await?),
                None => None,
            },
        })
    }
}

/// A running service.
pub struct Server {
    sources: Arc<Sources>,
    intake: Arc<Intake>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<((), Option<()>)>,
    admin: tokio::task::JoinHandle<()>,
    admin_stop: CancellationToken,
    pacing: tokio::task::JoinHandle<()>,
    renewing: tokio::task::JoinHandle<()>,
    telling: Option<tokio::task::JoinHandle<()>>,
    health: tonic_health::server::HealthReporter,
    workers: Vec<JoinHandle<()>>,
    writer: Option<HistoryWriter>,
    sharing: Option<Sharing>,
}

impl Server {
    /// Starts to serve; `shutdown` stops it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub async fn start(loaded: Loaded, listeners: Listeners, shutdown: CancellationToken) -> Result<Self, StartError> {
        let Loaded { config, analyzer, broker, security, bus, budget } = loaded;
        // Before there are threads that would outlive a refusal.
        let (history, writer) = keeping::open(&config.history)?;
        let server_epoch = fastrand::u64(1..);
        let replicas = match bus {
            Some(settings) => Some(Replicas::join(settings, server_epoch, config.limits.max_cameras).await?),
            None => None,
        };
        let dispatch = Arc::new(Dispatch::new(config.workers.threads(), ASSUMED_SERVICE));
        let stages = Arc::new(Stages::default());
        let workers = worker::start(&dispatch, &analyzer, &stages)?;
        let connections = Arc::new(ConnectionCounts::default());
        let page_connections = Arc::new(ConnectionCounts::default());
        let limits = &config.limits;
        let mut resources = Resources::new(budget, Vec::new(), limits.memory_bytes, limits.soft_memory_bytes);
        let first_incident = history.as_ref().map_or(1, History::next_incident_id);
        let incidents = Arc::new(Incidents::new(config.incidents.clone(), first_incident));
        let wire = Wire { server_epoch, withholds_faces: config.privacy.mode == PrivacyMode::CountsOnly };
        let archive = Archive { history, replicas: replicas.clone(), wire };
        let memory = resources.memory.clone();
        let intake = intake(&config, &analyzer, dispatch.clone(), memory, archive, shutdown.clone());
        let slots = CallSlots::new(limits);
        let incident_pictures = Arc::new(IncidentPictures::new(config.incidents.picture_bytes, result_bytes(&config)));
        let told = (&incidents, &incident_pictures);
        resources.places = places(&config, &intake, told, [&connections, &page_connections], &slots);
        let sources = Arc::new(Sources {
            cameras: intake.cameras.clone(),
            detect_ledger: ServerLedger::new(),
            late: intake.late.clone(),
            dispatch,
            bus: intake.bus.clone(),
            connections: connections.clone(),
            page_connections: page_connections.clone(),
            incidents,
            incident_pictures,
            archive: intake.archive.clone(),
            mqtt: Arc::default(),
            stages,
            security: security.clone(),
            resources: Arc::new(resources),
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, true).await;
        let services = Services::new(&config, &intake, &sources);
        let page = listeners.page.map(|listener| {
            let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
            let names = config.listen.page_names.clone().into();
            let routes = services.page(&slots, &security.authority, Audience { is_local, names });
            serve(
                listener,
                Speaks::new(Protocol::Web, security.tls.clone()),
                routes,
                page_limits(),
                page_connections,
                shutdown.clone(),
                CONNECTION_GRACE,
            )
        });
        let routes = services.grpc(&slots, &security.authority, health_service)?;
        let limits = connection_limits(&config);
        let grpc = listeners.grpc;
        let grpc = serve(
            grpc,
            Speaks::new(Protocol::Grpc, security.tls.clone()),
            routes,
            limits,
            connections,
            shutdown.clone(),
            CONNECTION_GRACE,
        );
        let serving = tokio::spawn(async { tokio::join!(grpc, OptionFuture::from(page)) });
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
        let renewing = tokio::spawn(renew(security.files(), shutdown.clone()));
        let telling = broker
            .map(|broker| tokio::spawn(mqtt::run(broker, sources.clone(), sources.mqtt.clone(), shutdown.clone())));
        let sharing = replicas.map(|replicas| {
            Sharing::start(replicas, intake.bus.clone(), sources.incidents.clone(), result_bytes(&config))
        });
        Ok(Self {
            sources,
            intake,
            shutdown,
            serving,
            admin,
            admin_stop,
            pacing,
            renewing,
            telling,
            health,
            workers,
            writer,
            sharing,
        })
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
        let _ = tokio::join!(self.serving, self.pacing, self.renewing, OptionFuture::from(self.telling));
        self.intake.tasks.wait().await;
        let written = OptionFuture::from(self.writer.map(|writer| keeping::close(&self.sources.archive, writer)));
        tokio::join!(written, OptionFuture::from(self.sharing.map(Sharing::finish)));
        self.admin_stop.cancel();
        let _ = self.admin.await;
        let totals = self.sources.totals();
        tracing::info!(received = totals.received, queued = totals.queued, balance = totals.balance(), "stopped");
        totals
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
        late: Late::new(config.late_streams()),
        openings: Openings::new(MAX_OPENINGS),
        slots: Arc::new(Semaphore::new(limits.max_streams)),
        warnings: RateLog::default(),
        first_pace: Mutex::new(Pace { max_fps: None, max_size: config.pace_size() }),
        shutdown,
        tasks: TaskTracker::new(),
        limits,
    })
}
