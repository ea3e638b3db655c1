//! Writes an AVI file of JPEGs (RIFF, one stream "MJPG", an index) that every
//! player reads. Knows no recording.

use std::io::{self, Seek, SeekFrom, Write};

use flatframe_shared::frame::PictureSize;

/// Many players read no AVI file beyond this.
pub const MAX_BYTES: u64 = (1 << 31) - 1;
/// What an AVI file takes beside its JPEGs, for each of them at most: chunk
/// header, padding, index.
pub const BESIDE_JPEG_BYTES: u64 = 8 + 1 + 16;
/// What stands before the first picture.
const HEAD_BYTES: u64 = 224;
const INDEX_IS_THERE: u32 = 0x10;
const IS_KEY_FRAME: u32 = 0x10;

/// An AVI file while it is written.
#[derive(Debug)]
pub struct AviWriter<W> {
    out: W,
    size: PictureSize,
    period_us: u32,
    /// Place and length of each picture.
    index: Vec<(u32, u32)>,
    at: u64,
}

impl<W: Write + Seek> AviWriter<W> {
    /// A file of pictures of `size`, one each `period_us`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W, size: PictureSize, period_us: u32) -> io::Result<Self> {
        let mut avi = Self { out, size, period_us: period_us.max(1), index: Vec::new(), at: HEAD_BYTES };
        avi.out.write_all(&avi.head())?;
        Ok(avi)
    }

    /// Appends a picture.
    ///
    /// # Errors
    /// When it cannot be written, or the file would get too long.
    pub fn add(&mut self, jpeg: &[u8]) -> io::Result<()> {
        let index_bytes = (self.index.len() as u64 + 1) * 16 + 8;
        if self.at + jpeg.len() as u64 + 9 + index_bytes > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an AVI file ends at 2 GiB"));
        }
        let bytes = jpeg.len() as u32;
        self.out.write_all(b"00dc")?;
        self.out.write_all(&bytes.to_le_bytes())?;
        self.out.write_all(jpeg)?;
        // Chunks begin at even places.
        self.out.write_all(&[0][..jpeg.len() % 2])?;
        self.index.push((self.at as u32, bytes));
        self.at += 8 + jpeg.len().next_multiple_of(2) as u64;
        Ok(())
    }

    /// Writes the index and the final numbers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        let mut index = Vec::with_capacity(8 + 16 * self.index.len());
        index.extend_from_slice(b"idx1");
        index.extend_from_slice(&(16 * self.index.len() as u32).to_le_bytes());
        for (at, bytes) in &self.index {
            index.extend_from_slice(b"00dc");
            // Places count from the word "movi".
            for number in [IS_KEY_FRAME, at - (HEAD_BYTES as u32 - 4), *bytes] {
                index.extend_from_slice(&number.to_le_bytes());
            }
        }
        self.out.write_all(&index)?;
        let head = self.head();
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&head)?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// All that stands before the first picture, as far as is known by now.
    fn head(&self) -> Vec<u8> {
        let frames = self.index.len() as u32;
        let largest = self.index.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let bytes_per_s = u64::from(largest) * 1_000_000 / u64::from(self.period_us);
        let (width, height) = (self.size.width_px, self.size.height_px);
        let whole = self.at + 8 + 16 * u64::from(frames);

        let mut main = Vec::new();
        let bytes_per_s = u32::try_from(bytes_per_s).unwrap_or(u32::MAX);
        for number in [self.period_us, bytes_per_s, 0, INDEX_IS_THERE, frames, 0, 1, largest, width, height] {
            main.extend_from_slice(&number.to_le_bytes());
        }
        main.resize(56, 0);

        let mut stream = b"vidsMJPG".to_vec();
        // Flags, priority and language, first frame, scale, rate, start, length,
        // largest chunk, quality (the codec's own), size of a sample (they differ).
        for number in [0, 0, 0, self.period_us, 1_000_000, 0, frames, largest, u32::MAX, 0] {
            stream.extend_from_slice(&number.to_le_bytes());
        }
        for side in [0, 0, width, height] {
            stream.extend_from_slice(&(side as u16).to_le_bytes());
        }

        let mut format = Vec::new();
        for number in [40, width, height, 24 << 16 | 1, u32::from_le_bytes(*b"MJPG"), 3 * width * height, 0, 0, 0, 0] {
            format.extend_from_slice(&number.to_le_bytes());
        }

        let stream = [chunk(b"strh", &stream), chunk(b"strf", &format)].concat();
        let headers = [chunk(b"avih", &main), list(b"strl", &stream)].concat();
        let mut head = [b"RIFF", &((whole - 8) as u32).to_le_bytes()[..], b"AVI ", &list(b"hdrl", &headers)].concat();
        head.extend_from_slice(b"LIST");
        head.extend_from_slice(&((self.at - HEAD_BYTES + 4) as u32).to_le_bytes());
        head.extend_from_slice(b"movi");
        debug_assert_eq!(head.len() as u64, HEAD_BYTES);
        head
    }
}

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [name, &(content.len() as u32).to_le_bytes()[..], content].concat()
}

fn list(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    chunk(b"LIST", &[name, content].concat())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
    }

    #[test]
    fn the_index_names_every_picture() {
        let mut avi = AviWriter::new(Cursor::new(Vec::new()), PictureSize::new(640, 480), 200_000).expect("written");
        let jpegs: Vec<Vec<u8>> = (0..5).map(|number: u8| vec![number; 100 + usize::from(number)]).collect();
        for jpeg in &jpegs {
            avi.add(jpeg).expect("written");
        }
        let bytes = avi.finish().expect("written").into_inner();
        assert_eq!(u32_at(&bytes, 4) + 8, bytes.len(), "the length of the file");
        let movi = HEAD_BYTES as usize - 4;
        assert_eq!(&bytes[movi..movi + 4], b"movi");
        let index = movi + u32_at(&bytes, movi - 4);
        assert_eq!((&bytes[index..index + 4], u32_at(&bytes, index + 4)), (&b"idx1"[..], 16 * jpegs.len()));
        for (entry, jpeg) in bytes[index + 8..].chunks_exact(16).zip(&jpegs) {
            let (at, length) = (movi + u32_at(entry, 8), u32_at(entry, 12));
            assert_eq!((&bytes[at..at + 4], u32_at(&bytes, at + 4)), (&b"00dc"[..], length));
            assert_eq!(&bytes[at + 8..at + 8 + length], &jpeg[..]);
        }
    }
}
