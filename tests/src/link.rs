//! A wire between client and server that a test can delay, freeze or cut: a
//! TCP relay on loopback. A delay is latency alone and limits no rate. Bounded:
//! 1 MiB for each direction of a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const BUFFER_BYTES: usize = 16 * 1024;
/// Pieces of at most [`BUFFER_BYTES`] on their way in one direction.
const PIECES: usize = 64;

/// How the wire behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Condition {
    /// Every piece of data takes so long, in each direction.
    pub delay: Duration,
    /// Nothing passes, nothing is refused.
    pub frozen: bool,
}

/// A relay to one server.
pub struct Link {
    /// Where clients connect.
    pub address: SocketAddr,
    condition: watch::Sender<Condition>,
    cut: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    /// Relays to `server`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (condition, _) = watch::channel(Condition::default());
        let (cut, _) = watch::channel(0);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let relay = Arc::new((condition.clone(), cut.clone(), stop.clone(), tasks.clone()));
        tasks.spawn(async move {
            let (condition, cut, stop, tasks) = &*relay;
            while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (condition, mut cuts, stop) = (condition.subscribe(), cut.subscribe(), stop.clone());
                tasks.spawn(async move {
                    let relaying = relay_one(client, server, condition);
                    tokio::select! {
                        _ = relaying => {}
                        _ = cuts.changed() => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
        Ok(Self { address, condition, cut, stop, tasks })
    }

    /// As a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how the wire behaves, for open connections too.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }

    /// Breaks every open connection; new ones are accepted.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Ends the relay.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn relay_one(
    client: TcpStream,
    server: SocketAddr,
    condition: watch::Receiver<Condition>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::try_join!(
        relay_way(client_read, server_write, condition.clone()),
        relay_way(server_read, client_write, condition)
    )?;
    Ok(())
}

async fn relay_way(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    condition: watch::Receiver<Condition>,
) -> std::io::Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::try_join!(take(from, sender, condition.clone()), give(receiver, to, condition))?;
    Ok(())
}

/// Reads what comes, and says when each piece is due at the other end.
async fn take(
    mut from: impl AsyncRead + Unpin,
    way: mpsc::Sender<(Instant, Vec<u8>)>,
    condition: watch::Receiver<Condition>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let delay = condition.borrow().delay;
        // Waits while the wire is full; closed when the other end is gone.
        if way.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes each piece when it is due.
async fn give(
    mut way: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: impl AsyncWrite + Unpin,
    mut condition: watch::Receiver<Condition>,
) -> std::io::Result<()> {
    while let Some((due, piece)) = way.recv().await {
        tokio::time::sleep_until(due.into()).await;
        // Fails only when the link itself is gone.
        if condition.wait_for(|condition| !condition.frozen).await.is_err() {
            return Ok(());
        }
        to.write_all(&piece).await?;
    }
    to.shutdown().await
}
