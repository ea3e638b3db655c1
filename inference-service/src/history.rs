//! The history: results, counts, covered time and incidents in one SQLite
//! file, and never a picture.
//!
//! One thread writes (`writer`); everyone else offers records, which never
//! waits, and asks bounded questions. The file is bounded by age and by bytes
//! (`store`, `prune`), and what is acknowledged survives the process. In
//! reading order: what comes in ([`record`], `queue`), how it is laid out
//! ([`key`], `schema`), how it is written (`writer`, `store`,
//! `insert`, `prune`), how it is read (`readers`, [`query`],
//! [`counts`]), and what may go wrong ([`open`], `lock`, [`disk`],
//! [`repair`], [`state`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flatframe_shared::frame::CameraId;
use flatframe_shared::rate_log::RateLog;

pub mod counts;
pub mod disk;
mod insert;
pub mod key;
pub(crate) mod lock;
pub mod open;
mod prune;
pub mod query;
mod queue;
mod readers;
pub mod record;
pub mod repair;
mod schema;
pub mod state;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use counts::{Bucket, Count, CountAnswer, CountQuery};
pub use open::OpenError;
pub use query::{Cursor, IncidentQuery, QueryError, ResultPage, ResultQuery, StoredResult};
pub use record::{Change, Incident, Record, RecordKind};
pub use state::{DropReason, HistoryState, Pause};

use queue::{NotTaken, Queue};
use readers::Readers;
use state::Tally;
use store::Store;

/// The smallest bound of a store, bytes.
pub const MIN_BYTES: u64 = 16 << 20;
/// Memory of a connection besides its page cache: statements, the schema, the
/// rows at hand. Bytes.
const CONNECTION_BYTES: u64 = 1 << 20;
/// Memory of all that the writer knows of cameras, counters and their oldest
/// rows, with every camera number in use. Bytes.
const KNOWN_BYTES: u64 = key::MAX_CAMERAS as u64 * 1024;
/// Memory of one bucket or count of an answer, bytes.
const CELL_BYTES: u64 = 96;

/// Where the history is and how large it may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistorySettings {
    /// The file. Others of the same name with -wal, -shm and .lock stand beside it.
    pub file: PathBuf,
    /// Bound of the file with its log, bytes; at least [`MIN_BYTES`].
    pub max_bytes: u64,
    /// Results are kept so long.
    pub max_age_results: Duration,
    /// Counts, coverage and incidents are kept so long.
    pub max_age_counts: Duration,
    /// With fewer bytes free on the disk nothing is written.
    pub min_free_bytes: u64,
    /// Time between two commits: what a crash may cost.
    pub commit_every: Duration,
    /// Most records that wait for a commit.
    pub max_waiting_records: usize,
    /// Most memory that they hold, bytes.
    pub max_waiting_bytes: usize,
    /// Queries at the same time.
    pub readers: usize,
}

impl HistorySettings {
    /// The defaults, for a store in `file`: 1 GiB, results for 30 days, counts
    /// for 400, 1 GiB of the disk left free, a commit each second.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self {
            file: file.into(),
            max_bytes: 1 << 30,
            max_age_results: days(30),
            max_age_counts: days(400),
            min_free_bytes: 1 << 30,
            commit_every: Duration::from_secs(1),
            max_waiting_records: 10_000,
            max_waiting_bytes: 8 << 20,
            readers: 2,
        }
    }

    fn check(&self) -> Result<(), OpenError> {
        let refuse = |key, value: String, allowed: String| Err(OpenError::Setting { key, value, allowed });
        if self.max_bytes < MIN_BYTES {
            return refuse("max_bytes", self.max_bytes.to_string(), format!("{MIN_BYTES} and more"));
        }
        let least = 4 * record::MAX_BODY_BYTES;
        if self.max_waiting_bytes < least {
            return refuse("max_waiting_bytes", self.max_waiting_bytes.to_string(), format!("{least} and more"));
        }
        if !(16..=1_000_000).contains(&self.max_waiting_records) {
            return refuse("max_waiting_records", self.max_waiting_records.to_string(), "16 to 1000000".into());
        }
        if !(1..=16).contains(&self.readers) {
            return refuse("readers", self.readers.to_string(), "1 to 16".into());
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.commit_every) {
            return refuse("commit_every", format!("{:?}", self.commit_every), "1 ms to 60 s".into());
        }
        let century = Duration::from_secs(36_500 * 86_400);
        for (key, age) in [("max_age_results", self.max_age_results), ("max_age_counts", self.max_age_counts)] {
            if !(Duration::from_secs(60)..=century).contains(&age) {
                return refuse(key, format!("{age:?}"), "1 minute to 100 years".into());
            }
        }
        Ok(())
    }
}

