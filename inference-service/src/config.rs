//! What an operator sets. Every value is checked before a port is bound; what
//! depends on a model is checked when it loads. `config.example.toml` is the
//! reference for people.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range, load};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

use crate::history::HistorySettings;
use crate::mqtt::config::MqttConfig;
use crate::people::config::PeopleConfig;
use crate::people::incidents::config::IncidentConfig;
use crate::vision::VisionConfig;

/// Environment variables that begin with this override the file:
/// `FLATFRAME_INFERENCE_LIMITS__MAX_STREAMS=8`.
pub const ENV_PREFIX: &str = "FLATFRAME_INFERENCE";

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// What may wait, and how much of it.
    pub limits: Limits,
    /// What cameras are asked for.
    pub pace: PaceConfig,
    /// The threads that analyse.
    pub workers: Workers,
    /// Models and analysis.
    pub vision: VisionConfig,
    /// Following and counting people.
    pub people: PeopleConfig,
    /// States that a person should know of.
    pub incidents: IncidentConfig,
    /// What is kept on disk.
    pub history: HistoryConfig,
    /// What clients may see.
    pub privacy: PrivacyConfig,
    /// Telling an MQTT broker.
    pub mqtt: MqttConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// gRPC: cameras and clients.
    pub grpc: SocketAddr,
    /// HTTP: `/livez`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
    /// HTTP: the page for people; empty: it is off.
    #[serde(with = "address_or_none")]
    pub page: Option<SocketAddr>,
    /// Names by which browsers may ask for the page, besides addresses and
    /// names of local networks; at most 16.
    pub page_names: Vec<String>,
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { grpc: local(50051), admin: local(9464), page: Some(local(9470)), page_names: Vec::new() }
    }
}

/// An address, or an empty text for none.
mod address_or_none {
    use std::net::SocketAddr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(address: &Option<SocketAddr>, to: S) -> Result<S::Ok, S::Error> {
        address.map_or(String::new(), |address| address.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        let wrong =
            || D::Error::custom(format!("{text:?} is no address: use one like \"0.0.0.0:9470\", or \"\" for none"));
        text.parse().map(Some).map_err(|_| wrong())
    }
}

/// What may wait, and how much of it. Every key is part of the memory budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most cameras that stream at once, 1 to 10000.
    pub max_streams: usize,
    /// Most cameras kept in memory, streaming or not; at least `max_streams`.
    pub max_cameras: usize,
    /// Most frames of one camera on their way at once (credits), 1 to 64.
    pub window: u32,
    /// Largest JPEG accepted from a camera, in bytes, 4 KiB to 16 MiB.
    pub max_frame_bytes: u32,
    /// Most connections at once, of cameras and clients together; at least
    /// `max_streams` + 1. For one more, the one that is longest without a call
    /// gives way.
    pub max_connections: usize,
    /// Most `Watch` clients at once.
    pub max_subscribers: usize,
    /// Most results that wait for one `Watch` client, 1 to 65536.
    pub subscriber_queue: usize,
    /// Results kept for clients that resume, 0 to 1000000.
    pub result_ring: usize,
    /// A `Watch` client that takes nothing for so long while its queue is full
    /// is cut, in seconds, 1 to 10.
    pub subscriber_stall_s: u64,
    /// Most `Detect` calls at once, waiting or in work, 1 to 1024.
    pub max_detect_calls: usize,
    /// Largest JPEG accepted by `Detect`, in bytes, 4 KiB to 64 MiB.
    pub max_detect_bytes: u32,
    /// Longest any call may take to its first answer, in seconds, 1 to 60.
    pub call_deadline_s: u64,
    /// Memory the process may use, in bytes; 0 takes the cgroup's limit, if
    /// there is one. A budget above it is refused.
    pub memory_bytes: u64,
    /// Resident memory, in bytes, from which on less is taken; 0 takes 90 % of
    /// the memory limit, or the budget where there is none.
    pub soft_memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_streams: 32,
            max_cameras: 64,
            window: 2,
            max_frame_bytes: 256 * 1024,
            max_connections: 128,
            max_subscribers: 64,
            subscriber_queue: 64,
            result_ring: 512,
            subscriber_stall_s: 5,
            max_detect_calls: 8,
            max_detect_bytes: 2 * 1024 * 1024,
            call_deadline_s: 10,
            memory_bytes: 0,
            soft_memory_bytes: 0,
        }
    }
}

