//! Both services in one process over a real loopback socket, a camera, and a
//! client that watches: a line a second, and the ledger at the end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use e2e::pair::{Inference, Running, ingest_config};
use flatframe_shared::allocator::Counted;
use flatframe_shared::budget::Bytes;
use flatframe_shared::cli::key_value;
use flatframe_shared::r#gen::v1::{self, result_service_client::ResultServiceClient};
use flatframe_shared::histogram::Snapshot;
use flatframe_shared::ledger::{IngestCounts, ServerCounts};
use flatframe_shared::outcome::{DropReason, Outcome};
use flatframe_shared::process;
use flatframe_shared::telemetry::{self, TelemetryConfig};
use inference_service::config::Config as InferenceConfig;
use ingest_service::CameraConfig;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// As inference-service, which needs most of the memory.
#[global_allocator]
static ALLOCATOR: Counted<mimalloc::MiMalloc> = Counted(mimalloc::MiMalloc);

/// Starts both services in one process and shows what they see.
#[derive(Parser)]
#[command(version, bin_name = "cargo demo")]
struct Args {
    /// End by itself after so many captured frames.
    #[arg(long)]
    frames: Option<u64>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Where pictures come from: pattern, file:PATH, rpicam, or
    /// mjpeg+http://HOST:PORT/PATH (USER:PASSWORD@ may stand before HOST).
    #[arg(long, default_value = "pattern")]
    source: String,
    /// Frames per second wanted.
    #[arg(long, default_value_t = 15.0)]
    fps: f32,
    /// Cameras; each gets its own stream.
    #[arg(long, default_value_t = 1)]
    cameras: u32,
    /// Clockwise rotation that makes the pictures upright, in degrees.
    #[arg(long, default_value_t = 0)]
    rotation: u32,
    /// Configuration of inference-service; its listen section is not used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key of inference-service, such as --set vision.gender=.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Log filter.
    #[arg(long, default_value = "warn")]
    log: String,
}

/// What the watching client saw.
#[derive(Default)]
struct Seen {
    faces: AtomicU64,
    female: AtomicU64,
    male: AtomicU64,
    unknown: AtomicU64,
    missed: AtomicU64,
}

