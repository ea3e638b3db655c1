//! What a night brings beside frames. Every kind of guest has a fixed number of
//! tasks; what happens by the share of the run that is over happens as often in
//! five minutes as in twelve hours.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::{WatchRequest, watch_response::Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use crate::Args;

/// Clients that watch and never read.
const SLEEPERS: usize = 4;
/// A sleeper that was not cut wakes up and leaves.
const SLEEP: Duration = Duration::from_secs(30);
/// Clients that leave before the first byte, one after another.
const LEAVER_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for anything of the server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Times that the HTTP camera's connection breaks in a run.
const CAMERA_RESTARTS: u64 = 50;
/// Pictures of the HTTP camera: 50 a second.
const PICTURE_PERIOD: Duration = Duration::from_millis(20);

/// What happened.
#[derive(Debug, Default)]
pub struct Happened {
    /// Clients that watched and never read.
    pub slept: AtomicU64,
    /// Of them, cut by the server.
    pub cut: AtomicU64,
    /// Clients that left before the first byte, or in the middle of a word.
    pub left: AtomicU64,
    /// Watches that were opened anew and gave a result.
    pub reconnected: AtomicU64,
    /// Watches that gave nothing in time: the server was away, or at its limit.
    pub refused: AtomicU64,
    /// Times that the HTTP camera's connection broke.
    pub camera_restarts: AtomicU64,
    /// Results that the faithful client read.
    pub read: AtomicU64,
    /// Results that it missed, as it was told.
    pub missed: AtomicU64,
}

/// All guests of a run.
pub struct Night {
    happened: Arc<Happened>,
    progress: watch::Sender<f64>,
    tasks: TaskTracker,
}

impl Night {
    /// Lets them in. `breaks` is told when the HTTP camera is to go away.
    pub fn begin(args: &Args, server: SocketAddr, breaks: Arc<Notify>, stop: CancellationToken) -> Self {
        let (happened, tasks) = (Arc::new(Happened::default()), TaskTracker::new());
        let (progress, share) = watch::channel(0.0);
        let guest = |visit: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(visit).await;
            });
        };
        for _ in 0..SLEEPERS {
            guest(Box::pin(sleepers(server, happened.clone())));
        }
        guest(Box::pin(leavers(server, happened.clone())));
        guest(Box::pin(reconnects(server, args.reconnects, share.clone(), happened.clone())));
        guest(Box::pin(faithful(server, happened.clone())));
        guest(Box::pin(camera_breaks(breaks, share, happened.clone())));
        Self { happened, progress, tasks }
    }

    /// So much of the run is over, 0 to 1.
    pub fn advance(&mut self, progress: f64) {
        self.progress.send_replace(progress);
    }

    /// Waits until all have left; the run's token tells them to.
    pub async fn end(self) -> Arc<Happened> {
        self.tasks.close();
        self.tasks.wait().await;
        self.happened
    }
}

fn endpoint(server: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{server}")).expect("an address is a URL").connect_timeout(PATIENCE)
}

/// Opens a watch and sleeps on it, with as little room as HTTP/2 allows.
async fn sleepers(server: SocketAddr, happened: Arc<Happened>) {
    let endpoint = endpoint(server).initial_stream_window_size(1024).initial_connection_window_size(65_535);
    loop {
        let Ok(channel) = endpoint.connect().await else {
            tokio::time::sleep(PATIENCE / 10).await;
            continue;
        };
        let mut client = ResultServiceClient::new(channel);
        let Ok(results) = client.watch(WatchRequest::default()).await else {
            tokio::time::sleep(PATIENCE / 10).await;
            continue;
        };
        happened.slept.fetch_add(1, Relaxed);
        tokio::time::sleep(SLEEP).await;
        let mut results = results.into_inner();
        // A connection that was cut gives what had come, then an error.
        while let Ok(message) = tokio::time::timeout(PATIENCE, results.message()).await {
            match message {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    happened.cut.fetch_add(1, Relaxed);
                    break;
                }
            }
        }
    }
}

