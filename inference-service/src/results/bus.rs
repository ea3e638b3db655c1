//! Hands results to subscribers. Every subscriber has a bounded queue; when it
//! is full the oldest result goes and is reported as a gap, and a subscriber
//! that takes nothing for too long is cut. Publishing never waits.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::frame::CameraId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::record::{ElsewhereResult, Position, ResultRecord};

/// Limits of the bus.
#[derive(Debug, Clone, Copy)]
pub struct BusLimits {
    /// Most subscribers at once.
    pub max_subscribers: usize,
    /// Most results that wait for one subscriber.
    pub queue: usize,
    /// Most results kept for those that resume.
    pub ring: usize,
    /// A subscriber whose queue is full and that takes nothing for so long is
    /// cut.
    pub stall: Duration,
}

/// All subscribers, and the newest results for those that resume.
#[derive(Debug)]
pub struct Bus {
    limits: BusLimits,
    state: Mutex<State>,
    cut: AtomicU64,
    missed: AtomicU64,
    elsewhere: AtomicU64,
    unheard: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    ring: VecDeque<Item>,
    subscribers: Vec<Arc<Inbox>>,
}

/// What waits for one subscriber.
#[derive(Debug)]
struct Inbox {
    /// `None`: all cameras.
    cameras: Option<HashSet<CameraId>>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Item>,
    missed: u64,
    last_missed: u64,
    full_since: Option<Instant>,
}

/// One place in the sequence.
#[derive(Debug, Clone)]
enum Item {
    Here(Arc<ResultRecord>),
    Elsewhere(Arc<ElsewhereResult>),
    /// So many results of other replicas that this one never had.
    Missed {
        missed: u64,
        last: Position,
    },
}

impl Item {
    fn position(&self) -> Position {
        match self {
            Self::Here(record) => record.position,
            Self::Elsewhere(result) => result.position,
            Self::Missed { last, .. } => *last,
        }
    }

    /// How many results are missed when it is.
    fn results(&self) -> u64 {
        if let Self::Missed { missed, .. } = self { *missed } else { 1 }
    }

    /// `None`: of any camera.
    fn camera(&self) -> Option<&CameraId> {
        match self {
            Self::Here(record) => Some(&record.camera),
            Self::Elsewhere(result) => Some(&result.camera),
            Self::Missed { .. } => None,
        }
    }
}

/// What a subscriber takes.
#[derive(Debug)]
pub enum Taken {
    /// The next result.
    Result(Arc<ResultRecord>),
    /// The next result, of another replica.
    Elsewhere(Arc<ElsewhereResult>),
    /// Results that are gone.
    Gap {
        /// How many.
        missed: u64,
        /// Position of the last of them.
        last_missed: Position,
    },
}

/// No room for another subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many there are.
    pub max_subscribers: usize,
}

