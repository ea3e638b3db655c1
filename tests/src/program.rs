//! The services as programs of their own, for what cannot be done inside one
//! process: signals, memory, files. Every program ends with its handle.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use flatframe_shared::process::{ProcessUse, use_of_pid};
use tokio::process::{Child, Command};

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

/// A loopback address whose port is free now.
///
/// # Errors
/// When the system has none.
pub fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

impl Program {
    /// Starts `name --config FILE` with `config` (TOML) in the file; its log
    /// goes to this process's stderr when `FLATFRAME_TEST_LOG` is set.
    ///
    /// # Errors
    /// When it is not built or the system refuses.
    pub fn start(name: &str, config: &str) -> anyhow::Result<Self> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(config.as_bytes())?;
        let log = || if std::env::var_os("FLATFRAME_TEST_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
        let child = Command::new(binary(name)?)
            .arg("--config")
            .arg(file.path())
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
