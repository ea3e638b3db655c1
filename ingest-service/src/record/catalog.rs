//! What is recorded: which cameras, from when to when, with which gaps. Reads
//! beside a service that writes; a segment that was removed meanwhile is
//! passed over. Changes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flatframe_shared::frame::CameraId;

use super::container::{FileHeaderError, FrameHeader};
use super::name::{SegmentName, camera_folder, segments_in};
use super::reader::{Next, SegmentReader};

/// No segment is longer, by far.
const LONGEST_SEGMENT_MS: i64 = 3_600_000;

/// A stretch of time by the wall clock, microseconds; `None`: no end there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// From here.
    pub from_unix_us: Option<i64>,
    /// To before here.
    pub to_unix_us: Option<i64>,
}

impl TimeRange {
    /// Whether a frame is in it. One without a time is only in all of time.
    pub fn holds(&self, unix_us: Option<i64>) -> bool {
        match unix_us {
            None => *self == Self::default(),
            Some(unix_us) => {
                self.from_unix_us.is_none_or(|from| unix_us >= from) && self.to_unix_us.is_none_or(|to| unix_us < to)
            }
        }
    }

    fn may_hold(&self, name: &SegmentName) -> bool {
        let Some(started_ms) = name.started_unix_ms else { return *self == Self::default() };
        let is_after = self.to_unix_us.is_some_and(|to| started_ms > to / 1000);
        let is_before = self.from_unix_us.is_some_and(|from| started_ms + LONGEST_SEGMENT_MS < from / 1000);
        !is_after && !is_before
    }
}

/// A frame where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its header.
    pub header: FrameHeader,
    /// Its segment.
    pub sequence: u64,
    /// The run that wrote it; `None`: the file header is damaged.
    pub run: Option<u64>,
    /// What makes it upright, degrees clockwise.
    pub rotation_degrees: u32,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub file: PathBuf,
    /// How many.
    pub bytes: u64,
}

/// Cameras with a folder in `dir`, sorted.
///
/// # Errors
/// When it cannot be read.
pub fn cameras(dir: &Path) -> io::Result<Vec<CameraId>> {
    let mut cameras = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let camera = entry.file_name().to_str().and_then(|name| CameraId::parse(name).ok());
        let camera = camera.filter(|camera| camera_folder(camera).is_some());
        if entry.file_type()?.is_dir() {
            cameras.extend(camera);
        }
    }
    cameras.sort();
    Ok(cameras)
}

/// The frames of a camera, in the order in which they were written.
#[derive(Debug)]
pub struct Frames {
    folder: PathBuf,
    range: TimeRange,
    names: std::vec::IntoIter<SegmentName>,
    current: Option<(SegmentName, SegmentReader)>,
    /// What was damaged so far.
    pub damage: Vec<Damage>,
}

impl Frames {
    /// Those of `camera` in `dir` within `range`.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of(dir: &Path, camera: &CameraId, range: TimeRange) -> io::Result<Self> {
        let folder = camera_folder(camera).ok_or_else(|| io::Error::other("the id names no folder"))?;
        let folder = dir.join(folder);
        let mut names = segments_in(&folder)?;
        names.retain(|name| range.may_hold(name));
        Ok(Self { folder, range, names: names.into_iter(), current: None, damage: Vec::new() })
    }

    /// Length of all its files and how many they are.
    pub fn files(&self) -> (u64, u64) {
        let names = self.names.as_slice();
        let bytes =
            |name: &SegmentName| fs::metadata(self.folder.join(name.to_string())).map_or(0, |found| found.len());
        (names.iter().map(bytes).sum(), names.len() as u64)
    }

    /// The next frame; its picture goes to `jpeg`, checked. Without `jpeg`
    /// pictures are not read.
    ///
    /// # Errors
    /// When a file cannot be read, or is of a newer layout.
    pub fn next(&mut self, mut jpeg: Option<&mut Vec<u8>>) -> io::Result<Option<Found>> {
        loop {
            let Some((name, reader)) = &mut self.current else {
                let Some(name) = self.names.next() else { return Ok(None) };
                self.open(name)?;
                continue;
            };
            let bytes = match reader.next(jpeg.as_deref_mut())? {
                Some(Next::Frame(header)) => {
                    if !self.range.holds(header.captured_unix_us) {
                        continue;
                    }
                    let file = reader.header().ok();
                    return Ok(Some(Found {
                        header,
                        sequence: name.sequence,
                        run: file.map(|file| file.run),
                        rotation_degrees: file.map_or(0, |file| file.rotation_degrees),
                    }));
                }
                Some(Next::Damaged { bytes }) => bytes,
                // The end of the last one is being written.
                Some(Next::Torn { bytes }) if !self.names.as_slice().is_empty() => bytes,
                Some(Next::Torn { .. }) => 0,
                None => {
                    self.current = None;
                    continue;
                }
            };
            let file = self.folder.join(name.to_string());
            self.damage.extend((bytes > 0).then_some(Damage { file, bytes }));
        }
    }

    fn open(&mut self, name: SegmentName) -> io::Result<()> {
        let file = self.folder.join(name.to_string());
        let reader = match SegmentReader::open(&file) {
            Ok(reader) => reader,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Err(newer @ FileHeaderError::Newer(_)) = reader.header() {
            return Err(io::Error::other(format!("{}: {newer}", file.display())));
        }
        self.current = Some((name, reader));
        Ok(())
    }
}

