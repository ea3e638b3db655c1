//! The `[history]` table: where results, counts and incidents are kept, and what
//! they may take. Off while `file` is empty.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range};
use serde::{Deserialize, Serialize};

use crate::history::HistorySettings;

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

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range("history.max_bytes", self.max_bytes, 16 << 20..=1 << 50)?;
        in_range("history.result_days", self.result_days, 1..=3660)?;
        in_range("history.count_days", self.count_days, self.result_days..=36_500)
    }
}
