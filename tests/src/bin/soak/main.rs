//! The overnight run in the time that the machine needs for it: both services
//! as programs, hundreds of thousands of frames, and all that night brings:
//! clients that never read, clients that leave at once, a camera that comes and
//! goes, a server that is started again, a day's worth of `Watch` reconnects.
//! Ends with a report of memory, files, threads, rates and ledgers; exit code 1
//! when a promise was not kept.

mod events;
mod pair;
mod plot;
mod report;
mod sampler;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use flatframe_shared::cli::key_value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::events::Night;
use self::pair::Pair;
use self::report::Report;
use self::sampler::Sampler;

/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(1);
/// Between two lines for a person.
const LINE: Duration = Duration::from_secs(10);
/// A run without a frame for so long is over: something hangs.
const STALL: Duration = Duration::from_secs(60);
/// The server is started again after this share of the run.
const RESTART_AT: f64 = 0.05;

/// Runs both services through a night and shows that nothing grew.
#[derive(Debug, Parser)]
#[command(version, bin_name = "cargo soak")]
pub struct Args {
    /// End after so many analysed frames: 12 hours at 15 frames a second.
    #[arg(long, default_value_t = 648_000)]
    frames: u64,
    /// End after so many minutes, if frames take longer; 0: never.
    #[arg(long, default_value_t = 0.0)]
    minutes: f64,
    /// Cameras that read a file; one more comes over HTTP and is restarted.
    #[arg(long, default_value_t = 3)]
    cameras: u32,
    /// What analyses: the models, or a stub that only takes time.
    #[arg(long, value_enum, default_value_t = Engine::Models)]
    engine: Engine,
    /// Times that a client watches anew: one every 10 s of a day.
    #[arg(long, default_value_t = 8_640)]
    reconnects: u64,
    /// Set one key of inference-service.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Folder for the report: soak.txt, soak.json, soak.svg, samples.csv.
    #[arg(long, default_value = "target/soak", value_name = "DIR")]
    out: PathBuf,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What analyses frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Models,
    Stub,
}

fn main() -> ExitCode {
    e2e::arguments::prove("soak", run(&e2e::arguments::parse()))
}

async fn run(args: &Args) -> anyhow::Result<bool> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    let breaks = Arc::new(Notify::new());
    let mut pair = Pair::start(args, breaks.clone()).await?;
    let stop = CancellationToken::new();
    let mut night = Night::begin(args, pair.address(), breaks, stop.clone());
    let mut sampler = Sampler::create(&args.out)?;
    let outcome = drive(args, &mut pair, &mut night, &mut sampler).await;
    stop.cancel();
    let night = night.end().await;
    outcome?;
    let end = pair.stop().await?;
    let report = Report::new(args, &sampler, &night, end);
    report.write(&args.out, &sampler)?;
    print!("{report}");
    if args.json {
        println!("{}", report.json());
    }
    Ok(report.is_good())
}

/// Samples until the frames or the minutes are over.
async fn drive(args: &Args, pair: &mut Pair, night: &mut Night, sampler: &mut Sampler) -> anyhow::Result<()> {
    let start = Instant::now();
    let limit = (args.minutes > 0.0).then(|| Duration::from_secs_f64(args.minutes * 60.0));
    let mut ticks = tokio::time::interval(SAMPLE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut next_line, mut last_frame) = (start, (0, start));
    loop {
        ticks.tick().await;
        let sample = pair.sample(start.elapsed()).await?;
        let by_time = limit.map_or(0.0, |limit| start.elapsed().as_secs_f64() / limit.as_secs_f64());
        let progress = (sample.frames as f64 / args.frames as f64).max(by_time);
        if Instant::now() >= next_line {
            println!("{:5.1} %  {sample}", progress.min(1.0) * 100.0);
            next_line += LINE;
        }
        if sample.frames > last_frame.0 {
            last_frame = (sample.frames, Instant::now());
        }
        anyhow::ensure!(last_frame.1.elapsed() < STALL, "no frame was analysed for {STALL:?}: {sample}");
        sampler.take(sample)?;
        night.advance(progress);
        if progress >= 1.0 {
            return Ok(());
        }
        if progress >= RESTART_AT && sampler.restarted_at().is_none() {
            pair.restart_server().await?;
            sampler.server_restarted();
        }
    }
}
