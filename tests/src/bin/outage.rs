//! An outage with store-and-forward, in real time: live frames, a wire that is
//! dead for some minutes, the wire back. Says what was kept, what the history
//! has of it, and what became of the rest. Ends with exit code 1 unless every
//! kept frame is there exactly once.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::arguments::parse;
use e2e::link::{Condition, Link};
use e2e::outage::{Comparison, kept, results};
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::wait::try_answered;
use flatframe_shared::outcome::Outcome;
use ingest_service::CameraConfig;
use ingest_service::late::ledger::{LateCounts, LateDrop};
use serde_json::json;

/// Longest wait for live frames.
const PATIENCE: Duration = Duration::from_secs(60);
const CAMERA: &str = "cam";

/// Shows what an outage with store-and-forward costs.
#[derive(Parser)]
struct Args {
    /// How long the wire is dead.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Frames a second, live and kept.
    #[arg(long, default_value_t = 5.0)]
    fps: f32,
    /// Late frames a second at most.
    #[arg(long, default_value_t = 10.0)]
    late_fps: f32,
    /// An engine that takes so long for each frame, in place of the models.
    #[arg(long, value_name = "MICROSECONDS")]
    stub_us: Option<u32>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// What was seen.
struct Seen {
    compared: Comparison,
    late: LateCounts,
    outage: Duration,
    sending: Duration,
    /// Live frames analysed a second while late ones were sent.
    live_fps: f64,
    balance: i64,
    written_bytes: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args: Args = parse();
    match run(&args).await {
        Ok(seen) => {
            let is_good = seen.is_good();
            seen.print(args.json);
            if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("outage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<Seen> {
    ensure!((0.05..=600.0).contains(&args.minutes), "--minutes = {}: use 0.05 to 600", args.minutes);
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("recordings");
    let mut config = args.stub_us.map_or_else(Default::default, |time_us| stub_config(time_us, true));
    config.history.file = folder.path().join("history.sqlite");
    config.history.min_free_bytes = 0;
    let service = Inference::start(config).await?;
    let link = Link::start(service.address).await?;

    let camera = CameraConfig { fps: args.fps, record: "outage".into(), ..CameraConfig::new(CAMERA, "pattern") };
    let mut config = ingest_config(&link.url(), vec![camera]);
    config.recording.dir = dir.display().to_string();
    config.recording.fps = args.fps;
    config.recording.min_free_bytes = 0;
    config.recording.store_and_forward = true;
    config.recording.late_fps = args.late_fps;
    let ingest = Running::start(config).await?;
    let (camera, shown) = (ingest.cameras[0].clone(), ingest.shown.clone());
    let analyzed = || camera.counts().answered(Outcome::Analyzed);
    try_answered("live frames", PATIENCE, async || (analyzed() >= 20).then_some(())).await?;

    link.set(Condition { frozen: true, ..Condition::default() });
    link.cut();
    let outage = Duration::from_secs_f64(args.minutes * 60.0);
    eprintln!("the wire is dead for {outage:?}");
    tokio::time::sleep(outage).await;
    link.set(Condition::default());
    let recording = shown.recording.clone().context("it records")?;
    let written = || recording.cameras().map(|(_, camera)| camera.late).sum::<u64>();
    let (back, analyzed_before) = (Instant::now(), analyzed());
    let patience = PATIENCE + outage.mul_f64(4.0);
    let places = &shown.resources.places;
    let queue = places.iter().find(|place| place.name == "recording/queue_bytes").context("it is no place")?;
    let is_done = async || {
        // What waits for the disk is not found yet.
        let is_on_disk = queue.live() == 0;
        let late = shown.late_totals();
        let is_found = is_on_disk && late.found > 0 && late.found == written();
        (is_found && late.waiting + late.in_flight == 0).then_some(())
    };
    try_answered("all late frames are sent", patience, is_done).await?;
    let (sending, live) = (back.elapsed(), analyzed() - analyzed_before);

    let written_bytes = recording.cameras().map(|(_, camera)| camera.written_bytes).sum();
    let counts = ingest.stop().await?;
    let late = shown.late_totals();
    let kept = kept(&dir, CAMERA)?;
    let history = service.sources.archive.history.clone().context("a history is kept")?;
    ensure!(history.flush(PATIENCE), "the history does not write");
    let found = results(service.connect().await?, CAMERA, &kept).await?;
    let served = service.stop().await?;
    link.stop().await;
    let balance = counts.balance() + late.balance() + served.balance();
    let live_fps = live as f64 / sending.as_secs_f64();
    Ok(Seen { compared: Comparison::of(&kept, &found), late, outage, sending, live_fps, balance, written_bytes })
}

impl Seen {
    fn is_good(&self) -> bool {
        let Comparison { duplicates, foreign, missing, .. } = self.compared;
        (duplicates, foreign, missing, self.balance) == (0, 0, 0, 0)
    }

    fn print(&self, json: bool) {
        let Comparison { kept, analyzed, duplicates, foreign, missing, live } = self.compared;
        let dropped: BTreeMap<_, _> = LateDrop::ALL
            .iter()
            .map(|&reason| (reason.as_str(), self.late.dropped(reason)))
            .filter(|(_, frames)| *frames > 0)
            .collect();
        println!("outage of {:.0?}: {kept} frames kept, {} bytes written", self.outage, self.written_bytes);
        println!("sent afterwards in {:.1?}, beside {:.1} live frames/s", self.sending, self.live_fps);
        println!("in the history: {analyzed} of them, {duplicates} twice, {missing} missing; {live} live results");
        println!("never sent: {dropped:?}; sent in vain and again: {}; balance {}", self.late.again, self.balance);
        if json {
            let object = json!({
                "kept": kept, "analyzed_late": analyzed, "duplicates": duplicates, "foreign": foreign,
                "missing": missing, "live_results": live, "dropped": dropped, "again": self.late.again,
                "lost": self.late.lost, "balance": self.balance, "outage_s": self.outage.as_secs_f64(),
                "sending_s": self.sending.as_secs_f64(), "live_fps": self.live_fps,
                "written_bytes": self.written_bytes,
            });
            println!("{object}");
        }
    }
}
