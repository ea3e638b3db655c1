//! The segments of one camera: files that are only ever appended to and
//! removed whole, the oldest first. What they take of the disk never exceeds
//! the cap, not even for an instant: room is made before it is used. Knows no
//! thread and no clock.
//!
//! Files are not allocated ahead. Each append lengthens the file, which costs
//! the file system an entry in its journal with each sync, one every few
//! seconds; a file of zeros would save that, but take its camera's room before
//! there is a frame, and leave a tail to tell from frames after a power cut.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use flatframe_shared::frame::CameraId;

use super::container::{FILE_HEADER_BYTES, FileHeader, FrameHeader};
use super::name::{SegmentName, segments_in};
use super::queue::Frame;
use super::reader::whole_part;

/// Most segments of one camera; the oldest go beyond that.
pub const MAX_SEGMENTS: usize = 8192;
/// Memory of what is known of one segment, with the slack of its list, bytes.
pub const SEGMENT_ENTRY_BYTES: u64 = 128;
/// A segment ends at this length, so that looking through the last one at a
/// start takes seconds.
const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// Or at this part of the cap, so that removing one costs little.
const CAP_PARTS: u64 = 8;
/// What file systems give at once.
const BLOCK_BYTES: u64 = 4096;
/// A wall clock that was set by more than this begins another segment.
const CLOCK_JUMP: Duration = Duration::from_secs(10);
/// Files that wait for the next sync; with more, it comes at once.
const MAX_UNSYNCED: usize = 8;
/// A file that is newer than now by more was written with a wrong clock.
const FUTURE_S: i64 = 3600;
/// A clock before this (2020-01-01) was never set.
const CLOCK_IS_SET_UNIX_S: i64 = 1_577_836_800;

/// What a ring may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Disk space of a camera, bytes.
    pub max_bytes: u64,
    /// Frames older than this are removed, with their segment.
    pub max_age: Duration,
    /// A segment ends after this time.
    pub segment: Duration,
}

/// Whose frames a ring writes down, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writing {
    /// Whose.
    pub camera: CameraId,
    /// What makes its pictures upright, degrees clockwise.
    pub rotation_degrees: u32,
    /// Random id of this run of the service.
    pub run: u64,
    /// When it began.
    pub began: Instant,
}

/// The segments of one camera.
#[derive(Debug)]
pub struct Ring {
    folder: PathBuf,
    bounds: Bounds,
    /// Oldest first; while `open` is there, the last one is open.
    segments: VecDeque<Segment>,
    disk_bytes: u64,
    removed: u64,
    next_sequence: u64,
    open: Option<Open>,
    /// Ended since the last sync.
    unsynced: Vec<File>,
    /// The folder has names that a power cut may lose.
    has_new_names: bool,
}

#[derive(Debug)]
struct Segment {
    name: SegmentName,
    bytes: u64,
    written: Written,
}

/// When a segment was written last.
#[derive(Debug, Clone, Copy)]
enum Written {
    /// By this run.
    Now(Instant),
    /// Before, by the wall clock of then, seconds; `None`: it was not set.
    Before(Option<i64>),
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Capture of its first frame.
    first: Instant,
    first_unix_us: Option<i64>,
    is_dirty: bool,
}

impl Ring {
    /// The ring in `folder`, brought below its cap.
    ///
    /// # Errors
    /// What the disk said.
    pub fn open(folder: PathBuf, bounds: Bounds) -> io::Result<Self> {
        let mut segments = Vec::new();
        for name in segments_in(&folder)? {
            let found = match fs::symlink_metadata(folder.join(name.to_string())) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let since = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let unix_s = since.and_then(|since| i64::try_from(since.as_secs()).ok());
            let written = Written::Before(unix_s.filter(|unix_s| *unix_s >= CLOCK_IS_SET_UNIX_S));
            segments.push(Segment { name, bytes: found.len(), written });
        }
        let mut ring = Self {
            folder,
            bounds,
            disk_bytes: segments.iter().map(|segment| on_disk(segment.bytes)).sum(),
            removed: 0,
            next_sequence: segments.last().map_or(1, |last| last.name.sequence.saturating_add(1)),
            segments: segments.into(),
            open: None,
            unsynced: Vec::new(),
            has_new_names: false,
        };
        ring.make_room(0)?;
        Ok(ring)
    }

