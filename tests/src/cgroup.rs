//! A control group with a memory limit, for a program that must live within it.
//! Needs root and a writable hierarchy, version 1 or 2; says so where there is
//! none. The group is removed with its handle.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// Longest wait for the end of killed programs.
const BURIAL: Duration = Duration::from_secs(2);
const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// A group with a memory limit.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    v1: bool,
}

impl Cgroup {
    /// A group named `name` whose processes together may hold `limit_bytes`.
    ///
    /// # Errors
    /// When this process may not make one, or the kernel has no memory
    /// controller.
    pub fn new(name: &str, limit_bytes: u64) -> anyhow::Result<Self> {
        let v1 = Path::new(V1).join("memory.limit_in_bytes").exists();
        let folder = Path::new(if v1 { V1 } else { V2 }).join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make the control group {}", folder.display()))?;
        let group = Self { folder, v1 };
        let file = if v1 { "memory.limit_in_bytes" } else { "memory.max" };
        // Dropping the group on the way out removes it.
        fs::write(group.folder.join(file), limit_bytes.to_string()).context("set the limit of the control group")?;
        Ok(group)
    }

    /// What starts a program inside the group: see
    /// [`crate::program::Program::start_by`].
    pub fn starter(&self) -> [String; 4] {
        let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", self.folder.display());
        ["sh".into(), "-c".into(), enter, "sh".into()]
    }

    /// How often the kernel killed a process of the group for its memory.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn kills(&self) -> anyhow::Result<u64> {
        let file = self.folder.join(if self.v1 { "memory.oom_control" } else { "memory.events" });
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|kills| kills.trim().parse().ok())
            .with_context(|| format!("oom_kill is not in {}", file.display()))
    }

    /// The most it held at once, bytes.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        let file = self.folder.join(if self.v1 { "memory.max_usage_in_bytes" } else { "memory.peak" });
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let peak = text.trim().parse()?;
        ensure!(peak > 0, "{} says 0: nothing ran in the group", file.display());
        Ok(peak)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A program that was killed is in the group until the kernel has buried it.
        let until = Instant::now() + BURIAL;
        while let Err(error) = fs::remove_dir(&self.folder) {
            if Instant::now() > until {
                eprintln!("the control group {} is left behind: {error}", self.folder.display());
                return;
            }
            std::thread::sleep(BURIAL / 100);
        }
    }
}
