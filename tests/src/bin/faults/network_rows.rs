//! Rows whose fault is the wire between a sender and the server; the camera
//! beside sends from the server's own host.

use std::time::Duration;

use anyhow::ensure;

use crate::layout::{HIT, Layout, camera};
use crate::network::{Host, Rules, SERVER_FAR, Throttle};
use crate::rows::Bench;
use crate::table::Measured;
use crate::trial::Trial;

const LATENCY: Duration = Duration::from_millis(200);

async fn loss(bench: &Bench, row: &'static str, percent: u32, time: Duration) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, Layout::networked(row, bench)).await?;
    let rules = Rules::loss(percent)?;
    trial.hold(time).await?;
    drop(rules);
    trial.recover().await;
    trial.finish(String::new()).await
}

pub async fn loss_5(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    loss(bench, row, 5, Duration::from_secs(10)).await
}

pub async fn loss_30(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    loss(bench, row, 30, Duration::from_secs(15)).await
}

pub async fn delay(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let wire = bench.network()?.wire.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
    let _carrying = wire.carry()?;
    let mut layout = Layout::networked(row, bench);
    layout.sender.server = SERVER_FAR;
    let mut trial = Trial::start(bench, layout).await?;
    wire.set_delay(LATENCY);
    let held = trial.hold(Duration::from_secs(10)).await;
    wire.set_delay(Duration::ZERO);
    held?;
    trial.recover().await;
    // Two frames on their way at once and a round trip of 0.4 s: 5 frames/s.
    trial.bites(0.5)?;
    ensure!(trial.hit_share() > 0.05, "nothing was analysed over the long wire");
    trial.finish(String::new()).await
}

pub async fn rate(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut layout = Layout::networked(row, bench);
    layout.sender.toml = camera(HIT, &format!("source = 'file:{}'", bench.large_pictures().display()));
    let mut trial = Trial::start(bench, layout).await?;
    let throttle = Throttle::set("1mbit")?;
    trial.hold(Duration::from_secs(10)).await?;
    let held_back = throttle.held_back()?;
    drop(throttle);
    trial.recover().await;
    ensure!(held_back > 0, "the wire was never too narrow");
    ensure!(trial.hit_share() > 0.05, "nothing was analysed over the narrow wire");
    trial.finish(format!("{held_back} packets had to wait")).await
}

async fn partition(bench: &Bench, row: &'static str, time: Duration) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, Layout::networked(row, bench)).await?;
    let rules = Rules::partition()?;
    trial.hold(time).await?;
    drop(rules);
    trial.recover().await;
    trial.bites(0.5)?;
    trial.finish(String::new()).await
}

pub async fn partition_1(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    partition(bench, row, Duration::from_secs(1)).await
}

pub async fn partition_10(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    partition(bench, row, Duration::from_secs(10)).await
}

pub async fn partition_60(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    partition(bench, row, Duration::from_secs(60)).await
}

/// The server dies with its host: no FIN, and later no RST either, so that
/// only the sender's own limits tell it. A new server is there after 3 s.
pub async fn half_open_server(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut layout = Layout::networked(row, bench);
    // It would lose its server too.
    layout.sender_beside = None;
    let mut trial = Trial::start(bench, layout).await?;
    let begin = trial.begin().await?;
    let cut = Rules::partition()?;
    trial.server.kill().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    trial.end(&begin).await?;
    drop(cut);
    let _no_resets = Rules::set(Host::Camera, "tcp flags & rst == rst drop")?;
    trial.server.start_again().await?;
    trial.recover().await;
    trial.bites(0.5)?;
    trial.finish(String::new()).await
}

/// The sender dies with its host and is back, as another session, while the
/// server still holds its stream: no FIN, no RST.
pub async fn half_open_sender(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut trial = Trial::start(bench, Layout::networked(row, bench)).await?;
    let cut = Rules::partition()?;
    trial.sender.kill().await?;
    trial.hold_beside(Duration::from_secs(2)).await?;
    drop(cut);
    let _no_resets = Rules::set(Host::Camera, "tcp flags & rst == rst drop")?;
    let online = "flatframe_inference_camera_online{camera=\"hit\"}";
    ensure!(trial.server.metrics().await?.count(online)? == 1, "the server noticed at once: nothing is half open");
    trial.sender.start_again().await?;
    trial.recover().await;
    trial.finish(String::new()).await
}
