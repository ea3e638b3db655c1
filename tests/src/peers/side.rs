//! The sides of the comparison, and each of them started as a program on the
//! measured cores.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use super::client::Client;
use super::cores::{Cores, bind};
use super::load::PATIENCE;
use super::pictures::Pictures;
use super::python::{self, Python};
use super::tree::{TreeUse, use_of_tree};
use crate::program::{binary, free_address};

/// Longest time from start to the first answer: models load, Python imports.
const START: Duration = Duration::from_secs(60);
/// Longest time from the signal to the end; then it is killed.
const STOP: Duration = Duration::from_secs(5);
/// Between two tries to reach a program that starts.
const PAUSE: Duration = Duration::from_millis(50);
/// Frames of one camera on their way at once, for every side: the default of
/// inference-service's limits.window.
pub const WINDOW: usize = 2;
/// Calls at once that the bounded Python server takes.
const BOUNDED_CALLS: usize = 16;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The engine without any service.
    BareLoop,
    /// inference-service, cameras on streams.
    Ours,
    /// inference-service, one call for each picture.
    OursUnary,
    /// Peer (a): one gRPC call for each picture.
    PythonGrpc,
    /// Peer (a) that refuses calls beyond a fixed number.
    PythonGrpcBounded,
    /// Peer (b): base64 in JSON over HTTP.
    Flask,
}

impl Side {
    /// All that are measured with cameras that wait for their answers.
    pub const CLOSED: [Self; 5] = [Self::BareLoop, Self::Ours, Self::OursUnary, Self::PythonGrpc, Self::Flask];
    /// All that are measured at overload.
    pub const OVERLOAD: [Self; 5] =
        [Self::Ours, Self::OursUnary, Self::PythonGrpc, Self::PythonGrpcBounded, Self::Flask];

    /// Name in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::BareLoop => "bare_loop",
            Self::Ours => "ours",
            Self::OursUnary => "ours_unary",
            Self::PythonGrpc => "python_grpc",
            Self::PythonGrpcBounded => "python_grpc_bounded",
            Self::Flask => "flask",
        }
    }

    /// Name for people.
    pub fn name(self) -> String {
        match self {
            Self::BareLoop => "bare loop".into(),
            Self::Ours => "ours, camera streams".into(),
            Self::OursUnary => "ours, unary Detect".into(),
            Self::PythonGrpc => "Python gRPC".into(),
            Self::PythonGrpcBounded => format!("Python gRPC, at most {BOUNDED_CALLS} calls"),
            Self::Flask => "Flask, base64 JSON".into(),
        }
    }
}

/// What all sides are started with.
pub struct Setup {
    /// Where they run.
    pub cores: Cores,
    /// For the Python sides.
    pub python: Python,
    /// Keys of inference-service.
    pub set: Vec<(String, String)>,
}

/// A running side.
pub struct Server {
    /// Which.
    pub side: Side,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    pid: u32,
    log: tempfile::NamedTempFile,
    _config: tempfile::NamedTempFile,
}

impl Server {
    /// Starts a side for so many cameras and waits for its first answer.
    ///
    /// # Errors
    /// With the end of its log, when it does not answer within a minute.
    pub async fn start(side: Side, setup: &Setup, cameras: usize, pictures: &Pictures) -> anyhow::Result<Self> {
        let address = free_address()?;
        let (mut config, log) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
        let mut command = match side {
            Side::Ours | Side::OursUnary => {
                config.write_all(our_config(address, cameras)?.as_bytes())?;
                let mut command = Command::new(binary("inference-service")?);
                command.arg("--config").arg(config.path());
                for (key, value) in &setup.set {
                    command.arg("--set").arg(format!("{key}={value}"));
                }
                command
            }
            Side::PythonGrpc | Side::PythonGrpcBounded => {
                let mut command = script(setup, "grpc_peer.py", address);
                if side == Side::PythonGrpcBounded {
                    command.args(["--max-calls", &BOUNDED_CALLS.to_string()]);
                }
                command
            }
            Side::Flask => script(setup, "flask_peer.py", address),
            Side::BareLoop => bail!("the bare loop serves nobody"),
        };
        bind(&mut command, &setup.cores.server);
        command.stdin(Stdio::null()).stdout(log.reopen()?).stderr(log.reopen()?).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("start {}", side.name()))?;
        let pid = child.id().context("a program that runs has an id")?;
        let mut server = Self { side, address, child, pid, log, _config: config };
        server.answers(pictures).await.with_context(|| format!("{}:\n{}", side.name(), server.log_end()))?;
        Ok(server)
    }

    async fn answers(&mut self, pictures: &Pictures) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended before it served: {status}");
            }
            let answer = match self.client().await {
                Ok(mut client) => client.call(&pictures.all[0], START).await.map(drop),
                Err(error) => Err(error),
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(error) => ensure!(start.elapsed() < START, "no answer within {START:?}: {error:#}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A client of its own connection.
    ///
    /// # Errors
    /// When it does not accept.
    pub async fn client(&self) -> anyhow::Result<Client> {
        match self.side {
            Side::Flask => Client::http(self.address).await,
            _ => Client::grpc(self.address).await,
        }
    }

    /// What it and its children have used.
    pub fn used(&self) -> TreeUse {
        use_of_tree(self.pid)
    }

    /// Ends it; returns what it had used.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn stop(mut self) -> anyhow::Result<TreeUse> {
        let used = self.used();
        ensure!(self.child.try_wait()?.is_none(), "{} ended by itself:\n{}", self.side.name(), self.log_end());
        // SAFETY: kill takes two integers; the id is our child's, which is not
        // reaped before `wait` returns.
        unsafe { libc::kill(self.pid as i32, libc::SIGTERM) };
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(used)
    }

    /// The last lines of its log.
    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.log.path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// Room for `cameras`, and for those of the warm-up that are just leaving.
fn our_config(grpc: SocketAddr, cameras: usize) -> anyhow::Result<String> {
    let admin = free_address()?;
    let streams = 2 * cameras.max(16);
    // A call holds its slot until its client has read the answer, and the next
    // one may come before that is seen.
    let calls = (2 * WINDOW * cameras).clamp(8, 1024);
    Ok(format!(
        "[listen]\ngrpc = \"{grpc}\"\nadmin = \"{admin}\"\npage = \"\"\n\
         [limits]\nmax_streams = {streams}\nmax_cameras = {}\nmax_connections = {}\nmax_detect_calls = {calls}\n\
         call_deadline_s = {}\n\
         [telemetry]\nlog = \"warn\"\n",
        2 * streams,
        4 * streams,
        PATIENCE.as_secs(),
    ))
}

fn script(setup: &Setup, name: &str, address: SocketAddr) -> Command {
    let path: PathBuf = python::folder().join(name);
    let mut command = Command::new(&setup.python.interpreter);
    command.arg(path).args(["--port", &address.port().to_string()]).env("PYTHONPATH", &setup.python.generated);
    command
}
