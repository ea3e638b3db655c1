//! One transaction after the other: as many records as fit, room made for
//! them, and the log kept short. The one place that knows the bound of the
//! files: main file, log and index together never exceed `max_bytes`.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flatframe_shared::frame::CameraId;
use rusqlite::{Connection, TransactionBehavior};

use super::insert::Known;
use super::lock::beside;
use super::prune::{ROW_BYTES, STEP_PAGES, prune_incidents};
use super::readers::Readers;
use super::record::{Record, RecordKind};
use super::schema::{PAGE_BYTES, Table, pragma};
use super::state::DropReason;

/// Bytes of a page in the log: itself and its header.
const FRAME_BYTES: u64 = PAGE_BYTES + 24;
/// Room for the log's index, bytes: 32 KiB for each 4096 frames.
pub const INDEX_BYTES: u64 = 128 * 1024;
/// Pages that one row may change in the worst case: its leaf, the leaf's
/// neighbours and parent when it is full, and the map of pages.
const ROW_PAGES: u64 = 8;
/// Looks for too old rows in one transaction.
const LOOKS: usize = 64;
/// Queries may finish for so long before the log is emptied in spite of them.
const QUERY_PATIENCE: Duration = Duration::from_secs(1);

/// The bounds in pages that follow from `max_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Pages that one transaction may change.
    pub transaction: u64,
    /// The log is emptied from here on when nobody reads.
    pub log_soft: u64,
    /// Pages of the main file.
    pub main: u64,
}

impl Bounds {
    /// For a store of so many bytes, at least 16 MiB.
    pub fn new(max_bytes: u64) -> Self {
        let pages = max_bytes / PAGE_BYTES;
        let transaction = (pages / 8).clamp(512, 2048);
        let log_soft = (pages / 64).clamp(64, 1024);
        // The log is looked at before each transaction: with one below
        // soft + transaction it may grow by one transaction more.
        let log_bytes = (log_soft + 2 * transaction) * FRAME_BYTES + 32;
        Self { transaction, log_soft, main: max_bytes.saturating_sub(log_bytes + INDEX_BYTES) / PAGE_BYTES }
    }
}

/// How long what is kept.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Results, ms.
    pub results_ms: i64,
    /// Counts, coverage and incidents, ms.
    pub counts_ms: i64,
}

impl Ages {
    fn cut_ms(&self, table: Table, now_ms: i64) -> i64 {
        now_ms - if table == Table::Results { self.results_ms } else { self.counts_ms }
    }
}

/// Why a transaction did not happen. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite or the disk.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The log cannot be emptied.
    #[error("the file is being read, which keeps its log from being emptied; does another program have it open?")]
    LogHeld,
}

/// What one transaction did.
#[derive(Debug, Default)]
pub struct Done {
    /// So many records of the batch's begin are settled.
    pub settled: usize,
    /// Of them, those that are in the store, by [`RecordKind::ALL`].
    pub written: [u64; RecordKind::ALL.len()],
    /// Those that are not.
    pub dropped: Vec<(RecordKind, DropReason)>,
    /// Rows removed.
    pub pruned_rows: u64,
    /// Whether the file changed.
    pub changed: bool,
    /// There is more to remove.
    pub more: bool,
}

/// The file open for writing.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    file: PathBuf,
    bounds: Bounds,
    ages: Ages,
    max_incidents: usize,
    known: Known,
    /// Room to make beyond the estimate, after the estimate was too low.
    extra_pages: u64,
}

impl Store {
    /// Takes over an open file.
    pub fn new(connection: Connection, file: &Path, max_bytes: u64, ages: Ages) -> rusqlite::Result<Self> {
        let bounds = Bounds::new(max_bytes);
        // SQLite does not go below what the file has; then it is shrunk.
        pragma(&connection, &format!("max_page_count={}", bounds.main))?;
        let known = Known::load(&connection)?;
        let max_incidents = (max_bytes / (16 << 10)).clamp(1_000, 20_000) as usize;
        Ok(Self { connection, file: file.into(), bounds, ages, max_incidents, known, extra_pages: 0 })
    }

    /// Lets every commit fail, as a broken disk does.
    #[cfg(test)]
    pub(super) fn fail_commits(&mut self, fail: bool) {
        self.connection.commit_hook(fail.then_some(|| true)).expect("set");
    }

