//! All rings of a recording in one folder, under one lock: those of cameras
//! that are recorded, and those left by cameras that are not any more, whose
//! frames still grow old. Knows no thread.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flatframe_shared::frame::CameraId;

use super::name::camera_folder;
use super::queue::Frame;
use super::ring::{Bounds, Ring, Writing, make_folder};

/// One process at a time writes to a folder; the kernel lets go with it.
const LOCK: &str = ".lock";
/// Between two looks at what other cameras left.
const LEFT_BEHIND_EVERY: Duration = Duration::from_secs(3600);

/// An open recording.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    bounds: Bounds,
    /// Each recorded camera, by its number.
    pub(super) rings: Vec<(Writing, Ring)>,
    left_behind_due: Option<Instant>,
    #[allow(dead_code, reason = "held, not read")]
    lock: File,
}

impl Store {
    /// Opens the recording in `dir`, made if its parent is there.
    ///
    /// # Errors
    /// What the disk said, or that another process has it.
    pub fn open(dir: &Path, bounds: Bounds, cameras: &[Writing]) -> io::Result<Self> {
        make_folder(dir)?;
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process records there")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut rings = Vec::with_capacity(cameras.len());
        for writing in cameras {
            let folder = camera_folder(&writing.camera).ok_or_else(|| io::Error::other("the id names no folder"))?;
            rings.push((writing.clone(), Ring::open_for_writing(dir.join(folder), bounds)?));
        }
        Ok(Self { dir: dir.into(), bounds, rings, left_behind_due: None, lock })
    }

    /// As [`Ring::append`], for the frame's camera.
    ///
    /// # Errors
    /// What the disk said; the store must be opened again then.
    pub fn append(&mut self, frame: &Frame) -> io::Result<Option<u64>> {
        match self.rings.get_mut(frame.camera) {
            Some((writing, ring)) => ring.append(frame, writing),
            None => Ok(None),
        }
    }

    /// Removes what is too old.
    ///
    /// # Errors
    /// What the disk said.
    pub fn expire(&mut self, now: Instant, now_unix_s: Option<i64>) -> io::Result<()> {
        for (_, ring) in &mut self.rings {
            ring.expire(now, now_unix_s)?;
        }
        if self.left_behind_due.is_none_or(|due| now >= due) {
            self.left_behind_due = Some(now + LEFT_BEHIND_EVERY);
            for folder in self.left_behind()? {
                Ring::open(folder, self.bounds)?.expire(now, now_unix_s)?;
            }
        }
        Ok(())
    }

    /// Folders of cameras that are not recorded.
    fn left_behind(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let camera = entry.file_name().to_str().and_then(|name| CameraId::parse(name).ok());
            let is_other = |camera: &CameraId| {
                camera_folder(camera).is_some() && !self.rings.iter().any(|(writing, _)| writing.camera == *camera)
            };
            if camera.as_ref().is_some_and(is_other) && entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        Ok(folders)
    }

    /// Has the disk keep what was written.
    ///
    /// # Errors
    /// What the disk said.
    pub fn sync(&mut self) -> io::Result<()> {
        self.rings.iter_mut().try_for_each(|(_, ring)| ring.sync())
    }

    /// What all recorded cameras take of the disk, bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.rings.iter().map(|(_, ring)| ring.disk_bytes()).sum()
    }
}
