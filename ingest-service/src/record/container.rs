//! The layout of a segment file, byte by byte: a file header, then frame after
//! frame, each a header and a JPEG. Numbers are little-endian. Encodes and
//! decodes headers; reads and writes no file.
//!
//! | file header | bytes | | frame header | bytes |
//! |---|---|---|---|---|
//! | magic `flatrec\n` | 8 | | magic `F1 'f' 'r' 0A` | 4 |
//! | version: 1 | 4 | | length of the JPEG | 4 |
//! | clockwise rotation, degrees | 4 | | frame number | 8 |
//! | sequence of the segment | 8 | | wall clock at capture, us since 1970 | 8 |
//! | run of the service (random) | 8 | | time since the run began, us | 8 |
//! | wall clock at its begin, us; 0: not set | 8 | | width, height, px | 4 + 4 |
//! | length of the camera id, the id, zeros | 4 + 80 | | flags; bit 0: the clock was set, 1: to be sent late | 4 |
//! | CRC32 of the 124 before | 4 | | CRC32 of the JPEG, of the 48 before | 4 + 4 |
//!
//! The two sums of a frame let a reader go from header to header without
//! reading pictures, and tell a damaged picture from a damaged header.

use flatframe_shared::frame::{CameraId, PictureSize};

/// Length of the file header.
pub const FILE_HEADER_BYTES: usize = 128;
/// Length of the header before each JPEG.
pub const FRAME_HEADER_BYTES: usize = 52;
/// First bytes of each frame header.
pub const FRAME_MAGIC: [u8; 4] = [0xF1, b'f', b'r', 0x0A];

const FILE_MAGIC: [u8; 8] = *b"flatrec\n";
const VERSION: u32 = 1;
const CLOCK_WAS_SET: u32 = 1;
/// Readers that do not know it pass over it.
const IS_LATE: u32 = 2;
/// No JPEG of a camera is longer: what claims to be is damaged.
const MAX_JPEG_BYTES: u32 = 64 << 20;

/// What stands at the begin of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    /// Whose frames these are.
    pub camera: CameraId,
    /// What makes its pictures upright, degrees clockwise.
    pub rotation_degrees: u32,
    /// Place in the order of the camera's segments, whatever the clock said.
    pub sequence: u64,
    /// Which run of the service wrote it; frame numbers and
    /// [`FrameHeader::since_run_us`] compare within it.
    pub run: u64,
    /// Wall clock at its begin, microseconds; `None`: it was not set.
    pub started_unix_us: Option<i64>,
}

/// What stands before each JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of the JPEG.
    pub jpeg_bytes: u32,
    /// Number within the run.
    pub number: u64,
    /// Wall clock at capture, microseconds; `None`: it was not set.
    pub captured_unix_us: Option<i64>,
    /// Monotonic time of capture, microseconds since the run began.
    pub since_run_us: u64,
    /// Size of the picture.
    pub size: PictureSize,
    /// Whether it was kept to be sent when a server takes frames again.
    pub is_late: bool,
    /// CRC32 of the JPEG.
    pub jpeg_crc: u32,
}

/// Why a file header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileHeaderError {
    /// Damaged, or of something else.
    #[error("not the header of a recording, or a damaged one")]
    Damaged,
    /// Another layout.
    #[error("version {0} of the layout is not known: written by a newer Flatframe")]
    Newer(u32),
}

