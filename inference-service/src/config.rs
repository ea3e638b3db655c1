//! What an operator sets. Every value is checked before a port is bound; what
//! depends on a model is checked when it loads. `config.example.toml` is the
//! reference for people.

mod history;
mod listen;

use std::path::Path;
use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range, load};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

pub use self::history::HistoryConfig;
pub use self::listen::Listen;

use crate::access::config::{AuthConfig, TlsConfig};
use crate::mqtt::config::MqttConfig;
use crate::people::config::PeopleConfig;
use crate::people::incidents::config::IncidentConfig;
use crate::replicas::config::BusConfig;
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
    /// How connections are encrypted, and whose cameras are known.
    pub tls: TlsConfig,
    /// Who may ask.
    pub auth: AuthConfig,
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
    /// What replicas tell each other.
    pub bus: BusConfig,
    /// What clients may see.
    pub privacy: PrivacyConfig,
    /// Telling an MQTT broker.
    pub mqtt: MqttConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// What may wait, and how much of it. Every key is part of the memory budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most cameras that stream at once, 1 to 10000.
    pub max_streams: usize,
    /// Most cameras kept in memory, streaming or not; at least `max_streams`.
    pub max_cameras: usize,
    /// Most cameras that send late frames at once, 0 to 1000; 0 takes none.
    /// Counts only where a history is kept.
    pub max_late_streams: usize,
    /// Most frames of one camera on their way at once (credits), 1 to 64.
    pub window: u32,
    /// Largest JPEG accepted from a camera, in bytes, 4 KiB to 16 MiB.
    pub max_frame_bytes: u32,
    /// Most connections at once, of cameras and clients together; at least
    /// `max_streams` + 1, where a history is kept + `max_late_streams`. For one more, the one that is longest without a call
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
    /// A camera's stream is drained after about so long, in seconds, 1 to
    /// 604800; 0: never.
    pub max_stream_age_s: u64,
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
            max_late_streams: 4,
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
            max_stream_age_s: 0,
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
        in_range("limits.max_late_streams", limits.max_late_streams, 0..=1000)?;
        let streams = limits.max_streams + self.late_streams();
        in_range("limits.max_connections", limits.max_connections, streams + 1..=100_000)?;
        in_range("limits.max_subscribers", limits.max_subscribers, 0..=100_000)?;
        in_range("limits.subscriber_queue", limits.subscriber_queue, 1..=65_536)?;
        in_range("limits.result_ring", limits.result_ring, 0..=1_000_000)?;
        in_range("limits.subscriber_stall_s", limits.subscriber_stall_s, 1..=10)?;
        in_range("limits.max_detect_calls", limits.max_detect_calls, 1..=1024)?;
        in_range("limits.max_detect_bytes", limits.max_detect_bytes, 4096..=64 << 20)?;
        in_range("limits.call_deadline_s", limits.call_deadline_s, 1..=60)?;
        if limits.max_stream_age_s != 0 {
            in_range("limits.max_stream_age_s", limits.max_stream_age_s, 1..=604_800)?;
        }
        self.tls.check()?;
        self.auth.check()?;
        in_range("listen.page_names", self.listen.page_names.len(), 0..=16)?;
        in_range("pace.min_fps", self.pace.min_fps, 0.01..=240.0)?;
        let max = self.vision.max_picture.0;
        in_range("pace.max_width_px", self.pace.max_width_px, 32..=max.width_px)?;
        in_range("pace.max_height_px", self.pace.max_height_px, 32..=max.height_px)?;
        in_range("workers.count", self.workers.count, 0..=256)?;
        self.people.check()?;
        self.incidents.check()?;
        self.history.check()?;
        self.bus.check()?;
        self.mqtt.check()?;
        in_range("privacy.min_visits", self.privacy.min_visits, 1..=1000)?;
        self.vision.validate().map_err(|setting| ConfigError::Wrong(setting.to_string()))?;
        self.telemetry.check()
    }

    /// Most streams of late frames: none where their results would not be kept.
    pub fn late_streams(&self) -> usize {
        let is_kept = self.history.settings().is_some() && self.privacy.mode != PrivacyMode::CountsOnly;
        if is_kept { self.limits.max_late_streams } else { 0 }
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
            ("limits.max_late_streams", "1001"),
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
            ("auth.calls_per_s", "0"),
            ("auth.max_connections", "0"),
            ("bus.queue_bytes", "1"),
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
