//! The thread that writes: takes what waits once a `commit_every`, commits it,
//! and says when it cannot. Every record it takes is committed or counted as
//! dropped. Nothing else writes into the file.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use flatframe_shared::disk::DiskGuard;
use flatframe_shared::rate_log::RateLog;

use super::disk::store_bytes;
use super::lock::Lock;
use super::open::is_damage;
use super::record::{Record, RecordKind};
use super::state::{DropReason, Pause};
use super::store::{Done, Store, StoreError};
use super::{Shared, Surroundings};

/// A batch that fails so often is counted as lost, so that one that can never
/// be written does not stop all others.
const MAX_ATTEMPTS: u32 = 10;
/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// What the thread owns.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Store,
    pub(super) lock: Lock,
    pub(super) surroundings: Surroundings,
    batch: VecDeque<Record>,
    guard: DiskGuard,
    folder: PathBuf,
    attempts: u32,
    losses: RateLog,
}

impl Writer {
    /// Ready to [`run`](Self::run).
    pub(super) fn new(shared: Arc<Shared>, store: Store, lock: Lock, surroundings: Surroundings) -> Self {
        let file = &shared.settings.file;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (folder, guard) = (folder.to_owned(), DiskGuard::new(shared.settings.min_free_bytes));
        let (batch, losses) = (VecDeque::new(), RateLog::default());
        Self { shared, store, lock, surroundings, batch, guard, folder, attempts: 0, losses }
    }

    /// Writes until the store is closed.
    pub(super) fn run(mut self) {
        let every = self.shared.settings.commit_every;
        let mut next = Instant::now();
        loop {
            let heed_hurry = self.attempts == 0;
            let go_on = self.shared.queue.take(&mut self.batch, next, heed_hurry);
            let started = Instant::now();
            self.turn();
            if !go_on {
                break;
            }
            let backoff = every.saturating_mul(1 << self.attempts.min(16)).min(MAX_BACKOFF.max(every));
            next = started + backoff;
        }
        self.drop_batch(DropReason::Failed);
        // Readers first: the last connection empties the log and removes it.
        self.shared.readers.close();
        if let Err(error) = self.store.checkpoint() {
            tracing::warn!(%error, "the history's log was not emptied; the next start does it");
        }
        let Self { shared, store, lock, .. } = self;
        drop(store);
        drop(lock);
        shared.queue.finish();
    }

    /// Takes what waits, without waiting for more.
    #[cfg(test)]
    pub(super) fn take_now(&mut self) {
        self.shared.queue.take(&mut self.batch, Instant::now(), true);
    }

    /// Writes all that was taken, as far as it goes.
    pub(super) fn turn(&mut self) {
        let now_ms = (self.surroundings.now_unix_ms)();
        self.look_at_disk();
        loop {
            if matches!(self.paused(), Some(Pause::Damaged(_) | Pause::DiskLow { .. })) {
                self.drop_batch(DropReason::Paused);
                break;
            }
            let started = Instant::now();
            match self.store.write(&self.batch, now_ms, &self.shared.readers) {
                Ok(done) => {
                    if self.attempts > 0 {
                        tracing::info!(attempts = self.attempts, "the history is written again");
                        (self.attempts, self.shared.tally.seen().paused) = (0, None);
                    }
                    let more = done.more;
                    self.note(done, started.elapsed());
                    if self.batch.is_empty() && !(more && self.shared.queue.is_open()) {
                        break;
                    }
                }
                Err(error) => {
                    self.note_failure(&error);
                    break;
                }
            }
        }
        let (oldest_ms, newest_ms) = self.store.results_span_ms();
        let mut seen = self.shared.tally.seen();
        seen.bytes = store_bytes(&self.shared.settings.file);
        (seen.oldest_result_unix_ms, seen.newest_result_unix_ms) = (oldest_ms, newest_ms);
    }

    fn paused(&self) -> Option<Pause> {
        self.shared.tally.seen().paused.clone()
    }

    fn look_at_disk(&mut self) {
        let free = (self.surroundings.free_bytes)(&self.folder).ok();
        // Unknown is not low: a commit will tell.
        let low = free.is_some_and(|free| self.guard.is_low(free));
        let mut seen = self.shared.tally.seen();
        seen.free_bytes = free;
        let min_free_bytes = self.shared.settings.min_free_bytes;
        match (&seen.paused, low) {
            (Some(Pause::Damaged(_)), _) => (),
            (Some(Pause::DiskLow { .. }), false) => {
                seen.paused = None;
                tracing::info!(free_bytes = free, "the history is written again: the disk has room");
            }
            (Some(Pause::DiskLow { .. }), true) => {
                seen.paused = free.map(|free_bytes| Pause::DiskLow { free_bytes, min_free_bytes });
            }
            (_, true) => {
                seen.paused = free.map(|free_bytes| Pause::DiskLow { free_bytes, min_free_bytes });
                // What failed before is dropped with the rest.
                self.attempts = 0;
                tracing::error!(
                    free_bytes = free,
                    min_free_bytes,
                    "the history is not written: the disk is nearly full"
                );
            }
            (_, false) => (),
        }
    }

    /// Counts and lets go of what a transaction settled.
    fn note(&mut self, done: Done, took: Duration) {
        let tally = &self.shared.tally;
        for (kind, records) in RecordKind::ALL.into_iter().zip(done.written) {
            tally.add_written(kind, records);
        }
        for &(kind, reason) in &done.dropped {
            tally.add_dropped(kind, reason, 1);
        }
        tally.pruned_rows.fetch_add(done.pruned_rows, Relaxed);
        if done.changed {
            tally.commits.fetch_add(1, Relaxed);
            tally.seen().last_commit = took;
        }
        if !done.dropped.is_empty() {
            self.warn_of_losses(done.dropped.len() as u64);
        }
        let bytes = self.batch.drain(..done.settled).map(|record| record.held_bytes()).sum();
        self.shared.queue.settle(done.settled, bytes);
    }

    fn note_failure(&mut self, error: &StoreError) {
        let text = error.to_string();
        self.shared.tally.failed_commits.fetch_add(1, Relaxed);
        self.attempts += 1;
        if matches!(error, StoreError::Sqlite(error) if is_damage(error)) {
            tracing::error!(error = text, "the history is not written: its file is damaged");
            self.shared.tally.seen().paused = Some(Pause::Damaged(text));
            self.drop_batch(DropReason::Paused);
            return;
        }
        if self.attempts == 1 {
            tracing::error!(error = text, "the history could not be written; trying again");
        }
        self.shared.tally.seen().paused = Some(Pause::Failing(text));
        if self.attempts.is_multiple_of(MAX_ATTEMPTS) {
            self.drop_batch(DropReason::Failed);
        }
    }

    fn drop_batch(&mut self, reason: DropReason) {
        if self.batch.is_empty() {
            return;
        }
        let (records, mut bytes) = (self.batch.len(), 0);
        for record in self.batch.drain(..) {
            bytes += record.held_bytes();
            self.shared.tally.add_dropped(record.kind(), reason, 1);
        }
        self.warn_of_losses(records as u64);
        self.shared.queue.settle(records, bytes);
    }

    fn warn_of_losses(&self, records: u64) {
        if let Some(held_back) = self.losses.allow(flatframe_shared::clock::now()) {
            tracing::warn!(records, held_back, "records are missing from the history");
        }
    }
}
