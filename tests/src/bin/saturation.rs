//! How much of the engine's speed the service delivers: frames analysed per
//! second over gRPC, with cameras that send as fast as credits allow, beside a
//! bare loop of decode, detect, gender on the same pictures with the same
//! number of threads. A round runs both, and which of them goes first
//! alternates, so that a noisy or warming machine hits both; the ratio is the
//! median of the rounds' ratios. One round that is not counted warms both up.
//!
//! With `--overload` the real ingest-service then offers ten times what the
//! service can do: the same pictures, passed through as they are.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use e2e::camera::{RawCamera, hello, pump};
use e2e::media::{mjpeg_frames, shared};
use e2e::pair::{Inference, Running, ingest_config};
use flatframe_shared::cli::key_value;
use flatframe_shared::frame::{PictureSize, Rotation};
use flatframe_shared::r#gen::v1;
use flatframe_shared::jpeg;
use flatframe_shared::outcome::Outcome;
use flatframe_shared::process;
use inference_service::config::Config;
use inference_service::vision::Analyzer;
use ingest_service::CameraConfig;
use serde_json::json;

const CLIP: &str = "media/face-demographics-walking-and-pause.mjpeg";
const TTL: Duration = Duration::from_secs(5);
/// Not counted.
const WARM_UP: Duration = Duration::from_secs(2);

