//! What waits to be published on the bus: bounded in bytes. Offering never
//! waits; when it is full the oldest goes and is counted, as everywhere the
//! newest is worth more. Holds no async but the bell that wakes the publisher,
//! and no I/O.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a message takes besides its bytes.
const MESSAGE_BYTES: usize = size_of::<Message>() + 64;

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where it goes.
    pub subject: String,
    /// What makes it the same message when it is sent twice.
    pub id: String,
    /// What it says.
    pub body: Bytes,
    /// When it was offered.
    pub at: Instant,
    /// Whether it is worth something however late it comes.
    pub lasts: bool,
}

impl Message {
    fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.subject.len() + self.id.len() + self.body.len()
    }
}

/// What was offered, and why some of it was not published, in messages since
/// start.
#[derive(Debug, Default)]
pub struct OutboxCounts {
    /// Offered.
    pub offered: AtomicU64,
    /// Gave way to newer ones.
    pub full: AtomicU64,
    /// Waited for too long.
    pub late: AtomicU64,
    /// Still waited when the service ended, or came after that.
    pub left: AtomicU64,
}

/// What waits.
#[derive(Debug)]
pub struct Outbox {
    max_bytes: usize,
    late: Duration,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    closed: CancellationToken,
    /// When one was dropped last, in milliseconds since the Unix epoch; 0:
    /// never.
    dropped_unix_ms: AtomicI64,
    /// What became of messages.
    pub counts: OutboxCounts,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Message>,
    bytes: usize,
}

impl Outbox {
    /// Holds at most `max_bytes`, each message for at most `late`.
    pub fn new(max_bytes: usize, late: Duration) -> Self {
        Self {
            max_bytes,
            late,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            closed: CancellationToken::new(),
            dropped_unix_ms: AtomicI64::new(0),
            counts: OutboxCounts::default(),
        }
    }

    /// Most bytes that wait.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Bytes that wait now.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Takes `message`; the oldest give way to it.
    pub fn offer(&self, message: Message) {
        self.counts.offered.fetch_add(1, Relaxed);
        let bytes = message.bytes();
        let mut waiting = self.lock();
        if self.closed.is_cancelled() {
            self.counts.left.fetch_add(1, Relaxed);
            return;
        }
        if bytes > self.max_bytes {
            self.drop_one(&self.counts.full);
            return;
        }
        while waiting.bytes + bytes > self.max_bytes {
            let Some(oldest) = waiting.queue.pop_front() else { break };
            waiting.bytes -= oldest.bytes();
            self.drop_one(&self.counts.full);
        }
        waiting.bytes += bytes;
        waiting.queue.push_back(message);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Takes up to `max` of the oldest messages, with at most `max_bytes` but
    /// for a single one; those that are late by `now` are dropped.
    pub fn take(&self, max: usize, max_bytes: usize, now: Instant) -> Vec<Message> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut waiting = self.lock();
        while taken.len() < max {
            let Some(first) = waiting.queue.front() else { break };
            let size = first.bytes();
            if !taken.is_empty() && bytes + size > max_bytes {
                break;
            }
            let Some(first) = waiting.queue.pop_front() else { break };
            waiting.bytes -= size;
            if self.drop_late(&first, now) {
                continue;
            }
            bytes += size;
            taken.push(first);
        }
        taken
    }

    /// Whether `message` waited for too long: then it is counted so.
    pub fn drop_late(&self, message: &Message, now: Instant) -> bool {
        let is_late = !message.lasts && now.saturating_duration_since(message.at) > self.late;
        if is_late {
            self.drop_one(&self.counts.late);
        }
        is_late
    }

    /// When a message was dropped last, in milliseconds since the Unix epoch;
    /// `None`: never.
    pub fn dropped_unix_ms(&self) -> Option<i64> {
        Some(self.dropped_unix_ms.load(Relaxed)).filter(|at_ms| *at_ms != 0)
    }

    fn drop_one(&self, why: &AtomicU64) {
        why.fetch_add(1, Relaxed);
        self.dropped_unix_ms.store(clock::unix_us() / 1000, Relaxed);
    }

    /// Waits until something waits, or the outbox is closed.
    pub async fn arrived(&self) {
        // A permit is stored when nobody waits: nothing is slept through.
        while self.lock().queue.is_empty() && !self.closed.is_cancelled() {
            tokio::select! {
                () = self.arrived.notified() => {}
                () = self.closed.cancelled() => {}
            }
        }
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Whether it is closed and nothing waits.
    pub fn is_done(&self) -> bool {
        self.is_closed() && self.lock().queue.is_empty()
    }

    /// Counts what still waits, and what the publisher still held, as left.
    pub fn abandon(&self, held: usize) -> u64 {
        self.close();
        let left = (held + std::mem::take(&mut *self.lock()).queue.len()) as u64;
        self.counts.left.fetch_add(left, Relaxed);
        left
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8, bytes: usize, at: Instant) -> Message {
        Message {
            subject: "s".into(),
            id: number.to_string(),
            body: Bytes::from(vec![number; bytes]),
            at,
            lasts: false,
        }
    }

    fn ids(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|message| message.id.as_str()).collect()
    }

    #[test]
    fn the_oldest_gives_way_and_every_message_has_one_fate() {
        let (now, late) = (Instant::now(), Duration::from_secs(10));
        let one = message(0, 1000, now).bytes();
        let outbox = Outbox::new(3 * one, late);
        (0..5).for_each(|number| outbox.offer(message(number, 1000, now)));
        outbox.offer(message(9, 4 * one, now));
        assert_eq!((outbox.bytes(), outbox.counts.full.load(Relaxed)), (3 * one, 3), "two gave way, one is too large");
        let taken = outbox.take(2, usize::MAX, now);
        assert_eq!(ids(&taken), ["2", "3"]);
        assert!(outbox.take(9, usize::MAX, now + late + Duration::from_millis(1)).is_empty());
        let counts = &outbox.counts;
        assert_eq!((counts.late.load(Relaxed), outbox.bytes()), (1, 0));
        assert!(outbox.dropped_unix_ms().is_some_and(|at_ms| at_ms > 0));
        assert_eq!(counts.offered.load(Relaxed), 2 + counts.full.load(Relaxed) + counts.late.load(Relaxed));
    }

    #[test]
    fn a_batch_has_bytes_too() {
        let now = Instant::now();
        let one = message(0, 100, now).bytes();
        let outbox = Outbox::new(100 * one, Duration::from_secs(10));
        (0..5).for_each(|number| outbox.offer(message(number, 100, now)));
        assert_eq!(ids(&outbox.take(64, 2 * one, now)), ["0", "1"]);
        assert_eq!(ids(&outbox.take(64, 1, now)), ["2"], "one at least");
    }

    #[tokio::test]
    async fn closed_it_takes_nothing_and_wakes_the_publisher() {
        let outbox = Outbox::new(1 << 20, Duration::from_secs(10));
        outbox.close();
        outbox.arrived().await;
        outbox.offer(message(1, 10, Instant::now()));
        assert!(outbox.is_done());
        assert_eq!(outbox.abandon(2), 2);
    }
}
