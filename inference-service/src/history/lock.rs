//! One process at a time: a lock on a file beside the store, held as long as
//! the store is open. The kernel drops it with the process, however that ends.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest process id that is read back, bytes.
const MAX_PID_BYTES: u64 = 16;

/// The lock; dropping it lets go. The file stays: removing it would let two
/// processes lock two files of one name.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held, not read")] File);

/// Why there is no lock.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it: its id, where it wrote one.
    Held(String),
    /// The file cannot be written.
    Disk(std::io::Error),
}

/// `file` with `suffix` after its name.
pub fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

impl Lock {
    /// Takes the lock of the store `store`, or says who has it. Does not wait.
    pub fn take(store: &Path) -> Result<Self, LockError> {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(beside(store, ".lock"));
        let mut file = open.map_err(LockError::Disk)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Disk(error)),
        }
        // For the person who meets the lock; nothing depends on it.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(MAX_PID_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => format!("process {text}"),
        _ => "another process".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().expect("folder");
        let store = folder.path().join("history");
        let first = Lock::take(&store).expect("free");
        match Lock::take(&store) {
            Err(LockError::Held(who)) => assert_eq!(who, format!("process {}", std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        Lock::take(&store).expect("free again");
    }
}
