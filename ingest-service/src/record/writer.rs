//! The thread that writes: takes what waits once a second, appends it, syncs
//! every few seconds, and says when it cannot. Every frame it takes is written
//! or counted as not recorded. Nothing else writes to the folder, and nobody
//! waits for it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use flatframe_shared::disk::DiskGuard;
use flatframe_shared::rate_log::RateLog;

use super::container::FRAME_HEADER_BYTES;
use super::queue::Frame;
use super::ring::Writing;
use super::state::{NotRecorded, Pause};
use super::store::Store;
use super::write_rate::WriteRate;
use super::{RecordedCamera, Shared, Surroundings};

/// Between two batches.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Between two lines about frames that are lost.
const LOSSES_EVERY: Duration = Duration::from_secs(60);
/// Longest wait between two attempts to open a folder that failed.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// What the thread owns.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    surroundings: Surroundings,
    cameras: Vec<Writing>,
    /// `None`: not opened yet, or it failed.
    store: Option<Store>,
    batch: VecDeque<Frame>,
    rate: WriteRate,
    guard: DiskGuard,
    free_bytes: Option<u64>,
    is_low: bool,
    /// Why the disk failed last, until a frame is written again.
    failing: Option<String>,
    attempts: u32,
    retry_at: Option<Instant>,
    /// When the oldest of what is not synced was written.
    dirty_since: Option<Instant>,
    /// Lets a line about losses through once a minute.
    losses: RateLog,
    /// Frames lost, as far as such a line told.
    told_lost: u64,
}

impl Writer {
    /// Ready to [`run`](Self::run); nothing is opened yet.
    pub(super) fn new(shared: Arc<Shared>, surroundings: Surroundings, cameras: Vec<Writing>) -> Self {
        let settings = &shared.settings;
        Self {
            rate: WriteRate::new(settings.max_write_bytes_per_s),
            guard: DiskGuard::new(settings.min_free_bytes),
            shared,
            surroundings,
            cameras,
            store: None,
            batch: VecDeque::new(),
            free_bytes: None,
            is_low: false,
            failing: None,
            attempts: 0,
            retry_at: None,
            dirty_since: None,
            losses: RateLog::new(LOSSES_EVERY),
            told_lost: 0,
        }
    }

    /// Writes until the recording is closed.
    pub(super) fn run(mut self) {
        let mut next = Instant::now();
        loop {
            let go_on = self.shared.queue.take(&mut self.batch, next);
            next = Instant::now() + WRITE_EVERY;
            self.turn();
            if !go_on {
                break;
            }
        }
        self.end();
    }

    /// Takes what waits, without waiting for more.
    #[cfg(test)]
    pub(super) fn take_now(&mut self) {
        self.shared.queue.take(&mut self.batch, Instant::now());
    }

    /// Writes all that was taken, or counts it as not recorded.
    pub(super) fn turn(&mut self) {
        let now = (self.surroundings.now)();
        self.look_at_store(now);
        self.look_at_disk();
        while let Some(frame) = self.batch.pop_front() {
            let tally = &Arc::clone(&self.shared).cameras[frame.camera].tally;
            match self.write(&frame, now) {
                Ok(bytes) => tally.add_recorded(bytes, frame.is_late),
                Err(reason) => tally.add_not_recorded(reason),
            }
            self.shared.queue.settle(frame.held_bytes());
        }
        self.warn_of_losses(now);
        let kept = self.keep(now);
        self.note(kept, now);
        self.show();
    }

    /// Syncs and lets go of the folder.
    pub(super) fn end(mut self) {
        let synced = self.store.as_mut().map_or(Ok(()), Store::sync);
        self.note(synced, (self.surroundings.now)());
        self.show();
        self.store = None;
        self.shared.queue.finish();
    }

    fn write(&mut self, frame: &Frame, now: Instant) -> Result<u64, NotRecorded> {
        if self.is_low {
            return Err(NotRecorded::DiskLow);
        }
        let Some(store) = &mut self.store else { return Err(NotRecorded::Failed) };
        if !self.rate.allows((frame.jpeg.len() + FRAME_HEADER_BYTES) as u64, now) {
            return Err(NotRecorded::WriteRate);
        }
        match store.append(frame) {
            Ok(Some(bytes)) => {
                self.dirty_since.get_or_insert(now);
                self.attempts = 0;
                if self.failing.take().is_some() {
                    tracing::info!("the recording is written again");
                }
                Ok(bytes)
            }
            Ok(None) => Err(NotRecorded::TooLarge),
            Err(error) => {
                self.note(Err(error), now);
                Err(NotRecorded::Failed)
            }
        }
    }

