//! Room on a disk: how much is free, and when writing stops and goes on.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes that this user may still write to the file system of `path`.
///
/// # Errors
/// What the system said.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all bytes zero is a valid statvfs.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a statvfs, both ours until it returns.
    if unsafe { libc::statvfs(path.as_ptr(), &mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::unnecessary_cast, reason = "32 bits on some platforms")]
    Ok((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

/// Says when too little is free. Goes on only when a tenth more than the limit
/// is free, so that a full disk does not switch it back and forth.
#[derive(Debug)]
pub struct DiskGuard {
    min_free_bytes: u64,
    low: bool,
}

impl DiskGuard {
    /// Stops below `min_free_bytes`; 0 never stops.
    pub fn new(min_free_bytes: u64) -> Self {
        Self { min_free_bytes, low: false }
    }

    /// Whether too little is free now.
    pub fn is_low(&mut self, free_bytes: u64) -> bool {
        let enough = if self.low { self.min_free_bytes + self.min_free_bytes / 10 } else { self.min_free_bytes };
        self.low = free_bytes < enough;
        self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_with_some_more() {
        let mut guard = DiskGuard::new(1000);
        let free = [1000, 999, 1000, 1099, 1100, 1000, 999];
        assert_eq!(free.map(|bytes| guard.is_low(bytes)), [false, true, true, true, false, false, true]);
        assert!(!DiskGuard::new(0).is_low(0));
    }

    #[test]
    fn reads_a_real_file_system() {
        assert!(free_bytes(&std::env::temp_dir()).expect("there") > 0);
        assert!(free_bytes(Path::new("/no/such/folder")).is_err());
    }
}
