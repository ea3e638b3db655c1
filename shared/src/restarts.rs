//! How often the supervisor had to start this service again. Only the supervisor
//! knows; the service counts in the folder that it keeps for it across restarts:
//! `RUNTIME_DIRECTORY` (systemd: `RuntimeDirectory=` with
//! `RuntimeDirectoryPreserve=restart`; Kubernetes: an emptyDir and the variable).
//! The folder is in memory: nothing is written to a disk.

use std::fs;
use std::path::{Path, PathBuf};

/// Name of the file: the number of starts so far, in decimal digits.
const FILE: &str = "starts";

/// Counts this start; how many came before it since a person started the
/// service, or `None` when no supervisor keeps count. To be called once.
pub fn count_start() -> Option<u64> {
    let folders = std::env::var_os("RUNTIME_DIRECTORY")?;
    // systemd separates several folders by colons; any one will do.
    let folder: PathBuf = std::env::split_paths(&folders).next()?;
    match count_start_in(&folder) {
        Ok(restarts) => Some(restarts),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "restarts cannot be counted");
            None
        }
    }
}

fn count_start_in(folder: &Path) -> std::io::Result<u64> {
    let file = folder.join(FILE);
    let starts = match fs::read_to_string(&file) {
        Ok(text) => text.trim().parse::<u64>().map_err(std::io::Error::other)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    // Renamed into place: a kill in between leaves the old count.
    let fresh = folder.join(format!("{FILE}.new"));
    fs::write(&fresh, (starts + 1).to_string())?;
    fs::rename(&fresh, &file)?;
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_after_the_first_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let counts: Vec<u64> = (0..3).map(|_| count_start_in(folder.path()).expect("counts")).collect();
        assert_eq!(counts, [0, 1, 2]);
        fs::write(folder.path().join(FILE), "two").expect("written");
        assert!(count_start_in(folder.path()).is_err(), "unknown is not zero");
        assert!(count_start_in(Path::new("/proc/no-such-folder")).is_err());
    }
}
