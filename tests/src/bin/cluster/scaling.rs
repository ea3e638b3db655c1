//! What a second replica brings: the embedded models, each replica pinned to a
//! core of its own, more frames offered than both can do. The cameras are in
//! this process and run on the replicas' cores, in both kinds of rounds: with a
//! core to themselves beside one replica they would make it look better. Rounds
//! alternate, so that whatever else the machine does hits both alike.

use std::time::Duration;

use e2e::peers::cores::{allowed, pin_process};
use flatframe_shared::outcome::Outcome;
use serde_json::json;

use crate::crowd::{Crowd, Habit};
use crate::replicas::{Engine, NAME, Replica, port, resolve_to};
use crate::{Args, Report};

const CAMERAS: usize = 16;
/// More than a core analyses, from a few cameras already.
const FPS: f32 = 60.0;
/// Rounds of each kind.
const ROUNDS: usize = 2;
/// The pace is found in the first seconds; they are not counted.
const WARM_UP: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_secs(60);
/// What the second replica must bring at least.
const LEAST: f64 = 1.9;

/// What a round came to.
struct Round {
    fps: f64,
    /// Frames for each second of processor time that the replicas got.
    per_cpu_second: f64,
}

/// Measures one replica and two.
///
/// # Errors
/// When something cannot be started.
pub async fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let cores = allowed()?;
    anyhow::ensure!(cores.len() >= 2, "a second replica needs a second core");
    for _ in 0..ROUNDS {
        one.push(round(&cores[..1], args).await?);
        two.push(round(&cores[..2], args).await?);
    }
    pin_process(&cores)?;
    let mean = |rounds: &[Round], of: fn(&Round) -> f64| rounds.iter().map(of).sum::<f64>() / rounds.len() as f64;
    let fps = |rounds: &[Round]| mean(rounds, |round| round.fps);
    let per_cpu = |rounds: &[Round]| mean(rounds, |round| round.per_cpu_second);
    let factor = fps(&two) / fps(&one);
    // With a core for each whatever else runs: the same frames for a second of it.
    let factor_of_full_cores = 2.0 * per_cpu(&two) / per_cpu(&one);
    report.tell(
        "scaling",
        json!({
            "one_fps": one.iter().map(|round| round.fps).collect::<Vec<_>>(),
            "two_fps": two.iter().map(|round| round.fps).collect::<Vec<_>>(),
            "factor": factor,
            "one_frames_per_cpu_second": per_cpu(&one), "two_frames_per_cpu_second": per_cpu(&two),
            "factor_by_cpu_time": factor_of_full_cores,
        }),
    );
    report.expect(factor >= LEAST, format!("a second replica brings {LEAST} times the frames: {factor:.2}"));
    Ok(())
}

/// One replica on each of `cores`.
async fn round(cores: &[usize], args: &Args) -> anyhow::Result<Round> {
    let (port, count) = (port()?, cores.len());
    pin_process(cores)?;
    let mut replicas = Vec::new();
    for (number, core) in (1..).zip(cores) {
        let mut replica = Replica::new(number, port, CAMERAS, Engine::Real, Some(*core), None)?;
        replica.start().await?;
        replicas.push(replica);
    }
    resolve_to(&args.hosts, &replicas.iter().map(|replica| replica.address).collect::<Vec<_>>())?;
    let habit = Habit { server: format!("http://{NAME}:{port}"), fps: FPS, return_s: 3600, ttl_ms: 1000 };
    let crowd = Crowd::start(CAMERAS, &habit).await?;
    crowd.served(NEVER).await?;
    tokio::time::sleep(WARM_UP).await;
    let cpu = |replicas: &[Replica]| -> anyhow::Result<Duration> {
        replicas.iter().map(|replica| Ok(e2e::peers::tree::use_of_tree(replica.program()?.pid()).cpu)).sum()
    };
    let (start, before, cpu_before) = (std::time::Instant::now(), crowd.totals(), cpu(&replicas)?);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let (took, after, cpu_after) = (start.elapsed(), crowd.totals(), cpu(&replicas)?);
    let frames = (after.answered(Outcome::Analyzed) - before.answered(Outcome::Analyzed)) as f64;
    let streams = crowd.streams();
    crowd.stop().await?;
    for replica in &mut replicas {
        replica.stop().await?;
    }
    let round =
        Round { fps: frames / took.as_secs_f64(), per_cpu_second: frames / (cpu_after - cpu_before).as_secs_f64() };
    println!(
        "{count} replicas: {:.1} frames/s, {:.1} for a second of processor time, streams {:?}",
        round.fps,
        round.per_cpu_second,
        streams.values().collect::<Vec<_>>()
    );
    Ok(round)
}
