//! One camera as configured, read and checked: ids, rates and sizes as types.
//! Everything behind the configuration works with plans.

use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range};
use flatframe_shared::convert::{MAX_FPS, MAX_TTL, millis_u64};
use flatframe_shared::frame::{CameraId, PictureSize, Rotation};

use crate::config::{CameraConfig, LimitsConfig};
use crate::prepare::PrepareLimits;
use crate::record::RecordPolicy;
use crate::source::pattern;
use crate::source::spec::{Login, SourceSpec};

/// Longest display name, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Lowest rate, in frames per second: one in 100 s.
const MIN_FPS: f32 = 0.01;
/// Asked of sources that can be asked, unless configured.
const ASKED_SIZE: PictureSize = PictureSize::new(640, 480);

/// One camera, ready to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraPlan {
    /// Stable id.
    pub id: CameraId,
    /// Name for people; may be empty.
    pub name: String,
    /// Where its pictures come from.
    pub source: SourceSpec,
    /// Rate wanted, frames per second.
    pub fps: f32,
    /// Age at which a frame is worthless.
    pub ttl: Duration,
    /// What makes its pictures upright.
    pub rotation: Rotation,
    /// JPEG quality, 1 to 100.
    pub quality: u8,
    /// Configured size; 0 where not configured.
    size: PictureSize,
    /// Time without a whole picture after which the source is opened again.
    pub no_picture: Duration,
    /// Configured login.
    pub login: Option<Login>,
    /// Command in place of `rpicam-vid`; empty: none.
    pub command: Vec<String>,
    /// Faces on a test card.
    pub faces: u8,
    /// Seed of a test card.
    pub seed: u64,
    /// What of it is recorded.
    pub record: RecordPolicy,
    /// Largest JPEG taken from the source, bytes.
    pub max_picture_bytes: usize,
    /// Limits of preparation.
    pub prepare: PrepareLimits,
}

impl CameraPlan {
    /// Reads and checks one camera.
    ///
    /// # Errors
    /// Names the key, with the camera's id, the value and what is allowed.
    pub fn new(camera: &CameraConfig, limits: &LimitsConfig) -> Result<Self, ConfigError> {
        let id = CameraId::parse(&camera.id)
            .map_err(|error| ConfigError::not_allowed("camera.id", "this", error.to_string()))?;
        let key = |name: &str| format!("camera {id}: {name}");
        let source = SourceSpec::parse(&camera.source).map_err(|why| {
            ConfigError::not_allowed(key("source"), crate::source::spec::redacted(&camera.source), why)
        })?;
        if camera.name.len() > MAX_NAME_BYTES {
            let allowed = format!("use at most {MAX_NAME_BYTES} bytes");
            return Err(ConfigError::not_allowed(key("name"), format!("{} bytes", camera.name.len()), allowed));
        }
        in_range(&key("fps"), camera.fps, MIN_FPS..=MAX_FPS)?;
        in_range(&key("ttl_ms"), camera.ttl_ms, 1..=millis_u64(MAX_TTL))?;
        in_range(&key("quality"), camera.quality, 1..=100)?;
        in_range(&key("no_picture_ms"), camera.no_picture_ms, 500..=600_000)?;
        let rotation = Rotation::from_degrees(camera.rotation_degrees)
            .map_err(|error| ConfigError::not_allowed(key("rotation_degrees"), error.0, "use 0, 90, 180 or 270"))?;
        let source_size = PictureSize::new(limits.max_source_width_px, limits.max_source_height_px);
        let record = RecordPolicy::parse(&camera.record)
            .ok_or_else(|| ConfigError::not_allowed(key("record"), &camera.record, "use off, continuous or motion"))?;
        let plan = Self {
            name: camera.name.clone(),
            fps: camera.fps,
            ttl: Duration::from_millis(camera.ttl_ms),
            rotation,
            quality: camera.quality,
            size: PictureSize::new(camera.width_px, camera.height_px),
            no_picture: Duration::from_millis(camera.no_picture_ms),
            login: login(camera, &key)?,
            command: camera.command.clone(),
            faces: camera.faces,
            seed: camera.seed,
            record,
            max_picture_bytes: limits.max_picture_bytes,
            prepare: PrepareLimits {
                source_size,
                sent_size: PictureSize::new(
                    or(camera.width_px, source_size.width_px),
                    or(camera.height_px, source_size.height_px),
                ),
                sent_bytes: limits.max_frame_bytes,
                quality: camera.quality,
            },
            source,
            id: id.clone(),
        };
        plan.check(&key)?;
        Ok(plan)
    }

    fn check(&self, key: &impl Fn(&str) -> String) -> Result<(), ConfigError> {
        let (asked, limit) = (self.asked_size(), self.prepare.source_size);
        let smallest = match self.source {
            SourceSpec::Pattern => pattern::MIN_SIZE,
            _ => PictureSize::new(16, 16),
        };
        in_range(&key("width_px"), asked.width_px, smallest.width_px..=limit.width_px)?;
        in_range(&key("height_px"), asked.height_px, smallest.height_px..=limit.height_px)?;
        if !self.command.is_empty() && self.source != SourceSpec::Rpicam {
            let allowed = "only source = \"rpicam\" runs a command";
            return Err(ConfigError::not_allowed(key("command"), self.command.join(" "), allowed));
        }
        if self.command.first().is_some_and(String::is_empty) {
            return Err(ConfigError::not_allowed(key("command"), "[\"\"]", "begin with the program"));
        }
        in_range(&key("faces"), self.faces, 1..=pattern::MAX_FACES)
    }

    /// Size asked of a source that can be asked.
    pub fn asked_size(&self) -> PictureSize {
        PictureSize::new(or(self.size.width_px, ASKED_SIZE.width_px), or(self.size.height_px, ASKED_SIZE.height_px))
    }

    /// Time from one wanted frame to the next.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(1.0 / f64::from(self.fps))
    }

    /// The rate to gate captured pictures at; `None` for sources that give
    /// pictures at the wanted rate by themselves.
    pub fn gate_fps(&self) -> Option<f32> {
        match self.source {
            SourceSpec::Pattern | SourceSpec::Files(_) => None,
            SourceSpec::Rpicam if self.command.is_empty() => None,
            SourceSpec::Rpicam | SourceSpec::MjpegHttp(_) => Some(self.fps),
        }
    }
}

fn or(configured: u32, default: u32) -> u32 {
    if configured == 0 { default } else { configured }
}

fn login(camera: &CameraConfig, key: &impl Fn(&str) -> String) -> Result<Option<Login>, ConfigError> {
    let password = match camera.password_env.as_str() {
        "" => camera.password.0.clone(),
        variable => std::env::var(variable).map_err(|_| {
            ConfigError::not_allowed(key("password_env"), variable, "name an environment variable that is set")
        })?,
    };
    match (camera.username.as_str(), password.as_str()) {
        ("", "") => Ok(None),
        ("", _) => Err(ConfigError::not_allowed(key("username"), "\"\"", "a password needs a username")),
        (username, _) => Ok(Some(Login { username: username.into(), password })),
    }
}
