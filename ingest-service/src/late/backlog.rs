//! The late frames of one camera on its disk: looks for them in the recording's
//! files, beside the thread that writes those, and gives them out in the order
//! in which they were captured. Every one that it finds is given out or counted
//! as dropped. Reads files; the one that it writes is the position's. Blocks.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::{PictureSize, Rotation};
use tokio_util::sync::CancellationToken;

use super::LateView;
use super::ledger::LateDrop;
use super::position::{Position, PositionFile};
use crate::record::container::FrameHeader;
use crate::record::name::{SegmentName, segments_in};
use crate::record::reader::{Next, SegmentReader};

/// Name of the position's file beside the segments.
const POSITION_FILE: &str = "late";
/// A frame from further ahead was captured with a wrong clock: sent, it would
/// make all that follow too old.
const AHEAD_US: i64 = 30_000_000;

/// A frame that is to be sent.
#[derive(Debug, Clone)]
pub struct LateFrame {
    /// When it was captured, microseconds since the Unix epoch.
    pub captured_unix_us: i64,
    /// Its size.
    pub size: PictureSize,
    /// What makes it upright.
    pub rotation: Rotation,
    /// The picture.
    pub jpeg: Bytes,
    /// The position once its outcome is known.
    after: Position,
}

/// Late frames of one segment that wait.
#[derive(Debug)]
struct Stretch {
    name: SegmentName,
    frames: u64,
    /// Capture of the newest of them, microseconds; `None`: the clock was not set.
    newest_unix_us: Option<i64>,
}

/// The late frames of one camera.
#[derive(Debug)]
pub struct Backlog {
    folder: PathBuf,
    /// What makes pictures of a damaged file upright.
    rotation: Rotation,
    max_age: Duration,
    sync_every: Duration,
    view: LateView,
    /// `None`: not opened yet, or it failed.
    file: Option<PositionFile>,
    /// How far frames were given out or dropped.
    given: Position,
    /// How far was looked.
    looked: Position,
    /// Oldest first; at most one for each segment of the ring.
    stretches: VecDeque<Stretch>,
    reading: Option<(SegmentName, SegmentReader)>,
    /// The segment of which was last told that the disk does not give it.
    told_unreadable: Option<SegmentName>,
}

impl Backlog {
    /// Of the camera of `view`, whose segments are in `folder`. Touches nothing
    /// yet.
    pub fn new(folder: PathBuf, rotation: Rotation, max_age: Duration, sync_every: Duration, view: LateView) -> Self {
        let (given, looked) = (Position::default(), Position::default());
        let (file, stretches, reading, told_unreadable) = (None, VecDeque::new(), None, None);
        Self { folder, rotation, max_age, sync_every, view, file, given, looked, stretches, reading, told_unreadable }
    }

