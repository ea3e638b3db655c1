//! Finds whole JPEGs in a stream of bytes by walking their markers from the
//! start marker (SOI) to the end marker (EOI): segments by their length, coded
//! data up to the next marker. So neither line breaks nor a boundary text nor
//! a thumbnail inside a picture can cut it, and bytes between pictures (part
//! headers, padding, garbage) are passed over and never kept.
//!
//! Holds at most `cap_bytes`. A picture beyond that is dropped whole and
//! counted, and the walk goes on at the next start. Does not decode, and does
//! not trust any length that a camera sends beside the picture.
//!
//! A picture cut off in its coded data, where nearly all of it is, costs no
//! other. One cut off in its header, or with a damaged length there, hides at
//! most the next 64 KiB, and can borrow the rest of the next picture: that is
//! whole by its markers, and the decoder judges it.

use bytes::Bytes;
use flatframe_shared::outcome::DropReason;

/// First allocation for a picture, and the slack above the size of the last
/// one, in bytes.
const SLACK_BYTES: usize = 4096;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const RST: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;

/// What a stretch of the stream held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framed {
    /// A whole picture, SOI to EOI.
    Picture(Bytes),
    /// A picture began, but cannot be had: [`DropReason::Corrupt`] or
    /// [`DropReason::TooLarge`].
    Broken(DropReason),
}

/// The walk over one stream.
#[derive(Debug)]
pub struct JpegFramer {
    cap_bytes: usize,
    place: Place,
    /// Coded data has begun in this picture.
    has_scan: bool,
    /// This picture outgrew the cap: it is walked to its end, not kept.
    too_large: bool,
    picture: Vec<u8>,
    /// Size of the last whole picture: the next one begins with as much.
    last_bytes: usize,
}

/// Where in the stream the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Between pictures.
    Outside,
    /// Between pictures, after FF.
    OutsideFf,
    /// Between pictures, after FF D8; a picture begins when FF follows.
    OutsideSoi,
    /// A marker's FF must follow.
    Marker,
    /// After a marker's FF.
    MarkerCode,
    /// High byte of a segment's length.
    LengthHigh { scan: bool },
    /// Low byte of a segment's length.
    LengthLow { scan: bool, high: u8 },
    /// Inside a segment.
    Segment { scan: bool, left: usize },
    /// Inside coded data.
    Coded,
    /// Inside coded data, after FF.
    CodedFf,
}

/// What one step of the walk came to.
enum Step {
    Inside(Place),
    Whole,
    /// Cannot be a picture; the walk goes on here.
    Damaged(Place),
}

impl JpegFramer {
    /// A walk that keeps pictures of at most `cap_bytes`.
    pub fn new(cap_bytes: usize) -> Self {
        Self { cap_bytes, place: Place::Outside, has_scan: false, too_large: false, picture: Vec::new(), last_bytes: 0 }
    }