    /// A main file of so many pages, to be filled quickly.
    #[cfg(test)]
    pub(super) fn set_main_pages(&mut self, pages: u64) {
        self.bounds.main = pages;
    }

    /// Lower bound of the time of the oldest result and time of the newest, ms.
    pub fn results_span_ms(&self) -> (Option<i64>, Option<i64>) {
        let oldest = self.known.ages.oldest_ms(Table::Results).filter(|&bound| bound > 0);
        (oldest, self.known.newest_result_ms())
    }

    /// Commits a begin of `batch`, as large as one transaction may be, and
    /// what is due without it. Call again while records are left or there is
    /// [`more`](Done::more) to do.
    pub fn write(&mut self, batch: &VecDeque<Record>, now_ms: i64, readers: &Readers) -> Result<Done, StoreError> {
        self.empty_log(readers)?;
        let written = self.transact(batch, now_ms);
        if written.is_err() {
            // What was learnt within the transaction may be wrong now.
            self.known = Known::load(&self.connection)?;
            self.extra_pages = self.bounds.transaction;
        } else {
            self.extra_pages = 0;
        }
        self.shrink(readers)?;
        written
    }

    fn transact(&mut self, batch: &VecDeque<Record>, now_ms: i64) -> Result<Done, StoreError> {
        let (count, insert_pages) = self.fitting(batch);
        let Self { connection, bounds, ages, known, .. } = self;
        let before = connection.total_changes();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut done, mut pages_left) = (Done::default(), bounds.transaction - insert_pages);

        let (mut looks, mut aged) = (LOOKS, false);
        for table in Table::ALL {
            while pages_left >= STEP_PAGES
                && let Some(step) = known.ages.prune_age(&transaction, table, ages.cut_ms(table, now_ms), &mut looks)?
            {
                pages_left = pages_left.saturating_sub(step.pages);
                done.pruned_rows += step.rows;
                aged = true;
            }
        }
        // Where the budget of this transaction ended the work, not its end.
        done.more = aged && pages_left < STEP_PAGES;
        let gone =
            prune_incidents(&transaction, ages.cut_ms(Table::CountsHour, now_ms), known.incidents, self.max_incidents)?;
        known.incidents = known.incidents.saturating_sub(gone);
        done.pruned_rows += gone as u64;

