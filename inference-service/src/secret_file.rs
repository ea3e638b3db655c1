//! Writes files that only their owner may read, or whom the owner let read
//! before: keys and tokens. In one step, so that whoever reads meanwhile sees
//! the old one or the new one. Never shows what it writes.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// The most that is kept of the rights of the file before: its owner reads and
/// writes, its group reads.
const MAX_MODE: u32 = 0o640;

/// Writes `content` to `path`, in place of what is there. Owner, group and
/// rights stay: a service that could read the old one, and nobody else, reads
/// the new one.
///
/// # Errors
/// As the system's own; then what was there is there still.
pub fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // One that a crash left behind may have other rights.
    absent(std::fs::remove_file(&new))?;
    let before = absent(std::fs::metadata(path))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = fill(file, content, before.as_ref()).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // What failed already is the error to tell, not that this stays too.
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// Writes all of the new file, and gives it to whom the one `before` belonged.
fn fill(mut file: File, content: &[u8], before: Option<&Metadata>) -> std::io::Result<()> {
    file.write_all(content)?;
    if let Some(before) = before {
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
        file.set_permissions(Permissions::from_mode(before.mode() & MAX_MODE))?;
    }
    file.sync_all()
}

/// `None` for what is not there.
fn absent<T>(done: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_could_read_it_before_can_read_it_after() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.toml");
        let about = || std::fs::metadata(&path).expect("there");
        write(&path, b"one").expect("written");
        assert_eq!(about().mode() & 0o777, 0o600, "a new one is its owner's alone");
        // Only root may give a file away, as an operator does to a container's user.
        let _ = std::os::unix::fs::chown(&path, Some(65_532), Some(65_532));
        for (before, after) in [(0o640, 0o640), (0o600, 0o600), (0o666, 0o640)] {
            std::fs::set_permissions(&path, Permissions::from_mode(before)).expect("set");
            let owner = (about().uid(), about().gid());
            write(&path, b"another").expect("written");
            assert_eq!(about().mode() & 0o777, after, "it was {before:o}");
            assert_eq!((about().uid(), about().gid()), owner);
        }
        assert_eq!(std::fs::read(&path).expect("read"), b"another");
    }

    #[test]
    fn what_cannot_be_replaced_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        std::fs::create_dir_all(path.join("in it")).expect("made");
        assert!(write(&path, b"one").is_err(), "a folder stands in the way");
        assert!(path.join("in it").exists());
        assert!(!folder.path().join("key.new").exists(), "half a secret stays");
    }
}
