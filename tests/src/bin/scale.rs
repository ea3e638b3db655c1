//! What a camera costs the server, from one camera to a thousand: processor
//! time of a frame around the model and of a stream that waits, memory beside
//! its budget, time from sending to the answer. The models are left out (a stub
//! answers at once), and the frames are as many a second in every round, so that
//! only the number of streams differs. Ends with exit code 1 when a frame is not
//! analysed, memory exceeds the budget or the ledger does not balance.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes as Buffer;
use clap::Parser;
use e2e::camera::{RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::peers::tree::use_of_tree;
use e2e::program::{Program, connect, free_address};
use flatframe_shared::budget::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::publish_request::Message as Up;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use flatframe_shared::r#gen::v1::{self, GetResourcesRequest};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

const START: Duration = Duration::from_secs(20);
const SIZE: PictureSize = PictureSize::new(320, 240);
const TTL: Duration = Duration::from_secs(10);
/// Between two words of a camera without frames; the server waits for 5 s.
const STATUS_PERIOD: Duration = Duration::from_secs(4);
/// Connections besides those of cameras.
const OTHERS: usize = 8;

/// Measures what a camera costs the server.
#[derive(Parser)]
#[command(bin_name = "cargo scale")]
struct Args {
    /// Numbers of cameras, one round with a server of its own each.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,300,1000")]
    cameras: Vec<usize>,
    /// Length of each part of a round: streams that wait, and frames.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Frames a second of all cameras together.
    #[arg(long, default_value_t = 200.0)]
    fps: f64,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What one round showed.
struct Round {
    cameras: usize,
    frames: usize,
    analyzed: usize,
    cpu_per_frame: Duration,
    /// Of a stream without frames, per second.
    cpu_per_idle_stream: Duration,
    p50: Duration,
    p99: Duration,
    idle_rss_bytes: u64,
    peak_bytes: u64,
    budget_bytes: u64,
    balance: i64,
}

fn main() -> ExitCode {
    e2e::arguments::prove("scale", run(&e2e::arguments::parse()))
}

async fn run(args: &Args) -> anyhow::Result<bool> {
    let picture = textured_jpeg(SIZE, 1);
    println!("pictures of {} bytes, {} a second of all cameras together", picture.len(), args.fps);
    println!(
        "cameras  analysed  CPU per frame  CPU per idle stream, second        p50        p99   RSS idle  RSS peak    budget"
    );
    let mut rounds = Vec::new();
    for &cameras in &args.cameras {
        let round = round(args, cameras, &picture).await.with_context(|| format!("{cameras} cameras"))?;
        println!(
            "{cameras:>7}  {:>8}  {:>13}  {:>27}  {:>9}  {:>9}  {:>9}  {:>8}  {:>8}",
            format!("{}/{}", round.analyzed, round.frames),
            format!("{:.0?}", round.cpu_per_frame),
            format!("{:.1?}", round.cpu_per_idle_stream),
            format!("{:.1?}", round.p50),
            format!("{:.1?}", round.p99),
            Bytes(round.idle_rss_bytes).to_string(),
            Bytes(round.peak_bytes).to_string(),
            Bytes(round.budget_bytes).to_string(),
        );
        rounds.push(round);
    }
    if args.json {
        let rows: Vec<_> = rounds.iter().map(Round::json).collect();
        println!("{}", json!({ "picture_bytes": picture.len(), "fps": args.fps, "rounds": rows }));
    }
    Ok(rounds.iter().all(Round::is_good))
}

/// A server, so many cameras that wait, and the same that send.
async fn round(args: &Args, cameras: usize, picture: &Buffer) -> anyhow::Result<Round> {
    let grpc = free_address()?;
    let toml = format!(
        "[listen]\ngrpc = '{grpc}'\nadmin = '{}'\npage = ''\n\
         [limits]\nmax_streams = {cameras}\nmax_cameras = {cameras}\nmax_connections = {}\nwindow = 1\nmax_frame_bytes = 65536\n\
         [vision]\nstub_engine = {{ time_us = 0, face = true }}\n",
        free_address()?,
        cameras + OTHERS,
    );
    let server = Program::start("inference-service", &toml)?;
    let address = grpc.to_string();
    let mut admin = AdminServiceClient::new(connect(&address, START).await?);
    let (mut sending, (start, starting)) = (JoinSet::new(), watch::channel(None));
    let period = Duration::from_secs_f64(cameras as f64 / args.fps);
    let each = ((args.seconds * args.fps / cameras as f64).round() as usize).max(1);
    for number in 0..cameras {
        let channel = connect(&address, START).await?;
        let camera = RawCamera::open(channel, hello(&format!("cam-{number}"), 1)).await?.0;
        let plan = Plan { first: period.mul_f64(number as f64 / cameras as f64), period, frames: each };
        sending.spawn(stream(camera, picture.clone(), plan, starting.clone()));
    }

    let (before, began) = (use_of_tree(server.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let waited = use_of_tree(server.pid());
    let stream_seconds = began.elapsed().as_secs_f64() * cameras as f64;
    let idle_rss_bytes = server.used().rss_bytes.context("/proc cannot be read")?;
    start.send_replace(Some(Instant::now()));

    let mut latencies = Vec::with_capacity(cameras * each);
    while let Some(sent) = sending.join_next().await {
        latencies.append(&mut sent??);
    }
    let after = use_of_tree(server.pid());
    let told = admin.get_resources(GetResourcesRequest {}).await?.into_inner();
    ensure!(!latencies.is_empty(), "no frame was analysed");
    latencies.sort_unstable();
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize];
    let frames = cameras * each;
    Ok(Round {
        cameras,
        frames,
        analyzed: latencies.len(),
        cpu_per_frame: after.cpu.saturating_sub(waited.cpu).div_f64(frames as f64),
        cpu_per_idle_stream: waited.cpu.saturating_sub(before.cpu).div_f64(stream_seconds),
        p50: quantile(0.5),
        p99: quantile(0.99),
        idle_rss_bytes,
        peak_bytes: told.rss_peak_bytes.context("/proc cannot be read")?,
        budget_bytes: told.budget_bytes,
        balance: told.ledger_balance,
    })
}

/// What one camera sends.
struct Plan {
    /// From the start to the first frame.
    first: Duration,
    period: Duration,
    frames: usize,
}

/// Keeps a stream alive until the start, then sends frames one by one; times
/// from sending to the answer of those that were analysed.
async fn stream(
    mut camera: RawCamera,
    picture: Buffer,
    plan: Plan,
    mut start: watch::Receiver<Option<Instant>>,
) -> anyhow::Result<Vec<Duration>> {
    let (mut latencies, mut credits) = (Vec::with_capacity(plan.frames), 0);
    let mut statuses = tokio::time::interval(STATUS_PERIOD);
    statuses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut sent_at) = (0, None);
    while sent < plan.frames || sent_at.is_some() {
        let after = plan.first + plan.period * sent as u32;
        let may_send = sent_at.is_none() && credits > 0;
        tokio::select! {
            _ = statuses.tick() => camera.send(Up::Status(live())).await?,
            () = until(&mut start, after), if may_send => {
                camera.send_frame(picture.clone(), SIZE, TTL).await?;
                (sent_at, credits, sent) = (Some(Instant::now()), credits - 1, sent + 1);
            }
            message = camera.inbox.message() => match message?.and_then(|response| response.message) {
                Some(Down::Credit(credit)) => credits += credit.frames,
                Some(Down::Outcome(outcome)) => {
                    let at = sent_at.take().context("an outcome that no frame asked for")?;
                    if outcome.outcome() == v1::Outcome::Analyzed {
                        latencies.push(at.elapsed());
                    }
                }
                Some(_) => {}
                None => bail!("the server ended the stream"),
            },
        }
    }
    Ok(latencies)
}

/// What a camera says of itself when it is well.
fn live() -> v1::CameraStatus {
    v1::CameraStatus { state: v1::CameraState::Live as i32, ..Default::default() }
}

/// So long after the start, once there is one.
async fn until(start: &mut watch::Receiver<Option<Instant>>, after: Duration) {
    let start = start.wait_for(Option::is_some).await.ok().and_then(|start| *start);
    match start {
        Some(start) => tokio::time::sleep_until((start + after).into()).await,
        // The round is over.
        None => std::future::pending().await,
    }
}

impl Round {
    fn is_good(&self) -> bool {
        self.analyzed == self.frames && self.peak_bytes <= self.budget_bytes && self.balance == 0
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "cameras": self.cameras, "frames": self.frames, "analyzed": self.analyzed,
            "cpu_us_per_frame": self.cpu_per_frame.as_secs_f64() * 1e6,
            "cpu_us_per_idle_stream_and_second": self.cpu_per_idle_stream.as_secs_f64() * 1e6,
            "p50_ms": self.p50.as_secs_f64() * 1e3, "p99_ms": self.p99.as_secs_f64() * 1e3,
            "rss_idle_bytes": self.idle_rss_bytes, "rss_peak_bytes": self.peak_bytes,
            "budget_bytes": self.budget_bytes, "ledger_balance": self.balance,
        })
    }
}
