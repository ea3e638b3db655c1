//! Watches the process's memory: keeps its trend, and says when it comes near
//! the limit and when that is over. Samples nothing by itself: its owner looks
//! once a second. What is done about it is the service's business.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::allocator;
use crate::budget::Bytes;
use crate::process;
use crate::trend::{Sample, Slope, Trend};

/// Without a configured soft limit: this part of the memory limit.
const SOFT_SHARE: f64 = 0.9;
/// Pressure is over below this part of the soft limit ...
const CALM_SHARE: f64 = 0.95;
/// ... in so many looks in a row: at the edge it would begin and end each second.
const CALM_LOOKS: u32 = 5;

/// Memory at one instant; what cannot be read is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Resident memory of the process, bytes.
    pub rss_bytes: Option<u64>,
    /// What the cgroup holds and cannot drop, bytes.
    pub cgroup_bytes: Option<u64>,
}

/// What a look found to be new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Memory came near the limit.
    Begins,
    /// It is calm again, after so long.
    Ends(Duration),
}

/// Pressure now and before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PressureView {
    /// How long it lasts; `None` when there is none.
    pub lasts: Option<Duration>,
    /// How often it began since start.
    pub times: u64,
}

/// The watch over one process.
#[derive(Debug)]
pub struct MemoryWatch {
    started: Instant,
    soft_rss_bytes: u64,
    soft_cgroup_bytes: Option<u64>,
    pressed: AtomicBool,
    times: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trend: Trend,
    since: Option<Instant>,
    calm_looks: u32,
}

impl MemoryWatch {
    /// `soft_bytes` of resident memory are near the limit; 0: 90 % of
    /// `limit_bytes`, or the whole budget where there is no limit.
    /// `cgroup_limit_bytes` is the kernel's own, for all of the group.
    pub fn new(
        now: Instant,
        soft_bytes: u64,
        limit_bytes: Option<u64>,
        cgroup_limit_bytes: Option<u64>,
        budget_bytes: u64,
    ) -> Self {
        let part = |bytes: u64| (bytes as f64 * SOFT_SHARE) as u64;
        let soft_rss_bytes = match (soft_bytes, limit_bytes) {
            (0, None) => budget_bytes,
            (0, Some(limit)) => part(limit),
            (soft, _) => soft,
        };
        Self {
            started: now,
            soft_rss_bytes,
            soft_cgroup_bytes: cgroup_limit_bytes.map(part),
            pressed: AtomicBool::new(false),
            times: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// A watch that never finds memory short, for parts that run on their own.
    pub fn unlimited() -> Self {
        Self::new(Instant::now(), u64::MAX, None, None, 0)
    }

    /// Looks at the process and its cgroup, logs what changed and, when memory
    /// gets short, has the allocator give back what it does not use.
    pub fn look(&self) {
        let reading = Reading {
            rss_bytes: process::rss_bytes(),
            cgroup_bytes: process::cgroup_memory().and_then(|group| group.used_bytes),
        };
        match self.take(Instant::now(), reading) {
            None => {}
            Some(Change::Begins) => {
                let (soft, cgroup) = (Bytes(self.soft_rss_bytes), self.soft_cgroup_bytes.map(Bytes));
                tracing::warn!(
                    rss_bytes = reading.rss_bytes,
                    cgroup_bytes = reading.cgroup_bytes,
                    soft_limit = %soft,
                    cgroup_soft_limit = cgroup.map(tracing::field::display),
                    "memory gets short: less is taken until there is room again"
                );
                allocator::give_back();
            }
            Some(Change::Ends(lasted)) => {
                tracing::info!(lasted_s = lasted.as_secs(), rss_bytes = reading.rss_bytes, "memory is enough again");
            }
        }
    }

    /// Takes one reading.
    pub fn take(&self, now: Instant, reading: Reading) -> Option<Change> {
        let mut state = self.lock();
        if let Some(rss) = reading.rss_bytes {
            state.trend.push(Sample { x: now.duration_since(self.started).as_secs_f64(), y: rss as f64 });
        }
        let share = |used: Option<u64>, soft: u64| used.map_or(0.0, |used| used as f64 / soft.max(1) as f64);
        let cgroup = self.soft_cgroup_bytes.map_or(0.0, |soft| share(reading.cgroup_bytes, soft));
        let used = share(reading.rss_bytes, self.soft_rss_bytes).max(cgroup);
        match state.since {
            None if used >= 1.0 => {
                state.since = Some(now);
                state.calm_looks = 0;
                self.pressed.store(true, Relaxed);
                self.times.fetch_add(1, Relaxed);
                Some(Change::Begins)
            }
            None => None,
            Some(since) => {
                state.calm_looks = if used < CALM_SHARE { state.calm_looks + 1 } else { 0 };
                if state.calm_looks < CALM_LOOKS {
                    return None;
                }
                state.since = None;
                self.pressed.store(false, Relaxed);
                Some(Change::Ends(now.duration_since(since)))
            }
        }
    }

    /// Whether memory is short. Costs nothing: for every frame.
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Relaxed)
    }

