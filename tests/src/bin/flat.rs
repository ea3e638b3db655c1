//! Memory, files and threads of both services, as programs of their own, before
//! and after many frames; and the memory of ingest-service with one 1280x720
//! MJPEG camera. Ends with exit code 1 when a limit that the README states is
//! not kept.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::media::textured_jpeg;
use e2e::program::{Program, connect, free_address};
use flatframe_shared::budget::Bytes;
use flatframe_shared::cli::key_value;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::{GetResourcesRequest, ListCamerasRequest};
use flatframe_shared::process::ProcessUse;
use serde_json::json;
use tonic::transport::Channel;

const START: Duration = Duration::from_secs(20);
const HD: PictureSize = PictureSize::new(1280, 720);
const SMALL: PictureSize = PictureSize::new(320, 240);

/// Shows that memory, files and threads stay flat.
#[derive(Parser)]
struct Args {
    /// Frames before the first look.
    #[arg(long, default_value_t = 3_000)]
    warm_up: u64,
    /// Frames between the two looks.
    #[arg(long, default_value_t = 30_000)]
    frames: u64,
    /// Cameras.
    #[arg(long, default_value_t = 4)]
    cameras: u32,
    /// Frames of the 1280x720 camera; 0 leaves it out.
    #[arg(long, default_value_t = 300)]
    hd_frames: u64,
    /// Set one key of inference-service.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Both programs.
struct Pair {
    inference: Program,
    ingest: Program,
    results: ResultServiceClient<Channel>,
    resources: [AdminServiceClient<Channel>; 2],
}

impl Pair {
    async fn start(args: &Args, cameras: &str) -> anyhow::Result<Self> {
        let (grpc, admin, ingest_admin) = (free_address()?, free_address()?, free_address()?);
        let mut toml = format!("[listen]\ngrpc = '{grpc}'\nadmin = '{admin}'\npage = ''\n");
        for (key, value) in &args.set {
            let (section, key) = key.rsplit_once('.').context("--set takes SECTION.KEY=VALUE")?;
            toml.push_str(&format!("[{section}]\n{key} = {value}\n"));
        }
        let inference = Program::start("inference-service", &toml)?;
        let toml = format!(
            "[server]\naddress = 'http://{grpc}'\n[admin]\nlisten = ''\ngrpc_listen = '{ingest_admin}'\n{cameras}"
        );
        let ingest = Program::start("ingest-service", &toml)?;
        let (server, sender) =
            (connect(&grpc.to_string(), START).await?, connect(&ingest_admin.to_string(), START).await?);
        let resources = [AdminServiceClient::new(server.clone()), AdminServiceClient::new(sender)];
        Ok(Self { inference, ingest, results: ResultServiceClient::new(server), resources })
    }

    /// Waits until so many frames were received by the server.
    async fn received(&mut self, frames: u64) -> anyhow::Result<()> {
        loop {
            let cameras = self.results.list_cameras(ListCamerasRequest {}).await?.into_inner().cameras;
            let received: u64 =
                cameras.iter().filter_map(|camera| camera.ledger.as_ref()).map(|ledger| ledger.received).sum();
            if received >= frames {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Budgets of inference-service and ingest-service, after a check that
    /// both ledgers balance.
    async fn budgets(&mut self) -> anyhow::Result<[u64; 2]> {
        let mut budgets = [0; 2];
        for (client, budget) in self.resources.iter_mut().zip(&mut budgets) {
            let resources = client.get_resources(GetResourcesRequest {}).await?.into_inner();
            ensure!(resources.ledger_balance == 0, "the ledger does not balance: {resources:?}");
            *budget = resources.budget_bytes;
        }
        Ok(budgets)
    }

    fn used(&self) -> [ProcessUse; 2] {
        [self.inference.used(), self.ingest.used()]
    }
}

async fn run(args: Args) -> anyhow::Result<bool> {
    let mut good = true;
    let mut report = json!({});
    if args.hd_frames > 0 {
        let rss = hd_camera(&args).await?;
        println!("ingest-service with one 1280x720 MJPEG camera after {} frames: RSS {}", args.hd_frames, Bytes(rss));
        good &= rss <= 16 << 20;
        report["hd_ingest_rss_bytes"] = json!(rss);
    }

    let folder = tempfile::tempdir()?;
    write_pictures(folder.path(), SMALL, 16)?;
    let camera = |n| {
        format!("[[camera]]\nid = 'cam-{n}'\nsource = 'file:{}/pictures.mjpeg'\nfps = 240.0\n", folder.path().display())
    };
    let mut pair = Pair::start(&args, &(0..args.cameras).map(camera).collect::<String>()).await?;
    pair.received(args.warm_up).await?;
    let (before, start) = (pair.used(), Instant::now());
    pair.received(args.warm_up + args.frames).await?;
    let (after, took) = (pair.used(), start.elapsed());
    let budgets = pair.budgets().await?;
    println!(
        "{} frames after a warm-up of {} in {:.0} s, ledgers balance",
        args.frames,
        args.warm_up,
        took.as_secs_f64()
    );
    for (place, name) in ["inference-service", "ingest-service"].into_iter().enumerate() {
        let (before, after) = (before[place], after[place]);
        let grown = |value: fn(&ProcessUse) -> Option<u64>| -> anyhow::Result<i64> {
            let read = |used| value(used).context("/proc cannot be read");
            Ok(read(&after)? as i64 - read(&before)? as i64)
        };
        let rss = grown(|used| used.rss_bytes)?;
        let (files, threads) = (grown(|used| used.open_files)?, grown(|used| used.threads)?);
        let peak = after.rss_peak_bytes.context("/proc cannot be read")?;
        println!(
            "{name:<18} RSS {} -> {} ({rss:+} bytes), peak {} of budget {}, files {files:+}, threads {threads:+}",
            Bytes(before.rss_bytes.unwrap_or_default()),
            Bytes(after.rss_bytes.unwrap_or_default()),
            Bytes(peak),
            Bytes(budgets[place])
        );
        good &= rss < 1 << 20 && files <= 0 && threads <= 0 && peak <= budgets[place];
        report[name] = json!({
            "rss_before_bytes": before.rss_bytes, "rss_after_bytes": after.rss_bytes, "rss_growth_bytes": rss,
            "rss_peak_bytes": peak, "budget_bytes": budgets[place], "fd_growth": files, "thread_growth": threads,
        });
    }
    if args.json {
        println!("{report}");
    }
    Ok(good)
}

/// Resident memory of ingest-service with one 1280x720 camera that is
/// downsampled, in bytes.
async fn hd_camera(args: &Args) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir()?;
    write_pictures(folder.path(), HD, 4)?;
    let camera =
        format!("[[camera]]\nid = 'hd'\nsource = 'file:{}/pictures.mjpeg'\nfps = 30.0\n", folder.path().display());
    let mut pair = Pair::start(args, &camera).await?;
    pair.received(args.hd_frames).await?;
    pair.budgets().await?;
    pair.ingest.used().rss_bytes.context("/proc cannot be read")
}

fn write_pictures(folder: &Path, size: PictureSize, count: u32) -> anyhow::Result<()> {
    let file = folder.join("pictures.mjpeg");
    let pictures: Vec<u8> = (0..count).flat_map(|seed| textured_jpeg(size, seed)).collect();
    std::fs::write(file, pictures).context("write the pictures")
}