    /// The ring in `folder`, made if it is not there, ready to go on: what a
    /// power cut left torn at its end is cut off.
    ///
    /// # Errors
    /// What the disk said.
    pub fn open_for_writing(folder: PathBuf, bounds: Bounds) -> io::Result<Self> {
        make_folder(&folder)?;
        let mut ring = Self::open(folder, bounds)?;
        ring.mend_last()?;
        Ok(ring)
    }

    /// What its segments take of the disk, bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Its segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Segments removed since the last call.
    pub fn take_removed(&mut self) -> u64 {
        std::mem::take(&mut self.removed)
    }

    /// Appends a frame and gives the bytes written; `None`: it is larger than
    /// half of the cap.
    ///
    /// # Errors
    /// What the disk said; the ring must be opened again then.
    pub fn append(&mut self, frame: &Frame, writing: &Writing) -> io::Result<Option<u64>> {
        let since_run = frame.captured.saturating_duration_since(writing.began);
        let header = FrameHeader {
            jpeg_bytes: u32::try_from(frame.jpeg.len()).unwrap_or(u32::MAX),
            number: frame.number,
            captured_unix_us: frame.captured_unix_us,
            since_run_us: u64::try_from(since_run.as_micros()).unwrap_or(u64::MAX),
            size: frame.size,
            is_late: frame.is_late,
            jpeg_crc: crc32fast::hash(&frame.jpeg),
        };
        let bytes = header.whole_bytes();
        if on_disk(bytes + FILE_HEADER_BYTES as u64) > self.bounds.max_bytes / 2 {
            return Ok(None);
        }
        if self.must_end_before(frame, bytes) {
            self.end_segment()?;
        }
        match (&self.open, self.segments.back()) {
            (Some(_), Some(last)) => self.make_room(on_disk(last.bytes + bytes) - on_disk(last.bytes))?,
            _ => {
                self.make_room(on_disk(FILE_HEADER_BYTES as u64 + bytes))?;
                self.begin_segment(frame, writing)?;
            }
        }
        let (Some(open), Some(last)) = (&mut self.open, self.segments.back_mut()) else {
            return Err(io::Error::other("a segment was begun and is not there"));
        };
        open.is_dirty = true;
        open.file.write_all(&header.encode())?;
        open.file.write_all(&frame.jpeg)?;
        self.disk_bytes += on_disk(last.bytes + bytes) - on_disk(last.bytes);
        last.bytes += bytes;
        last.written = Written::Now(frame.captured);
        Ok(Some(bytes))
    }