        let wanted = insert_pages + self.extra_pages;
        let mut fits = false;
        loop {
            let used = pragma(&transaction, "page_count")? - pragma(&transaction, "freelist_count")?;
            if used as u64 + wanted <= bounds.main {
                fits = true;
                break;
            }
            if pages_left < STEP_PAGES {
                done.more = true;
                break;
            }
            let Some(step) = known.ages.prune_oldest(&transaction)? else {
                let gone = prune_incidents(&transaction, 0, known.incidents, 0)?;
                known.incidents = known.incidents.saturating_sub(gone);
                done.pruned_rows += gone as u64;
                // With nothing left to remove, SQLite's own limit decides.
                fits = gone == 0;
                done.more = gone > 0;
                break;
            };
            pages_left = pages_left.saturating_sub(step.pages);
            done.pruned_rows += step.rows;
        }
        while known.forget_one(&transaction)? {}
        if fits {
            for record in batch.iter().take(count) {
                let outcome = match is_too_old(record, ages, now_ms) {
                    true => Err(DropReason::TooOld),
                    false => known.insert(&transaction, record)?,
                };
                match outcome {
                    Ok(()) => done.written[record.kind() as usize] += 1,
                    Err(reason) => done.dropped.push((record.kind(), reason)),
                }
            }
            done.settled = count;
        }
        transaction.commit()?;
        done.changed = connection.total_changes() != before;
        Ok(done)
    }

    /// How many records of the begin of `batch` one transaction takes, and how
    /// many pages they may change. At least one record; the rest of the
    /// transaction is for making room.
    fn fitting(&self, batch: &VecDeque<Record>) -> (usize, u64) {
        let most_bytes = self.bounds.transaction / 3 * PAGE_BYTES;
        let mut touched: HashSet<(RecordKind, &CameraId, i64)> = HashSet::new();
        // Counts of one minute lie within so many pages, minutes of one hour too.
        let span_bytes = 60 * ROW_BYTES * self.known.counters();
        let apart = if span_bytes > 16 * PAGE_BYTES { [1, 60, 3_600] } else { [60, 3_600, 86_400] };
        let (mut count, mut bytes) = (0, 0);
        for record in batch {
            let row_bytes = ROW_PAGES * PAGE_BYTES;
            bytes += match record {
                Record::Result { camera, at_unix_ms, body, late_us, .. } => {
                    // Later than all before it: it goes where the last one went.
                    let first = touched.insert((RecordKind::Result, camera, 0));
                    let appended = !first && self.known.appends(camera, *at_unix_ms);
                    // All marks of late results lie in a few pages.
                    let marked = late_us.is_some() && touched.insert((RecordKind::Result, camera, 1));
                    2 * (body.len() as u64 + ROW_BYTES)
                        + if appended { 0 } else { row_bytes }
                        + if marked { row_bytes } else { 0 }
                }
                Record::Count { camera, at_unix_s, .. } => {
                    let places = (0..).zip(apart).map(|(level, apart)| at_unix_s / apart * 3 + level);
                    let first = places.filter(|&place| touched.insert((RecordKind::Count, camera, place)));
                    let first = first.count() as u64;
                    first * (row_bytes + span_bytes.min(16 * PAGE_BYTES)) + 6 * ROW_BYTES
                }
                Record::Covered { camera, from_unix_s, to_unix_s } => {
                    // Minutes of one camera lie side by side.
                    let first = touched.insert((RecordKind::Covered, camera, from_unix_s / 60));
                    let minutes = (to_unix_s - from_unix_s) as u64 / 60 + 2;
                    2 * (minutes * ROW_BYTES + if first { row_bytes } else { 0 })
                }
                Record::Incident(_) => 2 * row_bytes,
            };
            if count > 0 && bytes > most_bytes {
                break;
            }
            count += 1;
        }
        (count, (bytes / PAGE_BYTES + 2).min(self.bounds.transaction / 2))
    }

    fn log_pages(&self) -> u64 {
        std::fs::metadata(beside(&self.file, "-wal")).map_or(0, |found| found.len() / FRAME_BYTES)
    }

    /// Moves the log into the main file when it has grown, as soon as nobody
    /// reads; at its bound in spite of who reads.
    fn empty_log(&mut self, readers: &Readers) -> Result<(), StoreError> {
        let pages = self.log_pages();
        if pages < self.bounds.log_soft {
            return Ok(());
        }
        let must = pages > self.bounds.log_soft + self.bounds.transaction;
        let patience = if must { QUERY_PATIENCE } else { Duration::ZERO };
        let Some(_alone) = readers.bar(patience, must) else {
            return if must { Err(StoreError::LogHeld) } else { Ok(()) };
        };
        self.checkpoint()?;
        if self.log_pages() > self.bounds.log_soft + self.bounds.transaction {
            return Err(StoreError::LogHeld);
        }
        Ok(())
    }

    /// Moves the log into the main file, as far as other programs let us.
    pub fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Gives a part of the free pages back to the disk while the file is
    /// larger than allowed: the bound was lowered.
    fn shrink(&mut self, readers: &Readers) -> Result<(), StoreError> {
        let over = (pragma(&self.connection, "page_count")? as u64).saturating_sub(self.bounds.main);
        if over == 0 || pragma(&self.connection, "freelist_count")? == 0 {
            return Ok(());
        }
        self.empty_log(readers)?;
        let pages = over.min(self.bounds.transaction / 4);
        let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        drop(statement);
        pragma(&self.connection, &format!("max_page_count={}", self.bounds.main))?;
        Ok(())
    }
}

fn is_too_old(record: &Record, ages: &Ages, now_ms: i64) -> bool {
    match record {
        Record::Result { at_unix_ms, .. } => *at_unix_ms < now_ms - ages.results_ms,
        Record::Count { at_unix_s, .. } => *at_unix_s * 1000 < now_ms - ages.counts_ms,
        Record::Covered { from_unix_s, .. } => *from_unix_s * 1000 < now_ms - ages.counts_ms,
        Record::Incident(incident) => incident.opened_unix_ms < now_ms - ages.counts_ms,
    }
}
