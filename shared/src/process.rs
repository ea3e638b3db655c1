//! What the kernel says of this process: memory, files, threads, cgroup. Reads
//! /proc and /sys/fs/cgroup; `None` means "cannot be read", never 0.

use std::fs;
use std::path::Path;

/// A limit above this is the kernel's way to say "none" (cgroup v1).
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Use of memory, files and threads at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessUse {
    /// Resident memory, bytes.
    pub rss_bytes: Option<u64>,
    /// Highest resident memory so far, bytes.
    pub rss_peak_bytes: Option<u64>,
    /// Memory swapped out, bytes.
    pub swap_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Reads the use of this process.
pub fn current_use() -> ProcessUse {
    use_of("/proc/self")
}

/// Reads the use of another process, by its id.
pub fn use_of_pid(pid: u32) -> ProcessUse {
    use_of(&format!("/proc/{pid}"))
}

fn use_of(folder: &str) -> ProcessUse {
    let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
    let kib = |name: &str| status_field(&status, name).map(|kib| kib * 1024);
    ProcessUse {
        rss_bytes: kib("VmRSS"),
        rss_peak_bytes: kib("VmHWM"),
        swap_bytes: kib("VmSwap"),
        open_files: fs::read_dir(format!("{folder}/fd")).ok().map(|files| files.count() as u64),
        threads: status_field(&status, "Threads"),
    }
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Memory limit of this process's cgroup in bytes: the smallest from its own
/// group up to the root, version 1 or 2; `None` when there is none.
pub fn cgroup_limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    smallest_limit(&groups, Path::new("/sys/fs/cgroup"))
}

fn smallest_limit(groups: &str, root: &Path) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let (base, file) = match controllers {
                "" => (root.to_path_buf(), "memory.max"),
                v1 if v1.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
                _ => return None,
            };
            // In a container the path in /proc is the host's: the container's
            // own limit then stands at the mount itself.
            Path::new(group.trim_start_matches('/'))
                .ancestors()
                .filter_map(|group| fs::read_to_string(base.join(group).join(file)).ok())
                .filter_map(|limit| limit.trim().parse::<u64>().ok())
                .filter(|&limit| limit < NO_LIMIT_BYTES)
                .min()
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let used = current_use();
        assert!(used.rss_bytes > Some(100_000), "{used:?}");
        assert!(used.rss_peak_bytes >= used.rss_bytes, "{used:?}");
        assert!(used.open_files >= Some(3) && used.threads >= Some(1), "{used:?}");
    }

    #[test]
    fn unknown_is_not_zero() {
        assert_eq!(use_of("/proc/no-such-process"), ProcessUse::default());
    }

    #[test]
    fn smallest_limit_on_the_way_up() {
        let root = tempfile::tempdir().expect("temporary folder");
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).expect("groups");
        fs::write(inner.join("memory.max"), "max\n").expect("limit");
        fs::write(root.path().join("a/memory.max"), "67108864\n").expect("limit");
        assert_eq!(smallest_limit("0::/a/b\n", root.path()), Some(67_108_864));
        assert_eq!(smallest_limit("0::/elsewhere\n", root.path()), None);

        let v1 = root.path().join("memory/x");
        fs::create_dir_all(&v1).expect("groups");
        fs::write(v1.join("memory.limit_in_bytes"), "33554432\n").expect("limit");
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").expect("limit");
        assert_eq!(smallest_limit("5:memory:/x\n4:cpu:/x\n", root.path()), Some(33_554_432));
    }
}
