//! One metric of a running service, as Prometheus would read it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The value of a metric that has no labels, at `admin`; `None` before the
/// service answers, or when it does not show it.
pub async fn metric(admin: SocketAddr, name: &str) -> Option<f64> {
    let mut socket = TcpStream::connect(admin).await.ok()?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await.ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}