    /// Looks at what was written since the last look, and for what was removed.
    /// Ends early, between two frames, when `stop` is cancelled.
    ///
    /// # Errors
    /// What the disk said.
    pub fn look(&mut self, stop: &CancellationToken) -> io::Result<()> {
        let names = match segments_in(&self.folder) {
            // Nothing was ever recorded.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        self.open()?;
        if names.last().is_some_and(|last| last.sequence < self.looked.sequence) {
            // Recorded anew, from the first sequence: nothing of before is there.
            let captured_unix_us = self.given.captured_unix_us;
            self.looked = Position::default();
            self.given = Position { captured_unix_us, ..Position::default() };
        }
        self.forget_removed(&names);
        let from = self.looked.sequence;
        for name in names.into_iter().filter(|name| name.sequence >= from) {
            if stop.is_cancelled() {
                break;
            }
            self.look_into(name, stop)?;
        }
        self.view.show_stretches(self.stretches.len());
        Ok(())
    }

    /// Opens the position, at first and after a failure.
    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let (file, position) = PositionFile::open(&self.folder.join(POSITION_FILE))?;
            self.file = Some(file);
            if self.given == Position::default() {
                (self.given, self.looked) = (position, position);
            }
        }
        Ok(())
    }

    fn forget_removed(&mut self, names: &[SegmentName]) {
        while let Some(oldest) = self.stretches.front()
            && names.binary_search(&oldest.name).is_err()
        {
            self.view.ledger.drop_as(LateDrop::Removed, oldest.frames);
            self.stretches.pop_front();
        }
    }

    fn look_into(&mut self, name: SegmentName, stop: &CancellationToken) -> io::Result<()> {
        let Some((mut reader, run)) = self.segment(name)? else { return Ok(()) };
        let is_known = self.looked.sequence == name.sequence && self.looked.run == run;
        let mut end = if is_known { self.looked.end } else { 0 };
        reader.go_to(end)?;
        let (mut frames, mut newest_unix_us) = (0_u64, None::<i64>);
        while let Some(next) = self.read(name, &mut reader) {
            if let Next::Frame(header) = next {
                end = reader.whole_until();
                if header.is_late {
                    frames += 1;
                    newest_unix_us = newest_unix_us.max(header.captured_unix_us);
                }
            }
            if stop.is_cancelled() {
                break;
            }
        }
        self.looked = Position { sequence: name.sequence, run, end, captured_unix_us: 0 };
        if frames > 0 {
            self.view.ledger.find(frames);
            match self.stretches.back_mut().filter(|last| last.name == name) {
                Some(last) => {
                    last.frames += frames;
                    last.newest_unix_us = last.newest_unix_us.max(newest_unix_us);
                }
                None => self.stretches.push_back(Stretch { name, frames, newest_unix_us }),
            }
        }
        Ok(())
    }

    /// What comes next in a segment. Where the disk gives nothing any more is its
    /// end: asked again, it would say the same, and all behind it would wait.
    fn read(&mut self, name: SegmentName, reader: &mut SegmentReader) -> Option<Next> {
        match reader.next(None) {
            Ok(next) => next,
            Err(error) => {
                if self.told_unreadable.replace(name) != Some(name) {
                    let (file, after) = (self.folder.join(name.to_string()), reader.whole_until());
                    tracing::warn!(file = %file.display(), after, %error, "a recording cannot be read to its end");
                }
                None
            }
        }
    }

    /// Whether the newest frame that waits is of a time to come: the clock is not
    /// set, or was wrong when it was captured.
    pub fn is_ahead_of(&self, now_unix_us: i64) -> bool {
        let limit_us = now_unix_us.saturating_add(AHEAD_US);
        let waiting = self.stretches.iter().filter(|stretch| stretch.frames > 0);
        waiting.filter_map(|stretch| stretch.newest_unix_us).any(|newest_us| newest_us > limit_us)
    }

    /// Opens a segment; `None`: it was removed, or a later version wrote it.
    fn segment(&self, name: SegmentName) -> io::Result<Option<(SegmentReader, u64)>> {
        use crate::record::container::FileHeaderError::Newer;
        let reader = match SegmentReader::open(&self.folder.join(name.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            reader => reader?,
        };
        let run = match reader.header() {
            Ok(header) => header.run,
            Err(Newer(_)) => return Ok(None),
            Err(_) => 0,
        };
        Ok(Some((reader, run)))
    }

    /// The next frame to send, of at most `max_jpeg_bytes`, at `now_unix_us`
    /// (`None`: the clock is not set). `None`: none waits that was found.
    ///
    /// # Errors
    /// What the disk said.
    pub fn next(&mut self, now_unix_us: Option<i64>, max_jpeg_bytes: usize) -> io::Result<Option<LateFrame>> {
        while let Some(stretch) = self.stretches.front() {
            if stretch.frames == 0 {
                self.stretches.pop_front();
                self.reading = None;
                self.view.show_stretches(self.stretches.len());
                continue;
            }
            let name = stretch.name;
            if self.reading.as_ref().is_none_or(|(reading, _)| *reading != name) && !self.begin(name)? {
                self.drop_rest(LateDrop::Removed);
                continue;
            }
            let Some((header, rotation, run)) = self.find()? else {
                // It was there when it was found.
                self.drop_rest(LateDrop::Damaged);
                continue;
            };
            if let Some(stretch) = self.stretches.front_mut() {
                stretch.frames -= 1;
            }
            match self.judge(&header, now_unix_us, max_jpeg_bytes) {
                Ok(captured_unix_us) => {
                    let mut jpeg = Vec::new();
                    let Some((_, reader)) = &self.reading else { continue };
                    // What the disk does not give is damaged, whatever it says.
                    if reader.picture(&header, &mut jpeg).unwrap_or(false) {
                        let end = reader.whole_until();
                        let after = Position { sequence: name.sequence, run, end, captured_unix_us };
                        let (size, jpeg) = (header.size, Bytes::from(jpeg));
                        return Ok(Some(LateFrame { captured_unix_us, size, rotation, jpeg, after }));
                    }
                    self.view.ledger.drop_as(LateDrop::Damaged, 1);
                }
                Err(reason) => self.view.ledger.drop_as(reason, 1),
            }
        }
        Ok(None)
    }

    /// Begins to read a segment where frames of it were given out last; false
    /// when it is not there.
    fn begin(&mut self, name: SegmentName) -> io::Result<bool> {
        let Some((mut reader, run)) = self.segment(name)? else { return Ok(false) };
        if self.given.sequence == name.sequence && self.given.run == run {
            reader.go_to(self.given.end)?;
        }
        self.reading = Some((name, reader));
        Ok(true)
    }

    /// The next late frame of the segment in work, with its rotation and run.
    fn find(&mut self) -> io::Result<Option<(FrameHeader, Rotation, u64)>> {
        // A file that has grown since it was opened is opened once more.
        for is_last in [false, true] {
            let Some((name, mut reader)) = self.reading.take() else { return Ok(None) };
            let found = self.find_in(name, &mut reader);
            self.reading = Some((name, reader));
            if found.is_some() {
                return Ok(found);
            }
            if is_last || !self.begin(name)? {
                break;
            }
        }
        Ok(None)
    }

    fn find_in(&mut self, name: SegmentName, reader: &mut SegmentReader) -> Option<(FrameHeader, Rotation, u64)> {
        while let Some(next) = self.read(name, reader) {
            let Next::Frame(header) = next else { continue };
            let file = reader.header().ok();
            let (end, run) = (reader.whole_until(), file.map_or(0, |file| file.run));
            let rotation = file.and_then(|file| Rotation::from_degrees(file.rotation_degrees).ok());
            // How far it was read, for when it is opened again.
            self.given = Position { sequence: name.sequence, run, end, ..self.given };
            if header.is_late {
                return Some((header, rotation.unwrap_or(self.rotation), run));
            }
        }
        None
    }

    fn drop_rest(&mut self, reason: LateDrop) {
        if let Some(stretch) = self.stretches.pop_front() {
            self.view.ledger.drop_as(reason, stretch.frames);
        }
        self.reading = None;
        self.view.show_stretches(self.stretches.len());
    }

    /// When it was captured, or why it is not sent.
    fn judge(
        &mut self,
        header: &FrameHeader,
        now_unix_us: Option<i64>,
        max_jpeg_bytes: usize,
    ) -> Result<i64, LateDrop> {
        let captured_us = header.captured_unix_us.ok_or(LateDrop::NoClock)?;
        if now_unix_us.is_some_and(|now_us| captured_us > now_us.saturating_add(AHEAD_US)) {
            return Err(LateDrop::NoClock);
        }
        let max_age_us = u64::try_from(self.max_age.as_micros()).unwrap_or(u64::MAX);
        if now_unix_us.is_some_and(|now_us| captured_us < now_us.saturating_sub_unsigned(max_age_us)) {
            return Err(LateDrop::TooOld);
        }
        if captured_us <= self.given.captured_unix_us {
            return Err(LateDrop::NotNewer);
        }
        // Before it is read: what a header claims may be 64 MiB.
        if header.jpeg_bytes as usize > max_jpeg_bytes {
            return Err(LateDrop::TooLarge);
        }
        self.given.captured_unix_us = captured_us;
        Ok(captured_us)
    }

    /// Its outcome is known: it is not given out again, also not after the end
    /// of this process. To be called before another frame is sent.
    ///
    /// # Errors
    /// What the disk said.
    pub fn settle(&mut self, frame: &LateFrame, now: Instant) -> io::Result<()> {
        self.open()?;
        let written = self.file.as_mut().map_or(Ok(()), |file| {
            file.write(frame.after)?;
            file.sync(now, self.sync_every)
        });
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Has the disk keep the position, if that is due.
    ///
    /// # Errors
    /// What the disk said.
    pub fn sync(&mut self, now: Instant) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.sync(now, self.sync_every))
    }
}

#[cfg(test)]
mod tests;