    /// Pressure now and before.
    pub fn pressure(&self, now: Instant) -> PressureView {
        let lasts = self.lock().since.map(|since| now.saturating_duration_since(since));
        PressureView { lasts, times: self.times.load(Relaxed) }
    }

    /// Resident memory from which on it counts as short, bytes.
    pub fn soft_rss_bytes(&self) -> u64 {
        self.soft_rss_bytes
    }

    /// Resident memory over the life of the process: x in seconds since start, y in
    /// bytes; and the line through its later half.
    pub fn trend(&self) -> (Vec<Sample>, Option<Slope>) {
        let state = self.lock();
        (state.trend.samples().to_vec(), state.trend.slope())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of it is one assignment or one push.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn rss(mib: u64) -> Reading {
        Reading { rss_bytes: Some(mib * MIB), cgroup_bytes: None }
    }

    #[test]
    fn begins_at_once_and_ends_after_calm() {
        let start = Instant::now();
        let watch = MemoryWatch::new(start, 0, Some(100 * MIB), None, 80 * MIB);
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(watch.take(at(1), rss(89)), None);
        assert_eq!(watch.take(at(2), rss(90)), Some(Change::Begins));
        assert!(watch.is_pressed());
        assert_eq!(watch.pressure(at(5)), PressureView { lasts: Some(Duration::from_secs(3)), times: 1 });
        // Just below the limit is not calm, and calm must last.
        for s in 3..=20 {
            assert_eq!(watch.take(at(s), rss(if s % 4 == 0 { 86 } else { 80 })), None, "second {s}");
        }
        let changes: Vec<_> = (21..=25).map(|s| watch.take(at(s), rss(80))).collect();
        assert_eq!(changes, [None, None, None, None, Some(Change::Ends(Duration::from_secs(23)))]);
        assert!(!watch.is_pressed());
        assert_eq!(watch.pressure(at(26)), PressureView { lasts: None, times: 1 });
    }

    #[test]
    fn where_it_begins() {
        let start = Instant::now();
        let soft = |soft, limit| MemoryWatch::new(start, soft, limit, None, 80 * MIB).soft_rss_bytes();
        assert_eq!(soft(0, None), 80 * MIB, "no limit: the budget");
        assert_eq!(soft(0, Some(100 * MIB)), 90 * MIB);
        assert_eq!(soft(50 * MIB, Some(100 * MIB)), 50 * MIB, "as configured");
    }

    /// Others in the same cgroup can make it short too.
    #[test]
    fn the_cgroup_counts_as_a_whole() {
        let start = Instant::now();
        let watch = MemoryWatch::new(start, 0, Some(100 * MIB), Some(100 * MIB), 80 * MIB);
        let reading = Reading { rss_bytes: Some(10 * MIB), cgroup_bytes: Some(95 * MIB) };
        assert_eq!(watch.take(start, reading), Some(Change::Begins));
        assert_eq!(watch.take(start, Reading::default()), None, "what cannot be read is no pressure");
    }
}
