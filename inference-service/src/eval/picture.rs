//! Reads the pictures of a folder as they are judged: decoded, and shrunk where
//! that is asked for. Judges nothing.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use flatframe_shared::resize::{Filter, RgbResizer};

/// Largest file that is read as a picture.
const MAX_PICTURE_BYTES: u64 = 64 << 20;

/// A picture as it is judged.
pub struct Picture<'a> {
    /// Row by row, `3 * width * height` bytes.
    pub rgb: &'a [u8],
    /// Its size.
    pub size: PictureSize,
    /// How many of its pixels one stored pixel is.
    pub factor: f32,
    /// Spent on decoding and shrinking.
    pub time: Duration,
}

/// Reads pictures into memory that it keeps.
pub struct PictureReader {
    limit: PictureSize,
    max_side_px: Option<u32>,
    resizer: RgbResizer,
    /// Kept to reuse the allocation.
    file: Vec<u8>,
    /// Kept to reuse the allocation.
    rgb: Vec<u8>,
    /// Kept to reuse the allocation.
    shrunk: Vec<u8>,
}

impl PictureReader {
    /// Reads pictures up to `limit`, shrunk so that the longer side is at most
    /// `max_side_px`.
    pub fn new(limit: PictureSize, max_side_px: Option<u32>) -> Self {
        let (file, rgb, shrunk) = (Vec::new(), Vec::new(), Vec::new());
        // As in the reference figures.
        Self { limit, max_side_px, resizer: RgbResizer::new(Filter::Mean), file, rgb, shrunk }
    }

    /// The picture, or why it is left out.
    ///
    /// # Errors
    /// What is wrong with the file, for a person.
    pub fn read(&mut self, path: &Path) -> Result<Picture<'_>, String> {
        self.read_file(path)?;
        let start = Instant::now();
        if !self.file.starts_with(&[0xFF, 0xD8]) {
            return Err("it is no JPEG, and nothing else can be read; convert it first".into());
        }
        let stored = match jpeg::decode_rgb(&self.file, self.limit, &mut self.rgb) {
            Err(error @ jpeg::JpegError::TooLarge { .. }) => {
                return Err(format!("{error}; --set vision.max_picture=WIDTHxHEIGHT raises it"));
            }
            decoded => decoded.map_err(|error| error.to_string())?,
        };
        let longer_px = stored.width_px.max(stored.height_px);
        let max_px = self.max_side_px.unwrap_or(longer_px);
        if longer_px <= max_px {
            return Ok(Picture { rgb: &self.rgb, size: stored, factor: 1.0, time: start.elapsed() });
        }
        let factor = max_px as f32 / longer_px as f32;
        let side = |px: u32| ((px as f32 * factor).round() as u32).max(1);
        let size = PictureSize::new(side(stored.width_px), side(stored.height_px));
        self.shrunk.resize(3 * size.pixels() as usize, 0);
        self.resizer.resize(&self.rgb, stored, &mut self.shrunk, size);
        Ok(Picture { rgb: &self.shrunk, size, factor, time: start.elapsed() })
    }

    fn read_file(&mut self, path: &Path) -> Result<(), String> {
        let found = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !found.is_file() {
            return Err("it is no file".into());
        }
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        self.file.clear();
        file.take(MAX_PICTURE_BYTES + 1).read_to_end(&mut self.file).map_err(|error| error.to_string())?;
        match self.file.len() as u64 > MAX_PICTURE_BYTES {
            true => Err(format!("it has more than {MAX_PICTURE_BYTES} bytes")),
            false => Ok(()),
        }
    }
}
