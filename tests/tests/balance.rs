//! Several servers: cameras spread over them, leave one that is killed, frozen,
//! full, busy or stopped in order, and come back; what nobody hit goes on, and
//! nothing is lost where nothing broke.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use e2e::media::textured_jpeg;
use e2e::metrics::metric;
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::program::{Program, connect, free_address};
use e2e::wait::{answered, until};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::outcome::Outcome;
use ingest_service::send::servers::MoveReason;
use ingest_service::send::servers::directory::Resolve;
use ingest_service::send::servers::ranking::weight;
use ingest_service::source::BoxFuture;
use ingest_service::{CameraConfig, CameraView, Config};

const SIZE: PictureSize = PictureSize::new(320, 240);
/// Cameras of a test.
const CAMERAS: usize = 24;
/// Frames per second of each: enough to see them move, and little enough that no
/// server is busy on a slow machine.
const FPS: f32 = 5.0;
/// Every camera is served again within 2 s; a busy machine takes longer.
const FAILOVER: Duration = Duration::from_secs(15);
/// What ends in order does so within 10 s, or says that it did not.
const STOP: Duration = Duration::from_secs(30);
/// For what takes its time by design: cameras come back one after the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server as a program.
struct Replica {
    address: SocketAddr,
    toml: String,
    program: Option<Program>,
}

impl Replica {
    fn start(more: &str) -> Self {
        let (address, admin) = (free_address().expect("a port"), free_address().expect("a port"));
        let toml = format!(
            "[listen]\ngrpc = '{address}'\nadmin = '{admin}'\npage = ''\n[limits]\nmax_streams = 64\nmax_cameras = 64\n{more}\n\
             [vision.stub_engine]\ntime_us = 5000\nwait = 'sleep'\n"
        );
        let program = Some(Program::start("inference-service", &toml).expect("starts"));
        Self { address, toml, program }
    }

    fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("runs")
    }

    async fn stop(&mut self) {
        let mut program = self.program.take().expect("runs");
        program.signal(libc::SIGTERM).expect("told to stop");
        let status = program.wait(STOP).await.expect("ends");
        assert!(status.success(), "its ledger balances: {status}");
    }

    async fn start_again(&mut self) {
        self.program = Some(Program::start("inference-service", &self.toml).expect("starts"));
        connect(&self.address.to_string(), PATIENCE).await.expect("accepts");
    }
}

async fn three() -> Vec<Replica> {
    let replicas: Vec<_> = (0..3).map(|_| Replica::start("")).collect();
    for replica in &replicas {
        connect(&replica.address.to_string(), PATIENCE).await.expect("accepts");
    }
    replicas
}

/// Cameras that send to all of `servers`; keep the folder.
fn config(servers: &[SocketAddr], cameras: usize, fps: f32) -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("1.jpg"), textured_jpeg(SIZE, 1)).expect("written");
    let source = format!("file:{}", folder.path().display());
    let camera = |n| CameraConfig { fps, ..CameraConfig::new(&format!("cam-{n}"), &source) };
    let mut config = ingest_config("http://127.0.0.1:1", (0..cameras).map(camera).collect());
    config.server.addresses = servers.iter().map(|server| format!("http://{server}")).collect();
    config.server.return_s = 1;
    (folder, config)
}

fn analyzed(camera: &CameraView) -> u64 {
    camera.counts().answered(Outcome::Analyzed)
}

/// Waits until each camera has a new result; the time it took.
async fn served(cameras: &[CameraView], limit: Duration) -> Duration {
    let before: Vec<_> = cameras.iter().map(analyzed).collect();
    let all = || cameras.iter().zip(&before).all(|(camera, before)| analyzed(camera) > *before);
    until("every camera is served", limit, all).await
}

/// The cameras that belong to `server`, and the others.
fn split(ingest: &Running, servers: &[SocketAddr], server: SocketAddr) -> (Vec<CameraView>, Vec<CameraView>) {
    let own = |camera: &CameraView| {
        servers.iter().max_by_key(|server| weight(camera.id(), **server)).is_some_and(|first| *first == server)
    };
    ingest.cameras.iter().cloned().partition(own)
}

/// As many streams for each server as cameras belong to it.
fn at_home(ingest: &Running, servers: &[SocketAddr]) -> BTreeMap<SocketAddr, u64> {
    let count = |server: &SocketAddr| (*server, split(ingest, servers, *server).0.len() as u64);
    servers.iter().map(count).filter(|(_, cameras)| *cameras > 0).collect()
}

fn lost(cameras: &[CameraView]) -> u64 {
    cameras.iter().map(|camera| camera.counts().lost).sum()
}

async fn ended(ingest: Running) {
    let counts = ingest.stop().await.expect("stops");
    assert_eq!((counts.balance(), counts.in_flight, counts.waiting), (0, 0, 0), "{counts:?}");
}

