//! One of the two services as a program: started by whatever puts it where it
//! belongs, its log in a file, its counters read from /metrics, and ended
//! whatever happens to the harness.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use e2e::metrics::Metrics;
use e2e::program::{Program, free_address};
use flatframe_shared::process::ProcessUse;

use crate::network::Host;

/// Longest end in order: 10 s, and some for a busy machine.
pub const END: Duration = Duration::from_secs(13);

/// How a service is started, again and again.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `inference-service` or `ingest-service`.
    pub program: &'static str,
    /// What the table calls it.
    pub name: &'static str,
    /// Where it runs.
    pub host: Host,
    /// What stands between the host and the program: `env NAME=VALUE`.
    pub by: Vec<String>,
    /// Where its log goes, as a shell redirects it.
    pub log: String,
    /// Its configuration.
    pub toml: String,
    /// Port of its /metrics.
    pub admin_port: u16,
}

/// A running service.
pub struct Service {
    /// How it was started.
    pub plan: Plan,
    program: Program,
}

/// A port that is free here; on a host of its own nearly all are.
///
/// # Errors
/// When none is.
pub fn free_port() -> std::io::Result<u16> {
    free_address().map(|address| address.port())
}

impl Service {
    /// Starts it; does not wait until it serves.
    ///
    /// # Errors
    /// When it is not built or cannot be started.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        // The kernel ends it when the harness dies without a word.
        let mut starter: Vec<String> = ["setpriv", "--pdeathsig", "KILL"].map(String::from).into();
        let redirect = format!("exec \"$@\" {}", plan.log);
        starter.extend(["sh", "-c", &redirect, "sh"].map(String::from));
        starter.extend(plan.host.starter());
        starter.extend(["env", "NO_COLOR=1"].map(String::from));
        starter.extend(plan.by.iter().cloned());
        let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
        // Hosts are namespaces that nobody else reaches.
        let program = Program::start_with(&starter, plan.program, &["--insecure"], &plan.toml)?;
        Ok(Self { plan, program })
    }

    /// Kills it if it still runs, and starts it anew.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.kill().await?;
        *self = Self::start(self.plan.clone())?;
        Ok(())
    }

    /// SIGKILL, and waits for its end; no error when it has ended already.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        // Fails when it has ended: then it needs none.
        let _ = self.program.signal(libc::SIGKILL);
        self.program.wait(END).await.map(drop)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        self.program.signal(signal).with_context(|| format!("signal to {}", self.plan.name))
    }

    /// SIGTERM, and waits for its end; how it ended if it was not in order.
    /// Its exit code says whether its last counts balanced.
    ///
    /// # Errors
    /// When it had ended before.
    pub async fn end(&mut self) -> anyhow::Result<Option<String>> {
        self.signal(libc::SIGTERM)?;
        Ok(match self.program.wait(END).await {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("{}: {status}", self.plan.name)),
            Err(error) => Some(format!("{}: {error:#}", self.plan.name)),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Threads of its runtime: those that run tasks, and those for what blocks,
    /// of which it starts more when they are needed and keeps them.
    pub fn runtime_threads(&self) -> i64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.map(name).filter(|name| name.starts_with("tokio-")).count() as i64
    }

    /// The most of them that its configuration allows; 0 for the server, which
    /// starts all of its threads at once.
    pub fn most_runtime_threads(&self) -> i64 {
        match self.plan.program {
            // runtime.worker_threads, and one for each camera and two more.
            "ingest-service" => 1 + self.plan.toml.matches("[[camera]]").count() as i64 + 2,
            _ => 0,
        }
    }

    /// What it uses now.
    pub fn used(&self) -> ProcessUse {
        self.program.used()
    }

    /// Reads /metrics.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let address = SocketAddr::from((self.plan.host.reached_at(), self.plan.admin_port));
        Metrics::read(address).await.with_context(|| format!("/metrics of {}", self.plan.name))
    }
}

/// Redirects a log to the file at `path`, adding to it.
pub fn log_to(path: &Path) -> String {
    format!(">>'{}' 2>&1", path.display())
}

/// A file in `folder` for the log of `name`.
pub fn log_file(folder: &Path, row: &str, name: &str) -> PathBuf {
    folder.join(format!("{row}.{name}.log"))
}

/// The last lines of a log; empty when there is none.
pub fn last_lines(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
