//! What an operator may set, with defaults, and whether the values can work.
//! Reads no device and binds no port. The reference with every key is
//! `config.example.toml`.

mod admin;
mod recording;
mod rtsp;
mod server;

use std::fmt;
use std::path::Path;

use flatframe_shared::config::{ConfigError, Layers, in_range};
use flatframe_shared::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize, Serializer};

pub use self::admin::AdminConfig;
pub use self::recording::RecordingConfig;
pub use self::rtsp::{H264Decoder, RtspTransport};
pub use self::server::ServerConfig;

use crate::board::Machine;
use crate::plan::CameraPlan;
use crate::prepare::view;
use crate::profile::{self, Profile};
use crate::record::RecordPolicy;
use crate::source::spec;

/// Environment variables begin with this: `FLATFRAME_INGEST_SERVER__ADDRESS`.
pub const ENV_PREFIX: &str = "FLATFRAME_INGEST";
/// Most cameras of one process.
pub const MAX_CAMERAS: usize = 64;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the frames go.
    pub server: ServerConfig,
    /// Bounds of memory.
    pub limits: LimitsConfig,
    /// Threads.
    pub runtime: RuntimeConfig,
    /// The operator's ports.
    pub admin: AdminConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// What is kept on disk.
    pub recording: RecordingConfig,
    /// The cameras, at least one.
    pub camera: Vec<CameraConfig>,
}

/// Bounds of memory, each for one camera unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Largest JPEG taken from a source, in bytes.
    pub max_picture_bytes: usize,
    /// Largest width decoded, in pixels.
    pub max_source_width_px: u32,
    /// Largest height decoded, in pixels.
    pub max_source_height_px: u32,
    /// Largest JPEG sent, in bytes; the server may take less.
    pub max_frame_bytes: usize,
    /// Most frames that wait for a credit.
    pub mailbox_frames: usize,
    /// Most bytes that wait for a credit.
    pub mailbox_bytes: usize,
    /// Most frames sent and not yet answered; the server may grant less.
    pub max_in_flight: usize,
    /// Memory that the computed budget of all cameras together must fit into,
    /// in bytes; 0: the limit of the cgroup, if there is one.
    pub memory_bytes: u64,
    /// Resident memory, in bytes, from which on each camera takes one frame a
    /// second at most; 0 takes 90 % of the memory limit, or the budget where
    /// there is none.
    pub soft_memory_bytes: u64,
}

/// Threads, and what the defaults of other tables follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Whose defaults hold: `auto`, or the name of a [`Profile`].
    pub profile: String,
    /// Threads for sockets and timers; each camera has one more for pictures.
    pub worker_threads: usize,
}

/// One camera.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CameraConfig {
    /// Stable id.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Where its pictures come from; see [`spec::ALLOWED`].
    #[serde(serialize_with = "serialize_redacted")]
    pub source: String,
    /// Rate wanted, in frames per second.
    pub fps: f32,
    /// Age at which a frame is worthless, in milliseconds.
    pub ttl_ms: u64,
    /// Clockwise rotation that makes the pictures upright, in degrees.
    pub rotation_degrees: u32,
    /// JPEG quality where this service encodes, 1 to 100.
    pub quality: u8,
    /// Width asked of sources that can be asked, and the most that is sent, in
    /// pixels; 0: 640 asked, the server's limit sent.
    pub width_px: u32,
    /// Height asked of sources that can be asked, and the most that is sent, in
    /// pixels; 0: 480 asked, the server's limit sent.
    pub height_px: u32,
    /// Most bytes per second that are sent; 0: no cap.
    pub max_bytes_per_s: u64,
    /// Share of the picture that must have changed for a frame to be sent, in
    /// percent; 0: every frame is.
    pub motion_percent: f32,
    /// A frame is sent after so long, whether something changed or not, in
    /// milliseconds.
    pub still_keepalive_ms: u64,
    /// The part of the picture that is sent: x, y, width, height as shares of
    /// its sides, before rotation.
    pub region: view::Share,
    /// Parts of the picture that are made black, in the same form, at most 16.
    pub masks: Vec<view::Share>,
    /// Time without a whole picture after which the source is opened again, in
    /// milliseconds.
    pub no_picture_ms: u64,
    /// Login name of a network camera; empty: the one in `source`, if any.
    pub username: String,
    /// Its password.
    pub password: Password,
    /// Environment variable that holds the password, instead of `password`.
    pub password_env: String,
    /// With `rpicam`: program and arguments to run in its place.
    pub command: Vec<String>,
    /// With `rpicam`: more arguments for `rpicam-vid`.
    pub controls: Vec<String>,
    /// With `rtsp`: what carries the pictures.
    pub transport: RtspTransport,
    /// With `rtsp`: what decodes H.264.
    pub h264: H264Decoder,
    /// With `rtsp`: decode no H.264 pictures but those that need no other.
    pub keyframes_only: bool,
    /// With `ffmpeg`: options before its `-i`.
    pub ffmpeg_input_options: Vec<String>,
    /// With `pattern`: faces on the card, 1 to 4.
    pub faces: u8,
    /// With `pattern`: seed of their movements.
    pub seed: u64,
    /// What of it is recorded: `off`, `continuous` or `motion`.
    pub record: String,
}

