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
    /// Processes that it started and that have not ended.
    pub children: Option<u64>,
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
        children: children(folder),
    }
}

/// Children of all threads; `None` on a kernel that does not list them
/// (CONFIG_PROC_CHILDREN).
fn children(folder: &str) -> Option<u64> {
    let mut children = 0;
    for thread in fs::read_dir(format!("{folder}/task")).ok()?.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(ids) => children += ids.split_whitespace().count() as u64,
            // The thread has ended since; a kernel without the file has it for none.
            Err(_) if !thread.path().exists() => {}
            Err(_) => return None,
        }
    }
    Some(children)
}

/// Resident memory of this process, bytes: one small read, for a look every
/// second.
pub fn rss_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: takes a number and returns one.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page_bytes).ok()?)
}

/// Resident memory of a process with its share of pages that others map too
/// (PSS), bytes. The kernel walks all of its pages for it.
pub fn pss_bytes_of_pid(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    status_field(&rollup, "Pss").map(|kib| kib * 1024)
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Memory of the control group whose limit binds first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupMemory {
    /// Its limit, bytes.
    pub limit_bytes: u64,
    /// What the group holds and the kernel cannot drop, bytes: all but cached files.
    pub used_bytes: Option<u64>,
}

/// The control group with the smallest limit, from this process's own up to the
/// root, version 1 or 2; `None` when none has a limit.
pub fn cgroup_memory() -> Option<CgroupMemory> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    smallest_limit(&groups, Path::new("/sys/fs/cgroup"))
}

/// Limit of [`cgroup_memory`], bytes.
pub fn cgroup_limit_bytes() -> Option<u64> {
    cgroup_memory().map(|group| group.limit_bytes)
}

fn smallest_limit(groups: &str, root: &Path) -> Option<CgroupMemory> {
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let (base, version) = match controllers {
                "" => (root.to_path_buf(), &V2),
                v1 if v1.split(',').any(|name| name == "memory") => (root.join("memory"), &V1),
                _ => return None,
            };
            // In a container the path in /proc is the host's: the container's
            // own limit then stands at the mount itself.
            Path::new(group.trim_start_matches('/'))
                .ancestors()
                .filter_map(|group| {
                    let folder = base.join(group);
                    let limit_bytes =
                        read_number(&folder.join(version.limit)).filter(|&limit| limit < NO_LIMIT_BYTES)?;
                    Some((limit_bytes, folder, version))
                })
                .min_by_key(|(limit_bytes, ..)| *limit_bytes)
        })
        .min_by_key(|(limit_bytes, ..)| *limit_bytes)
        .map(|(limit_bytes, folder, version)| CgroupMemory { limit_bytes, used_bytes: version.used_bytes(&folder) })
}

/// Files of a version of control groups.
struct CgroupVersion {
    limit: &'static str,
    usage: &'static str,
    /// Fields of `memory.stat` that hold cached files.
    cached: [&'static str; 2],
}

const V1: CgroupVersion = CgroupVersion {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cached: ["total_inactive_file", "total_active_file"],
};
const V2: CgroupVersion =
    CgroupVersion { limit: "memory.max", usage: "memory.current", cached: ["inactive_file", "active_file"] };

impl CgroupVersion {
    fn used_bytes(&self, folder: &Path) -> Option<u64> {
        let usage = read_number(&folder.join(self.usage))?;
        let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
        let mut cached = 0;
        for name in self.cached {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            cached += line.trim().parse::<u64>().ok()?;
        }
        Some(usage.saturating_sub(cached))
    }
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
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
        // Tests beside this one take memory and give it back, also between two looks.
        let rss_of_process = || current_use().rss_bytes.expect("readable");
        assert!((0..100).any(|_| rss_bytes().expect("readable").abs_diff(rss_of_process()) < 16 << 20));
        let pss = pss_bytes_of_pid(std::process::id());
        assert!(pss > Some(100_000) && pss <= current_use().rss_peak_bytes, "{pss:?}");
    }

    /// Where the kernel lists them at all.
    #[test]
    fn a_child_counts_until_it_ends() {
        let Some(before) = current_use().children else { return };
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("starts");
        assert!(current_use().children >= Some(before + 1));
        child.kill().expect("ends");
        child.wait().expect("ends");
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
        fs::write(root.path().join("a/memory.current"), "5000000\n").expect("usage");
        fs::write(root.path().join("a/memory.stat"), "anon 1\ninactive_file 300000\nactive_file 200000\n")
            .expect("stat");
        let found = Some(CgroupMemory { limit_bytes: 67_108_864, used_bytes: Some(4_500_000) });
        assert_eq!(smallest_limit("0::/a/b\n", root.path()), found);
        assert_eq!(smallest_limit("0::/elsewhere\n", root.path()), None);

        let v1 = root.path().join("memory/x");
        fs::create_dir_all(&v1).expect("groups");
        fs::write(v1.join("memory.limit_in_bytes"), "33554432\n").expect("limit");
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").expect("limit");
        let found = Some(CgroupMemory { limit_bytes: 33_554_432, used_bytes: None });
        assert_eq!(smallest_limit("5:memory:/x\n4:cpu:/x\n", root.path()), found, "unknown is not zero");
    }
}
