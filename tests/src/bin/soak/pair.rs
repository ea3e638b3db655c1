//! Both services as programs, and what is read of them once a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::program::{Program, connect, free_address};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::{GetResourcesRequest, GetResourcesResponse};
use flatframe_shared::process::pss_bytes_of_pid;
use ingest_service::CameraConfig;
use ingest_service::source::pattern;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::sampler::{Sample, Service};
use crate::{Args, Engine};

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);
const SIZE: PictureSize = PictureSize::new(320, 240);
/// Pictures in the file, and of the HTTP camera.
const PICTURES: usize = 32;
/// Names of the two services, in the order in which everything here keeps them.
pub const SERVICES: [&str; 2] = ["inference-service", "ingest-service"];

/// The programs, and the folder that the cameras read.
pub struct Pair {
    inference: Program,
    inference_toml: String,
    ingest: Program,
    admin: [AdminServiceClient<Channel>; 2],
    grpc: SocketAddr,
    http_camera: tokio::task::JoinHandle<()>,
    _pictures: tempfile::TempDir,
}

/// How both ended.
pub struct End {
    /// Whether both ended by themselves, with code 0: their ledgers balanced.
    pub clean: bool,
}

impl Pair {
    /// Starts both; the HTTP camera goes away whenever `breaks` is told.
    pub async fn start(args: &Args, breaks: Arc<Notify>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let pictures = pictures()?;
        let file = folder.path().join("pictures.mjpeg");
        std::fs::write(&file, pictures.concat()).context("write the pictures")?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let http = listener.local_addr()?;
        let http_camera = tokio::spawn(crate::events::http_camera(listener, pictures, breaks));

        let (grpc, ingest_admin) = (free_address()?, free_address()?);
        let mut inference_toml = format!("[listen]\ngrpc = '{grpc}'\nadmin = '{}'\npage = ''\n", free_address()?);
        if args.engine == Engine::Stub {
            inference_toml.push_str("[vision.stub_engine]\ntime_us = 200\nwait = 'sleep'\nface = true\n");
        }
        for (key, value) in &args.set {
            let (section, key) = key.rsplit_once('.').context("--set takes SECTION.KEY=VALUE")?;
            inference_toml.push_str(&format!("[{section}]\n{key} = {value}\n"));
        }
        let inference = Program::start("inference-service", &inference_toml)?;
        // The ttl of a night camera; the rate is more than the server can do.
        let camera = |id: String, source: String| {
            format!("[[camera]]\nid = '{id}'\nsource = '{source}'\nfps = 240.0\nttl_ms = 2000\n")
        };
        let files = (0..args.cameras).map(|n| camera(format!("cam-{n}"), format!("file:{}", file.display())));
        let http = camera("http".into(), format!("mjpeg+http://{http}/"));
        // Pictures so large that the allocator's habits show: what is kept of a result once held them.
        let large = "[[camera]]\nid = 'large'\nsource = 'pattern'\nfps = 15.0\n".to_owned();
        let cameras: String = files.chain([http, large]).collect();
        let toml = format!(
            "[server]\naddress = 'http://{grpc}'\n[admin]\nlisten = ''\ngrpc_listen = '{ingest_admin}'\n{cameras}"
        );
        let ingest = Program::start("ingest-service", &toml)?;
        let admin = [client(grpc).await?, client(ingest_admin).await?];
        Ok(Self { inference, inference_toml, ingest, admin, grpc, http_camera, _pictures: folder })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.grpc
    }

    /// Stops the server in order and starts it again.
    pub async fn restart_server(&mut self) -> anyhow::Result<()> {
        self.inference.signal(libc::SIGTERM)?;
        let status = self.inference.wait(STOP).await?;
        ensure!(status.success(), "inference-service ended with {status}: its ledger did not balance");
        self.inference = Program::start("inference-service", &self.inference_toml)?;
        self.admin[0] = client(self.grpc).await?;
        Ok(())
    }

    /// Reads both.
    pub async fn sample(&mut self, at: Duration) -> anyhow::Result<Sample> {
        let mut services = [Service::default(), Service::default()];
        let mut frames = 0;
        for (place, service) in services.iter_mut().enumerate() {
            let answer = self.admin[place].get_resources(GetResourcesRequest {}).await;
            let told = answer.with_context(|| format!("{} does not answer", SERVICES[place]))?.into_inner();
            let pid = if place == 0 { self.inference.pid() } else { self.ingest.pid() };
            if place == 1 {
                frames = told.stages.iter().find(|stage| stage.name == "capture_to_answer").map_or(0, |s| s.frames);
            }
            *service = read(&told, pid)?;
        }
        Ok(Sample { at, frames, services })
    }

    /// Stops both in order.
    pub async fn stop(mut self) -> anyhow::Result<End> {
        let mut clean = true;
        for (name, program) in [("ingest-service", &mut self.ingest), ("inference-service", &mut self.inference)] {
            program.signal(libc::SIGTERM)?;
            let start = Instant::now();
            let status = program.wait(STOP).await?;
            println!("{name} ended with {status} after {:.1} s", start.elapsed().as_secs_f64());
            clean &= status.success();
        }
        self.http_camera.abort();
        Ok(End { clean })
    }
}

async fn client(address: SocketAddr) -> anyhow::Result<AdminServiceClient<Channel>> {
    Ok(AdminServiceClient::new(connect(&address.to_string(), START).await?))
}

fn read(told: &GetResourcesResponse, pid: u32) -> anyhow::Result<Service> {
    let need = |name: &str, value: Option<u64>| value.with_context(|| format!("{name} cannot be read"));
    Ok(Service {
        rss_bytes: need("rss", told.rss_bytes)?,
        rss_peak_bytes: need("rss_peak", told.rss_peak_bytes)?,
        pss_bytes: pss_bytes_of_pid(pid),
        swap_bytes: need("swap", told.swap_bytes)?,
        open_files: need("open_files", told.open_files)?,
        threads: need("threads", told.threads)?,
        allocator_in_use_bytes: told.allocator.as_ref().map(|allocator| allocator.in_use_bytes),
        allocator_held_bytes: told.allocator.as_ref().and_then(|allocator| allocator.held_bytes),
        budget_bytes: told.budget_bytes,
        ledger_balance: told.ledger_balance,
        places: told.places.iter().map(|place| (place.name.clone(), place.live, place.cap)).collect(),
        stages: told.stages.iter().map(|stage| (stage.name.clone(), stage.p50_us, stage.p99_us)).collect(),
    })
}

/// Pictures with faces that move.
fn pictures() -> anyhow::Result<Vec<bytes::Bytes>> {
    let config = CameraConfig {
        width_px: SIZE.width_px,
        height_px: SIZE.height_px,
        faces: 2,
        ..CameraConfig::new("cards", "pattern")
    };
    Ok(pattern::pictures(&config, PICTURES)?)
}
