//! What the recording is doing, for metrics and for people. Counts and shows;
//! decides nothing.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why a frame that was meant to be recorded is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotRecorded {
    /// Too much waited: the disk is slower than the cameras.
    QueueFull,
    /// It was above `recording.max_write_bytes_per_s`.
    WriteRate,
    /// Too little of the disk is free.
    DiskLow,
    /// The disk could not be written.
    Failed,
    /// It is larger than half of what its camera may keep.
    TooLarge,
    /// The service was stopping.
    Closed,
}

impl NotRecorded {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::QueueFull, Self::WriteRate, Self::DiskLow, Self::Failed, Self::TooLarge, Self::Closed];

    /// In one word, as used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::WriteRate => "write_rate",
            Self::DiskLow => "disk_low",
            Self::Failed => "failed",
            Self::TooLarge => "too_large",
            Self::Closed => "closed",
        }
    }
}

/// Why nothing is recorded at the moment; goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pause {
    /// Too little of the disk is free.
    DiskLow {
        /// What is free.
        free_bytes: u64,
        /// What must be.
        min_free_bytes: u64,
    },
    /// The folder could not be opened or written; it is tried again.
    Failing(String),
}

impl Pause {
    /// The words of all, as used in metrics.
    pub const WORDS: [&'static str; 2] = ["disk_low", "failing"];

    /// In one word, as used in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::DiskLow { .. } => Self::WORDS[0],
            Self::Failing(_) => Self::WORDS[1],
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskLow { free_bytes, min_free_bytes } => {
                write!(f, "only {free_bytes} bytes of the disk are free, {min_free_bytes} must be")
            }
            Self::Failing(text) => write!(f, "the folder cannot be written: {text}"),
        }
    }
}

/// The recording of one camera at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CameraRecording {
    /// Frames written since the start.
    pub recorded: u64,
    /// Of them, those that are to be sent late.
    pub late: u64,
    /// Their bytes, with headers.
    pub written_bytes: u64,
    /// Frames that were not, by [`NotRecorded::ALL`].
    pub not_recorded: [u64; NotRecorded::ALL.len()],
    /// What its segments take of the disk, bytes.
    pub disk_bytes: u64,
    /// Its segments.
    pub segments: u64,
    /// Segments removed since the start, for age or room.
    pub removed_segments: u64,
    /// Memory of pictures kept from before an event, bytes.
    pub before_bytes: u64,
}

/// The counters behind [`CameraRecording`].
#[derive(Debug, Default)]
pub struct CameraTally {
    recorded: AtomicU64,
    late: AtomicU64,
    written_bytes: AtomicU64,
    not_recorded: [AtomicU64; NotRecorded::ALL.len()],
    pub(super) disk_bytes: AtomicU64,
    pub(super) segments: AtomicU64,
    pub(super) removed_segments: AtomicU64,
    pub(super) before_bytes: AtomicU64,
}

impl CameraTally {
    /// Counts a frame that was written, with its header.
    pub fn add_recorded(&self, bytes: u64, is_late: bool) {
        self.recorded.fetch_add(1, Relaxed);
        self.written_bytes.fetch_add(bytes, Relaxed);
        self.late.fetch_add(u64::from(is_late), Release);
    }

    /// Frames written that are to be sent late: what was counted can be read.
    pub fn late(&self) -> u64 {
        self.late.load(Acquire)
    }

    /// Counts a frame that was not.
    pub fn add_not_recorded(&self, reason: NotRecorded) {
        self.not_recorded[reason as usize].fetch_add(1, Relaxed);
    }

    /// All of it.
    pub fn read(&self) -> CameraRecording {
        let get = |count: &AtomicU64| count.load(Relaxed);
        CameraRecording {
            recorded: get(&self.recorded),
            late: get(&self.late),
            written_bytes: get(&self.written_bytes),
            not_recorded: self.not_recorded.each_ref().map(get),
            disk_bytes: get(&self.disk_bytes),
            segments: get(&self.segments),
            removed_segments: get(&self.removed_segments),
            before_bytes: get(&self.before_bytes),
        }
    }
}

/// What the writer saw last of the disk.
#[derive(Debug, Default)]
pub struct Seen(Mutex<(Option<u64>, Option<Pause>)>);

impl Seen {
    /// Free bytes; `None` when they cannot be read.
    pub fn free_bytes(&self) -> Option<u64> {
        self.lock().0
    }

    /// Why nothing is recorded; `None`: all is well.
    pub fn paused(&self) -> Option<Pause> {
        self.lock().1.clone()
    }

    pub(super) fn set(&self, free_bytes: Option<u64>, paused: Option<Pause>) {
        *self.lock() = (free_bytes, paused);
    }

    fn lock(&self) -> MutexGuard<'_, (Option<u64>, Option<Pause>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
