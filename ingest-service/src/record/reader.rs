//! Reads a segment file, whole, torn, damaged, or still being written. What
//! is damaged is passed over and told; what follows it is read. Writes
//! nothing.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::container::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FRAME_MAGIC, FileHeader, FileHeaderError, FrameHeader};

/// Read at once while a frame header is looked for.
const SEARCH_BYTES: usize = 64 * 1024;

/// What comes next in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A frame.
    Frame(FrameHeader),
    /// Bytes that are no frame; others follow.
    Damaged {
        /// How many.
        bytes: u64,
    },
    /// Nothing but bytes of a frame that was never written to its end.
    Torn {
        /// How many.
        bytes: u64,
    },
}

/// A segment while it is read.
#[derive(Debug)]
pub struct SegmentReader {
    file: BufReader<File>,
    header: Result<FileHeader, FileHeaderError>,
    at: u64,
    /// Length when it was opened: what is written since is not looked at.
    len: u64,
    /// End of the last frame that was whole.
    whole_until: u64,
}

impl SegmentReader {
    /// Opens a segment. A damaged file header costs the header alone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut bytes = [0; FILE_HEADER_BYTES];
        let header = match file.read_exact(&mut bytes) {
            Ok(()) => FileHeader::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FileHeaderError::Damaged),
            Err(error) => return Err(error),
        };
        let at = if header.is_ok() { FILE_HEADER_BYTES as u64 } else { 0 };
        let mut file = BufReader::new(file);
        file.seek(SeekFrom::Start(at))?;
        Ok(Self { file, header, at, len, whole_until: 0 })
    }

    /// The file header.
    ///
    /// # Errors
    /// When it is damaged, or of a newer layout.
    pub fn header(&self) -> Result<&FileHeader, &FileHeaderError> {
        self.header.as_ref()
    }

    /// Length when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it held nothing when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// End of the last whole frame that [`next`](Self::next) gave.
    pub fn whole_until(&self) -> u64 {
        self.whole_until
    }

    /// Goes to a place where a frame began once. A place behind the end is the
    /// end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn go_to(&mut self, at: u64) -> io::Result<()> {
        self.at = at.clamp(self.at.min(self.len), self.len);
        self.file.seek(SeekFrom::Start(self.at)).map(|_| ())
    }

    /// Reads the picture of the frame that [`next`](Self::next) gave last; false
    /// when it is damaged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn picture(&self, header: &FrameHeader, jpeg: &mut Vec<u8>) -> io::Result<bool> {
        let at = self.whole_until.saturating_sub(u64::from(header.jpeg_bytes));
        jpeg.resize(header.jpeg_bytes as usize, 0);
        self.file.get_ref().read_exact_at(jpeg, at)?;
        Ok(crc32fast::hash(jpeg) == header.jpeg_crc)
    }

    /// The next frame; its picture goes to `jpeg`, checked. Without `jpeg`
    /// pictures are passed over unread.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next(&mut self, jpeg: Option<&mut Vec<u8>>) -> io::Result<Option<Next>> {
        if self.at >= self.len {
            return Ok(None);
        }
        let Some(header) = self.header_at()? else { return self.search().map(Some) };
        let end = self.at + header.whole_bytes();
        if end > self.len {
            return self.search().map(Some);
        }
        match jpeg {
            None => self.file.seek_relative(i64::from(header.jpeg_bytes))?,
            Some(jpeg) => {
                jpeg.resize(header.jpeg_bytes as usize, 0);
                self.file.read_exact(jpeg)?;
                if crc32fast::hash(jpeg) != header.jpeg_crc {
                    let bytes = end - std::mem::replace(&mut self.at, end);
                    return Ok(Some(Next::Damaged { bytes }));
                }
            }
        }
        (self.at, self.whole_until) = (end, end);
        Ok(Some(Next::Frame(header)))
    }

    /// The frame header where the reader stands; the reader stands behind it
    /// then.
    fn header_at(&mut self) -> io::Result<Option<FrameHeader>> {
        if self.len - self.at < FRAME_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = [0; FRAME_HEADER_BYTES];
        self.file.read_exact(&mut bytes)?;
        Ok(FrameHeader::decode(&bytes))
    }

    /// Goes on to the next frame header behind this place.
    fn search(&mut self) -> io::Result<Next> {
        let from = self.at;
        let mut window_at = from + 1;
        let mut window = Vec::new();
        while window_at + FRAME_HEADER_BYTES as u64 <= self.len {
            self.file.seek(SeekFrom::Start(window_at))?;
            window.clear();
            (&mut self.file).take((self.len - window_at).min(SEARCH_BYTES as u64)).read_to_end(&mut window)?;
            for (place, bytes) in window.array_windows::<FRAME_HEADER_BYTES>().enumerate() {
                let begins = bytes.starts_with(&FRAME_MAGIC);
                let found = if begins { FrameHeader::decode(bytes) } else { None };
                let at = window_at + place as u64;
                if found.is_some_and(|header| at + header.whole_bytes() <= self.len) {
                    self.at = at;
                    self.file.seek(SeekFrom::Start(at))?;
                    return Ok(Next::Damaged { bytes: at - from });
                }
            }
            let Some(step @ 1..) = (window.len() + 1).checked_sub(FRAME_HEADER_BYTES) else { break };
            window_at += step as u64;
        }
        self.at = self.len;
        Ok(Next::Torn { bytes: self.len - from })
    }
}

/// End of the last whole frame of a segment, and its length; `None`: a later
/// version wrote it.
///
/// # Errors
/// When it cannot be read.
pub fn whole_part(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let mut reader = SegmentReader::open(path)?;
    if matches!(reader.header(), Err(FileHeaderError::Newer(_))) {
        return Ok(None);
    }
    let mut jpeg = Vec::new();
    while reader.next(Some(&mut jpeg))?.is_some() {}
    Ok(Some((reader.whole_until(), reader.len())))
}
