//! The `[recording]` table: where pictures are kept on disk, and what they may
//! take. Off while `dir` is empty.

use std::path::PathBuf;
use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range};
use serde::{Deserialize, Serialize};

use super::LimitsConfig;
use crate::plan::CameraPlan;
use crate::record::events::Around;
use crate::record::name::camera_folder;
use crate::record::{BURST, Bounds, LateSettings, RecordPolicy, RecordingSettings};

const TIB: u64 = 1 << 40;
/// Smallest bound of a camera's recording, bytes.
const MIN_BYTES: u64 = 16 << 20;
/// Frames of the largest size that must fit into a bound.
const FRAMES: u64 = 8;

/// What is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingConfig {
    /// The folder; empty: nothing is recorded.
    pub dir: String,
    /// Disk space of each camera, in bytes.
    pub max_bytes: u64,
    /// Frames older than this are removed, in seconds.
    pub max_age_s: u64,
    /// With fewer bytes free on the disk nothing is recorded.
    pub min_free_bytes: u64,
    /// Length of one file, in seconds.
    pub segment_s: u64,
    /// Most frames recorded in a second, for each camera.
    pub fps: f32,
    /// Most bytes written in a second, all cameras together.
    pub max_write_bytes_per_s: u64,
    /// Seconds between two syncs: what a power cut may cost.
    pub sync_s: u64,
    /// Most memory of frames that wait for the disk, all cameras together.
    pub queue_bytes: usize,
    /// With `record = "motion"`: seconds recorded from before motion.
    pub before_s: u64,
    /// And most memory of them for each camera, in bytes.
    pub before_bytes: usize,
    /// And seconds recorded after it.
    pub after_s: u64,
    /// Whether frames recorded while no server took them are sent after it.
    pub store_and_forward: bool,
    /// Of those, older ones are not sent, in seconds.
    pub late_max_age_s: u64,
    /// And at most so many are sent in a second, for each camera.
    pub late_fps: f32,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self {
            dir: String::new(),
            max_bytes: 4 << 30,
            max_age_s: 7 * 86_400,
            min_free_bytes: 1 << 30,
            segment_s: 300,
            fps: 5.0,
            max_write_bytes_per_s: 512 * 1024,
            sync_s: 5,
            queue_bytes: 4 << 20,
            before_s: 5,
            before_bytes: 1 << 20,
            after_s: 10,
            store_and_forward: false,
            late_max_age_s: 86_400,
            late_fps: 10.0,
        }
    }
}

impl RecordingConfig {
    /// The settings; `None` while no folder is named.
    pub fn settings(&self) -> Option<RecordingSettings> {
        if self.dir.is_empty() {
            return None;
        }
        Some(RecordingSettings {
            dir: PathBuf::from(&self.dir),
            bounds: Bounds {
                max_bytes: self.max_bytes,
                max_age: Duration::from_secs(self.max_age_s),
                segment: Duration::from_secs(self.segment_s),
            },
            min_free_bytes: self.min_free_bytes,
            max_write_bytes_per_s: self.max_write_bytes_per_s,
            sync_every: Duration::from_secs(self.sync_s),
            queue_bytes: self.queue_bytes,
            fps: self.fps,
            around: Around {
                before: Duration::from_secs(self.before_s),
                after: Duration::from_secs(self.after_s),
                before_bytes: self.before_bytes,
            },
            late: self
                .store_and_forward
                .then(|| LateSettings { max_age: Duration::from_secs(self.late_max_age_s), fps: self.late_fps }),
        })
    }

    pub(super) fn check(&self, limits: &LimitsConfig, plans: &[CameraPlan]) -> Result<(), ConfigError> {
        let frame = limits.max_frame_bytes as u64;
        in_range("recording.max_bytes", self.max_bytes, MIN_BYTES.max(FRAMES * frame)..=64 * TIB)?;
        in_range("recording.max_age_s", self.max_age_s, 60..=10 * 365 * 86_400)?;
        in_range("recording.min_free_bytes", self.min_free_bytes, 0..=TIB)?;
        in_range("recording.segment_s", self.segment_s, 60..=900)?;
        in_range("recording.fps", self.fps, 0.01..=240.0)?;
        let least_rate = (64 << 10).max(frame.div_ceil(BURST.as_secs()) + 1024);
        in_range("recording.max_write_bytes_per_s", self.max_write_bytes_per_s, least_rate..=1 << 30)?;
        in_range("recording.sync_s", self.sync_s, 1..=3600)?;
        in_range("recording.before_s", self.before_s, 0..=300)?;
        in_range("recording.before_bytes", self.before_bytes, 0..=128 << 20)?;
        in_range("recording.after_s", self.after_s, 0..=3600)?;
        in_range("recording.late_max_age_s", self.late_max_age_s, 60..=365 * 86_400)?;
        in_range("recording.late_fps", self.late_fps, 0.01..=240.0)?;
        if self.store_and_forward && plans.iter().all(|plan| plan.record == RecordPolicy::Off) {
            let allowed =
                "nothing is kept to be sent later: set record = \"outage\" (or continuous, motion) at a camera";
            return Err(ConfigError::not_allowed("recording.store_and_forward", true, allowed));
        }
        let least_queue = (2 * limits.max_frame_bytes).max(2 * self.before_bytes).max(1 << 20);
        in_range("recording.queue_bytes", self.queue_bytes, least_queue..=512 << 20)?;
        for plan in plans.iter().filter(|plan| plan.record != RecordPolicy::Off) {
            if self.dir.is_empty() {
                let allowed =
                    format!("camera {} is to be recorded: name a folder, or set its record = \"off\"", plan.id);
                return Err(ConfigError::not_allowed("recording.dir", "\"\"", allowed));
            }
            if camera_folder(&plan.id).is_none() {
                let allowed = "a recorded camera needs an id that does not begin with '.'";
                return Err(ConfigError::not_allowed("camera.id", &plan.id, allowed));
            }
        }
        Ok(())
    }
}