impl FileHeader {
    /// As it stands in the file.
    pub fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let id = self.camera.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(FILE_HEADER_BYTES);
        bytes.extend_from_slice(&FILE_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.rotation_degrees.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.run.to_le_bytes());
        bytes.extend_from_slice(&self.started_unix_us.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&(id.len() as u32).to_le_bytes());
        bytes.extend_from_slice(id);
        bytes.resize(FILE_HEADER_BYTES - 4, 0);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.try_into().expect("an id has at most 64 bytes, 80 are left for it")
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`FileHeaderError`].
    pub fn decode(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<Self, FileHeaderError> {
        let version = u32_at(bytes, 8);
        if bytes[..8] != FILE_MAGIC || u32_at(bytes, FILE_HEADER_BYTES - 4) != crc32fast::hash(&bytes[..124]) {
            return Err(FileHeaderError::Damaged);
        }
        if version != VERSION {
            return Err(FileHeaderError::Newer(version));
        }
        let id = bytes.get(44..44 + u32_at(bytes, 40) as usize).and_then(|id| std::str::from_utf8(id).ok());
        let started = u64_at(bytes, 32) as i64;
        Ok(Self {
            camera: id.and_then(|id| CameraId::parse(id).ok()).ok_or(FileHeaderError::Damaged)?,
            rotation_degrees: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            run: u64_at(bytes, 24),
            started_unix_us: (started != 0).then_some(started),
        })
    }
}

impl FrameHeader {
    /// As it stands in the file.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let flag = |is: bool, flag: u32| if is { flag } else { 0 };
        let flags = flag(self.captured_unix_us.is_some(), CLOCK_WAS_SET) | flag(self.is_late, IS_LATE);
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&self.jpeg_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.captured_unix_us.unwrap_or(0).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.since_run_us.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.size.width_px.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.size.height_px.to_le_bytes());
        bytes[40..44].copy_from_slice(&flags.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.jpeg_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..48]);
        bytes[48..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote; `None`: that is not it.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        if bytes[..4] != FRAME_MAGIC || u32_at(bytes, 48) != crc32fast::hash(&bytes[..48]) {
            return None;
        }
        let jpeg_bytes = u32_at(bytes, 4);
        (jpeg_bytes <= MAX_JPEG_BYTES).then(|| Self {
            jpeg_bytes,
            number: u64_at(bytes, 8),
            captured_unix_us: (u32_at(bytes, 40) & CLOCK_WAS_SET != 0).then(|| u64_at(bytes, 16) as i64),
            since_run_us: u64_at(bytes, 24),
            size: PictureSize::new(u32_at(bytes, 32), u32_at(bytes, 36)),
            is_late: u32_at(bytes, 40) & IS_LATE != 0,
            jpeg_crc: u32_at(bytes, 44),
        })
    }

    /// Length of the header with its JPEG.
    pub fn whole_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.jpeg_bytes)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file_header(id: &str, started_unix_us: Option<i64>) -> FileHeader {
        let camera = CameraId::parse(id).expect("valid");
        FileHeader { camera, rotation_degrees: 90, sequence: 7, run: u64::MAX, started_unix_us }
    }

    proptest! {
        /// What is written is read, and any damaged byte is noticed.
        #[test]
        fn headers_round_trip_and_notice_damage(
            jpeg_bytes in 0..=MAX_JPEG_BYTES, number: u64, at in prop::option::of(1i64..), since_run_us: u64,
            jpeg_crc: u32, place in 0..FILE_HEADER_BYTES, flip in 1u8.., long: bool, is_late: bool,
        ) {
            let header = file_header(&"x".repeat(if long { 64 } else { 1 }), at);
            let mut bytes = header.encode();
            prop_assert_eq!(FileHeader::decode(&bytes), Ok(header));
            bytes[place] ^= flip;
            prop_assert!(FileHeader::decode(&bytes).is_err());

            let size = PictureSize::new(640, 480);
            let header = FrameHeader { jpeg_bytes, number, captured_unix_us: at, since_run_us, size, is_late, jpeg_crc };
            let mut bytes = header.encode();
            prop_assert_eq!(FrameHeader::decode(&bytes), Some(header));
            bytes[place % FRAME_HEADER_BYTES] ^= flip;
            prop_assert_eq!(FrameHeader::decode(&bytes), None);
        }
    }

    #[test]
    fn a_newer_layout_is_told_from_damage() {
        let mut bytes = file_header("a", None).encode();
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..124]);
        bytes[124..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileHeader::decode(&bytes), Err(FileHeaderError::Newer(2)));
    }
}
