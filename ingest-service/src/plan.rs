//! One camera as configured, read and checked: ids, rates and sizes as types.
//! Everything behind the configuration works with plans.

use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range};
use flatframe_shared::convert::{MAX_FPS, MAX_TTL, millis_u64};
use flatframe_shared::frame::{CameraId, PictureSize, Rotation};

use crate::config::{CameraConfig, H264Decoder, LimitsConfig, RtspTransport};
use crate::prepare::look::MotionPolicy;
use crate::prepare::preparer::PrepareLimits;
use crate::prepare::view::{self, View};
use crate::record::RecordPolicy;
use crate::source::pattern;
use crate::source::spec::{Login, SourceSpec};

/// Longest display name, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Lowest rate, in frames per second: one in 100 s.
const MIN_FPS: f32 = 0.01;
/// Share of the picture that must change for a recording of motion, unless
/// `motion_percent` is set: a face that comes in at the far end of a room.
const RECORDED_MOTION_PERCENT: f32 = 1.0;
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
    /// More arguments for `rpicam-vid`.
    pub controls: Vec<String>,
    /// What carries the pictures of an RTSP camera.
    pub transport: RtspTransport,
    /// What decodes H.264, as configured.
    h264: H264Decoder,
    /// Whether no H.264 is decoded but key frames.
    pub keyframes_only: bool,
    /// Options of ffmpeg's input.
    pub ffmpeg_input_options: Vec<String>,
    /// Faces on a test card.
    pub faces: u8,
    /// Seed of a test card.
    pub seed: u64,
    /// What of it is recorded.
    pub record: RecordPolicy,
    /// Most bytes per second of late frames, if there is a cap.
    pub late_bytes_per_s: Option<u64>,
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
        let record = RecordPolicy::parse(&camera.record).ok_or_else(|| {
            ConfigError::not_allowed(key("record"), &camera.record, "use off, continuous, motion or outage")
        })?;
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
            controls: camera.controls.clone(),
            transport: camera.transport,
            h264: camera.h264,
            keyframes_only: camera.keyframes_only,
            ffmpeg_input_options: camera.ffmpeg_input_options.clone(),
            faces: camera.faces,
            seed: camera.seed,
            record,
            late_bytes_per_s: None,
            max_picture_bytes: limits.max_picture_bytes,
            prepare: PrepareLimits {
                source_size,
                sent_size: PictureSize::new(
                    or(camera.width_px, source_size.width_px),
                    or(camera.height_px, source_size.height_px),
                ),
                sent_bytes: limits.max_frame_bytes,
                quality: camera.quality,
                view: view(camera, &key)?,
                motion: motion(camera, &key)?,
                recorded_motion_percent: (record == RecordPolicy::Motion).then_some(match camera.motion_percent {
                    0.0 => RECORDED_MOTION_PERCENT,
                    percent => percent,
                }),
                bytes_per_s: bytes_per_s(camera, &key)?,
                fps: camera.fps,
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
        let is_rpicam = matches!(self.source, SourceSpec::Rpicam(_));
        let is_ffmpeg = matches!(self.source, SourceSpec::Ffmpeg(_));
        for (name, words, is_used, allowed) in [
            ("command", &self.command, is_rpicam, "only source = \"rpicam\" runs a command"),
            (
                "controls",
                &self.controls,
                is_rpicam && self.command.is_empty(),
                "only source = \"rpicam\" without a command of its own takes controls",
            ),
            (
                "ffmpeg_input_options",
                &self.ffmpeg_input_options,
                is_ffmpeg,
                "only source = \"ffmpeg:INPUT\" takes them",
            ),
        ] {
            if !words.is_empty() && !is_used {
                return Err(ConfigError::not_allowed(key(name), words.join(" "), allowed));
            }
        }
        if self.h264 == H264Decoder::OpenH264 && !cfg!(feature = "h264") {
            let allowed = "this program was built without it: use \"ffmpeg\", or build with --features h264";
            return Err(ConfigError::not_allowed(key("h264"), "openh264", allowed));
        }
        if self.command.first().is_some_and(String::is_empty) {
            return Err(ConfigError::not_allowed(key("command"), "[\"\"]", "begin with the program"));
        }
        in_range(&key("faces"), self.faces, 1..=pattern::MAX_FACES)
    }

    /// Frames of it are sent late: they get a quarter of its cap on bytes, and
    /// live frames the rest.
    pub fn share_bytes_with_late(&mut self) {
        if let Some(cap) = &mut self.prepare.bytes_per_s {
            self.late_bytes_per_s = Some(*cap / 4);
            *cap -= *cap / 4;
        }
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
            SourceSpec::Rpicam(_) if self.command.is_empty() => None,
            SourceSpec::Rpicam(_)
            | SourceSpec::V4l2(_)
            | SourceSpec::Ffmpeg(_)
            | SourceSpec::MjpegHttp(_)
            | SourceSpec::Rtsp(_) => Some(self.fps),
        }
    }

    /// Whether H.264 is decoded in this process.
    pub fn decodes_h264_here(&self) -> bool {
        cfg!(feature = "h264") && self.h264 != H264Decoder::Ffmpeg
    }
}

fn or(configured: u32, default: u32) -> u32 {
    if configured == 0 { default } else { configured }
}

fn view(camera: &CameraConfig, key: &impl Fn(&str) -> String) -> Result<View, ConfigError> {
    const ALLOWED: &str = "use x, y, width, height as shares of the picture, inside of 0 to 1, each side at least 0.01";
    let inside = |name: &str, part: view::Share| {
        let wrong = || ConfigError::not_allowed(key(name), format!("{part:?}"), ALLOWED);
        view::is_inside(part).then_some(()).ok_or_else(wrong)
    };
    inside("region", camera.region)?;
    if camera.masks.len() > view::MAX_MASKS {
        let allowed = format!("use at most {}", view::MAX_MASKS);
        return Err(ConfigError::not_allowed(key("masks"), format!("{} masks", camera.masks.len()), allowed));
    }
    for &mask in &camera.masks {
        inside("masks", mask)?;
    }
    Ok(View::new(camera.region, camera.masks.clone()))
}

fn motion(camera: &CameraConfig, key: &impl Fn(&str) -> String) -> Result<Option<MotionPolicy>, ConfigError> {
    in_range(&key("motion_percent"), camera.motion_percent, 0.0..=100.0)?;
    in_range(&key("still_keepalive_ms"), camera.still_keepalive_ms, 100..=600_000)?;
    let keepalive = Duration::from_millis(camera.still_keepalive_ms);
    Ok((camera.motion_percent > 0.0).then_some(MotionPolicy { percent: camera.motion_percent, keepalive }))
}

fn bytes_per_s(camera: &CameraConfig, key: &impl Fn(&str) -> String) -> Result<Option<u64>, ConfigError> {
    match camera.max_bytes_per_s {
        0 => Ok(None),
        bytes if (4096..=1 << 30).contains(&bytes) => Ok(Some(bytes)),
        bytes => Err(ConfigError::not_allowed(key("max_bytes_per_s"), bytes, "use 0 (no cap) or 4096 to 1073741824")),
    }
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
