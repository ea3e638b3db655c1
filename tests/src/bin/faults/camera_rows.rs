//! Rows whose fault is one camera's own; the camera beside it is in the same
//! service.

use std::time::Duration;

use anyhow::ensure;

use crate::cameras::{Manner, MjpegCamera, child_camera};
use crate::layout::{BESIDE, HIT, Layout, camera, file_camera};
use crate::rows::Bench;
use crate::table::Measured;
use crate::trial::Trial;

/// Longer than the 5 s after which a camera without pictures is opened again.
const LONG: Duration = Duration::from_secs(12);
const SHORT: Duration = Duration::from_secs(8);

async fn network_camera(
    bench: &Bench,
    row: &'static str,
    manner: Manner,
    time: Duration,
) -> anyhow::Result<(Trial, MjpegCamera)> {
    let mjpeg = MjpegCamera::start(bench.picture()).await?;
    let cameras = camera(HIT, &mjpeg.source) + &file_camera(BESIDE, bench);
    let mut trial = Trial::start(bench, Layout::local(row, cameras)).await?;
    mjpeg.behave(manner);
    trial.hold(time).await?;
    mjpeg.behave(Manner::Good);
    trial.recover().await;
    Ok((trial, mjpeg))
}

/// How often the source was opened again; 0 would mean that nobody noticed.
async fn reopened(trial: &Trial) -> anyhow::Result<String> {
    let restarts = trial.sender.metrics().await?.count("flatframe_ingest_source_restarts_total{camera=\"hit\"}")?;
    ensure!(restarts > 0, "the source was never opened again");
    Ok(format!("opened again {restarts} times"))
}

pub async fn silent(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let (trial, _camera) = network_camera(bench, row, Manner::Silent, LONG).await?;
    trial.bites(0.2)?;
    let note = reopened(&trial).await?;
    trial.finish(note).await
}

pub async fn trickling(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let (trial, _camera) = network_camera(bench, row, Manner::Trickling, LONG).await?;
    trial.bites(0.2)?;
    let note = reopened(&trial).await?;
    trial.finish(note).await
}

pub async fn flapping(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let (trial, _camera) = network_camera(bench, row, Manner::Flapping, LONG).await?;
    trial.bites(0.9)?;
    let note = reopened(&trial).await?;
    trial.finish(note).await
}

pub async fn corrupt(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let (trial, _camera) = network_camera(bench, row, Manner::Corrupt, SHORT).await?;
    let metrics = trial.sender.metrics().await?;
    let count = |side: &str, outcome: &str| {
        metrics.count(&format!("flatframe_ingest_frames_total{{camera=\"hit\",side=\"{side}\",outcome=\"{outcome}\"}}"))
    };
    let (dropped, invalid) = (count("dropped", "corrupt")?, count("answered", "invalid")?);
    // Damage among the pixels alone is decoded as it is.
    ensure!(dropped + invalid > 0, "nobody noticed any damage");
    trial.finish(format!("{dropped} dropped as corrupt, {invalid} refused as invalid, the rest decoded")).await
}

async fn child(bench: &Bench, row: &'static str, stubborn: bool) -> anyhow::Result<(Trial, std::path::PathBuf)> {
    let folder = bench.folder().join(row);
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("picture.jpg"), bench.picture())?;
    let cameras = camera(HIT, &child_camera(&folder, stubborn)) + &file_camera(BESIDE, bench);
    Ok((Trial::start(bench, Layout::local(row, cameras)).await?, folder))
}

pub async fn stderr_flood(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let (mut trial, folder) = child(bench, row, false).await?;
    let before = read_bytes(&trial);
    std::fs::write(folder.join("flood"), "")?;
    trial.hold(SHORT).await?;
    std::fs::remove_file(folder.join("flood"))?;
    let flooded = read_bytes(&trial).saturating_sub(before) >> 20;
    ensure!(flooded > 10, "the flood was {flooded} MiB");
    trial.recover().await;
    trial.finish(format!("{flooded} MiB of errors read")).await
}

/// Bytes that the sender has read from anywhere.
fn read_bytes(trial: &Trial) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", trial.sender.pid())).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap_or_default()
}

pub async fn ignores_sigterm(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let (mut trial, folder) = child(bench, row, true).await?;
    std::fs::write(folder.join("hang"), "")?;
    trial.hold(LONG).await?;
    std::fs::remove_file(folder.join("hang"))?;
    trial.recover().await;
    trial.bites(0.2)?;
    let note = reopened(&trial).await?;
    trial.finish(note).await
}
