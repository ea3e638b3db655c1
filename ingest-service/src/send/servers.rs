//! What all cameras of a process know of the servers: which there are
//! ([`directory`]), who was not there lately ([`standing`]), whose turn it is to
//! open a stream, and how many streams each has. Which one a camera goes to is
//! [`super::route`]'s to say.

pub mod connect;
pub mod directory;
pub mod ranking;
pub mod standing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flatframe_shared::clock::now;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use self::connect::Connect;
use self::directory::{Directory, Known, Named, Resolve};
use self::standing::Standing;
use crate::config::ServerConfig;
use crate::send::connection::{Liveness, endpoint};
use crate::send::dial::DialError;

/// Cameras of one process that open a stream at once.
const MAX_OPENING: usize = 8;
/// Cameras of one process that move at once while nothing is wrong.
const MAX_MOVING: usize = 1;
/// A connection must stand within this where there is another server to try.
const CONNECT_WITH_OTHERS: Duration = Duration::from_secs(1);
/// A server that a camera is to move to must say within this that it serves.
const HEALTH_DEADLINE: Duration = Duration::from_secs(1);
/// What is asked for its health.
const FRAME_SERVICE: &str = "flatframe.v1.FrameService";

/// Why a camera changed its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveReason {
    /// Its server was gone, drained or refused it.
    Failover,
    /// Its own server is there again, or there is a new one.
    Return,
    /// Its server asked for much less than it wants.
    Relief,
}

impl MoveReason {
    /// All, in the order of [`MoveReason::as_str`]'s labels.
    pub const ALL: [Self; 3] = [Self::Failover, Self::Return, Self::Relief];

    /// As metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Return => "return",
            Self::Relief => "relief",
        }
    }
}

/// The servers, as all cameras of a process see them; a cheap handle.
#[derive(Debug, Clone)]
pub struct Servers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: Directory,
    standing: Mutex<Standing>,
    /// Open streams of each server.
    streams: Mutex<BTreeMap<SocketAddr, u64>>,
    opening: Arc<Semaphore>,
    moving: Arc<Semaphore>,
    moves: [AtomicU64; MoveReason::ALL.len()],
    dead_after: Option<Duration>,
    return_within: Duration,
    connect: Arc<dyn Connect>,
    connections: TaskTracker,
}

