//! The `.part` file: what came so far, its hash kept along, locked against a
//! second fetch.
//!
//! Knows no network.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::FetchError;
use crate::vision::models::hex;

/// An open, locked `.part` file; the lock ends with it.
pub struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Sha256,
    /// Whether some of it is of an earlier attempt.
    is_resumed: bool,
}

impl Part {
    /// Opens or creates the `.part` file of `target`, and reads what is there.
    /// Creates the folder where it is missing.
    pub fn open(target: &Path) -> Result<Self, FetchError> {
        let mut name = OsString::from(target);
        name.push(".part");
        let path = PathBuf::from(name);
        let disk = |error| FetchError::Disk { path: path.clone(), error };
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(disk)?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(disk)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(FetchError::Busy { path }),
            Err(TryLockError::Error(error)) => return Err(disk(error)),
        }
        // Another fetch may have renamed the file between opening and locking.
        let same = std::fs::metadata(&path).and_then(|named| Ok(named.ino() == file.metadata()?.ino()));
        if !same.unwrap_or(false) {
            return Err(FetchError::Busy { path });
        }
        let (mut bytes, mut hash, mut buffer) = (0, Sha256::new(), vec![0; 64 * 1024]);
        // A device is not read: it may have no end.
        while file.metadata().is_ok_and(|found| found.is_file()) {
            match file.read(&mut buffer).map_err(disk)? {
                0 => break,
                read => {
                    bytes += read as u64;
                    hash.update(&buffer[..read]);
                }
            }
        }
        Ok(Self { path, file, bytes, hash, is_resumed: bytes > 0 })
    }

    /// Bytes so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds to the end.
    pub fn write(&mut self, data: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(data).map_err(|error| self.disk(error))?;
        self.bytes += data.len() as u64;
        self.hash.update(data);
        Ok(())
    }

    /// Throws away what is there.
    pub fn restart(&mut self) -> Result<(), FetchError> {
        if self.bytes > 0 {
            self.file.set_len(0).map_err(|error| self.disk(error))?;
        }
        (self.bytes, self.hash, self.is_resumed) = (0, Sha256::new(), false);
        Ok(())
    }

    /// Removes the file.
    pub fn remove(&self) -> Result<(), FetchError> {
        std::fs::remove_file(&self.path).map_err(|error| self.disk(error))
    }

    /// Gives the file its final name when its hash is `sha256`; otherwise
    /// removes it.
    pub fn finish(self, sha256: &str, target: &Path) -> Result<(), FetchError> {
        let found = hex(&self.hash.clone().finalize());
        if found != sha256 {
            self.remove()?;
            return Err(FetchError::WrongHash { expected: sha256.into(), found, resumed: self.is_resumed });
        }
        // On the disk before the name: after a power cut the name must not
        // stand for half a file.
        self.file.sync_all().map_err(|error| self.disk(error))?;
        std::fs::rename(&self.path, target).map_err(|error| self.disk(error))
    }

    fn disk(&self, error: std::io::Error) -> FetchError {
        FetchError::Disk { path: self.path.clone(), error }
    }
}
