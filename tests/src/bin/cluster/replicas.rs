//! Servers as programs, each on a loopback address of its own with one port, and
//! the hosts file that gives their name.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::program::{Program, connect, free_address};
use flatframe_shared::r#gen::v1::GetResourcesRequest;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;

/// The name of all replicas.
pub const NAME: &str = "inference.flatframe.test";
/// The net of their addresses, on loopback.
const NET: [u8; 3] = [127, 0, 77];
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);
const ASK: Duration = Duration::from_secs(5);

/// What a replica has in place of the models, or the models.
#[derive(Debug, Clone, Copy)]
pub enum Engine {
    /// Takes no processor time: what is measured is everything else.
    Stub,
    /// The embedded models.
    Real,
}

/// One server.
pub struct Replica {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its HTTP is.
    pub admin: SocketAddr,
    toml: String,
    core: Option<usize>,
    program: Option<Program>,
}

/// Memory of a server.
pub struct Memory {
    /// The most it had resident.
    pub peak_bytes: u64,
    /// Its computed bound.
    pub budget_bytes: u64,
}

impl Replica {
    /// The replica with that number at `port`, not started. `streams` is its
    /// room for cameras; with `core` it runs on that one alone; `bus` is the URL
    /// of the one that it shares.
    ///
    /// # Errors
    /// When there is no port.
    pub fn new(
        number: u8,
        port: u16,
        streams: usize,
        engine: Engine,
        core: Option<usize>,
        bus: Option<&str>,
    ) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::new(NET[0], NET[1], NET[2], number), port));
        let admin = free_address()?;
        let mut toml = format!(
            "[listen]\ngrpc = '{address}'\nadmin = '{admin}'\npage = ''\n[limits]\nmax_streams = {streams}\n\
             max_cameras = {streams}\nmax_connections = {}\nmax_frame_bytes = 65536\n[telemetry]\nlog = 'warn'\n",
            2 * streams + 32
        );
        match engine {
            Engine::Stub => toml.push_str("[vision.stub_engine]\ntime_us = 500\nwait = 'sleep'\nface = true\n"),
            Engine::Real => toml.push_str("[workers]\ncount = 1\n"),
        }
        if let Some(url) = bus {
            let name = replica_name(number);
            writeln!(toml, "[bus]\nnats = '{url}'\nreplica = '{name}'\nmax_cameras = {streams}")?;
        }
        Ok(Self { address, admin, toml, core, program: None })
    }

    /// Starts it and waits until it accepts.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.program = Some(match self.core {
            Some(core) => Program::start_by(&["taskset", "-c", &core.to_string()], "inference-service", &self.toml)?,
            None => Program::start("inference-service", &self.toml)?,
        });
        connect(&self.address.to_string(), START).await.map(drop)
    }

    /// The program.
    ///
    /// # Errors
    /// When it does not run.
    pub fn program(&self) -> anyhow::Result<&Program> {
        self.program.as_ref().with_context(|| format!("{} does not run", self.address))
    }

    /// Sends a signal; SIGKILL ends it for good.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn signal(&mut self, signal: i32) -> anyhow::Result<()> {
        self.program()?.signal(signal)?;
        if signal == libc::SIGKILL
            && let Some(mut program) = self.program.take()
        {
            program.wait(STOP).await?;
        }
        Ok(())
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When it does not end by itself with a ledger that balances.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut program = self.program.take().context("it does not run")?;
        program.signal(libc::SIGTERM)?;
        let status = program.wait(STOP).await?;
        ensure!(status.success(), "{} ended with {status}: its ledger did not balance", self.address);
        Ok(())
    }

    /// Its memory now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn memory(&self) -> anyhow::Result<Memory> {
        let mut admin = AdminServiceClient::new(connect(&self.address.to_string(), ASK).await?);
        let told = tokio::time::timeout(ASK, admin.get_resources(GetResourcesRequest {})).await??.into_inner();
        let peak_bytes = told.rss_peak_bytes.context("/proc cannot be read")?;
        Ok(Memory { peak_bytes, budget_bytes: told.budget_bytes })
    }
}

/// How the replica with that number is called on the bus.
pub fn replica_name(number: u8) -> String {
    format!("replica-{number}")
}

/// Gives [`NAME`] the addresses of `replicas`. Who looks it up while it is
/// written may find nothing, as with DNS at times: the last answer holds.
///
/// # Errors
/// When the file cannot be written.
pub fn resolve_to(hosts: &Path, replicas: &[SocketAddr]) -> anyhow::Result<()> {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for replica in replicas {
        writeln!(text, "{} {NAME}", replica.ip())?;
    }
    // Into the file that is mounted there: another one would not be seen.
    std::fs::write(hosts, text).with_context(|| format!("write {}", hosts.display()))
}

/// A port that is free on loopback, for all replicas.
///
/// # Errors
/// When there is none.
pub fn port() -> anyhow::Result<u16> {
    Ok(free_address()?.port())
}