fn main() -> ExitCode {
    let args: Args = e2e::arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(args)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; `true` when the ledger balances.
async fn run(args: Args) -> anyhow::Result<bool> {
    let telemetry = telemetry::init("demo", &TelemetryConfig { log: args.log.clone(), ..Default::default() })?;
    let inference = Inference::start(InferenceConfig::load(args.config.as_deref(), &args.set)?).await?;
    let seen = Arc::new(Seen::default());
    let watching = CancellationToken::new();
    let watch = tokio::spawn(watch(inference.connect().await?, seen.clone(), watching.clone()));
    let cameras = (1..=args.cameras).map(|number| CameraConfig {
        fps: args.fps,
        rotation_degrees: args.rotation,
        seed: u64::from(number),
        ..CameraConfig::new(&format!("demo-{number}"), &args.source)
    });
    let mut ingest = ingest_config(&inference.url(), cameras.collect());
    // Both services live in this process: the resident memory that each sees is that of both.
    ingest.limits.soft_memory_bytes = 2 * inference.budget.total_bytes();
    let ingest = Running::start(ingest).await?;
    let budget_bytes = inference.budget.total_bytes() + ingest.budget.total_bytes();
    if !args.json {
        println!("{}budget of both services: {}", inference.budget, Bytes(budget_bytes));
        println!("the page: http://{}\n", inference.page);
    }
    show_until_done(&args, &ingest, &seen).await?;

    let cameras = ingest.cameras.clone();
    let counts = ingest.stop().await?;
    let served = inference.stop().await?;
    watching.cancel();
    watch.await.context("the watching client")??;
    telemetry.shutdown();

    let mut latency: Option<Snapshot> = None;
    for camera in &cameras {
        let snapshot = camera.latency().snapshot();
        match &mut latency {
            Some(all) => all.merge(&snapshot),
            None => latency = Some(snapshot),
        }
    }
    let quantile = |q| latency.as_ref().and_then(|all| all.quantile(q)).map(|time| time.as_secs_f64() * 1e3);
    let balance = counts.balance() + served.balance();
    print_ledger(&counts, &served);
    if args.json {
        let by_reason = |of: &dyn Fn(DropReason) -> u64| -> serde_json::Map<_, _> {
            DropReason::ALL.iter().map(|&reason| (reason.as_str().to_owned(), json!(of(reason)))).collect()
        };
        let answered: serde_json::Map<_, _> = Outcome::ALL
            .iter()
            .map(|&outcome| (outcome.as_str().to_owned(), json!(counts.answered(outcome))))
            .collect();
        let report = json!({
            "captured": counts.captured,
            "analyzed": counts.answered(Outcome::Analyzed),
            "dropped": by_reason(&|reason| counts.dropped(reason)),
            "sent": counts.sent,
            "answered": answered,
            "lost": counts.lost,
            "ledger_balance": balance,
            "faces": seen.faces.load(Relaxed),
            "female": seen.female.load(Relaxed),
            "male": seen.male.load(Relaxed),
            "unknown": seen.unknown.load(Relaxed),
            "results_missed": seen.missed.load(Relaxed),
            "p50_ms": quantile(0.5),
            "p99_ms": quantile(0.99),
            "rss_peak_bytes": process::current_use().rss_peak_bytes,
            "budget_bytes": budget_bytes,
        });
        println!("{report}");
    }
    Ok(balance == 0)
}

/// Prints a line a second until enough frames are captured or the user stops.
async fn show_until_done(args: &Args, ingest: &Running, seen: &Seen) -> anyhow::Result<()> {
    let mut ticks =
        tokio::time::interval_at(tokio::time::Instant::now() + Duration::from_secs(1), Duration::from_secs(1));
    let mut polls = tokio::time::interval(Duration::from_millis(10));
    let started = Instant::now();
    let mut before = Shown::default();
    println!("   time  frames/s  faces/s  female  male  unknown  p50 ms  p99 ms      RSS");
    loop {
        tokio::select! {
            biased;
            stopped = tokio::signal::ctrl_c() => return stopped.context("listen for Ctrl-C"),
            _ = ticks.tick() => {
                let now = Shown::of(ingest, seen);
                now.print(&before, started.elapsed());
                before = now;
            }
            _ = polls.tick() => {
                if args.frames.is_some_and(|frames| ingest.totals().captured >= frames) {
                    return Ok(());
                }
            }
        }
    }
}

/// Counters at one second.
#[derive(Default)]
struct Shown {
    analyzed: u64,
    faces: u64,
    female: u64,
    male: u64,
    unknown: u64,
    latency: Option<Snapshot>,
}

impl Shown {
    fn of(ingest: &Running, seen: &Seen) -> Self {
        let mut cameras = ingest.cameras.iter().map(|camera| camera.latency().snapshot());
        let mut latency = cameras.next();
        if let Some(all) = &mut latency {
            cameras.for_each(|camera| all.merge(&camera));
        }
        Self {
            analyzed: ingest.totals().answered(Outcome::Analyzed),
            faces: seen.faces.load(Relaxed),
            female: seen.female.load(Relaxed),
            male: seen.male.load(Relaxed),
            unknown: seen.unknown.load(Relaxed),
            latency,
        }
    }

    fn print(&self, before: &Self, time: Duration) {
        let lately = match (&self.latency, &before.latency) {
            (Some(now), Some(then)) => Some(now.since(then)),
            (now, _) => now.clone(),
        };
        let ms = |q| match lately.as_ref().and_then(|lately| lately.quantile(q)) {
            Some(time) => format!("{:.1}", time.as_secs_f64() * 1e3),
            None => "-".to_owned(),
        };
        let rss = process::current_use().rss_bytes.map_or("unknown".to_owned(), |bytes| Bytes(bytes).to_string());
        println!(
            "{:>5} s  {:>8}  {:>7}  {:>6}  {:>4}  {:>7}  {:>6}  {:>6}  {:>7}",
            time.as_secs(),
            self.analyzed - before.analyzed,
            self.faces - before.faces,
            self.female - before.female,
            self.male - before.male,
            self.unknown - before.unknown,
            ms(0.5),
            ms(0.99),
            rss,
        );
    }
}

/// Counts what a client sees.
async fn watch(channel: tonic::transport::Channel, seen: Arc<Seen>, stop: CancellationToken) -> anyhow::Result<()> {
    let request = v1::WatchRequest::default();
    let mut results = ResultServiceClient::new(channel).watch(request).await?.into_inner();
    loop {
        let message = tokio::select! {
            biased;
            message = results.message() => message,
            () = stop.cancelled() => return Ok(()),
        };
        match message {
            Ok(Some(v1::WatchResponse { message: Some(v1::watch_response::Message::Result(result)) })) => {
                for face in &result.faces {
                    seen.faces.fetch_add(1, Relaxed);
                    let counter = match face.gender() {
                        v1::Gender::Female => &seen.female,
                        v1::Gender::Male => &seen.male,
                        v1::Gender::Unknown | v1::Gender::Unspecified => &seen.unknown,
                    };
                    counter.fetch_add(1, Relaxed);
                }
            }
            Ok(Some(v1::WatchResponse { message: Some(v1::watch_response::Message::Gap(gap)) })) => {
                seen.missed.fetch_add(gap.missed, Relaxed);
            }
            // There are no other replicas.
            Ok(Some(v1::WatchResponse { message: Some(v1::watch_response::Message::Elsewhere(_)) | None })) => {}
            // The service says goodbye when it stops.
            Ok(None) => return Ok(()),
            Err(status) if status.code() == tonic::Code::Unavailable => return Ok(()),
            Err(status) => return Err(status.into()),
        }
    }
}

fn print_ledger(counts: &IngestCounts, served: &ServerCounts) {
    println!("\nledger of ingest-service");
    println!("  captured    {:>8}", counts.captured);
    for &reason in DropReason::ALL.iter().filter(|reason| counts.dropped(**reason) > 0) {
        println!("    {:<12}{:>6}  dropped", reason.as_str(), counts.dropped(reason));
    }
    println!("  sent        {:>8}", counts.sent);
    for &outcome in Outcome::ALL.iter().filter(|outcome| counts.answered(**outcome) > 0) {
        println!("    {:<12}{:>6}  answered", outcome.as_str(), counts.answered(outcome));
    }
    println!("    {:<12}{:>6}", "lost", counts.lost);
    println!("ledger of inference-service");
    println!("  received    {:>8}", served.received);
    println!("balance       {:>8}  (0: every frame has one outcome)", counts.balance() + served.balance());
}