/// Bound of the memory that an open history holds, bytes.
pub fn max_memory_bytes(settings: &HistorySettings) -> u64 {
    let readers = settings.readers as u64;
    let caches = (schema::WRITER_CACHE_KIB + readers * schema::READER_CACHE_KIB) << 10;
    let connections = (1 + readers) * CONNECTION_BYTES;
    let answer = (query::MAX_PAGE_BYTES as u64 + record::MAX_BODY_BYTES as u64)
        .max((counts::MAX_CELLS as u64 + counts::MAX_BUCKETS as u64) * CELL_BYTES)
        + query::MAX_PAGE_ROWS as u64 * CELL_BYTES;
    caches + connections + KNOWN_BYTES + store::INDEX_BYTES + settings.max_waiting_bytes as u64 + readers * answer
}

/// Says how many bytes of the file system of a folder are free.
pub type FreeBytes = Arc<dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync>;

/// What the history asks of its surroundings: a test answers for them.
#[derive(Clone)]
pub struct Surroundings {
    /// Free bytes of the file system of a folder.
    pub free_bytes: FreeBytes,
    /// Wall clock, ms since the Unix epoch. Decides about age alone.
    pub now_unix_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Default for Surroundings {
    fn default() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        Self { free_bytes: Arc::new(flatframe_shared::disk::free_bytes), now_unix_ms: Arc::new(now) }
    }
}

/// What handles and the writer share.
#[derive(Debug)]
struct Shared {
    settings: HistorySettings,
    queue: Queue,
    readers: Readers,
    tally: Tally,
    full: RateLog,
    next_incident_id: u64,
}

/// A handle on the open history; cheap to clone.
#[derive(Debug, Clone)]
pub struct History {
    shared: Arc<Shared>,
}

/// The thread that writes, to be closed at the end.
#[derive(Debug)]
pub struct HistoryWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl History {
    /// Opens the store, or makes it, and starts its thread. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// [`OpenError`], saying what is wrong and what to do.
    pub fn open(settings: HistorySettings) -> Result<(Self, HistoryWriter), OpenError> {
        Self::open_in(settings, Surroundings::default())
    }

