//! Both services in control groups with little memory, overloaded: sixteen
//! cameras on a server that may hold 128 MiB, one of them a 1280x720 camera on a
//! box that may hold 32 MiB. Ends with exit code 1 when the kernel killed one,
//! or a budget or a ledger was not kept. Needs root.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::camera::{RawCamera, hello, pump};
use e2e::cgroup::Cgroup;
use e2e::media::textured_jpeg;
use e2e::program::{Program, connect, free_address};
use flatframe_shared::budget::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::detect_service_client::DetectServiceClient;
use flatframe_shared::r#gen::v1::{DetectRequest, GetResourcesRequest, GetResourcesResponse, Outcome};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::Channel;

const INFERENCE: &str = include_str!("../../limited/inference-128m.toml");
const INGEST: &str = include_str!("../../limited/ingest-32m.toml");
const INFERENCE_LIMIT: u64 = 128 << 20;
const INGEST_LIMIT: u64 = 32 << 20;
const SERVICES: [&str; 2] = ["inference-service", "ingest-service"];
const CAMERAS: u32 = 16;
const HD: PictureSize = PictureSize::new(1280, 720);
const SMALL: PictureSize = PictureSize::new(640, 480);
const TTL: Duration = Duration::from_secs(2);
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);
const LINE: Duration = Duration::from_secs(10);

/// Shows that both services live within little memory, overloaded.
#[derive(Parser)]
#[command(version, bin_name = "cargo limited")]
struct Args {
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(e2e::arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limited: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let groups = [Cgroup::new("flatframe-server", INFERENCE_LIMIT)?, Cgroup::new("flatframe-camera", INGEST_LIMIT)?];
    let (grpc, admin, ingest_admin) = (free_address()?, free_address()?, free_address()?);
    let start_in = |group: &Cgroup, name: &str, config: &str| {
        let starter = group.starter();
        let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
        Program::start_by(&starter, name, config)
    };
    // It ends with the table `[listen]`.
    let toml = format!("{INFERENCE}grpc = '{grpc}'\nadmin = '{admin}'\n");
    let mut server = start_in(&groups[0], "inference-service", &toml)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("hd.mjpeg");
    std::fs::write(&file, (0..8).flat_map(|seed| textured_jpeg(HD, seed)).collect::<Vec<u8>>())?;
    let toml = format!(
        "{INGEST}\n[server]\naddress = 'http://{grpc}'\n[admin]\nlisten = ''\ngrpc_listen = '{ingest_admin}'\n\
         [[camera]]\nid = 'hd'\nsource = 'file:{}'\nfps = 240.0\n",
        file.display()
    );
    let mut camera_box = start_in(&groups[1], "ingest-service", &toml)?;
    let channel = connect(&grpc.to_string(), START).await?;
    let mut admins = [
        AdminServiceClient::new(channel.clone()),
        AdminServiceClient::new(connect(&ingest_admin.to_string(), START).await?),
    ];

    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let mut load = JoinSet::new();
    for number in 1..CAMERAS {
        let channel = connect(&grpc.to_string(), START).await?;
        load.spawn(async move {
            let pictures: Vec<_> = (0..4).map(|seed| (textured_jpeg(SMALL, seed), SMALL)).collect();
            let mut hello = hello(&format!("cam-{number}"), u64::from(number));
            hello.ttl_ms = TTL.as_millis() as u32;
            let (camera, _) = RawCamera::open(channel, hello).await?;
            pump(camera, &pictures, TTL, end).await.map(|pumped| pumped.count(Outcome::Analyzed))
        });
    }
    let calls = tokio::spawn(single_calls(channel, end));
    let mut ticks = tokio::time::interval(LINE);
    while Instant::now() < end {
        ticks.tick().await;
        for (admin, name) in admins.iter_mut().zip(SERVICES) {
            let told = resources(admin).await?;
            let rss = told.rss_bytes.context("/proc cannot be read")?;
            println!("{name}: RSS {} of {}", Bytes(rss), Bytes(told.budget_bytes));
        }
    }
    let mut analyzed = 0;
    while let Some(done) = load.join_next().await {
        analyzed += done.context("a camera's task")?.context("a camera was cut off")?;
    }
    let answered = calls.await.context("the single calls")?;

    let mut report = json!({ "minutes": args.minutes, "analyzed": analyzed, "single_calls": answered });
    for (place, (name, limit)) in SERVICES.into_iter().zip([INFERENCE_LIMIT, INGEST_LIMIT]).enumerate() {
        let told = resources(&mut admins[place]).await?;
        let peak = told.rss_peak_bytes.context("/proc cannot be read")?;
        let (held, kills) = (groups[place].peak_bytes()?, groups[place].kills()?);
        println!(
            "{name}: RSS peak {} of budget {} and limit {}; the group held at most {} with cached files; killed {kills} times",
            Bytes(peak),
            Bytes(told.budget_bytes),
            Bytes(limit),
            Bytes(held)
        );
        ensure!(kills == 0, "{name} was killed for its memory");
        ensure!(peak <= told.budget_bytes, "{name} held {} of a budget of {}", Bytes(peak), Bytes(told.budget_bytes));
        ensure!(told.ledger_balance == 0, "the ledger of {name} does not balance: {}", told.ledger_balance);
        report[name] = json!({
            "rss_peak_bytes": peak, "budget_bytes": told.budget_bytes, "limit_bytes": limit,
            "cgroup_peak_bytes": held, "oom_kills": kills,
        });
    }
    ensure!(analyzed > 0, "nothing was analysed");
    println!(
        "{analyzed} frames of {} cameras and {answered} single calls in {:.0} s",
        CAMERAS - 1,
        args.minutes * 60.0
    );
    for (name, program) in [("ingest-service", &mut camera_box), ("inference-service", &mut server)] {
        program.signal(libc::SIGTERM)?;
        let status = program.wait(STOP).await?;
        ensure!(status.success(), "{name} ended with {status}");
    }
    if args.json {
        println!("{report}");
    }
    Ok(())
}

async fn resources(admin: &mut AdminServiceClient<Channel>) -> anyhow::Result<GetResourcesResponse> {
    let answer = admin.get_resources(GetResourcesRequest {}).await;
    Ok(answer.context("a service does not answer: was it killed?")?.into_inner())
}

/// One call after another until `end`; how many got an answer. Refusals are part
/// of an overload.
async fn single_calls(channel: Channel, end: Instant) -> u64 {
    let (mut client, jpeg) = (DetectServiceClient::new(channel), textured_jpeg(SMALL, 9));
    let mut answered = 0;
    while Instant::now() < end {
        let call = client.detect(DetectRequest { jpeg: jpeg.clone(), rotation_degrees: 0 });
        answered += u64::from(call.await.is_ok());
    }
    answered
}
