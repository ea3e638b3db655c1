//! Where records wait for the writer: bounded in records and in bytes. Never
//! makes anybody wait who offers one. Results may fill three quarters of it,
//! so that counts and incidents find room when results do not.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::record::{Record, RecordKind};

/// What results may take of both bounds: 3 of 4 parts.
const RESULTS_SHARE: (usize, usize) = (3, 4);

/// The queue. What the writer has taken and not settled still counts as held.
#[derive(Debug)]
pub struct Queue {
    max_records: usize,
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Record>,
    held: Held,
    accepted: u64,
    settled: u64,
    /// Someone waits for a commit.
    hurry: bool,
    /// Ends the writer.
    closed: bool,
    /// The writer is at its end.
    finished: bool,
}

/// What waits, the records in the writer's hands included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Records.
    pub records: usize,
    /// Memory, bytes.
    pub bytes: usize,
}

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// No room.
    Full,
    /// The store is closed.
    Closed,
}

impl Queue {
    /// Holds at most so many records and bytes.
    pub fn new(max_records: usize, max_bytes: usize) -> Self {
        Self { max_records, max_bytes, waiting: Mutex::default(), changed: Condvar::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record unless it is full.
    pub fn offer(&self, record: Record) -> Result<(), NotTaken> {
        let (part, whole) = match record.kind() {
            RecordKind::Result => RESULTS_SHARE,
            _ => (1, 1),
        };
        let bytes = record.held_bytes();
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(NotTaken::Closed);
        }
        let fits = waiting.held.records < self.max_records / whole * part
            && waiting.held.bytes + bytes <= self.max_bytes / whole * part;
        if !fits {
            return Err(NotTaken::Full);
        }
        waiting.held.records += 1;
        waiting.held.bytes += bytes;
        waiting.accepted += 1;
        waiting.records.push_back(record);
        // Half full is early enough to write before anything is lost.
        let half = waiting.held.records * 2 >= self.max_records || waiting.held.bytes * 2 >= self.max_bytes;
        if half && !waiting.hurry {
            waiting.hurry = true;
            self.changed.notify_all();
        }
        Ok(())
    }

    /// For the writer: waits until `until`, or until there is a hurry that it
    /// heeds, and appends what is there to `batch`. False when this is the end.
    pub fn take(&self, batch: &mut VecDeque<Record>, until: Instant, heed_hurry: bool) -> bool {
        let mut waiting = self.waiting();
        while !(waiting.closed || waiting.hurry && heed_hurry) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.hurry = false;
        batch.append(&mut waiting.records);
        !waiting.closed
    }

    /// For the writer: so many records of so many bytes are committed, or
    /// counted as dropped.
    pub fn settle(&self, records: usize, bytes: usize) {
        let mut waiting = self.waiting();
        waiting.held.records = waiting.held.records.saturating_sub(records);
        waiting.held.bytes = waiting.held.bytes.saturating_sub(bytes);
        waiting.settled += records as u64;
        self.changed.notify_all();
    }

    /// For the writer: there will be nothing more.
    pub fn finish(&self) {
        let mut waiting = self.waiting();
        (waiting.closed, waiting.finished) = (true, true);
        self.changed.notify_all();
    }

    /// Whether it takes records.
    pub fn is_open(&self) -> bool {
        !self.waiting().closed
    }

    /// Takes nothing more; the writer writes what waits and ends.
    pub fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_all();
    }

    /// Lets the writer hurry and waits until all that was accepted so far is
    /// settled; false when that takes longer than `patience`.
    pub fn wait_settled(&self, patience: Duration) -> bool {
        let mut waiting = self.waiting();
        let wanted = waiting.accepted;
        waiting.hurry = true;
        self.changed.notify_all();
        self.wait_for(waiting, patience, |waiting| waiting.settled >= wanted)
    }

    /// Waits for the end of the writer; false when that takes longer than
    /// `patience`.
    pub fn wait_finished(&self, patience: Duration) -> bool {
        self.wait_for(self.waiting(), patience, |waiting| waiting.finished)
    }

    fn wait_for(&self, waiting: MutexGuard<'_, Waiting>, patience: Duration, done: impl Fn(&Waiting) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(waiting, patience, |waiting| !done(waiting) && !waiting.finished);
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// What waits.
    pub fn held(&self) -> Held {
        self.waiting().held
    }

    /// Records taken since the start.
    pub fn accepted(&self) -> u64 {
        self.waiting().accepted
    }

    /// Of the accepted, in their order, so many are committed or counted as dropped.
    pub fn settled(&self) -> u64 {
        self.waiting().settled
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flatframe_shared::frame::CameraId;

    use super::super::record::Change;
    use super::*;

    fn result(bytes: usize) -> Record {
        let camera = CameraId::parse("a").expect("valid");
        Record::Result { camera, at_unix_ms: 0, position: 0, late_us: None, body: Bytes::from(vec![0; bytes]) }
    }

    fn count() -> Record {
        let camera = CameraId::parse("a").expect("valid");
        Record::Count { camera, at_unix_s: 0, counter: "v".into(), change: Change::default() }
    }

    #[test]
    fn counts_find_room_when_results_do_not() {
        let queue = Queue::new(8, 1 << 20);
        assert_eq!([0; 8].map(|_| queue.offer(result(1)).is_ok()).iter().filter(|&&taken| taken).count(), 6);
        assert_eq!((queue.offer(count()), queue.offer(count())), (Ok(()), Ok(())));
        assert_eq!(queue.offer(count()), Err(NotTaken::Full));

        let mut batch = VecDeque::new();
        assert!(queue.take(&mut batch, Instant::now(), true));
        assert_eq!(batch.len(), 8);
        assert_eq!(queue.offer(count()), Err(NotTaken::Full), "what the writer holds is held");
        queue.settle(3, batch.iter().take(3).map(Record::held_bytes).sum());
        assert_eq!((queue.offer(count()), queue.held().records, queue.settled()), (Ok(()), 6, 3));
    }

    #[test]
    fn bounded_in_bytes() {
        let queue = Queue::new(1000, 64_000);
        let taken = (0..100).filter(|_| queue.offer(result(10_000)).is_ok()).count();
        assert_eq!(taken, 4);
        assert!(queue.held().bytes <= 48_000 && queue.offer(count()).is_ok());
    }

    #[test]
    fn closed_takes_nothing() {
        let queue = Queue::new(10, 10_000);
        queue.offer(count()).expect("room");
        queue.close();
        assert_eq!(queue.offer(count()), Err(NotTaken::Closed));
        let mut batch = VecDeque::new();
        assert!(!queue.take(&mut batch, Instant::now() + Duration::from_secs(3600), true));
        assert_eq!(batch.len(), 1);
        assert!(!queue.wait_settled(Duration::ZERO));
        queue.finish();
        assert!(queue.wait_finished(Duration::ZERO));
    }
}
