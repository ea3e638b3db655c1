//! Many cameras: ingest-services in this process, each with as many cameras as
//! one may have, so that every counter can be read at any instant.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::media::textured_jpeg;
use e2e::pair::{Running, ingest_config};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::ledger::IngestCounts;
use flatframe_shared::outcome::Outcome;
use ingest_service::CameraConfig;
use ingest_service::config::MAX_CAMERAS;
use ingest_service::send::servers::MoveReason;

const SIZE: PictureSize = PictureSize::new(320, 240);
/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(10);

/// The cameras.
pub struct Crowd {
    parts: Vec<Running>,
    _pictures: tempfile::TempDir,
}

/// What cameras are like.
pub struct Habit {
    /// Where the servers are.
    pub server: String,
    /// Frames a second of each.
    pub fps: f32,
    /// `server.return_s`.
    pub return_s: u64,
    /// Age at which a frame is worthless, in milliseconds.
    pub ttl_ms: u64,
}

/// The id of a camera.
pub fn camera_id(number: usize) -> String {
    format!("camera-{number}")
}

impl Crowd {
    /// Starts `cameras` cameras.
    ///
    /// # Errors
    /// As the services' own start.
    pub async fn start(cameras: usize, habit: &Habit) -> anyhow::Result<Self> {
        let pictures = tempfile::tempdir()?;
        for number in 0..4 {
            std::fs::write(pictures.path().join(format!("{number}.jpg")), textured_jpeg(SIZE, number))?;
        }
        let source = format!("file:{}", pictures.path().display());
        let camera = |number: usize| CameraConfig {
            fps: habit.fps,
            ttl_ms: habit.ttl_ms,
            ..CameraConfig::new(&camera_id(number), &source)
        };
        let numbers: Vec<usize> = (0..cameras).collect();
        let mut parts = Vec::new();
        for numbers in numbers.chunks(MAX_CAMERAS) {
            let mut config = ingest_config(&habit.server, numbers.iter().map(|number| camera(*number)).collect());
            config.server.return_s = habit.return_s;
            config.limits.max_picture_bytes = 65_536;
            (config.limits.max_frame_bytes, config.limits.mailbox_bytes) = (65_536, 131_072);
            parts.push(Running::start(config).await?);
        }
        Ok(Self { parts, _pictures: pictures })
    }

    fn analyzed(&self) -> Vec<u64> {
        let cameras = self.parts.iter().flat_map(|part| &part.cameras);
        cameras.map(|camera| camera.counts().answered(Outcome::Analyzed)).collect()
    }

    /// Waits until every camera has a result that is newer than this call; the
    /// time it took.
    ///
    /// # Errors
    /// When that takes longer than `limit`: how many have none.
    pub async fn served(&self, limit: Duration) -> anyhow::Result<Duration> {
        let (before, start) = (self.analyzed(), Instant::now());
        loop {
            let missing = self.analyzed().iter().zip(&before).filter(|(now, before)| now <= before).count();
            if missing == 0 {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < limit, "{missing} cameras have no result within {limit:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until `is_so` of the streams of each server; the time it took.
    ///
    /// # Errors
    /// When it is not so within `limit`.
    pub async fn streams_are(
        &self,
        limit: Duration,
        is_so: impl Fn(&BTreeMap<SocketAddr, u64>) -> bool,
    ) -> anyhow::Result<Duration> {
        let start = Instant::now();
        while !is_so(&self.streams()) {
            ensure!(start.elapsed() < limit, "the streams are {:?} after {limit:?}", self.streams());
            tokio::time::sleep(LOOK).await;
        }
        Ok(start.elapsed())
    }

    /// Counts of all cameras together.
    pub fn totals(&self) -> IngestCounts {
        let mut totals = IngestCounts::default();
        self.parts.iter().for_each(|part| totals += part.totals());
        totals
    }

    /// Open streams of each server.
    pub fn streams(&self) -> BTreeMap<SocketAddr, u64> {
        let mut all = BTreeMap::new();
        for (server, streams) in self.parts.iter().flat_map(|part| part.servers.streams()) {
            *all.entry(server).or_default() += streams;
        }
        all
    }

    /// Changes of server for that reason.
    pub fn moves(&self, reason: MoveReason) -> u64 {
        self.parts.iter().map(|part| part.servers.moves(reason)).sum()
    }

    /// Stops all; the last counts.
    ///
    /// # Errors
    /// When a service panicked.
    pub async fn stop(self) -> anyhow::Result<IngestCounts> {
        let mut totals = IngestCounts::default();
        for part in self.parts {
            totals += part.stop().await?;
        }
        Ok(totals)
    }
}
