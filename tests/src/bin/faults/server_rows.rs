//! Rows that stop, kill, restart or overload a service.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::layout::{BESIDE, HIT, Layout, Sender, file_camera};
use crate::network::Host;
use crate::rows::Bench;
use crate::table::Measured;
use crate::trial::Trial;

/// Longer than the sender needs to notice (6 s) and the server's own limits.
const STOPPED: Duration = Duration::from_secs(15);
/// Cameras beside the watched ones that make an overload.
const LOAD_CAMERAS: u32 = 6;
/// Time of one frame at overload, in microseconds: two workers do 50 frames/s,
/// and eight cameras offer at least 200.
const SLOW_ENGINE_US: u32 = 40_000;

pub async fn stopped(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, Layout::local(row, file_camera(HIT, bench))).await?;
    trial.server.signal(libc::SIGSTOP)?;
    trial.hold(STOPPED).await?;
    trial.server.signal(libc::SIGCONT)?;
    trial.recover().await;
    trial.bites(0.2)?;
    trial.finish(String::new()).await
}

pub async fn killed(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, Layout::local(row, file_camera(HIT, bench))).await?;
    trial.server.kill().await?;
    trial.hold(Duration::from_secs(5)).await?;
    trial.server.start_again().await?;
    trial.recover().await;
    trial.bites(0.2)?;
    trial.finish(String::new()).await
}

pub async fn restarted(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, Layout::local(row, file_camera(HIT, bench))).await?;
    let begin = trial.begin().await?;
    let note = end_in_order(&mut trial.server).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    trial.end(&begin).await?;
    trial.server.start_again().await?;
    trial.recover().await;
    trial.bites(0.8)?;
    let lost = trial
        .sender
        .metrics()
        .await?
        .count("flatframe_ingest_frames_total{camera=\"hit\",side=\"lost\",outcome=\"lost\"}")?;
    ensure!(lost == 0, "a server that stops in order loses nothing, but {lost} frames were lost");
    trial.finish(note).await
}

/// SIGTERM: it must end with exit code 0, which says that its last counts
/// balanced.
async fn end_in_order(service: &mut crate::service::Service) -> anyhow::Result<String> {
    let start = Instant::now();
    let bad = service.end().await?;
    ensure!(bad.is_none(), "after SIGTERM: {}", bad.unwrap_or_default());
    Ok(format!("ended {:.1} s after SIGTERM, ledger balanced", start.elapsed().as_secs_f64()))
}

/// The watched cameras, the one beside in a service of its own, and many more.
fn loaded(bench: &Bench, row: &'static str) -> Layout {
    let more = |from: u32| -> String {
        (from..from + LOAD_CAMERAS / 2).map(|number| file_camera(&format!("load-{number}"), bench)).collect()
    };
    let beside = file_camera(BESIDE, bench) + &more(LOAD_CAMERAS / 2);
    Layout {
        engine_us: SLOW_ENGINE_US,
        sender_beside: Some(Sender::new(Host::Loopback, std::net::Ipv4Addr::LOCALHOST, beside)),
        ..Layout::local(row, file_camera(HIT, bench) + &more(0))
    }
}

/// The load is there from the start: what is measured is that each camera
/// keeps its share.
pub async fn overload(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, loaded(bench, row)).await?;
    trial.hold(Duration::from_secs(10)).await?;
    trial.recover().await;
    trial.finish(String::new()).await
}

pub async fn sigterm_under_load(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut layout = loaded(bench, row);
    // Everyone is hit.
    layout.sender_beside = None;
    let mut trial = Trial::start(bench, layout).await?;
    let begin = trial.begin().await?;
    let note = end_in_order(&mut trial.server).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    trial.end(&begin).await?;
    trial.server.start_again().await?;
    trial.recover().await;
    trial.finish(note).await
}

pub async fn sigterm_to_sender(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, loaded(bench, row)).await?;
    let note = end_in_order(&mut trial.sender).await?;
    trial.hold_beside(Duration::from_secs(3)).await?;
    trial.sender.start_again().await?;
    trial.recover().await;
    trial.finish(note).await
}
