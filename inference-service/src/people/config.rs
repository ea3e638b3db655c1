//! What an operator sets about following and counting people: how long a face
//! is followed, and the lines and zones of each camera.

use std::collections::BTreeSet;
use std::time::Duration;

use flatframe_shared::config::{ConfigError, in_range};
use flatframe_shared::frame::CameraId;
use serde::{Deserialize, Serialize};

use super::track::TrackSettings;
use crate::vision::VisionConfig;

/// Most lines and zones of one camera, together.
pub const MAX_CROSSINGS: usize = 8;
/// Most names of lines and zones, of all cameras together: the history keeps
/// two counters for each name, for ever.
pub const MAX_NAMES: usize = 128;
/// Most corners of a zone.
pub const MAX_CORNERS: usize = 16;
/// Longest name of a line or zone, in bytes.
pub const MAX_NAME_BYTES: usize = 32;

/// A place in the upright picture as shares of its width and height: `[0, 0]`
/// is the upper left corner, `[1, 1]` the lower right.
pub type Share = [f32; 2];

/// Settings of the table `[people]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeopleConfig {
    /// Most faces followed at once for one camera, 1 to 256.
    pub max_tracks: usize,
    /// A face that is not seen for so long is gone; who comes back later is
    /// another visit. In milliseconds, 100 to 60000.
    pub lost_ms: u64,
    /// A face counts as a visit when it was seen in so many frames, 1 to 20.
    pub confirm_frames: u32,
    /// Lines that people cross.
    pub lines: Vec<LineConfig>,
    /// Areas that people enter and leave.
    pub zones: Vec<ZoneConfig>,
}

impl Default for PeopleConfig {
    fn default() -> Self {
        Self { max_tracks: 64, lost_ms: 2000, confirm_frames: 3, lines: Vec::new(), zones: Vec::new() }
    }
}

/// A line in the picture of one camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineConfig {
    /// Id of the camera.
    pub camera: String,
    /// Name of the line, of the camera's lines and zones the only one.
    pub name: String,
    /// One end.
    pub from: Share,
    /// The other end. Whoever looks from `from` to `to` sees people enter who
    /// go from left to right.
    pub to: Share,
}

/// An area in the picture of one camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneConfig {
    /// Id of the camera.
    pub camera: String,
    /// Name of the zone, of the camera's lines and zones the only one.
    pub name: String,
    /// Its corners in order, 3 to 16.
    pub corners: Vec<Share>,
}

impl PeopleConfig {
    /// How to follow faces that `vision` finds.
    pub fn tracking(&self, vision: &VisionConfig) -> TrackSettings {
        TrackSettings {
            max_tracks: self.max_tracks,
            max_faces: vision.max_faces,
            lost_after: Duration::from_millis(self.lost_ms),
            confirm_frames: self.confirm_frames,
            ..TrackSettings::default()
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        in_range("people.max_tracks", self.max_tracks, 1..=256)?;
        in_range("people.lost_ms", self.lost_ms, 100..=60_000)?;
        in_range("people.confirm_frames", self.confirm_frames, 1..=20)?;
        for line in &self.lines {
            let key = format!("people.lines {:?} of camera {:?}", line.name, line.camera);
            check_place(&key, &line.camera, &line.name, &[line.from, line.to])?;
            if line.from == line.to {
                return Err(ConfigError::Wrong(format!("{key}: from and to are the same place")));
            }
        }
        for zone in &self.zones {
            let key = format!("people.zones {:?} of camera {:?}", zone.name, zone.camera);
            check_place(&key, &zone.camera, &zone.name, &zone.corners)?;
            if !(3..=MAX_CORNERS).contains(&zone.corners.len()) {
                let count = zone.corners.len();
                return Err(ConfigError::Wrong(format!("{key} has {count} corners: use 3 to {MAX_CORNERS}")));
            }
        }
        let names: BTreeSet<_> = self.names().map(|(_, name)| name).collect();
        if names.len() > MAX_NAMES {
            let count = names.len();
            let text =
                format!("people: {count} names of lines and zones: use at most {MAX_NAMES}, the same for many cameras");
            return Err(ConfigError::Wrong(text));
        }
        let mut places: Vec<_> = self.names().collect();
        places.sort_unstable();
        if let Some([(camera, name), _]) = places.array_windows().find(|[a, b]| a == b) {
            let text = format!("people: camera {camera:?} has two lines or zones named {name:?}: use other names");
            return Err(ConfigError::Wrong(text));
        }
        if let Some(several) = places.chunk_by(|a, b| a.0 == b.0).find(|places| places.len() > MAX_CROSSINGS) {
            let (camera, count) = (several[0].0, several.len());
            let text = format!("people: camera {camera:?} has {count} lines and zones: use at most {MAX_CROSSINGS}");
            return Err(ConfigError::Wrong(text));
        }
        Ok(())
    }

    /// Camera and name of every line and zone.
    fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.lines.iter().map(|line| (line.camera.as_str(), line.name.as_str()));
        lines.chain(self.zones.iter().map(|zone| (zone.camera.as_str(), zone.name.as_str())))
    }
}

fn check_place(key: &str, camera: &str, name: &str, points: &[Share]) -> Result<(), ConfigError> {
    CameraId::parse(camera).map_err(|error| ConfigError::Wrong(format!("{key}: {error}")))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_plain) {
        let text = format!("{key}: the name may have 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, '.', '_', '-'");
        return Err(ConfigError::Wrong(text));
    }
    match points.iter().flatten().find(|share| !(0.0..=1.0).contains(*share)) {
        Some(share) => {
            Err(ConfigError::Wrong(format!("{key}: {share} is no share of the picture's width or height: use 0 to 1")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        let config: PeopleConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())
    }

    #[test]
    fn lines_and_zones_are_checked() {
        let line = |name: &str, from: &str, to: &str| {
            format!("[[lines]]\ncamera = 'bus-12'\nname = '{name}'\nfrom = {from}\nto = {to}\n")
        };
        let zone = |corners: &str| format!("[[zones]]\ncamera = 'bus-12'\nname = 'seats'\ncorners = {corners}\n");
        let triangle = zone("[[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]]");
        assert_eq!(checked(&(line("door", "[0.0, 0.5]", "[1.0, 0.5]") + &triangle)), Ok(()));
        let nine: String = (0..9).map(|n| line(&format!("door-{n}"), "[0.0, 0.5]", "[1.0, 0.5]")).collect();
        for (text, word) in [
            (line("door", "[0.0, 0.5]", "[0.0, 0.5]"), "same place"),
            (line("door", "[0.0, 50.0]", "[1.0, 0.5]"), "50 is no share"),
            (line("front door", "[0.0, 0.5]", "[1.0, 0.5]"), "front door"),
            (line("seats", "[0.0, 0.5]", "[1.0, 0.5]") + &triangle, "two lines or zones named \"seats\""),
            (zone("[[0.0, 0.0], [1.0, 0.0]]"), "3 to 16"),
            (nine, "at most 8"),
            ("max_tracks = 0".into(), "people.max_tracks"),
            ("lost_ms = 1".into(), "people.lost_ms"),
            ("confirm_frames = 99".into(), "people.confirm_frames"),
        ] {
            let error = checked(&text).expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }
}
