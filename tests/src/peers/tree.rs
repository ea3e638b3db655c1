//! What a program and all its children have used: a server of several
//! processes is measured as one.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use flatframe_shared::process::use_of_pid;

/// Use of a tree of processes since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUse {
    /// Processor time of all, those that ended included when their parent
    /// asked for it. In steps of 10 ms on most systems.
    pub cpu: Duration,
    /// Sum of the highest resident memory of each, bytes. Memory that two
    /// processes share counts twice.
    pub rss_peak_bytes: u64,
}

/// Reads the use of the process `root` and all that descend from it.
pub fn use_of_tree(root: u32) -> TreeUse {
    let stats: HashMap<u32, Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut members: Vec<u32> = stats.contains_key(&root).then_some(root).into_iter().collect();
    let mut at = 0;
    while at < members.len() {
        let parent = members[at];
        members.extend(stats.iter().filter(|(_, stat)| stat.parent == parent).map(|(&pid, _)| pid));
        at += 1;
    }
    let ticks: u64 = members.iter().map(|pid| stats[pid].ticks).sum();
    // SAFETY: takes a number and reads a constant of the system.
    let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    TreeUse {
        cpu: Duration::from_secs_f64(ticks as f64 / ticks_per_s as f64),
        rss_peak_bytes: members.iter().filter_map(|&pid| use_of_pid(pid).rss_peak_bytes).sum(),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Of the process and of its children that ended.
    ticks: u64,
}

/// Reads a line of /proc/PID/stat (proc(5)). The name, in brackets, may hold
/// anything.
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel() {
        let line = "4242 (a) b (c) S 17 4242 4242 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 5 0 99 1000 2000";
        assert_eq!(parse_stat(line), Some(Stat { parent: 17, ticks: 124 }));
        assert_eq!(parse_stat("4242 (short) S 17"), None);
    }

    #[test]
    fn children_count() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let (own, tree) = (use_of_pid(std::process::id()), use_of_tree(std::process::id()));
        let alone = use_of_tree(child.id());
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert!(alone.rss_peak_bytes > 0, "{alone:?}");
        assert!(Some(tree.rss_peak_bytes) > own.rss_bytes, "{tree:?} {own:?}");
        assert_eq!(use_of_tree(child.id()), TreeUse::default(), "a process that ended uses nothing");
    }
}