    /// Walks on and takes what it walked over from the front of `chunk`.
    /// Returns at the end of each picture; `None` when the chunk is used up.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Option<Framed> {
        while !chunk.is_empty() {
            let (run, rest) = chunk.split_at(self.run_length(chunk));
            *chunk = rest;
            if let Some(framed) = self.walk(run) {
                return Some(framed);
            }
        }
        None
    }

    /// The stream ended. A picture that had begun is broken.
    pub fn finish(&mut self) -> Option<Framed> {
        let begun = self.inside() && !self.too_large;
        self.restart(Place::Outside);
        begun.then_some(Framed::Broken(DropReason::Corrupt))
    }

    /// Memory held for the picture in work, in bytes; at most the cap.
    pub fn held_bytes(&self) -> usize {
        self.picture.capacity()
    }

    fn inside(&self) -> bool {
        !matches!(self.place, Place::Outside | Place::OutsideFf | Place::OutsideSoi)
    }

    /// How many of the next bytes (at least 1) are one step.
    fn run_length(&self, chunk: &[u8]) -> usize {
        let to_ff = || chunk.iter().position(|&byte| byte == 0xFF).map_or(chunk.len(), |at| at + 1);
        match self.place {
            Place::Outside | Place::Coded => to_ff(),
            Place::Segment { left, .. } => left.min(chunk.len()),
            _ => 1,
        }
    }

    fn walk(&mut self, run: &[u8]) -> Option<Framed> {
        let last = *run.last()?;
        if !self.inside() {
            self.place = match (self.place, last) {
                (Place::OutsideSoi, 0xFF) => {
                    self.begin();
                    Place::MarkerCode
                }
                (Place::OutsideFf, SOI) => Place::OutsideSoi,
                (_, 0xFF) => Place::OutsideFf,
                _ => Place::Outside,
            };
            return None;
        }
        let overflow = self.keep(run);
        match self.step(last, run.len()) {
            Step::Inside(place) => {
                self.place = place;
                overflow.then_some(Framed::Broken(DropReason::TooLarge))
            }
            Step::Whole if overflow => {
                self.restart(Place::Outside);
                Some(Framed::Broken(DropReason::TooLarge))
            }
            Step::Whole => self.end(),
            Step::Damaged(place) => {
                let counted = self.too_large && !overflow;
                let reason = if overflow { DropReason::TooLarge } else { DropReason::Corrupt };
                self.restart(place);
                (!counted).then_some(Framed::Broken(reason))
            }
        }
    }

    fn step(&mut self, last: u8, run: usize) -> Step {
        match self.place {
            Place::Marker if last == 0xFF => Step::Inside(Place::MarkerCode),
            Place::Marker => Step::Damaged(Place::Outside),
            // FF FF: the first was a fill byte.
            Place::MarkerCode | Place::CodedFf if last == 0xFF => Step::Inside(self.place),
            Place::CodedFf if last == 0 || RST.contains(&last) => Step::Inside(Place::Coded),
            Place::MarkerCode | Place::CodedFf => match last {
                EOI if self.has_scan => Step::Whole,
                // The next picture begins: this one was cut off.
                SOI => Step::Damaged(Place::OutsideSoi),
                code if begins_segment(code, self.has_scan) => Step::Inside(Place::LengthHigh { scan: code == SOS }),
                _ => Step::Damaged(Place::Outside),
            },
            Place::LengthHigh { scan } => Step::Inside(Place::LengthLow { scan, high: last }),
            Place::LengthLow { scan, high } => {
                // The length counts its own two bytes.
                match usize::from(u16::from_be_bytes([high, last])).checked_sub(2) {
                    None => Step::Damaged(Place::Outside),
                    Some(0) => Step::Inside(self.after_segment(scan)),
                    Some(left) => Step::Inside(Place::Segment { scan, left }),
                }
            }
            Place::Segment { scan, left } if left == run => Step::Inside(self.after_segment(scan)),
            Place::Segment { scan, left } => Step::Inside(Place::Segment { scan, left: left - run }),
            Place::Coded if last == 0xFF => Step::Inside(Place::CodedFf),
            Place::Coded => Step::Inside(Place::Coded),
            // `walk` keeps these away.
            Place::Outside | Place::OutsideFf | Place::OutsideSoi => Step::Damaged(Place::Outside),
        }
    }

    fn after_segment(&mut self, scan: bool) -> Place {
        self.has_scan |= scan;
        if scan { Place::Coded } else { Place::Marker }
    }

    fn begin(&mut self) {
        self.restart(Place::Outside);
        let first = (self.last_bytes + SLACK_BYTES).min(self.cap_bytes);
        self.picture.reserve_exact(first);
        self.picture.extend_from_slice(&[0xFF, SOI, 0xFF]);
    }

    /// Keeps `run`, unless the picture outgrows the cap: then all of it is let
    /// go, and `true` returned once.
    fn keep(&mut self, run: &[u8]) -> bool {
        if self.too_large {
            return false;
        }
        let needed = self.picture.len() + run.len();
        if needed > self.cap_bytes {
            self.too_large = true;
            self.picture = Vec::new();
            return true;
        }
        if needed > self.picture.capacity() {
            // Doubles like a Vec, but never beyond the cap.
            let capacity = needed.max(2 * self.picture.capacity()).min(self.cap_bytes);
            self.picture.reserve_exact(capacity - self.picture.len());
        }
        self.picture.extend_from_slice(run);
        false
    }

    fn end(&mut self) -> Option<Framed> {
        let was_too_large = self.too_large;
        let mut picture = std::mem::take(&mut self.picture);
        self.restart(Place::Outside);
        if was_too_large {
            return None;
        }
        self.last_bytes = picture.len();
        // What waits later is counted by its length: do not hide more behind it.
        if picture.capacity() - picture.len() > SLACK_BYTES {
            picture.shrink_to_fit();
        }
        Some(Framed::Picture(Bytes::from(picture)))
    }

    fn restart(&mut self, place: Place) {
        self.place = place;
        self.has_scan = false;
        self.too_large = false;
        self.picture = Vec::new();
    }
}

/// Whether a marker begins a segment with a length (ITU-T T.81, table B.1).
/// Reserved codes do not: after a cut, the text that follows must not be taken
/// for one.
fn begins_segment(code: u8, has_scan: bool) -> bool {
    match code {
        // Tables, restart interval, number of lines, comments, applications.
        0xC4 | 0xCC | SOS | 0xDB..=0xDD | 0xE0..=0xEF | 0xFE => true,
        // The frame's header comes once, before the first scan.
        0xC0..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => !has_scan,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