    /// Says what is lost though nothing is paused: a pause has lines of its own.
    fn warn_of_losses(&mut self, now: Instant) {
        let quiet = [NotRecorded::QueueFull, NotRecorded::WriteRate, NotRecorded::TooLarge];
        let lost_of = |camera: &RecordedCamera| {
            let of = camera.tally.read();
            quiet.iter().map(|reason| of.not_recorded[*reason as usize]).sum::<u64>()
        };
        let lost: u64 = self.shared.cameras.iter().map(lost_of).sum();
        if lost > self.told_lost && self.losses.allow(now).is_some() {
            tracing::warn!(frames = lost - self.told_lost, "frames are missing from the recording");
            self.told_lost = lost;
        }
    }

    /// Removes what is too old, and syncs what has waited long enough.
    fn keep(&mut self, now: Instant) -> io::Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        store.expire(now, (self.surroundings.now_unix_us)().map(|unix_us| unix_us / 1_000_000))?;
        let due = |since: Instant| now.saturating_duration_since(since) >= self.shared.settings.sync_every;
        if self.dirty_since.is_some_and(due) {
            self.dirty_since = None;
            store.sync()?;
        }
        Ok(())
    }

    /// Opens the folder, at first and after a failure.
    fn look_at_store(&mut self, now: Instant) {
        if self.store.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let settings = &self.shared.settings;
        match Store::open(&settings.dir, settings.bounds, &self.cameras) {
            Ok(store) => {
                let wanted = self.cameras.len() as u64 * settings.bounds.max_bytes + settings.min_free_bytes;
                let free = (self.surroundings.free_bytes)(&settings.dir).ok();
                if self.attempts == 0 && free.is_some_and(|free| free.saturating_add(store.disk_bytes()) < wanted) {
                    tracing::warn!(
                        free_bytes = free,
                        wanted_bytes = wanted,
                        "the disk is too small for the recording: it stops before its oldest frames make room"
                    );
                }
                self.store = Some(store);
            }
            Err(error) => self.note(Err(error), now),
        }
    }

    /// After a failure everything is opened anew, so that what is known is
    /// what is there.
    fn note(&mut self, done: io::Result<()>, now: Instant) {
        let Err(error) = done else { return };
        if self.failing.is_none() {
            let dir = self.shared.settings.dir.display();
            tracing::error!(%dir, %error, "nothing is recorded: the folder cannot be written; trying again");
        }
        (self.store, self.failing, self.dirty_since) = (None, Some(error.to_string()), None);
        let backoff = Duration::from_secs(1 << self.attempts.min(6)).min(MAX_BACKOFF);
        self.retry_at = Some(now + backoff);
        self.attempts += 1;
    }

    fn look_at_disk(&mut self) {
        let settings = &self.shared.settings;
        self.free_bytes = (self.surroundings.free_bytes)(&settings.dir).ok();
        // What cannot be read stops nothing: writing fails where it must.
        let was_low = std::mem::replace(&mut self.is_low, self.free_bytes.is_some_and(|free| self.guard.is_low(free)));
        let (free_bytes, min_free_bytes) = (self.free_bytes, settings.min_free_bytes);
        match (was_low, self.is_low) {
            (false, true) => {
                tracing::error!(free_bytes, min_free_bytes, "nothing is recorded: the disk is nearly full");
            }
            (true, false) => tracing::info!(free_bytes, "the recording goes on: the disk has room"),
            _ => {}
        }
    }

    fn show(&mut self) {
        let paused = match (&self.failing, self.free_bytes) {
            (Some(text), _) => Some(Pause::Failing(text.clone())),
            (None, Some(free_bytes)) if self.is_low => {
                Some(Pause::DiskLow { free_bytes, min_free_bytes: self.shared.settings.min_free_bytes })
            }
            _ => None,
        };
        self.shared.seen.set(self.free_bytes, paused);
        for ((_, ring), camera) in self.store.iter_mut().flat_map(|store| &mut store.rings).zip(&self.shared.cameras) {
            camera.tally.disk_bytes.store(ring.disk_bytes(), Relaxed);
            camera.tally.segments.store(ring.segments() as u64, Relaxed);
            camera.tally.removed_segments.fetch_add(ring.take_removed(), Relaxed);
        }
    }
}
