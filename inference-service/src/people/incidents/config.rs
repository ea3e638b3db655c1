//! The table `[incidents]`: when a state becomes one, and its pictures.

use flatframe_shared::config::{ConfigError, in_range};
use serde::{Deserialize, Serialize};

use super::IncidentKind;

/// Settings of the table `[incidents]`: how long a state lasts before it is an
/// incident, in seconds, 0 to 86400, and what is kept of how it looked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IncidentConfig {
    /// Stream closed.
    pub offline_s: u64,
    /// No picture from the source.
    pub stalled_s: u64,
    /// The same picture.
    pub frozen_s: u64,
    /// A black picture.
    pub dark_s: u64,
    /// Cameras asked for less than they would like.
    pub overloaded_s: u64,
    /// History not written.
    pub disk_s: u64,
    /// Memory short.
    pub memory_s: u64,
    /// Most bytes of pictures of incidents that are kept, in memory; 0: none.
    pub picture_bytes: usize,
}

impl Default for IncidentConfig {
    fn default() -> Self {
        Self {
            offline_s: 30,
            stalled_s: 30,
            frozen_s: 30,
            dark_s: 30,
            overloaded_s: 60,
            disk_s: 0,
            memory_s: 10,
            picture_bytes: 4 << 20,
        }
    }
}

impl IncidentConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        for kind in IncidentKind::ALL {
            in_range(&format!("incidents.{}_s", kind.as_str()), self.seconds(kind), 0..=86_400)?;
        }
        in_range("incidents.picture_bytes", self.picture_bytes, 0..=256 << 20)
    }

    /// How long a state of that kind lasts before it is an incident.
    pub(super) fn seconds(&self, kind: IncidentKind) -> u64 {
        match kind {
            IncidentKind::Offline => self.offline_s,
            IncidentKind::Stalled => self.stalled_s,
            IncidentKind::Frozen => self.frozen_s,
            IncidentKind::Dark => self.dark_s,
            IncidentKind::Overloaded => self.overloaded_s,
            IncidentKind::Disk => self.disk_s,
            IncidentKind::Memory => self.memory_s,
        }
    }
}
