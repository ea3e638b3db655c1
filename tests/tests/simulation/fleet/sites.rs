//! What the fleet is made of: replicas behind a name, and boxes with a camera
//! each that share a few hosts.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flatframe_shared::outcome::Outcome;
use ingest_service::config::ServerConfig;
use ingest_service::send::route::Route;
use ingest_service::send::servers::Servers;
use ingest_service::send::servers::directory::Resolve;
use ingest_service::source::BoxFuture;
use tokio::task::JoinSet;
use turmoil::Sim;

use super::CAMERAS;
use crate::network::{PORT, SimConnect};
use crate::scenario::{CameraDraw, ServerDraw};
use crate::sender::{SenderSite, Way};
use crate::server::{ServerRun, ServerSite};

/// Streams of a replica: with a zone lost there is room for all cameras.
pub const MAX_STREAMS: usize = 100;

/// Hosts that the boxes share: a host of its own for each would be simulated
/// for each step.
pub const BOX_HOSTS: usize = 16;

/// `server.return_s` of every box.
pub const RETURN: Duration = Duration::from_secs(30);

/// One replica, through all its runs.
pub struct Replica {
    /// Name of its host.
    pub host: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its runs.
    pub site: Arc<ServerSite>,
    /// Whether cameras reach it.
    pub is_cut_off: bool,
    /// The run that was looked at last, and what it had accepted then.
    looked_at: Option<Arc<ServerRun>>,
    accepted: u64,
    /// Most that it accepted in a second of this phase.
    pub most_accepted: u64,
}

impl Replica {
    pub fn start(number: usize, sim: &mut Sim<'static>) -> Self {
        let (host, site) = (format!("replica-{number}"), ServerSite::new(server()));
        sim.host(host.as_str(), {
            let site = site.clone();
            move || site.clone().run()
        });
        let address = SocketAddr::new(sim.lookup(host.as_str()), PORT);
        Self { host, address, site, is_cut_off: false, looked_at: None, accepted: 0, most_accepted: 0 }
    }

    /// Streams that it serves.
    pub fn streams(&self) -> usize {
        self.site.current().filter(|run| run.is_alive()).map_or(0, |run| run.intake.streams())
    }

    /// Counts what was accepted since the last look, a second ago.
    pub fn look(&mut self) {
        let Some(run) = self.site.current() else { return };
        let accepted = run.connections.accepted.load(Relaxed);
        let is_same = self.looked_at.as_ref().is_some_and(|before| Arc::ptr_eq(before, &run));
        let before = if is_same { self.accepted } else { 0 };
        self.most_accepted = self.most_accepted.max(accepted - before);
        (self.looked_at, self.accepted) = (Some(run), accepted);
    }
}

/// The name of all replicas, as a headless Service gives it.
#[derive(Debug, Default, Clone)]
pub struct Name(Arc<Mutex<Vec<SocketAddr>>>);

impl Resolve for Name {
    fn look_up(&self, _host: String, _port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let addresses = self.0.lock().expect("no panic").clone();
        Box::pin(async { Ok(addresses) })
    }
}

impl Name {
    pub fn add(&self, address: SocketAddr) {
        self.0.lock().expect("no panic").push(address);
    }

    pub fn remove(&self, address: SocketAddr) {
        self.0.lock().expect("no panic").retain(|known| *known != address);
    }
}

pub fn analyzed(site: &ServerSite, camera: &str) -> u64 {
    site.counts(camera).answered(Outcome::Analyzed)
}

pub fn box_host(number: usize) -> String {
    format!("boxes-{number}")
}

/// All boxes of a host, until all have stopped.
pub async fn run_all(sites: Vec<Arc<SenderSite>>) -> turmoil::Result {
    let mut running = JoinSet::new();
    for site in sites {
        running.spawn_local(site.run());
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

/// As a box with one camera finds its way; what it knows of the servers is
/// added to `all`.
pub fn way(name: &Name, connect: &Arc<SimConnect>, all: &Arc<Mutex<Vec<Servers>>>) -> Way {
    let (name, connect, all) = (name.clone(), connect.clone(), all.clone());
    Box::new(move |plan, terms, connections| {
        let config = ServerConfig { return_s: RETURN.as_secs(), ..ServerConfig::at(format!("http://replicas:{PORT}")) };
        let resolver = Arc::new(name.clone());
        let servers = Servers::new(&config, connect.clone(), resolver, connections.clone()).expect("an address");
        all.lock().expect("no panic").push(servers.clone());
        Box::new(Route::new(servers, plan.id.clone(), plan.fps, terms.clone()))
    })
}

/// Each camera: a picture every two seconds.
pub fn camera() -> CameraDraw {
    CameraDraw {
        fps: 0.5,
        ttl: Duration::from_secs(5),
        jpeg_bytes: 100..200,
        look: Duration::from_millis(20),
        prepare: Duration::from_millis(10),
        mailbox_frames: 1,
        mailbox_bytes: 1000,
        max_in_flight: 2,
        broken_every: u32::MAX,
    }
}

/// Each replica: more than enough for its cameras, so that what is seen is
/// their way and not its queue.
pub fn server() -> ServerDraw {
    ServerDraw {
        workers: 2,
        look: Duration::from_millis(5),
        service: Duration::from_millis(5)..Duration::from_millis(15),
        slow_every: u32::MAX,
        fail_every: u32::MAX,
        window: 2,
        max_streams: MAX_STREAMS,
        max_cameras: CAMERAS,
    }
}
