//! Starts the real services in this process, each on a port of its own that
//! the system chose, and stops them as their `main` does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use flatframe_shared::budget::Budget;
use flatframe_shared::ledger::{IngestCounts, ServerCounts};
use inference_service::config::Config as InferenceConfig;
use inference_service::metrics::Sources;
use inference_service::server::{Listeners, Server, load};
use inference_service::vision::{StubEngineConfig, StubWaitPolicy};
use ingest_service::send::servers::Servers;
use ingest_service::send::servers::directory::{Resolve, SystemResolver};
use ingest_service::{CameraConfig, Config as IngestConfig, Ingest};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// A running inference-service.
pub struct Inference {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its metrics are.
    pub admin: SocketAddr,
    /// Where its page is.
    pub page: SocketAddr,
    /// Its computed bound.
    pub budget: Budget,
    /// Its live counters.
    pub sources: Arc<Sources>,
    shutdown: CancellationToken,
    joined: tokio::task::JoinHandle<ServerCounts>,
}

impl Inference {
    /// Starts it; listens on loopback whatever `config` says.
    ///
    /// # Errors
    /// As the service's own start.
    pub async fn start(mut config: InferenceConfig) -> anyhow::Result<Self> {
        config.listen.grpc = ([127, 0, 0, 1], 0).into();
        config.listen.admin = ([127, 0, 0, 1], 0).into();
        config.listen.page = Some(([127, 0, 0, 1], 0).into());
        config.check()?;
        let loaded = load(config.clone())?;
        let budget = loaded.budget.clone();
        let listeners = Listeners::bind(&config).await?;
        let (address, admin) = (listeners.grpc.local_addr()?, listeners.admin.local_addr()?);
        let page = listeners.page.as_ref().context("the page has a port")?.local_addr()?;
        let shutdown = CancellationToken::new();
        let server = Server::start(loaded, listeners, shutdown.clone()).await?;
        let sources = server.sources().clone();
        Ok(Self { address, admin, page, budget, sources, shutdown, joined: tokio::spawn(server.join()) })
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client's connection to it.
    ///
    /// # Errors
    /// When it does not accept.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        Ok(Channel::from_shared(self.url())?.connect().await?)
    }

    /// Tells it to stop; does not wait.
    pub fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    /// Stops it and returns its last counts.
    ///
    /// # Errors
    /// When a task of it panicked.
    pub async fn stop(self) -> anyhow::Result<ServerCounts> {
        self.shutdown.cancel();
        self.joined.await.context("the service's task")
    }
}

/// A configuration for tests of everything but the models: an engine that
/// takes `time_us` for each picture and reports one face if `face`.
pub fn stub_config(time_us: u32, face: bool) -> InferenceConfig {
    let mut config = InferenceConfig::default();
    config.vision.stub_engine = Some(StubEngineConfig { time_us, wait: StubWaitPolicy::Sleep, face });
    config
}

/// A configuration with third-party models, for tests that need a given
/// detector; `None` when their folder is not there.
pub fn third_party_config(detector: &str, gender: &str) -> Option<InferenceConfig> {
    let models: PathBuf = crate::media::shared("models")?;
    let mut config = InferenceConfig::default();
    config.vision.models_dir = models;
    config.vision.detector = detector.into();
    config.vision.gender = gender.into();
    Some(config)
}

/// A configuration of ingest-service with `cameras` that send to `server`;
/// binds no admin port.
pub fn ingest_config(server: &str, cameras: Vec<CameraConfig>) -> IngestConfig {
    let mut config = IngestConfig { camera: cameras, ..IngestConfig::default() };
    config.server.address = server.into();
    config.admin.listen = String::new();
    // The server may be in the same process: what is resident is not this
    // service's alone, and would slow its cameras down to a frame a second.
    config.limits.soft_memory_bytes = 1 << 40;
    config
}

/// A running ingest-service.
pub struct Running {
    /// What it knows of servers.
    pub servers: Servers,
    /// The service, for its live counters.
    pub cameras: Vec<ingest_service::CameraView>,
    /// All that it shows to operators.
    pub shown: Arc<ingest_service::metrics::Sources>,
    /// Its computed bound.
    pub budget: Budget,
    /// Where its metrics are, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Where its AdminService is, if anywhere.
    pub admin_grpc: Option<SocketAddr>,
    shutdown: CancellationToken,
    joined: tokio::task::JoinHandle<IngestCounts>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// As the service's own start.
    pub async fn start(config: IngestConfig) -> anyhow::Result<Self> {
        Self::start_with(config, Arc::new(SystemResolver)).await
    }

    /// Starts it with names resolved by `resolver`.
    ///
    /// # Errors
    /// As the service's own start.
    pub async fn start_with(config: IngestConfig, resolver: Arc<dyn Resolve>) -> anyhow::Result<Self> {
        let shutdown = CancellationToken::new();
        let ingest = Ingest::start_with(ingest_service::check(config)?, resolver, shutdown.clone()).await?;
        let (cameras, budget) = (ingest.cameras().to_vec(), ingest.budget().clone());
        let servers = ingest.sources().servers.clone();
        let (admin, admin_grpc) = (ingest.admin_address(), ingest.admin_grpc_address());
        let shown = ingest.sources().clone();
        Ok(Self { servers, cameras, shown, budget, admin, admin_grpc, shutdown, joined: tokio::spawn(ingest.join()) })
    }

    /// Counts of all cameras together.
    pub fn totals(&self) -> IngestCounts {
        let mut totals = IngestCounts::default();
        for camera in &self.cameras {
            totals += camera.counts();
        }
        totals
    }

    /// Stops it and returns its last counts.
    ///
    /// # Errors
    /// When a task of it panicked.
    pub async fn stop(self) -> anyhow::Result<IngestCounts> {
        self.shutdown.cancel();
        self.joined.await.context("the service's task")
    }
}