/// Compares the service with a bare loop over the same pictures.
#[derive(Parser)]
struct Args {
    /// Length of each round, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds of each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Cameras.
    #[arg(long, default_value_t = 4)]
    cameras: u64,
    /// An .mjpeg file; without it the clip of the shared folder, where that is.
    #[arg(long)]
    pictures: Option<std::path::PathBuf>,
    /// Set one key of inference-service.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Then offer ten times more frames than can be analysed, for so many
    /// seconds; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    overload: u64,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

type Pictures = Vec<(Bytes, PictureSize)>;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("saturation: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::load(None, &args.set)?;
    let path = args
        .pictures
        .clone()
        .or_else(|| shared(CLIP))
        .context("--pictures FILE.mjpeg is needed: the shared clip is not here")?;
    let pictures = mjpeg_frames(&path)?
        .into_iter()
        .map(|jpeg| jpeg::read_size(&jpeg).map(|size| (jpeg, size)))
        .collect::<Result<Pictures, _>>()?;
    let threads = config.workers.threads();
    println!(
        "{} pictures of {}, {} threads, {} + {}, {} cameras, {} rounds of {} s",
        pictures.len(),
        pictures[0].1,
        threads,
        config.vision.detector,
        config.vision.gender,
        args.cameras,
        args.rounds,
        args.seconds
    );
    let analyzer = Analyzer::load(&config.vision)?;
    let round = Duration::from_secs(args.seconds);
    let (mut bare, mut served, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    bare_loop(&analyzer, &pictures, threads, WARM_UP);
    over_grpc(&config, &pictures, args.cameras, WARM_UP).await?;
    for number in 1..=args.rounds {
        let loop_first = (number % 2 == 1).then(|| bare_loop(&analyzer, &pictures, threads, round));
        let (service_fps, p50, p99) = over_grpc(&config, &pictures, args.cameras, round).await?;
        let loop_fps = loop_first.unwrap_or_else(|| bare_loop(&analyzer, &pictures, threads, round));
        println!(
            "round {number}: bare loop {loop_fps:.1}/s, service {service_fps:.1}/s, ratio {:.3}, p50 {:.1} ms, p99 {:.1} ms",
            service_fps / loop_fps,
            p50.as_secs_f64() * 1e3,
            p99.as_secs_f64() * 1e3
        );
        bare.push(loop_fps);
        served.push(service_fps);
        ratios.push(service_fps / loop_fps);
    }
    let (bare_fps, service_fps, ratio) = (median(&mut bare), median(&mut served), median(&mut ratios));
    println!("median: bare loop {bare_fps:.1}/s, service {service_fps:.1}/s, ratio {ratio:.3}");
    let mut report = json!({ "bare_loop_fps": bare_fps, "service_fps": service_fps, "ratio": ratio });
    if args.overload > 0 {
        // The machine's speed drifts: compared is what saturation gave right
        // before and right after.
        let (before, ..) = over_grpc(&config, &pictures, args.cameras, round).await?;
        let mut overload = overload(&config, &path, args.cameras, before, args.overload).await?;
        let (after, ..) = over_grpc(&config, &pictures, args.cameras, round).await?;
        let share = overload["analyzed_fps"].as_f64().unwrap_or(f64::NAN) * 2.0 / (before + after);
        println!(
            "saturated before {before:.1}/s, after {after:.1}/s: overload gave {:.1} % of their mean",
            100.0 * share
        );
        overload["saturated_before_fps"] = json!(before);
        overload["saturated_after_fps"] = json!(after);
        overload["share_of_saturated"] = json!(share);
        report["overload"] = overload;
    }
    if args.json {
        println!("{report}");
    }
    Ok(())
}

fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Pictures analysed per second by `threads` threads and nothing else.
fn bare_loop(analyzer: &Analyzer, pictures: &Pictures, threads: usize, round: Duration) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (stop, done, mut state) = (&stop, &done, analyzer.spawn());
            scope.spawn(move || {
                for (jpeg, _) in pictures.iter().cycle().skip(thread * 7) {
                    if stop.load(Relaxed) {
                        return;
                    }
                    state.analyze(jpeg, Rotation::None).expect("the pictures are good");
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        std::thread::sleep(round);
        stop.store(true, Relaxed);
    });
    done.load(Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Frames analysed per second by the service for cameras that send as fast as
/// credits allow; p50 and p99 from sending to the outcome.
async fn over_grpc(
    config: &Config,
    pictures: &Pictures,
    cameras: u64,
    round: Duration,
) -> anyhow::Result<(f64, Duration, Duration)> {
    let service = Inference::start(config.clone()).await?;
    let mut pumps = Vec::new();
    let (start, end) = (Instant::now(), Instant::now() + round);
    for number in 0..cameras {
        let hello =
            v1::Hello { wanted_fps: 240.0, ttl_ms: TTL.as_millis() as u32, ..hello(&format!("cam-{number}"), number) };
        let (camera, _) = RawCamera::open(service.connect().await?, hello).await?;
        let mut pictures = pictures.clone();
        let ahead = number as usize * 7 % pictures.len();
        pictures.rotate_left(ahead);
        pumps.push(tokio::spawn(async move { pump(camera, &pictures, TTL, end).await }));
    }
    let (mut analyzed, mut latencies) = (0, Vec::new());
    for pump in pumps {
        let pumped = pump.await??;
        anyhow::ensure!(pumped.answered() == pumped.sent, "a frame without an outcome: {pumped:?}");
        analyzed += pumped.count(v1::Outcome::Analyzed);
        latencies.extend(pumped.latencies);
    }
    let fps = analyzed as f64 / start.elapsed().as_secs_f64();
    let counts = service.stop().await?;
    anyhow::ensure!(counts.balance() == 0, "the ledger does not balance: {counts:?}");
    latencies.sort_unstable();
    let at = |q: f64| latencies.get((latencies.len() as f64 * q) as usize).copied().unwrap_or_default();
    Ok((fps, at(0.5), at(0.99)))
}

/// The pair at ten times what it can do.
async fn overload(
    config: &Config,
    clip: &std::path::Path,
    cameras: u64,
    saturated_fps: f64,
    seconds: u64,
) -> anyhow::Result<serde_json::Value> {
    let offered_fps = saturated_fps * 10.0;
    // A camera of ingest-service gives at most 240 frames/s.
    let cameras = cameras.max((offered_fps / 240.0).ceil() as u64);
    let mut config = config.clone();
    config.limits.max_streams = config.limits.max_streams.max(cameras as usize);
    config.limits.max_cameras = config.limits.max_cameras.max(cameras as usize);
    let service = Inference::start(config).await?;
    let ttl_ms = 1000;
    let source = format!("file:{}", clip.display());
    let fps = (offered_fps / cameras as f64) as f32;
    let camera = |n| CameraConfig { fps, ttl_ms, ..CameraConfig::new(&format!("cam-{n}"), &source) };
    let ingest = Running::start(ingest_config(&service.url(), (0..cameras).map(camera).collect())).await?;
    let budget_bytes = service.budget.total_bytes() + ingest.budget.total_bytes();
    // The pace is found in the first seconds; they are not counted.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (start, before) = (Instant::now(), ingest.totals());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (took, after) = (start.elapsed().as_secs_f64(), ingest.totals());
    let mut latency = ingest.cameras[0].latency().snapshot();
    for camera in &ingest.cameras[1..] {
        latency.merge(&camera.latency().snapshot());
    }
    let p99_ms = latency.quantile(0.99).map_or(f64::NAN, |p99| p99.as_secs_f64() * 1e3);
    let fps = (after.answered(Outcome::Analyzed) - before.answered(Outcome::Analyzed)) as f64 / took;
    let offered = (after.captured - before.captured) as f64 / took;
    let counts = ingest.stop().await?;
    let served = service.stop().await?;
    let rss_peak_bytes = process::current_use().rss_peak_bytes;
    let balance = counts.balance() + served.balance();
    println!(
        "overload: {offered:.0}/s offered by {cameras} cameras, {fps:.1}/s analysed, p99 {p99_ms:.0} ms of {ttl_ms}, RSS peak {:?} of {budget_bytes}, balance {balance}",
        rss_peak_bytes.unwrap_or_default()
    );
    println!("{counts:?}\n{served:?}");
    Ok(json!({
        "offered_fps": offered,
        "analyzed_fps": fps,
        "p99_ms": p99_ms,
        "ttl_ms": ttl_ms,
        "rss_peak_bytes": rss_peak_bytes,
        "budget_bytes": budget_bytes,
        "ledger_balance": balance,
    }))
}
