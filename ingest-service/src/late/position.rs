//! How far the late frames of a camera are sent, on disk: two places in one
//! small file, written in turn, so that a power cut in a write leaves the other.
//! The file never grows, and is synced no more often than the recording.
//!
//! | place | bytes |
//! |---|---|
//! | magic `flatlate` | 8 |
//! | version: 1, zero | 4 + 4 |
//! | generation: the higher one counts | 8 |
//! | segment: sequence, run | 8 + 8 |
//! | end of the last frame in it | 8 |
//! | its capture, us since 1970 | 8 |
//! | CRC32 of the 56 before, zero | 4 + 4 |
//!
//! Between two syncs the same place is written again and again: the other one
//! is known to be on the disk. What a power cut costs is that some frames are
//! offered again, which the server knows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const MAGIC: [u8; 8] = *b"flatlate";
const VERSION: u32 = 1;
const PLACE_BYTES: usize = 64;
/// Places lie in blocks of their own: a torn block tears one.
const PLACES: [u64; 2] = [0, 4096];

/// How far late frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Segment of the last frame.
    pub sequence: u64,
    /// Run that wrote that segment: after a power cut another may have its
    /// sequence.
    pub run: u64,
    /// End of the last frame in it.
    pub end: u64,
    /// Its capture, microseconds since the Unix epoch; 0: none was sent yet.
    pub captured_unix_us: i64,
}

/// The file of a position.
#[derive(Debug)]
pub struct PositionFile {
    file: File,
    generation: u64,
    /// Which place is written until the next sync.
    place: usize,
    is_dirty: bool,
    synced: Option<Instant>,
}

impl PositionFile {
    /// Opens the file, made if its folder is there, and reads it. A file that
    /// holds no position is as a new one.
    ///
    /// # Errors
    /// What the disk said.
    pub fn open(path: &Path) -> io::Result<(Self, Position)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut best: Option<(usize, u64, Position)> = None;
        for (place, at) in PLACES.into_iter().enumerate() {
            let mut bytes = [0; PLACE_BYTES];
            match file.read_exact_at(&mut bytes, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                read => read?,
            }
            let found = decode(&bytes).filter(|(generation, _)| best.is_none_or(|(_, best, _)| *generation > best));
            if let Some((generation, position)) = found {
                best = Some((place, generation, position));
            }
        }
        if best.is_some() {
            // A process that was killed may have left it unsynced, and the place
            // that is written next is the other one, which is on the disk.
            file.sync_data()?;
        }
        let (place, generation, position) = best.unwrap_or((1, 0, Position::default()));
        Ok((Self { file, generation, place: 1 - place, is_dirty: false, synced: None }, position))
    }

    /// Writes a position; it survives the end of the process from here on, and a
    /// power cut after the next sync.
    ///
    /// # Errors
    /// What the disk said.
    pub fn write(&mut self, position: Position) -> io::Result<()> {
        self.generation += 1;
        self.is_dirty = true;
        self.file.write_all_at(&encode(self.generation, position), PLACES[self.place])
    }

    /// Has the disk keep what was written, if that was not done for `every`.
    ///
    /// # Errors
    /// What the disk said.
    pub fn sync(&mut self, now: Instant, every: Duration) -> io::Result<()> {
        let is_due = self.synced.is_none_or(|synced| now.saturating_duration_since(synced) >= every);
        if self.is_dirty && is_due {
            self.file.sync_data()?;
            self.synced = Some(now);
            self.is_dirty = false;
            self.place = 1 - self.place;
        }
        Ok(())
    }
}

fn encode(generation: u64, position: Position) -> [u8; PLACE_BYTES] {
    let mut bytes = [0; PLACE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let captured = position.captured_unix_us as u64;
    let numbers = [generation, position.sequence, position.run, position.end, captured];
    for (place, number) in bytes[16..56].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[..56]);
    bytes[56..60].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; PLACE_BYTES]) -> Option<(u64, Position)> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let head = (u64::from(VERSION)).to_le_bytes();
    if bytes[..8] != MAGIC || bytes[8..16] != head || number(56) != u64::from(crc32fast::hash(&bytes[..56])) {
        return None;
    }
    let position =
        Position { sequence: number(24), run: number(32), end: number(40), captured_unix_us: number(48) as i64 };
    Some((number(16), position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(number: u64) -> Position {
        Position { sequence: number, run: !number, end: number * 3, captured_unix_us: number as i64 }
    }

    fn read(path: &Path) -> Position {
        PositionFile::open(path).expect("opens").1
    }

    #[test]
    fn what_was_written_last_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("late");
        let now = Instant::now();
        for run in 0..5u64 {
            let (mut file, before) = PositionFile::open(&path).expect("opens");
            assert_eq!(before, if run == 0 { Position::default() } else { position(run * 10 + 2) });
            for step in 0..3 {
                file.write(position((run + 1) * 10 + step)).expect("written");
                assert_eq!(read(&path), position((run + 1) * 10 + step));
                // Sometimes synced, sometimes not.
                file.sync(now, Duration::from_secs(step * run)).expect("synced");
            }
        }
        assert!(std::fs::metadata(&path).expect("there").len() <= PLACES[1] + PLACE_BYTES as u64);
    }

    /// Power fails after every byte of a write: what is read is what was synced
    /// before, or what was being written, never anything else.
    #[test]
    fn a_power_cut_at_every_byte() {
        // In memory where there is such a folder: each opening syncs.
        let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = made.expect("folder");
        let path = folder.path().join("late");
        for writes_since_sync in 1..4u64 {
            let _ = std::fs::remove_file(&path);
            let (mut file, _) = PositionFile::open(&path).expect("opens");
            for number in 1..=4 {
                file.write(position(number)).expect("written");
                file.sync(Instant::now(), Duration::ZERO).expect("synced");
            }
            let synced = std::fs::read(&path).expect("read");
            (1..=writes_since_sync).for_each(|number| file.write(position(10 + number)).expect("written"));
            let written = std::fs::read(&path).expect("read");
            // Between the places there is nothing.
            let (first, second) = (PLACE_BYTES, PLACES[1] as usize);
            for cut in (0..=first).chain(second..=written.len()) {
                // The begin of the file has reached the disk, the rest has not;
                // and the other way round.
                for (new, old) in [(&written, &synced), (&synced, &written)] {
                    let mixed = [&new[..cut.min(new.len())], &old[cut.min(old.len())..]].concat();
                    std::fs::write(&path, mixed).expect("written");
                    let found = read(&path);
                    assert!(
                        found == position(4) || found == position(10 + writes_since_sync),
                        "cut at {cut}: {found:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn rubbish_is_no_position() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("late");
        std::fs::write(&path, vec![0xAB; 5000]).expect("written");
        assert_eq!(read(&path), Position::default());
        let (mut file, _) = PositionFile::open(&path).expect("opens");
        file.write(position(1)).expect("written");
        assert_eq!(read(&path), position(1));
    }
}
