//! A real NATS server with JetStream, for tests of the result bus. Ends with
//! its handle; may be killed and started again on the same folder.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::program::free_address;
use crate::wait::until;

/// The server as a program.
pub const PROGRAM: &str = "nats-server";
/// Its configuration, in its folder.
const CONFIG: &str = "nats.conf";
/// It listens within this.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// What a server asks of its clients.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// A user and a password.
    pub login: Option<(String, String)>,
    /// Subjects on which that user may not publish.
    pub denied: Vec<String>,
    /// Certificate and key: it speaks TLS alone.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A running server, or one that was killed.
pub struct Nats {
    /// Where it listens.
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    process: Option<Child>,
    is_tls: bool,
}

impl Nats {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it is not installed or there is no port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&Terms::default()).await
    }

    /// As [`Nats::start`], with those terms.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn start_with(terms: &Terms) -> anyhow::Result<Self> {
        let (address, folder) = (free_address()?, tempfile::tempdir()?);
        let mut text = format!("listen: \"{address}\"\njetstream {{ store_dir: {:?} }}\n", folder.path().join("store"));
        if let Some((user, password)) = &terms.login {
            let denied = &terms.denied;
            writeln!(
                text,
                "authorization {{ users = [ {{ user: {user:?}, password: {password:?}, \
                 permissions: {{ publish: {{ deny: {denied:?} }} }} }} ] }}"
            )?;
        }
        if let Some((cert, key)) = &terms.tls {
            writeln!(text, "tls {{ cert_file: {cert:?}, key_file: {key:?} }}")?;
        }
        std::fs::write(folder.path().join(CONFIG), text)?;
        let mut nats = Self { address, folder, process: None, is_tls: terms.tls.is_some() };
        nats.resume().await?;
        Ok(nats)
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(PROGRAM);
        command.arg("-c").arg(self.folder.path().join(CONFIG));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(command.spawn().with_context(|| format!("{PROGRAM} starts"))?);
        let address = self.address;
        until("the NATS server listens", START_DEADLINE, || std::net::TcpStream::connect(address).is_ok()).await;
        Ok(())
    }

    /// Kills it; what it wrote stays.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it runs")?;
        process.kill().await?;
        Ok(())
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "tls" } else { "nats" }, self.address)
    }

    /// A folder of its own.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}
