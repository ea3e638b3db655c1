//! The limit: decode, detect, gender, one picture after another, on as many
//! threads as cores, and nothing else. Runs as a program of its own, so that
//! it has the same cores and its memory is its own.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flatframe_shared::frame::Rotation;
use inference_service::config::Config;
use inference_service::vision::{Analyzer, AnalyzerState};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::cores::bind;
use super::load::Measured;
use super::pictures::Pictures;
use super::side::Setup;
use super::tree::use_of_tree;
use crate::media::mjpeg_frames;

/// Longest time that the program may take beyond the loop: the model loads.
const START: Duration = Duration::from_secs(60);

/// What the program prints, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    wall_us: u64,
    cpu_us: u64,
    rss_peak_bytes: u64,
    /// Time of each picture.
    latencies_us: Vec<u32>,
}

/// Starts the loop on the measured cores and waits for its end; returns what
/// it measured and its peak of resident memory, in bytes.
///
/// # Errors
/// When it does not run to its end.
pub async fn measure(
    setup: &Setup,
    pictures: &Pictures,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<(Measured, u64)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--bare-loop").arg(pictures.file());
    for (flag, value) in [("--warm-up-ms", warm_up), ("--loop-ms", length)] {
        command.arg(flag).arg(value.as_millis().to_string());
    }
    for (key, value) in &setup.set {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    bind(&mut command, &setup.cores.server);
    let child = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(START + warm_up + length, child).await.context("the bare loop does not end")??;
    ensure!(output.status.success(), "the bare loop failed: {}", output.status);
    let report: Report = serde_json::from_slice(&output.stdout).context("the report of the bare loop")?;
    let latencies: Vec<_> = report.latencies_us.iter().map(|&us| Duration::from_micros(us.into())).collect();
    let measured = Measured {
        frames: latencies.len() as u64,
        wall: Duration::from_micros(report.wall_us),
        cpu: Duration::from_micros(report.cpu_us),
        latencies,
    };
    Ok((measured, report.rss_peak_bytes))
}

/// The program: loops over the pictures of an .mjpeg file and prints its
/// report.
///
/// # Errors
/// When the pictures or the models cannot be used.
pub fn run(file: &Path, warm_up: Duration, length: Duration, set: &[(String, String)]) -> anyhow::Result<()> {
    let config = Config::load(None, set)?;
    let pictures = mjpeg_frames(file)?;
    let analyzer = Analyzer::load(&config.vision)?;
    let mut states: Vec<AnalyzerState> = (0..config.workers.threads()).map(|_| analyzer.spawn()).collect();
    let analyze = |states: &mut [AnalyzerState], length: Duration| -> anyhow::Result<Vec<u32>> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = states
                .iter_mut()
                .enumerate()
                .map(|(number, state)| {
                    let pictures = pictures.iter().cycle().skip(number * 7);
                    scope.spawn(|| each(state, pictures, &stop))
                })
                .collect();
            std::thread::sleep(length);
            stop.store(true, Relaxed);
            let all = threads.into_iter().map(|thread| thread.join().expect("a panic ends the program"));
            all.collect::<anyhow::Result<Vec<_>>>().map(|all| all.concat())
        })
    };
    analyze(&mut states, warm_up)?;
    let (start, before) = (Instant::now(), use_of_tree(std::process::id()));
    let latencies_us = analyze(&mut states, length)?;
    let used = use_of_tree(std::process::id());
    let report = Report {
        wall_us: start.elapsed().as_micros() as u64,
        cpu_us: (used.cpu - before.cpu).as_micros() as u64,
        rss_peak_bytes: used.rss_peak_bytes,
        latencies_us,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn each<'a>(
    state: &mut AnalyzerState,
    pictures: impl Iterator<Item = &'a bytes::Bytes>,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<u32>> {
    let mut latencies_us = Vec::new();
    for jpeg in pictures {
        if stop.load(Relaxed) {
            break;
        }
        let start = Instant::now();
        state.analyze(jpeg, Rotation::None)?;
        latencies_us.push(start.elapsed().as_micros() as u32);
    }
    Ok(latencies_us)
}
