//! The rows of the matrix, what each needs, and what they share.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use e2e::media::textured_jpeg;
use flatframe_shared::frame::PictureSize;

use crate::network::{Network, has};
use crate::service::{last_lines, log_file};
use crate::table::Measured;
use crate::{camera_rows, client_rows, host_rows, network_rows, server_rows};

/// What all rows share.
pub struct Bench {
    network: Result<Network, String>,
    folder: tempfile::TempDir,
    picture: Bytes,
}

/// What a row cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Hosts of their own with a wire between them.
    Hosts,
    /// A packet filter.
    Nft,
    /// The wire with a delay.
    Wire,
    /// A library that shifts the wall clock of one process.
    Faketime,
}

type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Measured>> + 'a>>;

/// One row.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it does, for a person.
    pub what: &'static str,
    /// What it cannot do without.
    pub needs: &'static [Need],
    /// Longest time it may take; beyond it the row has failed.
    pub limit: Duration,
    /// Does it.
    pub run: for<'a> fn(&'a Bench, &'static str) -> Running<'a>,
}

/// Time for start, warm-up, recovery and end together, beside the fault.
const LIMIT: Duration = Duration::from_secs(150);

macro_rules! row {
    ($name:literal, $what:literal, [$($need:ident),*], $run:path) => {
        Row {
            name: $name,
            what: $what,
            needs: &[$(Need::$need),*],
            limit: LIMIT,
            run: |bench, row| Box::pin($run(bench, row)),
        }
    };
}

/// All rows, in the order of the table.
pub const ROWS: [Row; 28] = [
    row!("camera-silent", "a network camera's connections stand and nothing comes, 12 s", [], camera_rows::silent),
    row!("camera-trickling", "a picture comes byte by byte, 12 s", [], camera_rows::trickling),
    row!("camera-flapping", "the camera hangs up after a few pictures, 12 s", [], camera_rows::flapping),
    row!("corrupt-jpegs", "every picture is damaged, in six ways, 8 s", [], camera_rows::corrupt),
    row!("stderr-flood", "a camera's program floods its errors, 8 s", [], camera_rows::stderr_flood),
    row!("ignores-sigterm", "a camera's program hangs and ignores SIGTERM, 12 s", [], camera_rows::ignores_sigterm),
    row!("server-stopped", "SIGSTOP to the server, SIGCONT after 15 s", [], server_rows::stopped),
    row!("server-killed", "SIGKILL to the server, started again after 5 s", [], server_rows::killed),
    row!("server-restarted", "SIGTERM to the server, started again after 3 s", [], server_rows::restarted),
    row!("loss-5", "5 % of packets lost in each direction, 10 s", [Hosts, Nft], network_rows::loss_5),
    row!("loss-30", "30 % of packets lost in each direction, 15 s", [Hosts, Nft], network_rows::loss_30),
    row!("delay-200ms", "200 ms more in each direction, 10 s", [Hosts, Wire], network_rows::delay),
    row!("rate-1mbit", "1 Mbit/s in each direction, 10 s", [Hosts], network_rows::rate),
    row!("partition-1s", "nothing passes for 1 s", [Hosts, Nft], network_rows::partition_1),
    row!("partition-10s", "nothing passes for 10 s", [Hosts, Nft], network_rows::partition_10),
    row!("partition-60s", "nothing passes for 60 s", [Hosts, Nft], network_rows::partition_60),
    row!(
        "half-open-server",
        "the server's host dies without a word, and its RSTs too",
        [Hosts, Nft],
        network_rows::half_open_server
    ),
    row!(
        "half-open-sender",
        "the camera's host dies without a word and is back after 2 s",
        [Hosts, Nft],
        network_rows::half_open_sender
    ),
    row!(
        "clock-server",
        "the server's wall clock jumps an hour ahead, then two back",
        [Faketime],
        host_rows::clock_server
    ),
    row!(
        "clock-sender",
        "the sender's wall clock jumps an hour ahead, then two back",
        [Faketime],
        host_rows::clock_sender
    ),
    row!("disk-full", "the file system of logs and temporary files is full, 8 s", [Hosts], host_rows::disk_full),
    row!("log-reader-gone", "whoever reads both logs from a pipe dies", [], host_rows::log_reader_gone),
    row!("slow-subscribers", "16 Watch clients take one result a second, 12 s", [], client_rows::slow),
    row!("stalled-subscribers", "16 Watch clients take nothing, 12 s", [], client_rows::stalled),
    row!("client-storm", "1,000 clients connect, watch and leave every 2 s, for 10 s, twice", [], client_rows::storm),
    row!("overload", "five times what can be analysed is offered, 10 s", [], server_rows::overload),
    row!("sigterm-server", "SIGTERM to the server at overload, started again", [], server_rows::sigterm_under_load),
    row!("sigterm-sender", "SIGTERM to a sender at overload, started again", [], server_rows::sigterm_to_sender),
];

const PICTURE: PictureSize = PictureSize::new(320, 240);
/// 25 of these a second are several Mbit/s.
const LARGE: PictureSize = PictureSize::new(640, 480);
/// Lines of each log that are shown of a row that failed.
const LOG_LINES: usize = 8;
/// Different pictures of a file camera.
const PICTURES: u32 = 8;

impl Bench {
    /// Writes the pictures.
    ///
    /// # Errors
    /// When there is no place for them.
    pub fn new(network: Result<Network, String>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("faults-").tempdir().context("a folder")?;
        for (name, size) in [("pictures", PICTURE), ("large", LARGE)] {
            let pictures = folder.path().join(name);
            std::fs::create_dir(&pictures)?;
            for number in 0..PICTURES {
                std::fs::write(pictures.join(format!("{number}.jpg")), textured_jpeg(size, number))?;
            }
        }
        Ok(Self { network, folder, picture: textured_jpeg(PICTURE, PICTURES) })
    }

    /// Where files of the rows are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder of JPEGs.
    pub fn pictures(&self) -> PathBuf {
        self.folder.path().join("pictures")
    }

    /// A folder of large JPEGs.
    pub fn large_pictures(&self) -> PathBuf {
        self.folder.path().join("large")
    }

    /// One JPEG.
    pub fn picture(&self) -> Bytes {
        self.picture.clone()
    }

    /// The last lines that the programs of a row logged, to stderr.
    pub fn print_logs(&self, row: &str) {
        for name in ["server", "sender", "sender beside"] {
            let lines = last_lines(&log_file(self.folder(), row, name), LOG_LINES);
            if !lines.is_empty() {
                eprintln!("-- {row}, {name}:\n{lines}");
            }
        }
    }

    /// The network.
    ///
    /// # Errors
    /// When there is none; rows that need it do not run then.
    pub fn network(&self) -> anyhow::Result<&Network> {
        self.network.as_ref().map_err(|why| anyhow::anyhow!("{why}"))
    }

    /// What of `needs` is not there, for a person; `None` when all is.
    pub fn lacks(&self, needs: &[Need]) -> Option<String> {
        needs.iter().find_map(|need| match (need, &self.network) {
            (Need::Faketime, _) => match host_rows::faketime() {
                Some(_) => None,
                None => Some("libfaketime is not installed (package faketime)".into()),
            },
            (_, Err(why)) => Some(why.clone()),
            (Need::Hosts, Ok(_)) => None,
            (Need::Nft, Ok(_)) => (!has("nft")).then(|| "nft is not installed (package nftables)".into()),
            (Need::Wire, Ok(network)) => network.wire.as_ref().err().cloned(),
        })
    }
}
