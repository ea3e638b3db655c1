//! Plays a folder of JPEGs, or an .mjpeg file, in a loop at a given rate, for
//! tests and demonstrations. Reads one picture at a time; holds no file as a
//! whole. Changes nothing on disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use flatframe_shared::outcome::DropReason;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::jpeg_framing::{Framed, JpegFramer};
use crate::source::{BoxFuture, Source, SourceError};

/// Most read at once from an .mjpeg file, in bytes.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Most pictures of a folder.
const MAX_FILES: usize = 100_000;

/// A folder or a file.
#[derive(Debug)]
pub struct FilesSource {
    path: PathBuf,
    period: Duration,
    max_picture_bytes: usize,
}

impl FilesSource {
    /// Plays `path` at the plan's rate.
    pub fn new(path: PathBuf, plan: &CameraPlan) -> Self {
        Self { path, period: plan.period(), max_picture_bytes: plan.max_picture_bytes }
    }

    async fn play(&self, capture: &mut Capture) -> Result<(), SourceError> {
        let (path, cap_bytes) = (self.path.clone(), self.max_picture_bytes);
        let not_opened = |error: String| SourceError::NotOpened(format!("{}: {error}", self.path.display()));
        let mut reel = tokio::task::spawn_blocking(move || Reel::open(&path, cap_bytes))
            .await
            .map_err(|error| not_opened(error.to_string()))?
            .map_err(|error| not_opened(error.to_string()))?;
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        capture.opened();
        loop {
            ticks.tick().await;
            // A disk can be slow: not on a thread that serves sockets.
            let next = tokio::task::spawn_blocking(move || {
                let framed = reel.next();
                (reel, framed)
            });
            let (back, framed) = next.await.map_err(|error| SourceError::Ended(error.to_string()))?;
            reel = back;
            capture.framed(framed.map_err(|error| SourceError::Ended(format!("{}: {error}", self.path.display())))?);
        }
    }
}

impl Source for FilesSource {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async { stop.run_until_cancelled(self.play(capture)).await.unwrap_or(Ok(())) })
    }
}

/// Pictures in a loop.
enum Reel {
    Folder { files: Vec<PathBuf>, next: usize, cap_bytes: usize },
    Mjpeg(Box<Mjpeg>),
}

/// An .mjpeg file and how far it is read.
struct Mjpeg {
    path: PathBuf,
    file: File,
    framer: JpegFramer,
    buffer: Box<[u8]>,
    /// What of `buffer` is not yet walked.
    unread: std::ops::Range<usize>,
    /// Whether this round of the loop held a picture, whole or not.
    found: bool,
}

impl Reel {
    fn open(path: &Path, cap_bytes: usize) -> io::Result<Self> {
        if !path.metadata()?.is_dir() {
            return Ok(Self::Mjpeg(Box::new(Mjpeg {
                path: path.into(),
                file: File::open(path)?,
                framer: JpegFramer::new(cap_bytes),
                buffer: vec![0; READ_BUFFER_BYTES].into(),
                unread: 0..0,
                found: false,
            })));
        }
        let mut files = Vec::new();
        for entry in path.read_dir()? {
            let file = entry?.path();
            let extension = file.extension().unwrap_or_default().to_ascii_lowercase();
            if extension == "jpg" || extension == "jpeg" {
                files.push(file);
            }
            if files.len() > MAX_FILES {
                return Err(io::Error::other(format!("holds more than {MAX_FILES} pictures")));
            }
        }
        if files.is_empty() {
            return Err(io::Error::other("the folder holds no .jpg or .jpeg file"));
        }
        files.sort();
        Ok(Self::Folder { files, next: 0, cap_bytes })
    }

    fn next(&mut self) -> io::Result<Framed> {
        match self {
            Self::Folder { files, next, cap_bytes } => {
                let file = &files[*next % files.len()];
                *next = (*next + 1) % files.len();
                whole_file(file, *cap_bytes)
            }
            Self::Mjpeg(mjpeg) => mjpeg.next(),
        }
    }
}

impl Mjpeg {
    fn next(&mut self) -> io::Result<Framed> {
        loop {
            let mut chunk = &self.buffer[self.unread.clone()];
            let framed = self.framer.next(&mut chunk);
            self.unread.start = self.unread.end - chunk.len();
            if let Some(framed) = framed {
                self.found = true;
                return Ok(framed);
            }
            let read = self.file.read(&mut self.buffer)?;
            self.unread = 0..read;
            if read > 0 {
                continue;
            }
            let cut_off = self.framer.finish();
            if !self.found && cut_off.is_none() {
                return Err(io::Error::other("the file holds no JPEG"));
            }
            self.found = false;
            self.file = File::open(&self.path)?;
            if let Some(framed) = cut_off {
                self.found = true;
                return Ok(framed);
            }
        }
    }
}

fn whole_file(path: &Path, cap_bytes: usize) -> io::Result<Framed> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > cap_bytes {
        return Ok(Framed::Broken(DropReason::TooLarge));
    }
    let mut jpeg = Vec::with_capacity(length);
    // The file may grow meanwhile: never beyond the cap.
    file.take(cap_bytes as u64).read_to_end(&mut jpeg)?;
    let begins_like_one = jpeg.starts_with(&[0xFF, 0xD8, 0xFF]);
    Ok(if begins_like_one { Framed::Picture(Bytes::from(jpeg)) } else { Framed::Broken(DropReason::Corrupt) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: usize = 10_000;

    fn reel(path: &Path) -> Reel {
        Reel::open(path, CAP).expect("opens")
    }

    #[test]
    fn a_folder_is_sorted_and_looped_and_bad_files_are_counted() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, content) in [
            ("b.JPG", &b"\xFF\xD8\xFFb"[..]),
            ("a.jpeg", b"\xFF\xD8\xFFa"),
            ("c.jpg", &[0; CAP + 1]),
            ("d.jpg", b"no picture"),
            ("e.txt", b"\xFF\xD8\xFFe"),
        ] {
            std::fs::write(folder.path().join(name), content).expect("write");
        }
        let mut reel = reel(folder.path());
        for _ in 0..2 {
            for expected in [
                Framed::Picture(Bytes::from_static(b"\xFF\xD8\xFFa")),
                Framed::Picture(Bytes::from_static(b"\xFF\xD8\xFFb")),
                Framed::Broken(DropReason::TooLarge),
                Framed::Broken(DropReason::Corrupt),
            ] {
                assert_eq!(reel.next().expect("reads"), expected);
            }
        }
    }

    #[test]
    fn an_mjpeg_file_is_looped() {
        let picture = |n: u8| [&[0xFF, 0xD8, 0xFF, 0xDA, 0, 2][..], &vec![n; 3000], &[0xFF, 0xD9]].concat();
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let whole: Vec<u8> = (0..20).flat_map(picture).collect();
        std::fs::write(file.path(), [&whole[..], &picture(9)[..100]].concat()).expect("write");
        let mut reel = reel(file.path());
        for _ in 0..3 {
            for n in 0..20 {
                assert_eq!(reel.next().expect("reads"), Framed::Picture(picture(n).into()));
            }
            assert_eq!(reel.next().expect("reads"), Framed::Broken(DropReason::Corrupt), "cut off at the end");
        }
    }

    #[test]
    fn what_holds_no_picture_is_an_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        assert!(Reel::open(folder.path(), CAP).is_err());
        assert!(Reel::open(&folder.path().join("missing"), CAP).is_err());
        let empty = folder.path().join("empty.mjpeg");
        std::fs::write(&empty, b"").expect("write");
        assert!(reel(&empty).next().is_err());
    }
}