/// What is recorded of one camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Whose.
    pub camera: CameraId,
    /// Files.
    pub segments: u64,
    /// Their length, bytes.
    pub bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Of them, captured while the clock was not set.
    pub frames_without_time: u64,
    /// Earliest capture, microseconds.
    pub from_unix_us: Option<i64>,
    /// Latest capture, microseconds.
    pub to_unix_us: Option<i64>,
    /// Times without a frame between two, in their order.
    pub gaps: Vec<Gap>,
    /// What cannot be read.
    pub damage: Vec<Damage>,
}

/// A time without a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Capture of the frame before, microseconds.
    pub from_unix_us: Option<i64>,
    /// Capture of the frame after.
    pub to_unix_us: Option<i64>,
    /// How long; `None`: across two runs without a clock nobody knows.
    pub lasted: Option<Duration>,
}

/// Lists what is recorded of `camera`; `gap` and more without a frame is a gap.
/// With `check` every picture is read and checked.
///
/// # Errors
/// When it cannot be read.
pub fn list(dir: &Path, camera: &CameraId, gap: Duration, check: bool) -> io::Result<Listing> {
    let mut frames = Frames::of(dir, camera, TimeRange::default())?;
    let (bytes, segments) = frames.files();
    let mut listing = Listing {
        camera: camera.clone(),
        segments,
        bytes,
        frames: 0,
        frames_without_time: 0,
        from_unix_us: None,
        to_unix_us: None,
        gaps: Vec::new(),
        damage: Vec::new(),
    };
    let mut jpeg = Vec::new();
    let mut before: Option<Found> = None;
    while let Some(found) = frames.next(check.then_some(&mut jpeg))? {
        listing.frames += 1;
        let unix_us = found.header.captured_unix_us;
        listing.frames_without_time += u64::from(unix_us.is_none());
        listing.from_unix_us = [listing.from_unix_us, unix_us].into_iter().flatten().min();
        listing.to_unix_us = [listing.to_unix_us, unix_us].into_iter().flatten().max();
        if let Some(before) = before.replace(found) {
            let lasted = between(&before, &found);
            if lasted.is_none_or(|lasted| lasted >= gap) {
                let from_unix_us = before.header.captured_unix_us;
                listing.gaps.push(Gap { from_unix_us, to_unix_us: unix_us, lasted });
            }
        }
    }
    listing.damage = frames.damage;
    Ok(listing)
}

/// Time between two frames: monotonic within a run, else by the wall clock.
pub fn between(before: &Found, after: &Found) -> Option<Duration> {
    if before.run.is_some() && before.run == after.run {
        let us = after.header.since_run_us.saturating_sub(before.header.since_run_us);
        return Some(Duration::from_micros(us));
    }
    let (before, after) = (before.header.captured_unix_us?, after.header.captured_unix_us?);
    Some(Duration::from_micros(u64::try_from(after.saturating_sub(before)).unwrap_or(0)))
}