/// What cameras are asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaceConfig {
    /// Pictures wider than this are downsampled by the camera, in pixels.
    pub max_width_px: u32,
    /// Pictures higher than this are downsampled by the camera, in pixels.
    pub max_height_px: u32,
    /// Below this rate a camera is asked for smaller pictures instead, in
    /// frames per second, 0.01 to 240.
    pub min_fps: f64,
}

impl Default for PaceConfig {
    fn default() -> Self {
        Self { max_width_px: 640, max_height_px: 480, min_fps: 1.0 }
    }
}

/// What is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// The file, of results, counts and incidents; empty keeps none. A
    /// relative path is in the folder that the supervisor gives
    /// (`STATE_DIRECTORY`), else in the working directory.
    pub file: PathBuf,
    /// Most that it may take on disk, in bytes, 16 MiB to 1 PiB. At the cap the
    /// oldest results go first.
    pub max_bytes: u64,
    /// Results are kept for so long, in days, 1 to 3660.
    pub result_days: u64,
    /// Counts and incidents are kept for so long, in days, `result_days` to
    /// 36500.
    pub count_days: u64,
    /// With less free space on the disk nothing is written, in bytes.
    pub min_free_bytes: u64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { file: PathBuf::new(), max_bytes: 1 << 30, result_days: 30, count_days: 400, min_free_bytes: 1 << 30 }
    }
}

impl HistoryConfig {
    /// Where and how history is kept; `None`: it is not.
    pub fn settings(&self) -> Option<HistorySettings> {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        // Several folders are separated by colons (systemd.exec, "STATE_DIRECTORY").
        let folders = std::env::var("STATE_DIRECTORY").unwrap_or_default();
        let folder = Path::new(folders.split(':').next().unwrap_or_default());
        (!self.file.as_os_str().is_empty()).then(|| HistorySettings {
            max_bytes: self.max_bytes,
            max_age_results: days(self.result_days),
            max_age_counts: days(self.count_days),
            min_free_bytes: self.min_free_bytes,
            ..HistorySettings::new(folder.join(&self.file))
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        in_range("history.max_bytes", self.max_bytes, 16 << 20..=1 << 50)?;
        in_range("history.result_days", self.result_days, 1..=3660)?;
        in_range("history.count_days", self.count_days, self.result_days..=36_500)
    }
}

/// What clients may see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrivacyConfig {
    /// How much.
    pub mode: PrivacyMode,
    /// With `counts_only`, counts of fewer visits than this are withheld, 1 to
    /// 1000.
    pub min_visits: u32,
}

/// How much clients may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivacyMode {
    /// Results with boxes, and pictures.
    #[default]
    Full,
    /// Results with boxes, and pictures without recognisable faces.
    Blurred,
    /// Counts over a time, and nothing of single faces.
    CountsOnly,
}

impl Default for PrivacyConfig {
    fn default() -> Self {
        Self { mode: PrivacyMode::Full, min_visits: 5 }
    }
}

/// The threads that analyse.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// Number of threads, up to 256; 0 takes one for each core.
    pub count: usize,
}

impl Workers {
    /// Number of threads to start.
    pub fn threads(&self) -> usize {
        match self.count {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }
}

impl Limits {
    /// Longest any call may take to its first answer.
    pub fn call_deadline(&self) -> Duration {
        Duration::from_secs(self.call_deadline_s)
    }

    /// Largest message read from a camera: a frame and its header.
    pub fn max_message_bytes(&self) -> usize {
        self.max_frame_bytes as usize + MESSAGE_HEADER_BYTES
    }
}

/// Room for everything in a message but the JPEG.
const MESSAGE_HEADER_BYTES: usize = 4096;

impl Config {
    /// Loads and checks a configuration.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, value and what is allowed.
    pub fn load(file: Option<&Path>, flags: &[(String, String)]) -> Result<Self, ConfigError> {
        let config: Self = load(file, ENV_PREFIX, flags)?;
        config.check()?;
        Ok(config)
    }

