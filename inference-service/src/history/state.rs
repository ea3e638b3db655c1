//! What the history is doing, for metrics and for the incident "disk". Counts
//! and shows; decides nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::record::RecordKind;

/// Why a record is not in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue was full: the disk is slower than the cameras.
    QueueFull,
    /// It has a time, name or size that is never stored.
    Invalid,
    /// It is older than what is kept.
    TooOld,
    /// A late result that is not newer than one that is there.
    Known,
    /// There are too many cameras, counters, or results within one millisecond.
    NoRoom,
    /// Writing is paused ([`Pause`]).
    Paused,
    /// It could not be written, many times.
    Failed,
    /// The store was closed.
    Closed,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::QueueFull,
        Self::Invalid,
        Self::TooOld,
        Self::Known,
        Self::NoRoom,
        Self::Paused,
        Self::Failed,
        Self::Closed,
    ];

    /// In one word, as used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Invalid => "invalid",
            Self::TooOld => "too_old",
            Self::Known => "known",
            Self::NoRoom => "no_room",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }
}

/// Why nothing is written at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pause {
    /// Too little of the disk is free; goes on by itself. Records are dropped.
    DiskLow {
        /// What is free.
        free_bytes: u64,
        /// What must be.
        min_free_bytes: u64,
    },
    /// A commit failed and is tried again; records wait as long as the queue has room.
    Failing(String),
    /// The file is damaged. Records are dropped until a restart after a repair.
    Damaged(String),
}

impl Pause {
    /// In one word, as used in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::DiskLow { .. } => "disk_low",
            Self::Failing(_) => "failing",
            Self::Damaged(_) => "damaged",
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskLow { free_bytes, min_free_bytes } => {
                write!(f, "only {free_bytes} bytes of the disk are free, {min_free_bytes} must be")
            }
            Self::Failing(text) => write!(f, "a commit failed: {text}"),
            Self::Damaged(text) => {
                write!(f, "the file is damaged: {text}; stop the service and run inference-service history repair")
            }
        }
    }
}

/// What the history is doing at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryState {
    /// Bytes of the file, its log and the log's index.
    pub bytes: u64,
    /// The most they may be.
    pub max_bytes: u64,
    /// Free bytes of the disk; `None` when they cannot be read.
    pub free_bytes: Option<u64>,
    /// Why nothing is written; `None`: all is well.
    pub paused: Option<Pause>,
    /// Records that wait.
    pub waiting_records: u64,
    /// Memory that they hold, bytes.
    pub waiting_bytes: u64,
    /// Records accepted since the start.
    pub accepted: u64,
    /// So many of the accepted, in their order, are durable or counted as dropped.
    pub acknowledged: u64,
    /// Records in the store, by [`RecordKind::ALL`], since the start.
    pub written: [u64; RecordKind::ALL.len()],
    /// Records that are not, by [`RecordKind::ALL`] and [`DropReason::ALL`].
    pub dropped: [[u64; DropReason::ALL.len()]; RecordKind::ALL.len()],
    /// Rows that were removed for age or room since the start.
    pub pruned_rows: u64,
    /// Transactions since the start.
    pub commits: u64,
    /// Transactions that failed and were rolled back.
    pub failed_commits: u64,
    /// How long the last transaction took, its fsync included.
    pub last_commit: Duration,
    /// Time of the oldest result; `None`: there is none, or not yet known.
    pub oldest_result_unix_ms: Option<i64>,
    /// Time of the newest result written since the start.
    pub newest_result_unix_ms: Option<i64>,
}

/// The counters behind [`HistoryState`].
#[derive(Debug, Default)]
pub struct Tally {
    written: [AtomicU64; RecordKind::ALL.len()],
    dropped: [[AtomicU64; DropReason::ALL.len()]; RecordKind::ALL.len()],
    /// Rows removed.
    pub pruned_rows: AtomicU64,
    /// Transactions.
    pub commits: AtomicU64,
    /// Transactions rolled back.
    pub failed_commits: AtomicU64,
    seen: Mutex<Seen>,
}

/// What the writer saw last.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Bytes of all files.
    pub bytes: u64,
    /// Free bytes of the disk.
    pub free_bytes: Option<u64>,
    /// Why it does not write.
    pub paused: Option<Pause>,
    /// Its last transaction.
    pub last_commit: Duration,
    /// Oldest result, ms.
    pub oldest_result_unix_ms: Option<i64>,
    /// Newest result, ms.
    pub newest_result_unix_ms: Option<i64>,
}

impl Tally {
    /// What the writer saw last, to read or change.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts records that are in the store.
    pub fn add_written(&self, kind: RecordKind, records: u64) {
        self.written[kind as usize].fetch_add(records, Relaxed);
    }

    /// Counts records that are not.
    pub fn add_dropped(&self, kind: RecordKind, reason: DropReason, records: u64) {
        self.dropped[kind as usize][reason as usize].fetch_add(records, Relaxed);
    }

    /// Records written, by kind.
    pub fn written(&self) -> [u64; RecordKind::ALL.len()] {
        self.written.each_ref().map(|count| count.load(Relaxed))
    }

    /// Records dropped, by kind and reason.
    pub fn dropped(&self) -> [[u64; DropReason::ALL.len()]; RecordKind::ALL.len()] {
        self.dropped.each_ref().map(|reasons| reasons.each_ref().map(|count| count.load(Relaxed)))
    }
}
