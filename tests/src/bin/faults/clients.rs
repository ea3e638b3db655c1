//! Clients of the results that do harm: they read slowly, do not read, or come
//! and go by the thousand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use flatframe_shared::r#gen::v1::{
    WatchRequest, WatchResponse, result_service_client::ResultServiceClient, watch_response,
};
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Longest wait of a client for one step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause of a client of the storm between two calls; the first calls are spread
/// over it.
const STORM_PAUSE: Duration = Duration::from_secs(2);

/// What the clients of a row saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Results.
    pub results: AtomicU64,
    /// Results missed, as told.
    pub missed: AtomicU64,
    /// Times that a client was served.
    pub served: AtomicU64,
    /// Times that a client was refused or cut.
    pub refused: AtomicU64,
}

/// Clients at work; dropped with their tasks.
pub struct Clients {
    /// What they saw.
    pub seen: Arc<Seen>,
    tasks: JoinSet<()>,
}

/// How long a Watch client waits between two results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As they come.
    AtOnce,
    /// One in this time.
    Every(Duration),
    /// Never.
    Never,
}

impl Clients {
    /// `count` clients that watch all cameras of the server at `url`; returns
    /// when all are watching. Whoever is cut does not come back.
    ///
    /// # Errors
    /// When one is not served.
    pub async fn watch(url: &str, count: usize, reading: Reading) -> anyhow::Result<Self> {
        let (seen, mut tasks) = (Arc::<Seen>::default(), JoinSet::new());
        for _ in 0..count {
            let mut endpoint = Channel::from_shared(url.to_owned())?;
            if reading != Reading::AtOnce {
                // The window is closed after the first bytes, so that the
                // server feels what the client does not read.
                endpoint = endpoint.initial_stream_window_size(1);
            }
            let results = watch(&endpoint).await?;
            seen.served.fetch_add(1, Relaxed);
            tasks.spawn(read(results, reading, seen.clone()));
        }
        Ok(Self { seen, tasks })
    }

    /// `count` clients that connect, watch and leave, again and again until
    /// `end`.
    ///
    /// # Errors
    /// When `url` is none.
    pub fn storm(url: &str, count: u32, end: Instant) -> anyhow::Result<Self> {
        let (seen, mut tasks) = (Arc::<Seen>::default(), JoinSet::new());
        let endpoint = Channel::from_shared(url.to_owned())?;
        for number in 0..count {
            let (endpoint, seen) = (endpoint.clone(), seen.clone());
            tasks.spawn(async move {
                tokio::time::sleep(STORM_PAUSE * number / count).await;
                while Instant::now() < end {
                    let served = watch(&endpoint).await.is_ok();
                    let count = if served { &seen.served } else { &seen.refused };
                    count.fetch_add(1, Relaxed);
                    tokio::time::sleep(STORM_PAUSE).await;
                }
            });
        }
        Ok(Self { seen, tasks })
    }

    /// Waits until all have come to their own end.
    pub async fn join(mut self) -> Arc<Seen> {
        while self.tasks.join_next().await.is_some() {}
        self.seen
    }

    /// They leave.
    pub async fn leave(mut self) -> Arc<Seen> {
        self.tasks.shutdown().await;
        self.seen
    }
}

async fn watch(endpoint: &Endpoint) -> anyhow::Result<Streaming<WatchResponse>> {
    let watching = async {
        let channel = endpoint.connect().await?;
        anyhow::Ok(ResultServiceClient::new(channel).watch(WatchRequest::default()).await?.into_inner())
    };
    tokio::time::timeout(PATIENCE, watching).await.context("not served in time")?
}

async fn read(mut results: Streaming<WatchResponse>, reading: Reading, seen: Arc<Seen>) {
    loop {
        match reading {
            Reading::AtOnce => {}
            Reading::Every(pause) => tokio::time::sleep(pause).await,
            Reading::Never => std::future::pending().await,
        }
        match results.message().await {
            Ok(Some(WatchResponse { message: Some(watch_response::Message::Result(_)) })) => {
                seen.results.fetch_add(1, Relaxed);
            }
            Ok(Some(WatchResponse { message: Some(watch_response::Message::Gap(gap)) })) => {
                seen.missed.fetch_add(gap.missed, Relaxed);
            }
            // One server has no others.
            Ok(Some(WatchResponse { message: Some(watch_response::Message::Elsewhere(_)) | None })) => {}
            Ok(None) | Err(_) => {
                seen.refused.fetch_add(1, Relaxed);
                return;
            }
        }
    }
}
