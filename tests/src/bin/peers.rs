//! Our pair beside others: a bare loop over the engine, a Python gRPC server
//! and a Flask server (tests/peers), with the same pictures, models and cores.
//! First makes sure that all find the same faces. Then every round measures
//! every side under every load; the order turns around from round to round, so
//! that a machine that warms up or is shared hits all alike. Prints a table
//! and, with `--json`, an object as the last line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::peers::agree::{Agreement, found};
use e2e::peers::bare_loop;
use e2e::peers::cores::{Cores, pin};
use e2e::peers::load::{Phase, closed};
use e2e::peers::overload::{CAMERAS, DEADLINE, FACTOR, overload};
use e2e::peers::pictures::Pictures;
use e2e::peers::python::Python;
use e2e::peers::report::{Figures, Load, Report};
use e2e::peers::side::{Server, Setup, Side};
use flatframe_shared::cli::key_value;
use serde_json::json;

/// Not counted, before each measurement.
const WARM_UP: Duration = Duration::from_millis(1500);
/// Pictures in which all sides must find the same faces.
const COMPARED: usize = 60;
/// Longest wait for one answer when answers are compared.
const ANSWER: Duration = Duration::from_secs(20);
/// Number of cameras whose figures get names of their own in the JSON.
const HEADLINE_CAMERAS: usize = 16;

/// Compares our pair with what else a user might write.
#[derive(Parser)]
#[command(bin_name = "cargo peers")]
struct Args {
    /// Length of each measurement, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds; each measures every side under every load.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Numbers of cameras; at most 256 each.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64", value_parser = clap::value_parser!(u16).range(1..=256))]
    cameras: Vec<u16>,
    /// Length of each overload, in seconds; 0 leaves it out.
    #[arg(long, default_value_t = 10)]
    overload: u64,
    /// An .mjpeg file, or "pattern" for the test card; without it the clip of
    /// the shared folder where that is, else the test card.
    #[arg(long, value_name = "FILE")]
    pictures: Option<PathBuf>,
    /// Python with tests/peers/requirements.txt installed (environment:
    /// FLATFRAME_PEERS_PYTHON); without it one is made below target/.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Cores for the measured program; the load comes from the others.
    #[arg(long, default_value_t = 1)]
    server_cores: usize,
    /// Set one key of inference-service and of the bare loop.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// For this program's own use: run as the bare loop.
    #[arg(long, hide = true)]
    bare_loop: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0)]
    warm_up_ms: u64,
    #[arg(long, hide = true, default_value_t = 0)]
    loop_ms: u64,
}

fn main() -> ExitCode {
    match start(e2e::arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    if let Some(file) = &args.bare_loop {
        let [warm_up, length] = [args.warm_up_ms, args.loop_ms].map(Duration::from_millis);
        return bare_loop::run(file, warm_up, length, &args.set);
    }
    let cores = Cores::split(args.server_cores)?;
    // Before any thread starts: they all run where the load comes from.
    pin(&cores.generator).context("bind the load to its cores")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run(args, cores))
}

async fn run(args: Args, cores: Cores) -> anyhow::Result<()> {
    ensure!(args.seconds > 0 && args.rounds > 0, "--seconds and --rounds must be at least 1");
    let interpreter = args.python.clone().or_else(|| std::env::var_os("FLATFRAME_PEERS_PYTHON").map(PathBuf::from));
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("this program lies in a folder of target/")?;
    let python = Python::find(interpreter, target).await?;
    let pictures = Pictures::load(args.pictures.as_deref())?;
    let (profile, busy) = (if cfg!(debug_assertions) { "dev" } else { "release" }, load_average());
    println!(
        "{profile} profile; {}; load average before the start {busy}\n\
         {} pictures of {} ({}), {} rounds of {} s, {} s of overload",
        cores.description(),
        pictures.all.len(),
        pictures.all[0].size,
        pictures.name,
        args.rounds,
        args.seconds,
        args.overload
    );
    if cfg!(debug_assertions) {
        println!(
            "the engine's kernels are slow in this profile; for figures to compare: \
             cargo build --release --workspace && target/release/peers"
        );
    }
    let setup = Setup { cores, python, set: args.set.clone() };
    let agreements = compare(&setup, &pictures).await.context("the sides do not do the same work: no ratios")?;
    let mut report = Report::default();
    for round in 1..=args.rounds {
        for &cameras in &args.cameras {
            for side in in_turn(&Side::CLOSED, round) {
                let load = Load::Cameras(cameras.into());
                let figures = saturated(side, &setup, cameras.into(), &pictures, args.seconds).await?;
                eprintln!("round {round}, {cameras} cameras, {}: {:.1}/s", side.name(), figures.fps);
                report.add(load, side, figures);
            }
        }
        for side in in_turn(&Side::OVERLOAD, round) {
            if args.overload == 0 {
                continue;
            }
            let figures = overloaded(side, &setup, &pictures, args.seconds, args.overload).await?;
            eprintln!("round {round}, overload, {}: {:.1}/s in time", side.name(), figures.fps);
            report.add(Load::Overload, side, figures);
        }
    }
    let headline =
        args.cameras.iter().map(|&cameras| usize::from(cameras)).min_by_key(|n| n.abs_diff(HEADLINE_CAMERAS));
    let cameras = headline.context("--cameras names at least one number")?;
    print!("\n{}", report.table());
    let mut object = report.json(cameras);
    for (name, sides) in [("camera streams", ""), ("unary Detect", "unary_")] {
        println!(
            "{name}, {cameras} cameras: {:.2} x the bare loop, {:.2} x Python gRPC, {:.2} x Flask per core",
            object[&format!("{sides}ratio_to_bare_loop")].as_f64().unwrap_or(f64::NAN),
            object[&format!("{sides}ratio_to_python_grpc")].as_f64().unwrap_or(f64::NAN),
            object[&format!("{sides}ratio_to_flask")].as_f64().unwrap_or(f64::NAN),
        );
    }
    if args.json {
        let run = json!({
            "profile": profile,
            "server_cores": setup.cores.server,
            "generator_cores": setup.cores.generator,
            "load_average_before": busy,
            "pictures": pictures.name,
            "seconds": args.seconds,
            "rounds": args.rounds,
            "overload_factor": FACTOR,
            "deadline_ms": DEADLINE.as_millis() as u64,
            "agreement": agreements,
        });
        object.extend(run.as_object().cloned().unwrap_or_default());
        println!("{}", serde_json::Value::Object(object));
    }
    Ok(())
}

