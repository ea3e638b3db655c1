//! Names of folders and segment files. A name sorts by the segment's place in
//! the order of its camera; the time in it is for people: the clock may have
//! jumped, or was never set. Opens no file.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};
use std::{fmt, fs, io};

use flatframe_shared::frame::CameraId;

const ENDING: &str = ".ffr";
/// In place of a time when the clock was not set.
const NO_TIME: &str = "no-clock";

/// Name of a segment file: `0000000042-20261122T031500.123Z.ffr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Place in the order of the camera's segments.
    pub sequence: u64,
    /// Wall clock at its begin, milliseconds; `None`: it was not set.
    pub started_unix_ms: Option<i64>,
}

impl SegmentName {
    /// Reads a name; `None`: not one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let (sequence, time) = name.strip_suffix(ENDING)?.split_once('-')?;
        let started_unix_ms = match time {
            NO_TIME => None,
            time => Some(parse_time(time)?),
        };
        let parsed = Self { sequence: sequence.parse().ok()?, started_unix_ms };
        // Else removing it by its parts would miss the file.
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{}{ENDING}", self.sequence, time_in_name(self.started_unix_ms))
    }
}

/// The segments in the folder of a camera, in their order. What is not one of
/// ours is passed over.
///
/// # Errors
/// When the folder cannot be read.
pub fn segments_in(folder: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().to_str().and_then(SegmentName::parse));
    }
    names.sort();
    Ok(names)
}

/// A time as it stands in names of files: `20261122T031500.123Z`.
pub fn time_in_name(unix_ms: Option<i64>) -> String {
    match unix_ms.and_then(|ms| u64::try_from(ms).ok()) {
        None => NO_TIME.into(),
        Some(ms) => {
            let time = UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS));
            humantime::format_rfc3339_millis(time).to_string().replace(['-', ':'], "")
        }
    }
}

/// The end of the year 9999: later ones have no name.
const LAST_MS: u64 = 253_402_300_799_999;

fn parse_time(text: &str) -> Option<i64> {
    if !text.is_ascii() || text.len() != "20261122T031500.123Z".len() {
        return None;
    }
    let (date, time) = (&text[..8], &text[9..]);
    let spelled =
        format!("{}-{}-{}T{}:{}:{}", &date[..4], &date[4..6], &date[6..], &time[..2], &time[2..4], &time[4..]);
    let since = humantime::parse_rfc3339(&spelled).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// The folder of a camera below `recording.dir`; `None` for ids that are no
/// folder's name.
pub fn camera_folder(camera: &CameraId) -> Option<&str> {
    let id = camera.as_str();
    (!id.starts_with('.')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_sequence_and_come_back() {
        let name = |sequence, started_unix_ms| SegmentName { sequence, started_unix_ms };
        let first = name(42, Some(1_795_317_300_123));
        assert_eq!(first.to_string(), "0000000042-20261122T031500.123Z.ffr");
        let none = name(43, None);
        assert_eq!(none.to_string(), "0000000043-no-clock.ffr");
        assert!(first.to_string() < none.to_string());
        for name in [first, none, name(u64::MAX, Some(0)), name(0, Some(LAST_MS as i64))] {
            assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        }
        for other in ["42-20261122T031500.123Z.ffr", "0000000042-2026.ffr", "x.ffr", ".lock", "0000000042-no-clock"] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn no_camera_leaves_the_folder() {
        for (id, folder) in [("front-door", Some("front-door")), ("..", None), (".", None), (".lock", None)] {
            assert_eq!(camera_folder(&CameraId::parse(id).expect("valid")), folder);
        }
    }
}
