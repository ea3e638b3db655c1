//! The running service: all cameras and the operator's ports, started together
//! and stopped in stages, each of which logs one line. Everything it starts is
//! joined in [`Ingest::join`].

mod late;
mod observer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flatframe_shared::admin::{AdminState, serve_admin};
use flatframe_shared::budget::{Budget, DoesNotFit, Place};
use flatframe_shared::config::ConfigError;
use flatframe_shared::r#gen::v1::admin_service_server::AdminServiceServer;
use flatframe_shared::ledger::IngestCounts;
use flatframe_shared::outcome::{DropReason, Outcome};
use flatframe_shared::process;
use flatframe_shared::renewal::{FileError, renew};
use flatframe_shared::resources::{ResourceApi, Resources};
use flatframe_shared::serve::{ConnectionCounts, ConnectionLimits, Protocol, serve};
use flatframe_shared::tls::ClientTls;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::health_reporter;

use self::late::LateSender;
use crate::board::Board;
use crate::camera::{Camera, CameraView, join};
use crate::config::Config;
use crate::late::LateView;
use crate::memory::budget;
use crate::metrics::{Sources, readings, registry};
use crate::plan::CameraPlan;
use crate::record::{Recording, RecordingWriter};
use crate::send::servers::Servers;
use crate::send::servers::connect::Tcp;
use crate::send::servers::directory::{Resolve, SystemResolver};

/// Most connections to the operator's gRPC port.
const MAX_ADMIN_CONNECTIONS: usize = 8;
/// Calls to the operator's gRPC port may finish for so long at shutdown.
const ADMIN_GRACE: Duration = Duration::from_millis(500);
/// Connections to the server may close for so long at shutdown.
const CONNECTIONS_GRACE: Duration = Duration::from_millis(500);
/// What waits for the disk may be written for so long at shutdown, while the
/// last answers come.
const RECORDING_GRACE: Duration = Duration::from_secs(4);

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate or a key cannot be used.
    #[error("configuration: {0}")]
    File(#[from] FileError),
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
    tls: Option<Arc<ClientTls>>,
    budget: Budget,
}

/// Checks a configuration, reads its certificates, and checks that its budget
/// fits the memory limit.
///
/// # Errors
/// [`StartError::Config`], [`StartError::File`] or [`StartError::Memory`],
/// naming the key.
pub fn check(config: Config) -> Result<Checked, StartError> {
    let plans = config.plans()?;
    let tls = config.server.tls().map(ClientTls::load).transpose()?.map(Arc::new);
    let budget = budget(&config, &plans);
    let limit = match config.limits.memory_bytes {
        // Nothing limits it but the machine itself.
        0 => process::cgroup_limit_bytes().or_else(|| Board::default().machine().memory_bytes),
        bytes => Some(bytes),
    };
    if let Some(limit) = limit {
        budget.check(limit)?;
    }
    Ok(Checked { config, plans, tls, budget })
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
    /// What sends late frames.
    late: Vec<LateSender>,
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
        Self::start_with(checked, Arc::new(SystemResolver), shutdown).await
    }

    /// As [`Ingest::start_checked`], with servers' names resolved by `resolver`.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start_with(
        checked: Checked,
        resolver: Arc<dyn Resolve>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let Checked { config, plans, tls, budget } = checked;
        let admin = bind("admin.listen", &config.admin.listen).await?;
        let admin_grpc = bind("admin.grpc_listen", &config.admin.grpc_listen).await?;
        let connections = TaskTracker::new();
        let connect = Arc::new(Tcp { tls: tls.clone() });
        let servers = Servers::new(&config.server, connect, resolver, connections.clone()).map_err(|error| {
            ConfigError::not_allowed("server.address", error, "use http://HOST:PORT or https://HOST:PORT")
        })?;

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
            let (servers, stop, finish) = (servers.clone(), capture_stop.clone(), finish_now.clone());
            let memory = resources.memory.clone();
            let recorder = recording.as_ref().and_then(|recording| recording.recorder(plan));
            let camera = Camera::start(plan, &config.limits, memory, recorder, servers, stop, finish);
            cameras.push(camera.map_err(StartError::Thread)?);
        }

        let views: Vec<CameraView> = cameras.iter().map(|camera| camera.view.clone()).collect();
        let late_senders = recording.as_ref().map_or_else(Vec::new, |recording| {
            LateSender::start_all(plans.iter().zip(&views), recording, &servers, &finish_now)
        });
        let late: Vec<LateView> = late_senders.iter().map(|sender| sender.view.clone()).collect();
        resources.places = views.iter().flat_map(CameraView::places).collect();
        resources.places.extend(late.iter().flat_map(LateView::places));
        resources.places.extend(recording.iter().flat_map(Recording::places));
        let sources = Arc::new(Sources {
            cameras: views,
            servers,
            recording,
            late,
            tls: tls.clone(),
            resources: Arc::new(resources),
            board: Board::default(),
        });
        let admin_stop = CancellationToken::new();
        let (health, health_service) = health_reporter();
        let mut others = vec![tokio::spawn(observer::run(sources.clone(), health, capture_stop.clone()))];
        if let Some(tls) = tls {
            others.push(tokio::spawn(renew(vec![tls], admin_stop.clone())));
        }
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
        if let Some(server) = config.server.unencrypted() {
            tracing::warn!(server, "frames leave this machine unencrypted: use https:// and server.ca");
        }
        tracing::info!(
            cameras = cameras.len(),
            servers = config.server.urls().collect::<Vec<_>>().join(" "),
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
            late: late_senders,
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
        let Self {
            sources, mut cameras, shutdown, capture, finish, connections, recording, late, others, admin, ..
        } = self;
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
        let patience = LateSender::patience();
        for mut uplink in uplinks {
            join(&mut uplink).await;
        }
        for sender in late {
            sender.join(patience).await;
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
        if !sources.late.is_empty() {
            let late = sources.late_totals();
            tracing::info!(
                sent = late.sent,
                analyzed = late.answered(Outcome::Analyzed),
                waiting = late.waiting,
                ledger_balance = late.balance(),
                "late frames that wait stay in the recording"
            );
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