    /// Checks every value that can be judged without a model.
    ///
    /// # Errors
    /// [`ConfigError::NotAllowed`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        in_range("limits.max_streams", limits.max_streams, 1..=10_000)?;
        in_range("limits.max_cameras", limits.max_cameras, limits.max_streams..=100_000)?;
        in_range("limits.window", limits.window, 1..=64)?;
        in_range("limits.max_frame_bytes", limits.max_frame_bytes, 4096..=16 << 20)?;
        in_range("limits.max_connections", limits.max_connections, limits.max_streams + 1..=100_000)?;
        in_range("limits.max_subscribers", limits.max_subscribers, 0..=100_000)?;
        in_range("limits.subscriber_queue", limits.subscriber_queue, 1..=65_536)?;
        in_range("limits.result_ring", limits.result_ring, 0..=1_000_000)?;
        in_range("limits.subscriber_stall_s", limits.subscriber_stall_s, 1..=10)?;
        in_range("limits.max_detect_calls", limits.max_detect_calls, 1..=1024)?;
        in_range("limits.max_detect_bytes", limits.max_detect_bytes, 4096..=64 << 20)?;
        in_range("limits.call_deadline_s", limits.call_deadline_s, 1..=60)?;
        in_range("listen.page_names", self.listen.page_names.len(), 0..=16)?;
        in_range("pace.min_fps", self.pace.min_fps, 0.01..=240.0)?;
        let max = self.vision.max_picture.0;
        in_range("pace.max_width_px", self.pace.max_width_px, 32..=max.width_px)?;
        in_range("pace.max_height_px", self.pace.max_height_px, 32..=max.height_px)?;
        in_range("workers.count", self.workers.count, 0..=256)?;
        self.people.check()?;
        self.incidents.check()?;
        self.history.check()?;
        self.mqtt.check()?;
        in_range("privacy.min_visits", self.privacy.min_visits, 1..=1000)?;
        self.vision.validate().map_err(|setting| ConfigError::Wrong(setting.to_string()))?;
        self.telemetry.check()
    }

    /// Largest picture that cameras are asked for.
    pub fn pace_size(&self) -> PictureSize {
        PictureSize::new(self.pace.max_width_px, self.pace.max_height_px)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_default() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
        let loaded = Config::load(Some(&example), &[]).expect("the example loads");
        assert_eq!(loaded, Config::default());
        let text = std::fs::read_to_string(example).expect("read");
        let shown = toml::to_string(&Config::default()).expect("a configuration is TOML");
        for key in shown.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
            assert!(text.contains(&format!("{key} = ")), "{key} is missing in config.example.toml");
        }
    }

    #[test]
    fn impossible_values_are_named() {
        for (key, value) in [
            ("limits.max_streams", "0"),
            ("limits.max_cameras", "1"),
            ("limits.window", "65"),
            ("limits.max_frame_bytes", "1"),
            ("limits.max_connections", "5"),
            ("limits.subscriber_stall_s", "11"),
            ("pace.min_fps", "0"),
            ("pace.max_width_px", "100000"),
            ("workers.count", "1000"),
            ("people.lost_ms", "1"),
            ("incidents.dark_s", "100000"),
            ("history.max_bytes", "1000"),
            ("history.count_days", "1"),
            ("privacy.min_visits", "0"),
            ("mqtt.topic", "#"),
        ] {
            let error = Config::load(None, &[(key.into(), value.into())]).expect_err(key).to_string();
            assert!(error.contains(key) && error.contains(value) && error.contains("use "), "{error}");
        }
    }

    #[test]
    fn wrong_types_and_unknown_keys_are_named() {
        for (key, value, word) in [
            ("limits.window", "two", "limits.window"),
            ("listen.grpc", "localhost", "listen.grpc"),
            ("listen.page", "9470", "listen.page"),
            ("limits.windows", "2", "windows"),
            ("vision.max_faces", "many", "vision.max_faces"),
        ] {
            let error = Config::load(None, &[(key.into(), value.into())]).expect_err(key).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
