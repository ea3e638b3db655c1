//! Cameras that keep a fixed number of frames on their way and send the next
//! one when an answer came: what a server can do when it is never without work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flatframe_shared::r#gen::v1;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::pictures::{Picture, Pictures};
use super::side::{Server, Side, WINDOW};
use super::tree::TreeUse;
use crate::camera::{RawCamera, hello, pump};

/// Longest wait for one answer; far above what the deepest queue here needs,
/// on a busy machine too. The longest that inference-service allows.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Time to live of frames on a stream: in this load no frame is to expire.
const TTL: Duration = PATIENCE;

/// What was measured of one side under one load.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Pictures analysed, each answered.
    pub frames: u64,
    /// Time that they took.
    pub wall: Duration,
    /// Processor time that the server took.
    pub cpu: Duration,
    /// From sending to the answer, for each.
    pub latencies: Vec<Duration>,
}

/// Which of two loads on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not counted.
    WarmUp,
    /// Counted.
    Counted,
}

/// Loads `server` with `cameras` for `length`. The last answers are waited for
/// and are part of the time: the server has work until then.
///
/// # Errors
/// When a frame is not answered: here none may be refused.
pub async fn closed(
    server: &Server,
    cameras: usize,
    pictures: &Pictures,
    length: Duration,
    phase: Phase,
) -> anyhow::Result<Measured> {
    let mut sending = JoinSet::new();
    let before: TreeUse;
    let start: Instant;
    if server.side == Side::Ours {
        let mut streams = Vec::new();
        for number in 0..cameras {
            streams.push(open(server, number, phase).await?);
        }
        (before, start) = (server.used(), Instant::now());
        for (number, camera) in streams.into_iter().enumerate() {
            sending.spawn(stream(camera, turned(&pictures.all, number), start + length));
        }
    } else {
        let mut clients = Vec::new();
        for number in 0..cameras {
            let first = server.client().await?;
            for _ in 1..WINDOW {
                clients.push((number, first.another().await?));
            }
            clients.push((number, first));
        }
        (before, start) = (server.used(), Instant::now());
        for (slot, (number, mut client)) in clients.into_iter().enumerate() {
            let pictures = turned(&pictures.all, number + slot);
            sending.spawn(async move {
                let mut latencies = Vec::new();
                for picture in pictures.iter().cycle() {
                    let sent = Instant::now();
                    if sent >= start + length {
                        break;
                    }
                    client.call(picture, PATIENCE).await?;
                    latencies.push(sent.elapsed());
                }
                Ok(latencies)
            });
        }
    }
    let mut latencies = Vec::new();
    while let Some(ended) = sending.join_next().await {
        latencies.extend(ended?.with_context(|| format!("a camera of {}", server.side.name()))?);
    }
    let wall = start.elapsed();
    Ok(Measured { frames: latencies.len() as u64, wall, cpu: server.used().cpu.saturating_sub(before.cpu), latencies })
}

async fn open(server: &Server, number: usize, phase: Phase) -> anyhow::Result<RawCamera> {
    let channel = Channel::from_shared(format!("http://{}", server.address))?.connect().await?;
    // Two loads follow each other faster than the server may notice the end of
    // a stream: their cameras have different ids.
    let id = format!("{phase:?}-{number}");
    let hello = v1::Hello { wanted_fps: 240.0, ttl_ms: TTL.as_millis() as u32, ..hello(&id, number as u64) };
    Ok(RawCamera::open(channel, hello).await?.0)
}

async fn stream(camera: RawCamera, pictures: Vec<Picture>, end: Instant) -> anyhow::Result<Vec<Duration>> {
    let pictures: Vec<_> = pictures.into_iter().map(|picture| (picture.jpeg, picture.size)).collect();
    let pumped = pump(camera, &pictures, TTL, end).await?;
    let analyzed = pumped.count(v1::Outcome::Analyzed);
    ensure!(analyzed == pumped.sent, "{} of {} frames were not analysed", pumped.sent - analyzed, pumped.sent);
    Ok(pumped.latencies)
}

/// The pictures from another one on, so that no two cameras send the same at
/// once.
fn turned(pictures: &Arc<[Picture]>, number: usize) -> Vec<Picture> {
    let mut pictures = pictures.to_vec();
    let ahead = number * 7 % pictures.len();
    pictures.rotate_left(ahead);
    pictures
}
