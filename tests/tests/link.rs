//! The harness's own wire: a delay is latency and nothing else.

use std::time::{Duration, Instant};

use e2e::link::{Condition, Link};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// 4 MiB over 100 ms: one delay for all, not one for each of 256 reads, which
/// would take 25 s.
#[tokio::test]
async fn a_delay_limits_no_rate() {
    const BYTES: usize = 4 << 20;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let link = Link::start(listener.local_addr().expect("an address")).await.expect("a wire");
    let delay = Duration::from_millis(100);
    link.set(Condition { delay, frozen: false });
    let mut client = TcpStream::connect(link.address).await.expect("connects");
    let (mut server, _) = listener.accept().await.expect("accepts");
    let start = Instant::now();
    let sending = tokio::spawn(async move {
        client.write_all(&vec![7; BYTES]).await.expect("sends");
        client.shutdown().await.expect("ends");
    });
    let mut got = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), server.read_to_end(&mut got)).await;
    read.expect("not delayed piece by piece").expect("reads");
    assert_eq!(got.len(), BYTES);
    assert!(start.elapsed() >= delay, "delayed at all");
    sending.await.expect("sent");
    link.stop().await;
}