    fn must_end_before(&self, frame: &Frame, bytes: u64) -> bool {
        let (Some(open), Some(last)) = (&self.open, self.segments.back()) else { return false };
        let most = MAX_SEGMENT_BYTES.min(self.bounds.max_bytes / CAP_PARTS);
        let since = frame.captured.saturating_duration_since(open.first);
        let jumped = match (open.first_unix_us, frame.captured_unix_us) {
            (None, None) => false,
            (Some(first), Some(now)) => {
                let expected = first.saturating_add(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
                now.abs_diff(expected) > CLOCK_JUMP.as_micros() as u64
            }
            _ => true,
        };
        since >= self.bounds.segment || last.bytes + bytes > most || jumped
    }

    fn begin_segment(&mut self, frame: &Frame, writing: &Writing) -> io::Result<()> {
        let name = SegmentName {
            sequence: self.next_sequence,
            started_unix_ms: frame.captured_unix_us.map(|unix_us| unix_us / 1000),
        };
        let header = FileHeader {
            camera: writing.camera.clone(),
            rotation_degrees: writing.rotation_degrees,
            sequence: name.sequence,
            run: writing.run,
            started_unix_us: frame.captured_unix_us,
        };
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create_new(true).mode(0o600).open(self.path(&name))?;
        let bytes = FILE_HEADER_BYTES as u64;
        self.next_sequence = self.next_sequence.saturating_add(1);
        self.segments.push_back(Segment { name, bytes, written: Written::Now(frame.captured) });
        self.disk_bytes += on_disk(bytes);
        self.has_new_names = true;
        file.write_all(&header.encode())?;
        let (first, first_unix_us) = (frame.captured, frame.captured_unix_us);
        self.open = Some(Open { file, first, first_unix_us, is_dirty: true });
        Ok(())
    }

    fn end_segment(&mut self) -> io::Result<()> {
        if let Some(open) = self.open.take().filter(|open| open.is_dirty) {
            self.unsynced.push(open.file);
        }
        if self.unsynced.len() > MAX_UNSYNCED { self.sync() } else { Ok(()) }
    }

    /// Ends a segment whose time is over though no frame comes, and removes
    /// what is too old. `now_unix_s` is `None` while the clock is not set.
    ///
    /// # Errors
    /// What the disk said.
    pub fn expire(&mut self, now: Instant, now_unix_s: Option<i64>) -> io::Result<()> {
        let over = |open: &Open| now.saturating_duration_since(open.first) >= self.bounds.segment;
        if self.open.as_ref().is_some_and(over) {
            self.end_segment()?;
        }
        while self.oldest_is_too_old(now, now_unix_s) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    /// A segment of which the time is not known is as old as the next that is.
    fn oldest_is_too_old(&self, now: Instant, now_unix_s: Option<i64>) -> bool {
        for segment in &self.segments {
            match (segment.written, now_unix_s) {
                (Written::Now(at), _) => return now.saturating_duration_since(at) > self.bounds.max_age,
                (Written::Before(Some(at_s)), Some(now_s)) if at_s <= now_s + FUTURE_S => {
                    let age_s = u64::try_from(now_s - at_s).unwrap_or(0);
                    return Duration::from_secs(age_s) > self.bounds.max_age;
                }
                (Written::Before(_), _) => {}
            }
        }
        false
    }

    /// Has the disk keep what was written.
    ///
    /// # Errors
    /// What the disk said.
    pub fn sync(&mut self) -> io::Result<()> {
        for file in self.unsynced.drain(..) {
            file.sync_data()?;
        }
        if let Some(open) = self.open.as_mut().filter(|open| open.is_dirty) {
            open.file.sync_data()?;
            open.is_dirty = false;
        }
        if std::mem::take(&mut self.has_new_names) {
            // Some file systems sync no folder; what they lose is a name.
            let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// Removes the oldest segments until `bytes` more fit.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        // One place is left for a segment that is to be begun.
        while self.disk_bytes + bytes > self.bounds.max_bytes || self.segments.len() >= MAX_SEGMENTS {
            if self.segments.is_empty() {
                return Err(io::Error::other("the cap is smaller than one frame"));
            }
            self.remove_oldest()?;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.segments.front() else { return Ok(()) };
        if self.segments.len() == 1 {
            self.open = None;
        }
        match fs::remove_file(self.path(&oldest.name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Whoever removed it meant it.
            _ => {}
        }
        self.disk_bytes -= on_disk(oldest.bytes);
        self.removed += 1;
        self.segments.pop_front();
        Ok(())
    }

    /// Cuts off what was never written to its end.
    fn mend_last(&mut self) -> io::Result<()> {
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        let path = self.folder.join(last.name.to_string());
        let (whole, len) = match whole_part(&path) {
            Ok(Some(parts)) => parts,
            Ok(None) => return Ok(()),
            Err(error) => {
                // One bad place of the disk must not end the recording of all
                // cameras: nothing is ever appended to this file.
                tracing::warn!(
                    file = %path.display(),
                    %error,
                    "the end of a recording cannot be read: it is left as it is"
                );
                return Ok(());
            }
        };
        if whole == len && whole > 0 {
            return Ok(());
        }
        tracing::info!(file = %path.display(), bytes = len - whole, "the torn end of a recording is cut off");
        if whole == 0 {
            fs::remove_file(&path)?;
            self.disk_bytes -= on_disk(last.bytes);
            self.segments.pop_back();
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&path)?;
        file.set_len(whole)?;
        file.sync_all()?;
        self.disk_bytes -= on_disk(last.bytes) - on_disk(whole);
        last.bytes = whole;
        Ok(())
    }

    fn path(&self, name: &SegmentName) -> PathBuf {
        self.folder.join(name.to_string())
    }
}

/// What a file of `bytes` takes of the disk.
fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// Makes a folder that only this user may read; its parent must be there, so
/// that a disk that is not mounted is noticed.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
