//! Ten times more frames than can be analysed, whether or not answers come,
//! each worthless after a second. What counts is goodput: frames answered
//! within that second.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::outcome::Outcome;
use ingest_service::CameraConfig;
use tokio::task::JoinSet;

use super::client::Client;
use super::load::Measured;
use super::pictures::{Picture, Pictures};
use super::side::{Server, Side};
use crate::pair::{Running, ingest_config};

/// Offered is so many times what was analysed right before.
pub const FACTOR: f64 = 10.0;
/// Age at which a frame is worthless.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// Cameras that offer frames.
pub const CAMERAS: usize = 16;
/// Not counted: queues fill, our pair agrees on a pace.
const SETTLE: Duration = Duration::from_secs(4);
/// Frames come due in steps of this.
const TICK: Duration = Duration::from_millis(2);
/// Most frames per second that a camera of ingest-service gives.
const MAX_CAMERA_FPS: f64 = 240.0;

/// What came of an overload.
#[derive(Debug, Clone, Default)]
pub struct Overloaded {
    /// Frames per second that were offered.
    pub offered_fps: f64,
    /// Of frames answered in time.
    pub good: Measured,
}

/// Offers `offered_fps` to `server` for `length`. For our pair the real
/// ingest-service offers them, as cameras that give so many pictures; for the
/// others each frame is a call with a deadline, spread over [`CAMERAS`]
/// connections (HTTP: one for each call at once).
///
/// # Errors
/// When ingest-service does not start or a connection cannot be made.
pub async fn overload(
    server: &Server,
    pictures: &Pictures,
    offered_fps: f64,
    length: Duration,
) -> anyhow::Result<Overloaded> {
    match server.side {
        Side::Ours => by_ingest(server, pictures, offered_fps, length).await,
        _ => by_calls(server, pictures, offered_fps, length).await,
    }
}

async fn by_ingest(
    server: &Server,
    pictures: &Pictures,
    offered_fps: f64,
    length: Duration,
) -> anyhow::Result<Overloaded> {
    let cameras = CAMERAS.max((offered_fps / MAX_CAMERA_FPS).ceil() as usize);
    let (source, fps) = (format!("file:{}", pictures.file().display()), (offered_fps / cameras as f64) as f32);
    let ttl_ms = DEADLINE.as_millis() as u64;
    let camera = |n| CameraConfig { fps, ttl_ms, ..CameraConfig::new(&format!("cam-{n}"), &source) };
    let config = ingest_config(&format!("http://{}", server.address), (0..cameras).map(camera).collect());
    let ingest = Running::start(config).await?;
    let latency = || {
        let mut sum = ingest.cameras[0].latency().snapshot();
        ingest.cameras[1..].iter().for_each(|camera| sum.merge(&camera.latency().snapshot()));
        sum
    };
    tokio::time::sleep(SETTLE).await;
    let (start, cpu, counts, early) = (Instant::now(), server.used().cpu, ingest.totals(), latency());
    tokio::time::sleep(length).await;
    let (wall, cpu, after) = (start.elapsed(), server.used().cpu.saturating_sub(cpu), ingest.totals());
    let late = latency().since(&early);
    ingest.stop().await?;
    // The ages as a thousand steps of the histogram.
    let ages = (1..=1000).filter_map(|step| late.quantile(f64::from(step) / 1000.0));
    let latencies: Vec<Duration> = ages.filter(|age| *age <= DEADLINE).collect();
    let analyzed = after.answered(Outcome::Analyzed) - counts.answered(Outcome::Analyzed);
    let frames = (analyzed as f64 * latencies.len() as f64 / 1000.0) as u64;
    let offered_fps = (after.captured - counts.captured) as f64 / wall.as_secs_f64();
    Ok(Overloaded { offered_fps, good: Measured { frames, wall, cpu, latencies } })
}

async fn by_calls(
    server: &Server,
    pictures: &Pictures,
    offered_fps: f64,
    length: Duration,
) -> anyhow::Result<Overloaded> {
    let mut idle = VecDeque::new();
    for _ in 0..CAMERAS {
        idle.push_back(server.client().await?);
    }
    let connections = Arc::new(Connections { address: server.address, idle: idle.into() });
    let start = Instant::now();
    let (from, to) = (start + SETTLE, start + SETTLE + length);
    let offering = tokio::spawn(offer(connections, pictures.all.clone(), offered_fps, to));
    tokio::time::sleep_until(from.into()).await;
    let cpu = server.used().cpu;
    tokio::time::sleep_until(to.into()).await;
    let cpu = server.used().cpu.saturating_sub(cpu);
    let frames: Vec<Frame> = offering.await?.into_iter().filter(|frame| frame.due >= from).collect();
    let latencies: Vec<Duration> = frames.iter().filter_map(|frame| frame.answered_after).collect();
    let good = Measured { frames: latencies.len() as u64, wall: length, cpu, latencies };
    Ok(Overloaded { offered_fps: frames.len() as f64 / length.as_secs_f64(), good })
}

/// One frame that was offered.
struct Frame {
    due: Instant,
    /// `None`: refused, failed, or not within the deadline.
    answered_after: Option<Duration>,
}

/// Offers frames at a fixed rate until `end`, then waits for the last ones.
/// At most as many are on their way as come due within the deadline.
async fn offer(connections: Arc<Connections>, pictures: Arc<[Picture]>, fps: f64, end: Instant) -> Vec<Frame> {
    let (mut sending, mut frames) = (JoinSet::new(), Vec::new());
    let (start, mut offered) = (Instant::now(), 0);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let now = tick.tick().await.into_std();
        if now >= end {
            break;
        }
        while (offered as f64) < now.duration_since(start).as_secs_f64() * fps {
            let (connections, pictures) = (connections.clone(), pictures.clone());
            sending.spawn(async move {
                let picture = &pictures[offered % pictures.len()];
                Frame { due: now, answered_after: connections.call(picture, now).await }
            });
            offered += 1;
        }
        while let Some(ended) = sending.try_join_next() {
            frames.extend(ended);
        }
    }
    while let Some(ended) = sending.join_next().await {
        frames.extend(ended);
    }
    frames
}

/// Connections that calls take.
struct Connections {
    address: SocketAddr,
    /// HTTP: those without a call. gRPC: all, in turns.
    idle: Mutex<VecDeque<Client>>,
}

impl Connections {
    /// The time from `due` to the answer, if that is within the deadline. A
    /// caller that gives up closes its HTTP connection, as HTTP clients do.
    async fn call(&self, picture: &Picture, due: Instant) -> Option<Duration> {
        let answered = async {
            let mut client = self.client().await.ok()?;
            let left = DEADLINE.checked_sub(due.elapsed())?;
            client.call(picture, left).await.ok()?;
            if let Client::Http(_) = client {
                self.idle().push_back(client);
            }
            Some(due.elapsed())
        };
        let until = due + DEADLINE;
        tokio::time::timeout_at(until.into(), answered).await.ok()?.filter(|took| *took <= DEADLINE)
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let idle = self.next_idle();
        match idle {
            Some(client) => Ok(client),
            None => Client::http(self.address).await,
        }
    }

    fn next_idle(&self) -> Option<Client> {
        let mut idle = self.idle();
        let client = idle.pop_front()?;
        if let Client::Grpc(client) = &client {
            idle.push_back(Client::Grpc(client.clone()));
        }
        Some(client)
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