/// The sides of a round: every second round goes backwards.
fn in_turn(sides: &[Side], round: usize) -> Vec<Side> {
    let mut sides = sides.to_vec();
    if round.is_multiple_of(2) {
        sides.reverse();
    }
    sides
}

/// Makes sure that all find the same faces.
async fn compare(setup: &Setup, pictures: &Pictures) -> anyhow::Result<serde_json::Value> {
    let mut answers = Vec::new();
    for side in [Side::OursUnary, Side::PythonGrpc, Side::Flask] {
        let server = Server::start(side, setup, 1, pictures).await?;
        let (mut client, mut faces) = (server.client().await?, Vec::new());
        for picture in pictures.all.iter().take(COMPARED) {
            faces.push(found(client.call(picture, ANSWER).await?)?);
        }
        answers.push((side, faces));
        server.stop().await?;
    }
    let mut agreements = serde_json::Map::new();
    let (_, ours) = answers.remove(0);
    for (side, theirs) in answers {
        let mut agreement = Agreement::default();
        for (ours, theirs) in ours.iter().zip(&theirs) {
            agreement.add(ours, theirs).with_context(|| side.name())?;
        }
        agreement.check()?;
        println!(
            "{} finds the same {} faces in {} pictures: least IoU {:.2}, {} with the same named gender, \
             probabilities within {:.3}",
            side.name(),
            agreement.faces,
            agreement.pictures,
            agreement.least_iou,
            agreement.same_gender,
            agreement.gender_difference
        );
        let agreement = json!({
            "pictures": agreement.pictures,
            "faces": agreement.faces,
            "least_iou": agreement.least_iou,
            "same_gender": agreement.same_gender,
            "gender_difference": agreement.gender_difference,
        });
        agreements.insert(side.key().into(), agreement);
    }
    Ok(agreements.into())
}

/// One side with cameras that wait for their answers.
async fn saturated(
    side: Side,
    setup: &Setup,
    cameras: usize,
    pictures: &Pictures,
    seconds: u64,
) -> anyhow::Result<Figures> {
    let (length, cores) = (Duration::from_secs(seconds), setup.cores.server.len());
    if side == Side::BareLoop {
        let (measured, rss_peak_bytes) = bare_loop::measure(setup, pictures, WARM_UP, length).await?;
        return Ok(Figures::of(&measured, cores, rss_peak_bytes));
    }
    let server = Server::start(side, setup, cameras, pictures).await?;
    closed(&server, cameras, pictures, WARM_UP, Phase::WarmUp).await?;
    let measured = closed(&server, cameras, pictures, length, Phase::Counted).await?;
    Ok(Figures::of(&measured, cores, server.stop().await?.rss_peak_bytes))
}

/// One side at ten times what it did right before.
async fn overloaded(
    side: Side,
    setup: &Setup,
    pictures: &Pictures,
    seconds: u64,
    overload_s: u64,
) -> anyhow::Result<Figures> {
    let (length, cores) = (Duration::from_secs(seconds), setup.cores.server.len());
    let server = Server::start(side, setup, CAMERAS, pictures).await?;
    // A server that takes few calls at once is saturated by few cameras.
    let cameras = if side == Side::PythonGrpcBounded { CAMERAS / 4 } else { CAMERAS };
    closed(&server, cameras, pictures, WARM_UP, Phase::WarmUp).await?;
    let before = closed(&server, cameras, pictures, length, Phase::Counted).await?;
    let saturated_fps = before.frames as f64 / before.wall.as_secs_f64();
    let seen = overload(&server, pictures, saturated_fps * FACTOR, Duration::from_secs(overload_s)).await?;
    let figures = Figures::of(&seen.good, cores, server.stop().await?.rss_peak_bytes);
    let share_of_saturated = figures.fps / saturated_fps;
    Ok(Figures { offered_fps: seen.offered_fps, share_of_saturated, ..figures })
}

/// Programs that wanted to run over the last minute, as the kernel says.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
