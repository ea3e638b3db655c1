//! What a row starts: one server, and one or two senders with the camera that
//! the fault hits and the one beside it.

use std::net::Ipv4Addr;

use crate::network::{Host, SERVER_DATA};
use crate::rows::Bench;

/// The camera that the fault hits, and the one beside it.
pub const HIT: &str = "hit";
pub const BESIDE: &str = "beside";
/// Rate of every camera, in frames per second.
pub const FPS: f64 = 25.0;

/// An ingest-service of a row.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Where it runs.
    pub host: Host,
    /// Where it finds the server.
    pub server: Ipv4Addr,
    /// What starts it: `env NAME=VALUE`.
    pub by: Vec<String>,
    /// Where its log goes; `None`: a file.
    pub log: Option<String>,
    /// Its configuration beside addresses: cameras, telemetry.
    pub toml: String,
}

/// What a row starts.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Name of the row.
    pub row: &'static str,
    /// Where the server runs.
    pub server_host: Host,
    /// What starts the server.
    pub server_by: Vec<String>,
    /// Where the server's log goes; `None`: a file.
    pub server_log: Option<String>,
    /// The server's configuration beside addresses and engine.
    pub server_toml: String,
    /// Time of the stub engine for a frame, in microseconds.
    pub engine_us: u32,
    /// The service with the camera that is hit.
    pub sender: Sender,
    /// A service with the camera beside it, if that is not in the first.
    pub sender_beside: Option<Sender>,
}

/// A camera of `source` (TOML, with quotes where it needs them) in a
/// configuration.
pub fn camera(id: &str, source: &str) -> String {
    format!("[[camera]]\nid = '{id}'\nfps = {FPS:.1}\n{source}\n")
}

/// A camera that loops over the pictures of the bench.
pub fn file_camera(id: &str, bench: &Bench) -> String {
    camera(id, &format!("source = 'file:{}'", bench.pictures().display()))
}

impl Sender {
    /// On `host`, with the server at `server`.
    pub fn new(host: Host, server: Ipv4Addr, toml: String) -> Self {
        Self { host, server, by: Vec::new(), log: None, toml }
    }
}

impl Layout {
    /// All on loopback, one service for all of `cameras`.
    pub fn local(row: &'static str, cameras: String) -> Self {
        Self {
            row,
            server_host: Host::Loopback,
            server_by: Vec::new(),
            server_log: None,
            server_toml: String::new(),
            engine_us: 2_000,
            sender: Sender::new(Host::Loopback, Ipv4Addr::LOCALHOST, cameras),
            sender_beside: None,
        }
    }

    /// The camera that is hit sends over the wire that faults hit; the one
    /// beside it stands at the server.
    pub fn networked(row: &'static str, bench: &Bench) -> Self {
        let sender = |host, server, id| Sender::new(host, server, file_camera(id, bench));
        Self {
            server_host: Host::Server,
            sender: sender(Host::Camera, SERVER_DATA, HIT),
            sender_beside: Some(sender(Host::Server, Ipv4Addr::LOCALHOST, BESIDE)),
            ..Self::local(row, String::new())
        }
    }
}
