//! The services as programs of their own, for what cannot be done inside one
//! process: signals, memory, files. Every program ends with its handle.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flatframe_shared::process::{ProcessUse, use_of_pid};
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::media::skipped;

/// A running program.
pub struct Program {
    child: Child,
    pid: u32,
    _config: tempfile::NamedTempFile,
}

/// Path of a binary of this workspace, beside the running one.
///
/// # Errors
/// When it is not built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    while folder.pop() {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        if folder.ends_with("target") {
            break;
        }
    }
    bail!("{name} is not built beside {:?}: run cargo build --workspace", std::env::current_exe()?)
}

/// Between two attempts to connect to a service that is starting.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// First port given out; below those that the system gives to outgoing
/// connections (32768 on Linux), so that none of them takes a port between the
/// choice and the bind.
const FIRST_PORT: u32 = 10_000;
/// Ports that one process looks at before it begins anew.
const PORTS_PER_PROCESS: u32 = 100;
/// Processes whose ports do not meet.
const PROCESSES: u32 = 220;

/// A loopback address whose port is free, and that this process did not give
/// out shortly before.
///
/// # Errors
/// When none is free.
pub fn free_address() -> std::io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = FIRST_PORT + std::process::id() % PROCESSES * PORTS_PER_PROCESS;
    for _ in 0..PORTS_PER_PROCESS {
        let port = first + NEXT.fetch_add(1, Relaxed) % PORTS_PER_PROCESS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(std::io::ErrorKind::AddrNotAvailable.into())
}

/// Whether programs that are not ours are installed; without one of them a
/// test says visibly that it did not run, or fails where all are to be there
/// (`FLATFRAME_REQUIRE_PEERS`).
pub fn are_installed(test: &str, programs: &[&str]) -> bool {
    let folders: Vec<_> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let is_missing = |program: &&&str| !folders.iter().any(|folder| folder.join(program).is_file());
    let Some(missing) = programs.iter().find(is_missing) else { return true };
    assert!(std::env::var_os("FLATFRAME_REQUIRE_PEERS").is_none(), "{test}: {missing} is not installed");
    skipped(test, &format!("{missing} is not installed"));
    false
}

/// A connection to a service that may still be starting.
///
/// # Errors
/// When it does not accept within `limit`.
pub async fn connect(address: &str, limit: Duration) -> anyhow::Result<Channel> {
    let until = Instant::now() + limit;
    loop {
        match Channel::from_shared(format!("http://{address}"))?.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if Instant::now() > until => return Err(error).context(format!("{address} does not answer")),
            Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
        }
    }
}

impl Program {
    /// Starts `name --config FILE` with `config` (TOML) in the file; its log
    /// goes to this process's stderr when `FLATFRAME_TEST_LOG` is set.
    ///
    /// # Errors
    /// When it is not built or the system refuses.
    pub fn start(name: &str, config: &str) -> anyhow::Result<Self> {
        Self::start_by(&[], name, config)
    }

    /// As [`Program::start`], started by another program that becomes it
    /// (exec): `ip netns exec NAME`, or a shell that enters a cgroup first.
    ///
    /// # Errors
    /// As [`Program::start`].
    pub fn start_by(starter: &[&str], name: &str, config: &str) -> anyhow::Result<Self> {
        Self::start_with(starter, name, &[], config)
    }

    /// As [`Program::start_by`], with more arguments.
    ///
    /// # Errors
    /// As [`Program::start`].
    pub fn start_with(starter: &[&str], name: &str, arguments: &[&str], config: &str) -> anyhow::Result<Self> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(config.as_bytes())?;
        let log = || if std::env::var_os("FLATFRAME_TEST_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
        let binary = binary(name)?;
        let mut command = match starter {
            [] => Command::new(binary),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
        };
        let child = command
            .arg("--config")
            .arg(file.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let pid = child.id().context("a program that runs has an id")?;
        Ok(Self { child, pid, _config: file })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it uses now.
    pub fn used(&self) -> ProcessUse {
        use_of_pid(self.pid)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: i32) -> std::io::Result<()> {
        // SAFETY: kill takes two integers; the id is our child's, which is not
        // reaped before `wait` returns its status.
        match unsafe { libc::kill(self.pid as i32, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(deadline, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("process {} did not end within {deadline:?}", self.pid),
        }
    }
}