impl Bus {
    /// A bus without subscribers.
    pub fn new(limits: BusLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            cut: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
        }
    }

    /// Gives `record` its position and hands it to all who watch its camera.
    pub fn publish(&self, mut record: ResultRecord) -> Arc<ResultRecord> {
        let mut state = lock(&self.state);
        state.last += 1;
        record.position = Position(state.last);
        let record = Arc::new(record);
        self.hand_out(&mut state, Item::Here(record.clone()));
        record
    }

    /// Gives a result of another replica its position and hands it to all who
    /// watch its camera.
    pub fn publish_elsewhere(&self, mut result: ElsewhereResult) {
        let mut state = lock(&self.state);
        state.last += 1;
        result.position = Position(state.last);
        self.elsewhere.fetch_add(1, Relaxed);
        self.hand_out(&mut state, Item::Elsewhere(Arc::new(result)));
    }

    /// Tells all that `missed` results of other replicas never came here.
    pub fn publish_missed(&self, missed: u64) {
        let mut state = lock(&self.state);
        state.last += missed;
        let last = Position(state.last);
        self.unheard.fetch_add(missed, Relaxed);
        self.hand_out(&mut state, Item::Missed { missed, last });
    }

    fn hand_out(&self, state: &mut State, item: Item) {
        if state.ring.len() == self.limits.ring {
            state.ring.pop_front();
        }
        if self.limits.ring > 0 {
            state.ring.push_back(item.clone());
        }
        let now = clock::now();
        state.subscribers.retain(|inbox| self.deliver(inbox, &item, now));
    }

    /// Puts `item` into one inbox; `false` when its subscriber is cut.
    fn deliver(&self, inbox: &Inbox, item: &Item, now: Instant) -> bool {
        if !inbox.watches(item) {
            return true;
        }
        let mut waiting = lock(&inbox.waiting);
        if waiting.queue.len() >= self.limits.queue {
            let full_since = *waiting.full_since.get_or_insert(now);
            if now.duration_since(full_since) >= self.limits.stall {
                // Its results are freed here, not when its connection ends.
                waiting.queue = VecDeque::new();
                self.cut.fetch_add(1, Relaxed);
                inbox.cut.cancel();
                return false;
            }
            if let Some(oldest) = waiting.queue.pop_front() {
                waiting.miss(&oldest);
                self.missed.fetch_add(1, Relaxed);
            }
        }
        waiting.queue.push_back(item.clone());
        drop(waiting);
        inbox.arrived.notify_one();
        true
    }

    /// A new subscriber to some cameras (`None`: all), from now on or from
    /// `after` on as far as results are still held. `cut` is cancelled when it
    /// stalls.
    ///
    /// # Errors
    /// [`Full`].
    pub fn subscribe(
        self: &Arc<Self>,
        cameras: Option<HashSet<CameraId>>,
        after: Option<Position>,
        cut: CancellationToken,
    ) -> Result<Subscriber, Full> {
        let inbox = Arc::new(Inbox { cameras, waiting: Mutex::default(), arrived: Notify::new(), cut });
        let mut state = lock(&self.state);
        if state.subscribers.len() >= self.limits.max_subscribers {
            return Err(Full { max_subscribers: self.limits.max_subscribers });
        }
        if let Some(after) = after {
            self.resume(&state, &inbox, after);
        }
        state.subscribers.push(inbox.clone());
        Ok(Subscriber { bus: self.clone(), inbox })
    }

    /// Fills `inbox` with what is still held after `after`, oldest first.
    fn resume(&self, state: &State, inbox: &Inbox, after: Position) {
        let mut waiting = lock(&inbox.waiting);
        // What others missed stands for several places, and is told again by itself.
        let first_held = state.ring.front().map_or(state.last + 1, |first| first.position().0 - first.results() + 1);
        if after.0 < state.last && after.0 + 1 < first_held {
            waiting.missed = first_held - 1 - after.0;
            waiting.last_missed = first_held - 1;
            self.missed.fetch_add(waiting.missed, Relaxed);
        }
        for item in state.ring.iter().filter(|item| item.position() > after && inbox.watches(item)) {
            if waiting.queue.len() == self.limits.queue
                && let Some(oldest) = waiting.queue.pop_front()
            {
                waiting.miss(&oldest);
            }
            waiting.queue.push_back(item.clone());
        }
        drop(waiting);
        inbox.arrived.notify_one();
    }

    /// Subscribers now.
    pub fn subscribers(&self) -> usize {
        lock(&self.state).subscribers.len()
    }

    /// Results that wait for subscribers now, all together.
    pub fn waiting(&self) -> usize {
        lock(&self.state).subscribers.iter().map(|inbox| lock(&inbox.waiting).queue.len()).sum()
    }

    /// Results held for those that resume.
    pub fn held(&self) -> usize {
        lock(&self.state).ring.len()
    }

    /// Results published since start, of this replica.
    pub fn published(&self) -> u64 {
        // Both others are counted under the same lock.
        let state = lock(&self.state);
        state.last - self.elsewhere() - self.unheard()
    }

    /// Results of other replicas handed out since start.
    pub fn elsewhere(&self) -> u64 {
        self.elsewhere.load(Relaxed)
    }

    /// Results of other replicas that never came here, since start.
    pub fn unheard(&self) -> u64 {
        self.unheard.load(Relaxed)
    }

    /// Subscribers cut since start because they stalled.
    pub fn cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }

    /// Results that subscribers missed since start.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }
}

impl Inbox {
    fn watches(&self, item: &Item) -> bool {
        let (Some(cameras), Some(camera)) = (&self.cameras, item.camera()) else { return true };
        cameras.contains(camera)
    }
}

impl Waiting {
    /// `oldest` gives way.
    fn miss(&mut self, oldest: &Item) {
        self.missed += oldest.results();
        self.last_missed = oldest.position().0;
    }
}

/// One subscriber; leaves the bus when dropped.
#[derive(Debug)]
pub struct Subscriber {
    bus: Arc<Bus>,
    inbox: Arc<Inbox>,
}

impl Subscriber {
    /// Waits for the next result or gap.
    pub async fn next(&mut self) -> Taken {
        loop {
            if let Some(taken) = self.take() {
                return taken;
            }
            // A permit is stored when nobody waits: nothing is slept through.
            self.inbox.arrived.notified().await;
        }
    }

    fn take(&mut self) -> Option<Taken> {
        let mut waiting = lock(&self.inbox.waiting);
        waiting.full_since = None;
        if waiting.missed > 0 {
            let missed = std::mem::take(&mut waiting.missed);
            return Some(Taken::Gap { missed, last_missed: Position(waiting.last_missed) });
        }
        waiting.queue.pop_front().map(|item| match item {
            Item::Here(record) => Taken::Result(record),
            Item::Elsewhere(result) => Taken::Elsewhere(result),
            Item::Missed { missed, last } => Taken::Gap { missed, last_missed: last },
        })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        lock(&self.bus.state).subscribers.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
