//! Cameras that can be told to misbehave: a network camera, and a program that
//! stands in for rpicam-vid. A network camera's connection that went bad stays
//! bad: only a new one is good again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::layout::FPS;

/// Most connections served at once; more are closed.
const MOST_CONNECTIONS: usize = 16;
/// Pictures on each connection of a flapping camera; every third connection
/// gives none.
const FLAPPING_PICTURES: u32 = 3;
/// A trickling camera sends one byte in this time.
const TRICKLE: Duration = Duration::from_millis(200);

/// How a network camera behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A picture whenever it is time.
    Good,
    /// The connection stands and nothing comes.
    Silent,
    /// A picture comes byte by byte.
    Trickling,
    /// The connection ends after a few pictures, or before the first.
    Flapping,
    /// Every picture is damaged, each in another way.
    Corrupt,
}

/// A running network camera.
pub struct MjpegCamera {
    /// For a camera's table in the configuration.
    pub source: String,
    manner: watch::Sender<Manner>,
    serving: JoinHandle<()>,
}

impl MjpegCamera {
    /// Serves `picture` on loopback.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(picture: Bytes) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let source = format!("source = 'mjpeg+http://{}/stream'", listener.local_addr()?);
        let (manner, follow) = watch::channel(Manner::Good);
        let serving = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            let mut accepted = 0;
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                accepted += 1;
                if connections.len() < MOST_CONNECTIONS {
                    connections.spawn(serve(socket, picture.clone(), follow.clone(), accepted));
                }
            }
        });
        Ok(Self { source, manner, serving })
    }

    /// Behaves so from now on.
    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

impl Drop for MjpegCamera {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut socket: TcpStream, picture: Bytes, manner: watch::Receiver<Manner>, connection: u32) {
    // Errors end the connection: the peer has left.
    let _ = serve_until_error(&mut socket, &picture, manner, connection).await;
}

async fn serve_until_error(
    socket: &mut TcpStream,
    picture: &[u8],
    manner: watch::Receiver<Manner>,
    connection: u32,
) -> std::io::Result<()> {
    let mut request = [0; 1024];
    if socket.read(&mut request).await? == 0 {
        return Ok(());
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: multipart/x-mixed-replace; boundary=x\r\n\r\n";
    socket.write_all(head.as_bytes()).await?;
    let mut time = tokio::time::interval(Duration::from_secs_f64(1.0 / FPS));
    for number in 0_u32.. {
        time.tick().await;
        let now = *manner.borrow();
        match now {
            Manner::Good => socket.write_all(&part(picture)).await?,
            Manner::Corrupt => socket.write_all(&part(&damaged(picture, number))).await?,
            Manner::Flapping if connection.is_multiple_of(3) || number >= FLAPPING_PICTURES => return Ok(()),
            Manner::Flapping => socket.write_all(&part(picture)).await?,
            // Ends with the peer.
            Manner::Silent => return socket.read(&mut request).await.map(drop),
            Manner::Trickling => {
                for byte in part(picture) {
                    socket.write_all(&[byte]).await?;
                    tokio::time::sleep(TRICKLE).await;
                }
            }
        }
    }
    Ok(())
}

fn part(picture: &[u8]) -> Vec<u8> {
    let head = format!("--x\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n", picture.len());
    [head.as_bytes(), picture, b"\r\n"].concat()
}

/// `picture` with damage that depends on `number`: cut, without its middle,
/// with noise in place of pixels or of Huffman tables, with a wrong size, or
/// noise alone.
fn damaged(picture: &[u8], number: u32) -> Vec<u8> {
    let mut data = picture.to_vec();
    let (length, mut noise) = (data.len(), number | 1);
    let mut scramble = |bytes: &mut [u8]| {
        for byte in bytes {
            // Numerical Recipes' generator; no marker (0xFF) comes of it.
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (noise >> 24) as u8 & 0x7F;
        }
    };
    match number % 6 {
        0 => data.truncate(length / 2),
        1 => drop(data.drain(length / 3..length / 2)),
        2 => scramble(&mut data[length / 2..length - 2]),
        3 => {
            // The counts of the first table (ITU-T T.81, B.2.4.2).
            if let Some(at) = marker(picture, &[0xC4]) {
                scramble(&mut data[at + 5..at + 21]);
            }
        }
        4 => {
            // Height and width (B.2.2).
            if let Some(at) = marker(picture, &[0xC0, 0xC2]) {
                data[at + 5..at + 9].fill(0xFF);
            }
        }
        _ => scramble(&mut data),
    }
    data
}

/// Where the first marker of `kinds` stands.
fn marker(picture: &[u8], kinds: &[u8]) -> Option<usize> {
    picture.windows(2).position(|two| two[0] == 0xFF && kinds.contains(&two[1]))
}

/// A program in place of rpicam-vid that gives the picture in `folder`. While
/// `folder/flood` is there it floods its errors; from when it sees
/// `folder/hang` it gives nothing more. With `stubborn` it ignores SIGTERM.
pub fn child_camera(folder: &Path, stubborn: bool) -> String {
    let trap = if stubborn { "trap \"\" TERM; " } else { "" };
    let folder = folder.display();
    let flood = format!(
        "while :; do if [ -e {folder}/flood ]; then yes a line of errors, as a broken driver writes them | head -c 20000000 >&2; else sleep 0.1; fi; done &"
    );
    let pictures = format!(
        "while :; do if [ -e {folder}/hang ]; then while :; do sleep 1; done; fi; cat {folder}/picture.jpg; sleep 0.03; done"
    );
    format!("source = 'rpicam'\ncommand = ['sh', '-c', '{trap}{flood} {pictures}']")
}