/// Connects and leaves: before the first byte, in the preface, after it, and
/// after a request.
async fn leavers(server: SocketAddr, happened: Arc<Happened>) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    for turn in 0u64.. {
        tokio::time::sleep(LEAVER_PAUSE).await;
        let first = match turn % 4 {
            0 => Vec::new(),
            1 => PREFACE[..10].to_vec(),
            2 => [PREFACE, SETTINGS].concat(),
            _ => {
                let Ok(channel) = endpoint(server).connect().await else { continue };
                let mut client = ResultServiceClient::new(channel);
                let asked = tokio::time::timeout(Duration::from_millis(1), client.watch(WatchRequest::default()));
                drop(asked.await);
                happened.left.fetch_add(1, Relaxed);
                continue;
            }
        };
        let Ok(mut socket) = TcpStream::connect(server).await else { continue };
        if socket.write_all(&first).await.is_ok() {
            happened.left.fetch_add(1, Relaxed);
        }
    }
}

/// Watches anew, `count` times over the run, where it left off.
async fn reconnects(server: SocketAddr, count: u64, mut progress: watch::Receiver<f64>, happened: Arc<Happened>) {
    let mut position = None;
    for turn in 0..count {
        let due = (turn as f64 + 1.0) / count as f64;
        if progress.wait_for(|progress| *progress >= due).await.is_err() {
            return;
        }
        match tokio::time::timeout(PATIENCE, watch_one(server, position)).await {
            Ok(Some(seen)) => {
                position = Some(seen);
                happened.reconnected.fetch_add(1, Relaxed);
            }
            Ok(None) | Err(_) => {
                happened.refused.fetch_add(1, Relaxed);
            }
        }
    }
    // The others go on.
    std::future::pending().await
}

/// The first result of a new watch: the server's epoch and its position.
async fn watch_one(server: SocketAddr, after: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let channel = endpoint(server).connect().await.ok()?;
    let request = WatchRequest {
        after_server_epoch: after.map(|(epoch, _)| epoch),
        after_position: after.map(|(_, position)| position),
        ..WatchRequest::default()
    };
    let mut results = ResultServiceClient::new(channel).watch(request).await.ok()?.into_inner();
    loop {
        if let Message::Result(result) = results.message().await.ok()??.message? {
            return Some((result.server_epoch, result.position));
        }
    }
}

/// Reads everything, and comes back when the server does.
async fn faithful(server: SocketAddr, happened: Arc<Happened>) {
    loop {
        if let Ok(channel) = endpoint(server).connect().await {
            read_all(channel, &happened).await;
        }
        tokio::time::sleep(PATIENCE / 10).await;
    }
}

async fn read_all(channel: Channel, happened: &Happened) {
    let Ok(results) = ResultServiceClient::new(channel).watch(WatchRequest::default()).await else { return };
    let mut results = results.into_inner();
    while let Ok(Some(message)) = results.message().await {
        match message.message {
            Some(Message::Result(_)) => {
                happened.read.fetch_add(1, Relaxed);
            }
            Some(Message::Gap(gap)) => {
                happened.missed.fetch_add(gap.missed, Relaxed);
            }
            Some(Message::Elsewhere(_)) | None => {}
        }
    }
}

/// Breaks the HTTP camera's connection, evenly over the run.
async fn camera_breaks(breaks: Arc<Notify>, mut progress: watch::Receiver<f64>, happened: Arc<Happened>) {
    for turn in 0..CAMERA_RESTARTS {
        let due = (turn as f64 + 1.0) / CAMERA_RESTARTS as f64;
        if progress.wait_for(|progress| *progress >= due).await.is_err() {
            return;
        }
        breaks.notify_waiters();
        happened.camera_restarts.fetch_add(1, Relaxed);
    }
    std::future::pending().await
}

/// An MJPEG camera: one client at a time, until its connection is to break.
pub async fn http_camera(listener: TcpListener, pictures: Vec<Bytes>, breaks: Arc<Notify>) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::select! {
            // The client is gone, or will be.
            _ = give_pictures(socket, &pictures) => {}
            () = breaks.notified() => {}
        }
    }
}

async fn give_pictures(mut socket: TcpStream, pictures: &[Bytes]) -> std::io::Result<()> {
    let mut request = [0; 4096];
    // Whatever it asks for, it gets the pictures.
    if socket.read(&mut request).await? == 0 {
        return Ok(());
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: multipart/x-mixed-replace; boundary=frame\r\n\r\n").await?;
    let mut ticks = tokio::time::interval(PICTURE_PERIOD);
    for picture in pictures.iter().cycle() {
        ticks.tick().await;
        let head = format!("--frame\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n", picture.len());
        socket.write_all(&[head.as_bytes(), picture, b"\r\n"].concat()).await?;
    }
    Ok(())
}
