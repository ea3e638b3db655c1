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

use super::record::{Position, ResultRecord};

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
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    ring: VecDeque<Arc<ResultRecord>>,
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
    queue: VecDeque<Arc<ResultRecord>>,
    missed: u64,
    last_missed: u64,
    full_since: Option<Instant>,
}

/// What a subscriber takes.
#[derive(Debug)]
pub enum Taken {
    /// The next result.
    Result(Arc<ResultRecord>),
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
        Self { limits, state: Mutex::default(), cut: AtomicU64::new(0), missed: AtomicU64::new(0) }
    }

    /// Gives `record` its position and hands it to all who watch its camera.
    pub fn publish(&self, mut record: ResultRecord) -> Arc<ResultRecord> {
        let mut state = lock(&self.state);
        state.last += 1;
        record.position = Position(state.last);
        let record = Arc::new(record);
        if state.ring.len() == self.limits.ring {
            state.ring.pop_front();
        }
        if self.limits.ring > 0 {
            state.ring.push_back(record.clone());
        }
        let now = clock::now();
        state.subscribers.retain(|inbox| self.deliver(inbox, &record, now));
        record
    }

    /// Puts `record` into one inbox; `false` when its subscriber is cut.
    fn deliver(&self, inbox: &Inbox, record: &Arc<ResultRecord>, now: Instant) -> bool {
        if !inbox.watches(&record.camera) {
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
                waiting.missed += 1;
                waiting.last_missed = oldest.position.0;
                self.missed.fetch_add(1, Relaxed);
            }
        }
        waiting.queue.push_back(record.clone());
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
        let first_held = state.ring.front().map_or(state.last + 1, |first| first.position.0);
        if after.0 < state.last && after.0 + 1 < first_held {
            waiting.missed = first_held - 1 - after.0;
            waiting.last_missed = first_held - 1;
            self.missed.fetch_add(waiting.missed, Relaxed);
        }
        for record in state.ring.iter().filter(|record| record.position > after && inbox.watches(&record.camera)) {
            if waiting.queue.len() == self.limits.queue
                && let Some(oldest) = waiting.queue.pop_front()
            {
                waiting.missed += 1;
                waiting.last_missed = oldest.position.0;
            }
            waiting.queue.push_back(record.clone());
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

    /// Results published since start.
    pub fn published(&self) -> u64 {
        lock(&self.state).last
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
    fn watches(&self, camera: &CameraId) -> bool {
        self.cameras.as_ref().is_none_or(|cameras| cameras.contains(camera))
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
        waiting.queue.pop_front().map(Taken::Result)
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
mod tests {
    use flatframe_shared::frame::{FrameNumber, PictureSize, SessionId};

    use super::*;
    use crate::vision::Analysis;

    fn bus(queue: usize, ring: usize) -> Arc<Bus> {
        Arc::new(Bus::new(BusLimits { max_subscribers: 2, queue, ring, stall: Duration::ZERO }))
    }

    fn patient_bus(queue: usize, ring: usize) -> Arc<Bus> {
        Arc::new(Bus::new(BusLimits { max_subscribers: 2, queue, ring, stall: Duration::from_secs(3600) }))
    }

    fn id(name: &str) -> CameraId {
        CameraId::parse(name).expect("valid id")
    }

    fn record(camera: &str, number: u64) -> ResultRecord {
        ResultRecord {
            position: Position(0),
            camera: id(camera),
            session: SessionId(1),
            number: FrameNumber(number),
            captured_unix_us: 0,
            captured: Instant::now(),
            latency: Duration::ZERO,
            analysis: Analysis {
                size: PictureSize::new(4, 3),
                faces: Vec::new(),
                truncated: false,
                timings: Default::default(),
                look: None,
            },
            observed_unix_us: 0,
            tracks: Vec::new(),
            counts: Default::default(),
            detector: "test".into(),
            gender_model: None,
        }
    }

    fn subscribe(bus: &Arc<Bus>, cameras: &[&str], after: Option<u64>) -> Subscriber {
        let cameras = (!cameras.is_empty()).then(|| cameras.iter().map(|name| id(name)).collect());
        bus.subscribe(cameras, after.map(Position), CancellationToken::new()).expect("room")
    }

    /// What waits, as frame numbers, and gaps as negative counts.
    fn drain(subscriber: &mut Subscriber) -> Vec<i64> {
        std::iter::from_fn(|| subscriber.take())
            .map(|taken| match taken {
                Taken::Result(record) => record.number.0 as i64,
                Taken::Gap { missed, .. } => -(missed as i64),
            })
            .collect()
    }

    #[test]
    fn only_the_watched_cameras() {
        let bus = patient_bus(8, 0);
        let (mut all, mut one) = (subscribe(&bus, &[], None), subscribe(&bus, &["b"], None));
        for (camera, number) in [("a", 1), ("b", 2), ("a", 3)] {
            bus.publish(record(camera, number));
        }
        assert_eq!((drain(&mut all), drain(&mut one)), (vec![1, 2, 3], vec![2]));
    }

    #[test]
    fn a_slow_one_gets_a_gap_and_the_newest() {
        let bus = patient_bus(2, 0);
        let mut slow = subscribe(&bus, &[], None);
        (1..=5).for_each(|number| drop(bus.publish(record("a", number))));
        assert_eq!(drain(&mut slow), [-3, 4, 5]);
        assert_eq!(bus.missed(), 3);
    }

    #[test]
    fn a_stalled_one_is_cut_and_frees_its_queue() {
        let bus = bus(2, 0);
        let cut = CancellationToken::new();
        let _stalled = bus.subscribe(None, None, cut.clone()).expect("room");
        (1..=2).for_each(|number| drop(bus.publish(record("a", number))));
        assert!(!cut.is_cancelled());
        bus.publish(record("a", 3));
        assert!(cut.is_cancelled());
        assert_eq!((bus.subscribers(), bus.waiting(), bus.cut()), (0, 0, 1));
    }

    #[test]
    fn resumes_with_a_gap_for_what_is_gone() {
        let bus = patient_bus(8, 3);
        (1..=5).for_each(|number| drop(bus.publish(record("a", number))));
        assert_eq!(drain(&mut subscribe(&bus, &[], Some(1))), [-1, 3, 4, 5]);
        assert_eq!(drain(&mut subscribe(&bus, &[], Some(3))), [4, 5]);
        assert_eq!(drain(&mut subscribe(&bus, &[], Some(5))), [0i64; 0]);
        assert_eq!(drain(&mut subscribe(&bus, &[], Some(900))), [0i64; 0], "a position of the future");
        assert_eq!(drain(&mut subscribe(&bus, &[], None)), [0i64; 0]);
    }

    #[test]
    fn full_and_freed_by_drop() {
        let bus = patient_bus(2, 0);
        let first = subscribe(&bus, &[], None);
        let _second = subscribe(&bus, &[], None);
        let refused = bus.subscribe(None, None, CancellationToken::new()).map(drop);
        assert_eq!(refused, Err(Full { max_subscribers: 2 }));
        drop(first);
        assert!(bus.subscribe(None, None, CancellationToken::new()).is_ok());
    }
}
