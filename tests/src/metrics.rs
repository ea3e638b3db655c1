//! What a running service shows Prometheus, read as Prometheus would.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for all metrics.
const SCRAPE: Duration = Duration::from_secs(10);
/// Most bytes read of them.
const SCRAPE_BYTES: u64 = 4 << 20;

/// All metrics of a service at one instant.
#[derive(Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Reads /metrics at `admin`.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn read(admin: SocketAddr) -> anyhow::Result<Self> {
        let ask = async {
            let mut socket = TcpStream::connect(admin).await?;
            socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
            let mut text = String::new();
            socket.take(SCRAPE_BYTES).read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let text = tokio::time::timeout(SCRAPE, ask).await.with_context(|| format!("{admin}: no answer"))??;
        ensure!(text.starts_with("HTTP/1.1 200"), "{admin}: {}", text.lines().next().unwrap_or_default());
        Ok(Self(text))
    }

    /// All of it, as it is sent.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The value of a series, such as `name` or `name{label="value"}`.
    pub fn value(&self, series: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        // An exemplar may follow.
        line.split(' ').next()?.parse().ok()
    }

    /// As [`Metrics::value`], for counts.
    ///
    /// # Errors
    /// When there is no such series.
    pub fn count(&self, series: &str) -> anyhow::Result<i64> {
        self.value(series).map(|value| value as i64).with_context(|| format!("/metrics shows no {series}"))
    }
}

/// One series of the service at `admin`; `None` before it answers, or when it
/// does not show it.
pub async fn metric(admin: SocketAddr, series: &str) -> Option<f64> {
    Metrics::read(admin).await.ok()?.value(series)
}