/// A password; shown by nothing.
#[derive(Clone, PartialEq, Default, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_picture_bytes: 2 * 1024 * 1024,
            max_source_width_px: 1920,
            max_source_height_px: 1080,
            max_frame_bytes: 512 * 1024,
            mailbox_frames: 2,
            mailbox_bytes: 1024 * 1024,
            max_in_flight: 4,
            memory_bytes: 0,
            soft_memory_bytes: 0,
        }
    }
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { profile: profile::AUTO.into(), worker_threads: 1 }
    }
}

impl Default for CameraConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            source: String::new(),
            fps: 10.0,
            ttl_ms: 1000,
            rotation_degrees: 0,
            quality: 75,
            width_px: 0,
            height_px: 0,
            max_bytes_per_s: 0,
            motion_percent: 0.0,
            still_keepalive_ms: 5000,
            region: view::WHOLE,
            masks: Vec::new(),
            no_picture_ms: 5000,
            username: String::new(),
            password: Password::default(),
            password_env: String::new(),
            command: Vec::new(),
            controls: Vec::new(),
            transport: RtspTransport::Tcp,
            h264: H264Decoder::Auto,
            keyframes_only: false,
            ffmpeg_input_options: Vec::new(),
            faces: 1,
            seed: 1,
            record: "off".into(),
        }
    }
}

impl CameraConfig {
    /// A camera with defaults.
    pub fn new(id: &str, source: &str) -> Self {
        Self { id: id.into(), source: source.into(), ..Self::default() }
    }
}

impl Config {
    /// Loads defaults (those of the profile for `machine`), `file`, environment
    /// and `flags`, later ones winning, and checks the result.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn load(file: Option<&Path>, flags: &[(String, String)], machine: &Machine) -> Result<Self, ConfigError> {
        let layers = Layers::read(file, ENV_PREFIX, flags)?;
        let profile = Profile::choose(&layers.above::<Self>(&[])?.runtime.profile, machine)?;
        let config: Self = layers.above(profile.values())?;
        config.plans()?;
        Ok(config)
    }

    /// Checks all values and reads the cameras.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn plans(&self) -> Result<Vec<CameraPlan>, ConfigError> {
        self.limits.check()?;
        self.server.check()?;
        // A configuration made by hand, without `load`, may name one too.
        Profile::choose(&self.runtime.profile, &Machine::unknown())?;
        in_range("runtime.worker_threads", self.runtime.worker_threads, 1..=64)?;
        self.telemetry.check()?;
        self.admin.check()?;
        if self.camera.is_empty() || self.camera.len() > MAX_CAMERAS {
            let allowed = format!("add 1 to {MAX_CAMERAS} [[camera]] tables with id and source");
            return Err(ConfigError::not_allowed("camera", format!("{} tables", self.camera.len()), allowed));
        }
        let mut plans: Vec<CameraPlan> = Vec::with_capacity(self.camera.len());
        for camera in &self.camera {
            let mut plan = CameraPlan::new(camera, &self.limits)?;
            if self.recording.store_and_forward && plan.record != RecordPolicy::Off {
                plan.share_bytes_with_late();
            }
            if plans.iter().any(|other| other.id == plan.id) {
                return Err(ConfigError::not_allowed("camera.id", &plan.id, "each camera needs an id of its own"));
            }
            plans.push(plan);
        }
        self.recording.check(&self.limits, &plans)?;
        Ok(plans)
    }

    /// The configuration as TOML, without passwords.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("the configuration has only tables, texts and numbers")
    }
}

impl LimitsConfig {
    fn check(&self) -> Result<(), ConfigError> {
        in_range("limits.max_picture_bytes", self.max_picture_bytes, 16 * 1024..=64 * 1024 * 1024)?;
        in_range("limits.max_source_width_px", self.max_source_width_px, 16..=8192)?;
        in_range("limits.max_source_height_px", self.max_source_height_px, 16..=8192)?;
        in_range("limits.max_frame_bytes", self.max_frame_bytes, 4096..=16 * 1024 * 1024)?;
        in_range("limits.mailbox_frames", self.mailbox_frames, 1..=64)?;
        in_range("limits.max_in_flight", self.max_in_flight, 1..=64)?;
        in_range("limits.mailbox_bytes", self.mailbox_bytes, self.max_frame_bytes..=256 * 1024 * 1024)
    }
}

impl fmt::Debug for CameraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As TOML, which holds no password.
        f.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "***" })
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "***" })
    }
}

fn serialize_redacted<S: Serializer>(source: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&spec::redacted(source))
}

#[cfg(test)]
mod tests;
