//! What clients that watch cost: memory of the server beside its budget, and
//! processor time per result and client, with none, few and very many of them,
//! each on a connection of its own. Ends with exit code 1 when a result neither
//! arrives nor is named in a gap, or memory exceeds the budget.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::camera::{RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::peers::tree::use_of_tree;
use e2e::program::{Program, connect, free_address};
use e2e::wait::try_answered;
use flatframe_shared::budget::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::{self, watch_response};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const START: Duration = Duration::from_secs(20);
const SIZE: PictureSize = PictureSize::new(160, 120);
const TTL: Duration = Duration::from_secs(5);
/// Clients besides those that watch.
const OTHERS: usize = 8;

/// Measures what clients that watch cost.
#[derive(Parser)]
#[command(bin_name = "cargo watchers")]
struct Args {
    /// Numbers of clients, one round each.
    #[arg(long, value_delimiter = ',', default_value = "0,10,100,1000")]
    clients: Vec<usize>,
    /// Length of a round.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Frames a second of the one camera.
    #[arg(long, default_value_t = 20.0)]
    fps: f64,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What one round showed.
struct Round {
    clients: usize,
    results: u64,
    cpu: Duration,
    delivered: u64,
    missed: u64,
    rss_bytes: u64,
}

fn main() -> ExitCode {
    e2e::arguments::prove("watchers", run(&e2e::arguments::parse()))
}

async fn run(args: &Args) -> anyhow::Result<bool> {
    let (grpc, admin) = (free_address()?, free_address()?);
    let most = args.clients.iter().copied().max().unwrap_or_default();
    let toml = format!(
        "[listen]\ngrpc = '{grpc}'\nadmin = '{admin}'\npage = ''\n\
         [limits]\nmax_streams = 1\nmax_cameras = 1\nmax_frame_bytes = 65536\n\
         max_subscribers = {most}\nmax_connections = {}\n\
         [vision]\nstub_engine = {{ time_us = 100, face = true }}\n",
        most + OTHERS
    );
    let server = Program::start("inference-service", &toml)?;
    let address = grpc.to_string();
    let mut resources = AdminServiceClient::new(connect(&address, START).await?);
    let (mut camera, _) = RawCamera::open(connect(&address, START).await?, hello("cam", 1)).await?;
    println!("clients  results  delivered  missed  CPU per result  per result and client       RSS");
    let (mut rounds, mut good) = (Vec::<Round>::new(), true);
    for &clients in &args.clients {
        let round = round(args, clients, &address, &server, &mut camera).await?;
        let per_result = round.cpu / u32::try_from(round.results.max(1))?;
        let without =
            rounds.iter().find(|round| round.clients == 0).map(|round| round.cpu / round.results.max(1) as u32);
        let per_client = without.filter(|_| clients > 0).map(|base| per_result.saturating_sub(base) / clients as u32);
        println!(
            "{clients:>7}  {:>7}  {:>9}  {:>6}  {per_result:>14.1?}  {:>21}  {:>8}",
            round.results,
            round.delivered,
            round.missed,
            per_client.map_or("-".into(), |cost| format!("{cost:.2?}")),
            Bytes(round.rss_bytes).to_string(),
        );
        good &= round.delivered + round.missed == round.results * clients as u64;
        rounds.push(round);
    }
    let resources = resources.get_resources(v1::GetResourcesRequest {}).await?.into_inner();
    let peak = resources.rss_peak_bytes.context("/proc cannot be read")?;
    ensure!(resources.ledger_balance == 0, "the ledger does not balance");
    println!("peak {} of a budget of {}", Bytes(peak), Bytes(resources.budget_bytes));
    good &= peak <= resources.budget_bytes;
    if args.json {
        let rows: Vec<_> = rounds
            .iter()
            .map(|round| {
                json!({
                    "clients": round.clients, "results": round.results, "delivered": round.delivered,
                    "missed": round.missed, "cpu_us": round.cpu.as_micros() as u64, "rss_bytes": round.rss_bytes,
                })
            })
            .collect();
        println!("{}", json!({ "rounds": rows, "rss_peak_bytes": peak, "budget_bytes": resources.budget_bytes }));
    }
    Ok(good)
}

/// Sends frames for a while with `clients` watching.
async fn round(
    args: &Args,
    clients: usize,
    address: &str,
    server: &Program,
    camera: &mut RawCamera,
) -> anyhow::Result<Round> {
    let (delivered, missed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (stop, mut watching) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..clients {
        let mut client = ResultServiceClient::new(connect(address, START).await?);
        let mut results = client.watch(v1::WatchRequest::default()).await?.into_inner();
        let (delivered, missed, stop) = (delivered.clone(), missed.clone(), stop.clone());
        watching.spawn(async move {
            while let Some(Ok(Some(response))) = stop.run_until_cancelled(results.message()).await {
                match response.message {
                    Some(watch_response::Message::Result(_)) => delivered.fetch_add(1, Relaxed),
                    Some(watch_response::Message::Gap(gap)) => missed.fetch_add(gap.missed, Relaxed),
                    Some(watch_response::Message::Elsewhere(_)) | None => 0,
                };
            }
        });
    }
    let picture = textured_jpeg(SIZE, 1);
    let (before, start) = (use_of_tree(server.pid()), Instant::now());
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / args.fps));
    let mut results = 0;
    while start.elapsed().as_secs_f64() < args.seconds {
        ticks.tick().await;
        camera.send_frame(picture.clone(), SIZE, TTL).await?;
        let outcome = camera.outcome().await?;
        results += u64::from(outcome.outcome() == v1::Outcome::Analyzed);
    }
    // The last result is on its way to many.
    let all = || delivered.load(Relaxed) + missed.load(Relaxed) >= results * clients as u64;
    // If it never comes, the counts say so.
    let _ = try_answered("every result", START, async || all().then_some(())).await;
    let after = use_of_tree(server.pid());
    stop.cancel();
    watching.join_all().await;
    Ok(Round {
        clients,
        results,
        cpu: after.cpu.saturating_sub(before.cpu),
        delivered: delivered.load(Relaxed),
        missed: missed.load(Relaxed),
        rss_bytes: server.used().rss_bytes.context("/proc cannot be read")?,
    })
}
