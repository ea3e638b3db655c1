//! The result bus of the replicas, and what is judged of it: results that it
//! acknowledged, and visits that are counted once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::metrics::{Metrics, metric};
use e2e::nats::Nats;
use e2e::program::connect;
use flatframe_shared::clock::unix_us;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::{CameraState, ListCamerasRequest, QueryResultsRequest};
use tonic::transport::Channel;

const ASK: Duration = Duration::from_secs(5);
/// Replicas tell of their cameras once a second; after a move it takes two.
const TOLD: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// All results of a camera are asked for.
const ALL: u32 = 100_000;

/// The bus.
pub struct Bus {
    nats: Nats,
    since_ms: i64,
}

/// What all replicas together counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Visits {
    /// Cameras that are live somewhere.
    pub cameras: usize,
    /// Visits of all cameras: one person stands in front of each.
    pub visits: u64,
    /// Cameras whose counts say that a crash made them uncertain.
    pub uncertain: usize,
}

impl Bus {
    /// Starts a NATS server.
    ///
    /// # Errors
    /// When it is not installed.
    pub async fn start() -> anyhow::Result<Self> {
        Ok(Self { nats: Nats::start().await?, since_ms: 0 })
    }

    /// Waits until the replicas whose HTTP is at `admins` are on it: from here
    /// on it has every result.
    ///
    /// # Errors
    /// When they are not within ten seconds.
    pub async fn joined(&mut self, admins: impl IntoIterator<Item = SocketAddr>) -> anyhow::Result<()> {
        let start = Instant::now();
        for admin in admins {
            while metric(admin, "flatframe_inference_bus_away").await != Some(0.0) {
                ensure!(start.elapsed() < TOLD, "the replica at {admin} is not on the bus");
                tokio::time::sleep(LOOK).await;
            }
        }
        self.since_ms = unix_us() / 1000;
        Ok(())
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.nats.url()
    }

    /// Results that the bus acknowledged to the replica whose HTTP is at
    /// `admin`, since that began.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn acknowledged(admin: SocketAddr) -> anyhow::Result<u64> {
        let count = Metrics::read(admin).await?.count("flatframe_inference_bus_published_total")?;
        u64::try_from(count).context("a count")
    }

    /// Results of all `cameras` by the replica that analysed them, as the one
    /// at `asked` (which names itself by an empty name) gives them.
    ///
    /// # Errors
    /// When it does not answer, or an answer is incomplete.
    pub async fn results(&self, asked: SocketAddr, cameras: usize) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut client = client(asked).await?;
        let mut by_replica = BTreeMap::new();
        for number in 0..cameras {
            let request = QueryResultsRequest {
                camera_id: crate::crowd::camera_id(number),
                from_unix_ms: self.since_ms,
                to_unix_ms: unix_us() / 1000 + 60_000,
                max_results: ALL,
                page_token: String::new(),
            };
            let read = async {
                let mut pages = client.query_results(request).await?.into_inner();
                while let Some(page) = pages.message().await? {
                    ensure!(page.incomplete.is_empty(), "camera {number}: {}", page.incomplete);
                    for result in page.results {
                        *by_replica.entry(result.replica).or_default() += 1;
                    }
                }
                Ok(())
            };
            tokio::time::timeout(ASK, read).await.with_context(|| format!("results of camera {number}"))??;
        }
        Ok(by_replica)
    }

    /// Visits of all `cameras`, as the replica at `asked` knows them, once it
    /// knows all of them as live.
    ///
    /// # Errors
    /// When it does not within ten seconds.
    pub async fn visits(&self, asked: SocketAddr, cameras: usize) -> anyhow::Result<Visits> {
        let (mut client, start) = (client(asked).await?, Instant::now());
        loop {
            let list = tokio::time::timeout(ASK, client.list_cameras(ListCamerasRequest {})).await??.into_inner();
            let live = list.cameras.iter().filter(|camera| camera.state() == CameraState::Live);
            let counts = live.filter_map(|camera| camera.counts.as_ref());
            let mut all = Visits::default();
            for counts in counts {
                all.cameras += 1;
                all.visits += counts.visits.as_ref().map_or(0, |visits| u64::from(visits.faces));
                all.uncertain += usize::from(counts.uncertain);
            }
            if all.cameras == cameras && list.incomplete.is_empty() {
                return Ok(all);
            }
            ensure!(start.elapsed() < TOLD, "{asked} knows {all:?} of {cameras} cameras; {}", list.incomplete);
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn client(replica: SocketAddr) -> anyhow::Result<ResultServiceClient<Channel>> {
    Ok(ResultServiceClient::new(connect(&replica.to_string(), ASK).await?))
}
