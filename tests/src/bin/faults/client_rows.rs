//! Rows whose fault are clients of the results. Beside them a client reads as
//! it should, and both cameras must not notice.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::wait::try_answered;

use crate::clients::{Clients, Reading};
use crate::layout::{BESIDE, HIT, Layout, file_camera};
use crate::rows::Bench;
use crate::table::Measured;
use crate::trial::Trial;

const CLIENTS: usize = 16;
const STORM_CLIENTS: u32 = 1_000;
const STORM: Duration = Duration::from_secs(10);
/// Longest time in which the server may notice that clients are gone.
const GONE: Duration = Duration::from_secs(10);

async fn trial(bench: &Bench, row: &'static str) -> anyhow::Result<Trial> {
    Trial::start(bench, Layout::local(row, file_camera(HIT, bench) + &file_camera(BESIDE, bench))).await
}

/// Holds `clients` against the server for 12 s beside one that reads; what the
/// reader got, of what was published.
async fn hold(trial: &mut Trial, reading: Reading) -> anyhow::Result<String> {
    let url = trial.server_url()?;
    let published =
        async |trial: &Trial| trial.server.metrics().await?.count("flatframe_inference_results_published_total");
    let reader = Clients::watch(&url, 1, Reading::AtOnce).await?;
    let before = published(trial).await?;
    let clients = Clients::watch(&url, CLIENTS, reading).await?;
    trial.hold(Duration::from_secs(12)).await?;
    let metrics = trial.server.metrics().await?;
    let (missed, cut) = (
        metrics.count("flatframe_inference_results_missed_total")?,
        metrics.count("flatframe_inference_subscribers_cut_total")?,
    );
    let due = published(trial).await? - before;
    let seen = clients.leave().await;
    let read = reader.leave().await;
    let got = read.results.load(Relaxed) as i64;
    ensure!(missed > 0, "the clients missed nothing: they were no burden");
    ensure!(got as f64 >= 0.7 * due as f64, "the client that reads got {got} of {due} results");
    if reading == Reading::Never {
        ensure!(cut as usize == CLIENTS, "{cut} of {CLIENTS} stalled clients were cut");
    } else {
        // They may be cut as well: results go out in batches, and a batch that
        // is not taken within 5 s is no better than none.
        ensure!(seen.results.load(Relaxed) > 0, "the clients that read slowly got nothing");
    }
    Ok(format!("a reader beside them got {got} of {due} results; they missed {missed}; {cut} cut"))
}

async fn watched(bench: &Bench, row: &'static str, reading: Reading) -> anyhow::Result<Measured> {
    let mut trial = trial(bench, row).await?;
    let note = hold(&mut trial, reading).await?;
    trial.recover().await;
    all_gone(&trial).await?;
    trial.finish(note).await
}

pub async fn slow(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    watched(bench, row, Reading::Every(Duration::from_secs(1))).await
}

pub async fn stalled(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    watched(bench, row, Reading::Never).await
}

/// Nothing is left of the clients at the server.
async fn all_gone(trial: &Trial) -> anyhow::Result<()> {
    let subscribers = "flatframe_inference_place_live{place=\"subscribers\"}";
    let is_gone = async || (trial.server.metrics().await.ok()?.count(subscribers).ok()? == 0).then_some(());
    try_answered("the server knows that all clients are gone", GONE, is_gone).await.map(drop)
}

async fn blow(trial: &mut Trial) -> anyhow::Result<String> {
    let begin = trial.begin().await?;
    let seen = Clients::storm(&trial.server_url()?, STORM_CLIENTS, Instant::now() + STORM)?.join().await;
    trial.end(&begin).await?;
    let (served, refused) = (seen.served.load(Relaxed), seen.refused.load(Relaxed));
    ensure!(served > 0, "no client of the storm was served");
    ensure!(served + refused >= u64::from(STORM_CLIENTS), "the storm was {served} + {refused} calls");
    Ok(format!("{served} calls served, {refused} refused"))
}

/// What the allocator keeps of a burst it keeps once: judged is a second storm,
/// which must not add to it. What the first one left is told.
pub async fn storm(bench: &Bench, row: &'static str) -> anyhow::Result<Measured> {
    let mut trial = trial(bench, row).await?;
    let before = trial.server.used().rss_bytes.unwrap_or_default();
    blow(&mut trial).await?;
    all_gone(&trial).await?;
    let left = trial.server.used().rss_bytes.unwrap_or_default().saturating_sub(before);
    trial.count_from_here();
    let note = blow(&mut trial).await?;
    trial.recover().await;
    all_gone(&trial).await?;
    trial.finish(format!("{note}; a first storm left {} KiB", left / 1024)).await
}