/// SIGKILL, and SIGSTOP: the cameras of that server go to the others, whose own
/// notice nothing; when it is there again they come home, and lose nothing.
#[tokio::test]
async fn cameras_leave_a_server_that_dies_or_freezes_and_come_back() {
    let mut replicas = three().await;
    let servers: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    let (_folder, config) = config(&servers, CAMERAS, FPS);
    let in_flight = config.limits.max_in_flight as u64;
    let ingest = Running::start(config).await.expect("starts");
    served(&ingest.cameras, PATIENCE).await;
    let home = at_home(&ingest, &servers);
    until("every camera is at home", PATIENCE, || ingest.servers.streams() == home).await;
    assert!(home.len() >= 2, "{home:?}");

    // The one with the most cameras.
    let (&hit, _) = home.iter().max_by_key(|(_, cameras)| **cameras).expect("one");
    let place = servers.iter().position(|server| *server == hit).expect("it is one of them");
    let (own, others) = split(&ingest, &servers, hit);

    replicas[place].program().signal(libc::SIGKILL).expect("killed");
    let killed = Instant::now();
    until("its cameras notice", FAILOVER, || !ingest.servers.streams().contains_key(&hit)).await;
    served(&ingest.cameras, FAILOVER).await;
    println!("killed: {} cameras served by others after {:?}", own.len(), killed.elapsed());
    assert_eq!(lost(&others), 0, "nothing was wrong with them");
    assert!(lost(&own) <= own.len() as u64 * in_flight);
    let lost_before = lost(&own);
    replicas[place].start_again().await;
    until("every camera is at home", PATIENCE, || ingest.servers.streams() == home).await;
    served(&ingest.cameras, FAILOVER).await;
    assert_eq!((lost(&others), lost(&own)), (0, lost_before), "to come back costs nothing");
    assert!(ingest.servers.moves(MoveReason::Return) >= own.len() as u64);

    replicas[place].program().signal(libc::SIGSTOP).expect("frozen");
    let frozen = Instant::now();
    until("its cameras notice", FAILOVER, || !ingest.servers.streams().contains_key(&hit)).await;
    served(&ingest.cameras, FAILOVER).await;
    println!("frozen: {} cameras served by others after {:?}", own.len(), frozen.elapsed());
    // It accepts connections while it is frozen: nobody may fall for that.
    let returns = ingest.servers.moves(MoveReason::Return);
    let is_absent = || ingest.servers.known().iter().any(|(known, is_absent)| known.address == hit && *is_absent);
    until("it may be tried again", PATIENCE, || !is_absent()).await;
    until("some camera has tried it", PATIENCE, is_absent).await;
    served(&ingest.cameras, FAILOVER).await;
    assert_eq!((ingest.servers.moves(MoveReason::Return), lost(&others)), (returns, 0));
    let lost_before = lost(&own);
    replicas[place].program().signal(libc::SIGCONT).expect("continued");
    // A frame that was in work while it stood still says nothing of what frames cost.
    until("every camera is at home", PATIENCE, || ingest.servers.streams() == home).await;
    assert!(ingest.servers.moves(MoveReason::Return) >= returns + own.len() as u64);
    served(&ingest.cameras, FAILOVER).await;
    assert_eq!((lost(&others), lost(&own)), (0, lost_before));
    ended(ingest).await;
}

/// Every server is stopped in order and started again, one after the other.
#[tokio::test]
async fn a_rolling_restart_loses_no_frame() {
    let mut replicas = three().await;
    let servers: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    let (_folder, config) = config(&servers, CAMERAS, FPS);
    let ingest = Running::start(config).await.expect("starts");
    served(&ingest.cameras, PATIENCE).await;
    for replica in &mut replicas {
        replica.stop().await;
        served(&ingest.cameras, FAILOVER).await;
        replica.start_again().await;
        served(&ingest.cameras, FAILOVER).await;
    }
    let home = at_home(&ingest, &servers);
    until("every camera is at home", PATIENCE, || ingest.servers.streams() == home).await;
    assert_eq!(lost(&ingest.cameras), 0);
    ended(ingest).await;
}

/// Servers that together have just enough room: the full ones refuse, and every
/// camera finds its place.
#[tokio::test]
async fn full_servers_send_cameras_on() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        let mut config = stub_config(500, false);
        (config.limits.max_streams, config.limits.max_cameras) = (4, 4);
        servers.push(Inference::start(config).await.expect("starts"));
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let (_folder, config) = config(&addresses, 12, FPS);
    let ingest = Running::start(config).await.expect("starts");
    let full = addresses.iter().map(|address| (*address, 4)).collect();
    until("every camera has a place", PATIENCE, || ingest.servers.streams() == full).await;
    served(&ingest.cameras, FAILOVER).await;
    assert_eq!(lost(&ingest.cameras), 0);
    ended(ingest).await;
}