    /// [`open`](Self::open), in surroundings that answer as they please.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(settings: HistorySettings, surroundings: Surroundings) -> Result<(Self, HistoryWriter), OpenError> {
        let file = settings.file.clone();
        let started = Instant::now();
        let (shared, writer) = Self::parts(settings, surroundings)?;
        let thread = std::thread::Builder::new()
            .name("history".into())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Disk { file: file.clone(), found: error.to_string() })?;
        tracing::info!(file = %file.display(), took = ?started.elapsed(), "history open");
        let writer = HistoryWriter { shared: Arc::clone(&shared), thread: Some(thread) };
        Ok((Self { shared }, writer))
    }

    fn parts(
        settings: HistorySettings,
        surroundings: Surroundings,
    ) -> Result<(Arc<Shared>, writer::Writer), OpenError> {
        settings.check()?;
        let file = &settings.file;
        let failed = |error: rusqlite::Error| match open::is_damage(&error) {
            true => OpenError::Damaged { file: file.clone(), found: error.to_string() },
            false => OpenError::Disk { file: file.clone(), found: error.to_string() },
        };
        let (connection, lock) = open::open_for_writing(file)?;
        let newest: Option<i64> =
            connection.query_row("SELECT max(id) FROM incidents", [], |row| row.get(0)).map_err(failed)?;
        let age_ms = |age: Duration| age.as_millis() as i64;
        let ages =
            store::Ages { results_ms: age_ms(settings.max_age_results), counts_ms: age_ms(settings.max_age_counts) };
        let store = Store::new(connection, file, settings.max_bytes, ages).map_err(failed)?;
        let readers = Readers::open(file, settings.readers).map_err(failed)?;
        let tally = Tally::default();
        tally.seen().bytes = disk::store_bytes(file);
        let queue = Queue::new(settings.max_waiting_records, settings.max_waiting_bytes);
        let next_incident_id = newest.map_or(1, |newest| newest as u64 + 1);
        let full = RateLog::default();
        let shared = Arc::new(Shared { settings, queue, readers, tally, full, next_incident_id });
        Ok((Arc::clone(&shared), writer::Writer::new(shared, store, lock, surroundings)))
    }

    /// Hands a record to the writer. Never waits. False: it is not stored, and
    /// counted as dropped.
    pub fn offer(&self, record: Record) -> bool {
        self.try_offer(record).is_ok()
    }

    /// As [`offer`](Self::offer), for who does something about it.
    ///
    /// # Errors
    /// Why it is not stored: [`DropReason::Invalid`] for ever, `QueueFull` or
    /// `Closed` now.
    pub fn try_offer(&self, record: Record) -> Result<(), DropReason> {
        let Shared { queue, tally, full, .. } = &*self.shared;
        let kind = record.kind();
        let reason = match record.checked() {
            None => DropReason::Invalid,
            Some(record) => match queue.offer(record) {
                Ok(()) => return Ok(()),
                Err(NotTaken::Full) => DropReason::QueueFull,
                Err(NotTaken::Closed) => DropReason::Closed,
            },
        };
        tally.add_dropped(kind, reason, 1);
        if let Some(held_back) = full.allow(flatframe_shared::clock::now()) {
            tracing::warn!(
                kind = kind.as_str(),
                reason = reason.as_str(),
                held_back,
                "record dropped from the history"
            );
        }
        Err(reason)
    }

    /// Waits until everything accepted so far is durable or counted as
    /// dropped; false when that takes longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        self.shared.queue.wait_settled(patience)
    }

    /// The first id for new incidents: no stored one has it or a higher one.
    pub fn next_incident_id(&self) -> u64 {
        self.shared.next_incident_id
    }

    /// Results of one camera, oldest first, page by page. Blocks.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn query_results(&self, query: &ResultQuery<'_>, deadline: Instant) -> Result<ResultPage, QueryError> {
        self.ask(deadline, |connection| query::results(connection, query))
    }

    /// Capture of the newest late result of a camera, us since the Unix epoch.
    /// Blocks.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn newest_late_us(&self, camera: &CameraId, deadline: Instant) -> Result<Option<i64>, QueryError> {
        self.ask(deadline, |connection| query::newest_late(connection, camera))
    }

    /// Results are kept so long, unless the room is needed.
    pub fn max_age_results(&self) -> Duration {
        self.shared.settings.max_age_results
    }

    /// Counts and covered seconds in buckets of time. Blocks.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn query_counts(&self, query: &CountQuery<'_>, deadline: Instant) -> Result<CountAnswer, QueryError> {
        self.ask(deadline, |connection| counts::counts(connection, query))
    }

    /// Incidents that lasted within a time, oldest first. Blocks.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn query_incidents(&self, query: &IncidentQuery<'_>, deadline: Instant) -> Result<Vec<Incident>, QueryError> {
        self.ask(deadline, |connection| query::incidents(connection, query))
    }

    /// Names of all counters with rows. Blocks.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn counter_names(&self, deadline: Instant) -> Result<Vec<String>, QueryError> {
        self.ask(deadline, |connection| query::names(connection, "counters"))
    }

    /// Ids of all cameras with rows. Blocks.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn cameras(&self, deadline: Instant) -> Result<Vec<String>, QueryError> {
        self.ask(deadline, |connection| query::names(connection, "cameras"))
    }

    fn ask<T>(
        &self,
        deadline: Instant,
        query: impl Fn(&rusqlite::Connection) -> Result<T, query::Failure>,
    ) -> Result<T, QueryError> {
        query::ask(&self.shared.readers, &self.shared.tally, deadline, query)
    }

    /// What it is doing.
    pub fn state(&self) -> HistoryState {
        let Shared { settings, queue, tally, .. } = &*self.shared;
        let (held, seen) = (queue.held(), tally.seen().clone());
        HistoryState {
            bytes: seen.bytes,
            max_bytes: settings.max_bytes,
            free_bytes: seen.free_bytes,
            paused: seen.paused,
            waiting_records: held.records as u64,
            waiting_bytes: held.bytes as u64,
            accepted: queue.accepted(),
            acknowledged: queue.settled(),
            written: tally.written(),
            dropped: tally.dropped(),
            pruned_rows: tally.pruned_rows.load(Relaxed),
            commits: tally.commits.load(Relaxed),
            failed_commits: tally.failed_commits.load(Relaxed),
            last_commit: seen.last_commit,
            oldest_result_unix_ms: seen.oldest_result_unix_ms,
            newest_result_unix_ms: seen.newest_result_unix_ms,
        }
    }
}

impl HistoryWriter {
    /// Takes nothing more, writes what waits, and ends the thread. False when
    /// that takes longer than `patience`: what was not written then is lost.
    pub fn close(mut self, patience: Duration) -> bool {
        self.shared.queue.close();
        let finished = self.shared.queue.wait_finished(patience);
        let thread = self.thread.take();
        if let Some(thread) = thread.filter(|_| finished) {
            // It has nothing more to do; a panic has ended the process before.
            let _ = thread.join();
        }
        finished
    }
}

impl Drop for HistoryWriter {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.take() {
            // Only reached without close: a test, or a start that failed.
            let _ = thread.join();
        }
    }
}
