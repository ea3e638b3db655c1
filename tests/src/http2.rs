//! An HTTP/2 client in the raw (RFC 9113, RFC 7541), for what no well-made
//! client sends. Knows frames and header literals, and judges nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The first bytes of a connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest that one write may wait for the server to read.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);
/// Largest payload that every server takes, bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024;
/// Flag of HEADERS and DATA: nothing more comes on the stream.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION: the header block is whole.
pub const END_HEADERS: u8 = 4;
/// Flag of SETTINGS and PING: an answer.
pub const ACK: u8 = 1;
/// The setting of the window that each stream begins with.
pub const INITIAL_WINDOW: u16 = 4;

/// Types of frames (RFC 9113, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// DATA.
    Data = 0,
    /// HEADERS.
    Headers = 1,
    /// RST_STREAM.
    Reset = 3,
    /// SETTINGS.
    Settings = 4,
    /// PING.
    Ping = 6,
    /// GOAWAY.
    GoAway = 7,
    /// WINDOW_UPDATE.
    WindowUpdate = 8,
    /// CONTINUATION.
    Continuation = 9,
}

/// One frame.
pub fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(9 + payload.len());
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind as u8);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.put_slice(payload);
    frame.freeze()
}

/// A SETTINGS frame.
pub fn settings(settings: &[(u16, u32)]) -> Bytes {
    let mut payload = BytesMut::new();
    for (name, value) in settings {
        payload.put_u16(*name);
        payload.put_u32(*value);
    }
    frame(Kind::Settings, 0, 0, &payload)
}

/// A WINDOW_UPDATE frame.
pub fn window_update(stream: u32, bytes: u32) -> Bytes {
    frame(Kind::WindowUpdate, 0, stream, &bytes.to_be_bytes())
}

/// A RST_STREAM frame that cancels.
pub fn reset(stream: u32) -> Bytes {
    frame(Kind::Reset, 0, stream, &8u32.to_be_bytes())
}

/// A header as a literal that is not indexed (RFC 7541, section 6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        // An integer with a prefix of 7 bits (section 5.1).
        match text.len() {
            short @ 0..127 => block.push(short as u8),
            long => {
                block.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    block.push(rest as u8 | 128);
                    rest >>= 7;
                }
                block.push(rest as u8);
            }
        }
        block.extend_from_slice(text.as_bytes());
    }
    block
}

/// The header block of a gRPC call of the method at `path`.
pub fn call_headers(path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "e2e"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// A HEADERS frame that begins a gRPC call.
pub fn call(stream: u32, path: &str, flags: u8) -> Bytes {
    frame(Kind::Headers, END_HEADERS | flags, stream, &call_headers(path))
}

/// The prefix of a gRPC message.
pub fn message_prefix(compressed: u8, bytes: u32) -> [u8; 5] {
    let [a, b, c, d] = bytes.to_be_bytes();
    [compressed, a, b, c, d]
}

/// The DATA frame of a whole message that ends the request.
pub fn message(stream: u32, message: &[u8]) -> Bytes {
    let payload = [&message_prefix(0, message.len() as u32), message].concat();
    frame(Kind::Data, END_STREAM, stream, &payload)
}

/// The `count` first streams of a client.
pub fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

/// A connection whose client writes what it likes.
pub struct RawConnection {
    writer: OwnedWriteHalf,
    reader: OwnedReadHalf,
}

impl RawConnection {
    /// Connects, and says the preface and `settings` as every client does.
    ///
    /// # Errors
    /// When the server does not accept, or closes at once.
    pub async fn open(server: SocketAddr, with: &[(u16, u32)]) -> io::Result<Self> {
        let mut connection = Self::silent(server).await?;
        connection.write(PREFACE).await?;
        connection.write(&settings(with)).await?;
        Ok(connection)
    }

    /// Connects and says nothing.
    ///
    /// # Errors
    /// When the server does not accept.
    pub async fn silent(server: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(server).await?;
        socket.set_nodelay(true)?;
        let (reader, writer) = socket.into_split();
        Ok(Self { writer, reader })
    }

    /// Writes anything.
    ///
    /// # Errors
    /// When the server has closed the connection, or does not read for
    /// 20 s.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        timeout(WRITE_DEADLINE, self.writer.write_all(data)).await?
    }

    /// The next frame: its type, its flags, its stream, its payload; `None`
    /// when the server closed or reset the connection.
    pub async fn read_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.reader.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.reader.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// Reads and forgets what comes, so that the server's socket never fills;
    /// the task ends when the server closes the connection.
    pub fn reading(self) -> (OwnedWriteHalf, JoinHandle<u64>) {
        let Self { writer, mut reader } = self;
        let reads = tokio::spawn(async move {
            let (mut all, mut buffer) = (0, vec![0; 64 * 1024]);
            while let Ok(more @ 1..) = reader.read(&mut buffer).await {
                all += more as u64;
            }
            all
        });
        (writer, reads)
    }

    /// Whether the server closes the connection within `limit`; what it says
    /// before is read and forgotten.
    pub async fn is_closed_within(self, limit: Duration) -> bool {
        let (_writer, reads) = self.reading();
        let stop = reads.abort_handle();
        let closed = timeout(limit, reads).await.is_ok();
        stop.abort();
        closed
    }
}