/// A server with a fiftieth of the other's speed: cameras leave it until what
/// it has left it can do.
#[tokio::test]
async fn cameras_leave_a_busy_server_for_one_that_is_not() {
    let (mut slow, mut fast) = (stub_config(100_000, false), stub_config(2_000, false));
    (slow.workers.count, fast.workers.count) = (1, 1);
    let slow = Inference::start(slow).await.expect("starts");
    let fast = Inference::start(fast).await.expect("starts");
    let addresses = [slow.address, fast.address];
    let (_folder, config) = config(&addresses, 16, 10.0);
    let ingest = Running::start(config).await.expect("starts");
    let home = at_home(&ingest, &addresses);
    let belong = home.get(&slow.address).copied().unwrap_or_default();
    // Of 16 by a hash: it would have to be all or none.
    assert!(belong > 1, "{home:?}");
    until("all but one leave it", PATIENCE, || ingest.servers.moves(MoveReason::Relief) >= belong - 1).await;
    let on_slow = || ingest.servers.streams().get(&slow.address).copied().unwrap_or_default();
    until("it has what it can do", PATIENCE, || on_slow() <= 1).await;
    served(&ingest.cameras, PATIENCE).await;
    assert_eq!(lost(&ingest.cameras), 0, "they left in order");
    ended(ingest).await;
}

/// What a name resolves to, as the test says.
#[derive(Debug, Default, Clone)]
struct Names(Arc<Mutex<Vec<SocketAddr>>>);

impl Resolve for Names {
    fn look_up(&self, _: String, _: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        let found = self.0.lock().expect("no panic").clone();
        Box::pin(async move { if found.is_empty() { Err(std::io::Error::other("no such name")) } else { Ok(found) } })
    }
}

/// A name behind which a server is added, and then nothing is found: as DNS of a
/// headless service does it.
#[tokio::test]
async fn a_new_server_behind_the_name_gets_its_share() {
    let first = Inference::start(stub_config(500, false)).await.expect("starts");
    let second = Inference::start(stub_config(500, false)).await.expect("starts");
    let names = Names(Arc::new(Mutex::new(vec![first.address])));
    let (_folder, mut config) = config(&[], CAMERAS, FPS);
    config.server.address = "http://inference.test:50051".into();
    let ingest = Running::start_with(config, Arc::new(names.clone())).await.expect("starts");
    let one: BTreeMap<_, _> = [(first.address, CAMERAS as u64)].into();
    until("all are at the one server", PATIENCE, || ingest.servers.streams() == one).await;
    served(&ingest.cameras, FAILOVER).await;

    *names.0.lock().expect("no panic") = vec![second.address, first.address];
    let both = at_home(&ingest, &[first.address, second.address]);
    assert_eq!(both.len(), 2);
    until("the new server has its share", PATIENCE, || ingest.servers.streams() == both).await;
    served(&ingest.cameras, FAILOVER).await;
    assert_eq!(lost(&ingest.cameras), 0);

    names.0.lock().expect("no panic").clear();
    let failed = || ingest.servers.look_ups().iter().any(|(ended, count)| *ended == "failed" && *count > 0);
    first.begin_stop();
    until("the name fails", PATIENCE, failed).await;
    let left: BTreeMap<_, _> = [(second.address, CAMERAS as u64)].into();
    until("the last good answer holds", PATIENCE, || ingest.servers.streams() == left).await;
    served(&ingest.cameras, FAILOVER).await;
    assert_eq!(lost(&ingest.cameras), 0);
    ended(ingest).await;
    assert_eq!(first.stop().await.expect("stops").balance(), 0);
}

/// Where a balancer stands between, only a new stream reaches another server:
/// old ones are drained, and nothing is lost.
#[tokio::test]
async fn a_stream_that_is_old_is_opened_anew() {
    let mut config = stub_config(500, false);
    config.limits.max_stream_age_s = 1;
    let server = Inference::start(config).await.expect("starts");
    let (_folder, mut config) = self::config(&[], 4, 50.0);
    config.server.address = server.url();
    let ingest = Running::start(config).await.expect("starts");
    // Each camera's first connection, and two more.
    answered("streams are opened anew", PATIENCE, async || {
        metric(server.admin, "flatframe_inference_connections_accepted_total").await.filter(|count| *count >= 12.0)
    })
    .await;
    served(&ingest.cameras, FAILOVER).await;
    assert_eq!(lost(&ingest.cameras), 0);
    ended(ingest).await;
    assert_eq!(server.stop().await.expect("stops").balance(), 0);
}