/// The right to open a stream, until the welcome.
#[derive(Debug, Default)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Servers {
    /// Those that `config` names, reached by `connect`. What runs behind a
    /// connection is spawned on `connections`.
    ///
    /// # Errors
    /// The address that is none.
    pub fn new(
        config: &ServerConfig,
        connect: Arc<dyn Connect>,
        resolver: Arc<dyn Resolve>,
        connections: TaskTracker,
    ) -> Result<Self, String> {
        let mut names = Vec::new();
        for url in config.urls() {
            let named = Named::parse(url).ok_or_else(|| url.to_owned())?;
            // What cannot be dialled is to be known before a camera tries.
            endpoint(&named, None, Liveness::ALONE, &connections).map_err(|error| format!("{url}: {error}"))?;
            names.push(named);
        }
        Ok(Self(Arc::new(Shared {
            directory: Directory::new(names, resolver),
            standing: Mutex::default(),
            streams: Mutex::default(),
            opening: Arc::new(Semaphore::new(MAX_OPENING)),
            moving: Arc::new(Semaphore::new(MAX_MOVING)),
            moves: Default::default(),
            dead_after: (config.dead_after_ms > 0).then(|| Duration::from_millis(config.dead_after_ms)),
            return_within: Duration::from_secs(config.return_s),
            connect,
            connections,
        })))
    }

    /// Waits until one more camera may open a stream; each that does has a
    /// deadline.
    pub async fn turn(&self) -> Turn {
        Turn { _permit: self.0.opening.clone().acquire_owned().await.ok() }
    }

    /// Waits until one more camera may move to another server.
    pub(crate) async fn turn_to_move(&self) -> Turn {
        Turn { _permit: self.0.moving.clone().acquire_owned().await.ok() }
    }

    /// Looks up who is there, unless that was done a moment ago.
    pub(crate) async fn refresh(&self) {
        self.0.directory.refresh().await;
        let known: Vec<_> = self.0.directory.servers().into_iter().map(|known| known.address).collect();
        lock(&self.0.standing).keep_only(&known);
    }

    /// All servers, with whether each was not there lately.
    pub fn known(&self) -> Vec<(Known, bool)> {
        let (standing, now) = (lock(&self.0.standing), now());
        let with = |known: Known| {
            let is_absent = standing.is_absent(known.address, now);
            (known, is_absent)
        };
        self.0.directory.servers().into_iter().map(with).collect()
    }

    /// Why there is no server, for a person.
    pub(crate) fn trouble(&self) -> String {
        self.0.directory.trouble()
    }

    /// One attempt to connect to `server`.
    pub(crate) async fn connect(&self, server: &Known, has_others: bool) -> Result<Channel, DialError> {
        let liveness = match self.0.dead_after {
            Some(limit) => Liveness::within(limit),
            None if has_others => Liveness::WITH_OTHERS,
            None => Liveness::ALONE,
        };
        let endpoint = endpoint(&server.named, Some(server.address), liveness, &self.0.connections)?;
        let endpoint = if has_others { endpoint.connect_timeout(CONNECT_WITH_OTHERS) } else { endpoint };
        let connected = self.0.connect.connect(endpoint, server).await;
        connected.map_err(|reason| DialError::Server { server: server.address, reason })
    }

    /// Whether the server at the other end takes frames: one that is frozen
    /// accepts connections too.
    pub(crate) async fn is_serving(channel: Channel) -> bool {
        let request = HealthCheckRequest { service: FRAME_SERVICE.into() };
        let mut client = HealthClient::new(channel);
        let asked = tokio::time::timeout(HEALTH_DEADLINE, client.check(request)).await;
        matches!(asked, Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving)
    }

    /// `server` does not answer.
    pub(crate) fn gone(&self, server: SocketAddr) {
        lock(&self.0.standing).gone(server, fastrand::f64(), now());
    }

    /// A stream to `server` is open.
    pub(crate) fn opened(&self, server: SocketAddr) {
        lock(&self.0.standing).there(server);
        *lock(&self.0.streams).entry(server).or_default() += 1;
    }

    /// A stream to `server` is no longer open.
    pub(crate) fn closed(&self, server: SocketAddr) {
        let mut streams = lock(&self.0.streams);
        if let Some(count) = streams.get_mut(&server) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&server);
            }
        }
    }

    /// A camera has another server than before.
    pub(crate) fn moved(&self, reason: MoveReason) {
        self.0.moves[reason as usize].fetch_add(1, Relaxed);
    }

    /// Open streams of each server that has one.
    pub fn streams(&self) -> BTreeMap<SocketAddr, u64> {
        lock(&self.0.streams).clone()
    }

    /// Changes of server, by reason.
    pub fn moves(&self, reason: MoveReason) -> u64 {
        self.0.moves[reason as usize].load(Relaxed)
    }

    /// Look-ups of the servers' names, by how they ended.
    pub fn look_ups(&self) -> [(&'static str, u64); 3] {
        let counts = self.0.directory.counts();
        [("good", &counts.good), ("failed", &counts.failed), ("late", &counts.late)]
            .map(|(name, count)| (name, count.load(Relaxed)))
    }

    /// Addresses beyond the cap, which are not used.
    pub fn over_cap(&self) -> u64 {
        self.0.directory.counts().over_cap.load(Relaxed)
    }

    /// When a camera next looks whether it had better be elsewhere: from half
    /// to one and a half times `server.return_s`, so that cameras which left
    /// together do not come back together.
    pub(crate) fn next_look(&self) -> Duration {
        self.0.return_within.mul_f64(0.5 + fastrand::f64())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one step: what a panic left behind is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
