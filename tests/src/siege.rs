//! A server under attack: the real inference-service as a program, a camera in
//! order beside the attacker, and what must hold meanwhile and afterwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::ensure;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::{GetResourcesRequest, GetResourcesResponse, Outcome, publish_response};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::camera::{PATIENCE, RawCamera, hello};
use crate::media::textured_jpeg;
use crate::program::{Program, connect, free_address};
use crate::wait::{answered, until};

const SIZE: PictureSize = PictureSize::new(160, 120);
const TTL: Duration = PATIENCE;
/// Outcomes that show that a camera goes on.
const SOME: u64 = 30;
/// What the allocator may keep of an attack that is over, bytes: glibc kept
/// 23 MiB of 64 calls on each of 100 connections, after nine rounds of them as
/// after five.
const KEPT_BYTES: u64 = 28 << 20;

/// A running server with a camera.
pub struct Siege {
    /// Where it listens.
    pub address: SocketAddr,
    server: Program,
    resources: AdminServiceClient<Channel>,
    camera: Arc<Counts>,
    stop: CancellationToken,
    pumping: JoinHandle<anyhow::Result<()>>,
    before: GetResourcesResponse,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    outcomes: AtomicU64,
    analyzed: AtomicU64,
}

impl Siege {
    /// Starts the server with `limits` (lines of TOML) and the camera, and
    /// waits until it runs evenly.
    ///
    /// # Errors
    /// When the server does not start.
    pub async fn begin(limits: &str) -> anyhow::Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let config = format!(
            "[listen]\ngrpc = '{address}'\nadmin = '{admin}'\npage = ''\n[limits]\n{limits}\n[workers]\ncount = 1\n\
             [vision]\nmax_picture = '640x480'\n[vision.stub_engine]\ntime_us = 10000\nwait = 'sleep'\nface = true\n"
        );
        let server = Program::start("inference-service", &config)?;
        let channel = connect(&address.to_string(), PATIENCE).await?;
        let mut resources = AdminServiceClient::new(channel.clone());
        let (camera, stop) = (Arc::<Counts>::default(), CancellationToken::new());
        let (stream, _) = RawCamera::open(channel, hello("beside", 1)).await?;
        let pumping = tokio::spawn(pump(stream, camera.clone(), stop.clone()));
        until("the camera runs", PATIENCE, || camera.analyzed.load(Relaxed) >= SOME).await;
        let before = resources.get_resources(GetResourcesRequest {}).await?.into_inner();
        Ok(Self { address, server, resources, camera, stop, pumping, before })
    }

    /// Shows, while the attacker holds what it has, that the camera beside goes
    /// on, that a probe is answered and that another camera is welcome.
    ///
    /// # Panics
    /// When one of them is not served within [`PATIENCE`].
    pub async fn others_are_served(&self) {
        let goal = self.camera.analyzed.load(Relaxed) + SOME;
        until("the camera beside goes on", PATIENCE, || self.camera.analyzed.load(Relaxed) >= goal).await;
        let mut another = answered("another camera is welcome", PATIENCE, async || {
            let channel = connect(&self.address.to_string(), PATIENCE).await.ok()?;
            Some(RawCamera::open(channel, hello("another", 1)).await.ok()?.0)
        })
        .await;
        another.send_frame(textured_jpeg(SIZE, 1), SIZE, TTL).await.expect("sends");
        assert_eq!(another.outcome().await.expect("answered").outcome(), Outcome::Analyzed);
    }

    /// The server's resident memory, bytes.
    ///
    /// # Panics
    /// When the server is gone.
    pub fn rss_bytes(&self) -> u64 {
        self.server.used().rss_bytes.expect("the server runs")
    }

    /// Shows, when the attacker is gone, that memory stayed below the budget
    /// and is back, that files are back, and that every frame has its outcome.
    ///
    /// # Errors
    /// What does not hold.
    ///
    /// # Panics
    /// When something is not back within [`PATIENCE`].
    pub async fn end(mut self, attack: &str) -> anyhow::Result<()> {
        let files = self.before.open_files;
        let rss_before = self.before.rss_bytes.unwrap_or_default();
        let mib = |bytes: Option<u64>| bytes.unwrap_or_default() as f64 / 1048576.0;
        println!("{attack}: {:.1} MiB before, {:.1} now", mib(self.before.rss_bytes), mib(Some(self.rss_bytes())));
        until("files are back", PATIENCE, || self.server.used().open_files.is_some_and(|now| Some(now) <= files)).await;
        until("memory is back", PATIENCE, || self.rss_bytes() <= rss_before + KEPT_BYTES).await;
        self.stop.cancel();
        self.pumping.await??;
        let (sent, outcomes) = (self.camera.sent.load(Relaxed), self.camera.outcomes.load(Relaxed));
        let analyzed = self.camera.analyzed.load(Relaxed);
        ensure!(sent == outcomes, "{sent} frames have {outcomes} outcomes");
        let after = self.resources.get_resources(GetResourcesRequest {}).await?.into_inner();
        println!(
            "{attack}: MiB before {:.1}, peak {:.1}, after {:.1}, budget {:.1}; files {:?} -> {:?}; camera: {analyzed} of {sent} analysed",
            mib(self.before.rss_bytes),
            mib(after.rss_peak_bytes),
            mib(after.rss_bytes),
            mib(Some(after.budget_bytes)),
            self.before.open_files,
            after.open_files,
        );
        ensure!(after.rss_peak_bytes.is_some_and(|peak| peak < after.budget_bytes), "memory above the budget");
        ensure!(after.ledger_balance == 0, "the ledger is off by {}", after.ledger_balance);
        for place in &after.places {
            ensure!(place.live <= place.cap, "{}: {} of {}", place.name, place.live, place.cap);
        }
        Ok(())
    }
}

/// Sends a frame for each credit until `stop`, then waits for the last outcome.
async fn pump(mut camera: RawCamera, counts: Arc<Counts>, stop: CancellationToken) -> anyhow::Result<()> {
    let jpeg = textured_jpeg(SIZE, 1);
    while !stop.is_cancelled() || counts.outcomes.load(Relaxed) < counts.sent.load(Relaxed) {
        match camera.next().await? {
            Some(publish_response::Message::Credit(credit)) if !stop.is_cancelled() => {
                for _ in 0..credit.frames {
                    camera.send_frame(jpeg.clone(), SIZE, TTL).await?;
                    counts.sent.fetch_add(1, Relaxed);
                }
            }
            Some(publish_response::Message::Outcome(outcome)) => {
                counts.outcomes.fetch_add(1, Relaxed);
                counts.analyzed.fetch_add(u64::from(outcome.outcome() == Outcome::Analyzed), Relaxed);
            }
            Some(_) => {}
            None => anyhow::bail!("the server ended the camera's stream"),
        }
    }
    Ok(())
}
