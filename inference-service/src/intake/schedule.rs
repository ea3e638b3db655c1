//! Which waiting job is next: queues take turns, and within a queue the nearest
//! deadline goes first. Bounded in every direction; what does not fit, or
//! cannot be done in time, is handed back to the caller to answer. Holds no
//! async, no lock and no clock.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Whose queue: one for each camera, one for all single calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueId(pub u64);

/// How fast jobs get done, as far as is known.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Expected time of one job on one worker.
    pub service: Duration,
    /// Number of workers.
    pub workers: usize,
}

/// When a job must be done.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// It is worthless from here on.
    pub deadline: Instant,
    /// The order of jobs within their queue, nearest first.
    pub urgency: Instant,
}

impl From<Instant> for Times {
    /// A job that is as urgent as its deadline says.
    fn from(deadline: Instant) -> Self {
        Self { deadline, urgency: deadline }
    }
}

/// A job that waits.
#[derive(Debug)]
struct Waiting<J> {
    deadline: Instant,
    urgency: Instant,
    job: J,
}

/// What became of a job at [`Schedule::push`].
#[derive(Debug)]
pub struct Pushed<J> {
    /// Jobs of the same queue that must be answered `shed`, the pushed one
    /// last if it is among them.
    pub shed: Vec<J>,
    /// Jobs of the same queue whose deadline has passed.
    pub expired: Vec<J>,
    /// How long the queue's wait is at least: what to tell a sender whose job
    /// was shed.
    pub retry_after: Duration,
}

/// What [`Schedule::take`] found.
#[derive(Debug)]
pub struct Taken<J> {
    /// Jobs whose deadline passed while they waited.
    pub expired: Vec<J>,
    /// The next job to do.
    pub next: Option<J>,
}

/// The queues.
#[derive(Debug)]
pub struct Schedule<J> {
    queues: HashMap<QueueId, Vec<Waiting<J>>>,
    /// Queues that are not empty, the next one first; each at most once.
    turns: VecDeque<QueueId>,
    waiting: usize,
}

impl<J> Default for Schedule<J> {
    fn default() -> Self {
        Self { queues: HashMap::new(), turns: VecDeque::new(), waiting: 0 }
    }
}

impl<J> Schedule<J> {
    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Time from one turn of a queue to its next, when every queue that waits
    /// gets one job done.
    fn turn_period(&self, id: QueueId, speed: Speed) -> Duration {
        let others = self.turns.iter().filter(|other| **other != id).count();
        speed.service.mul_f64((others + 1) as f64 / speed.workers.max(1) as f64)
    }

    /// Adds a job to a queue that holds at most `cap`.
    ///
    /// When the newest job of the queue cannot be done before its deadline
    /// because of older ones before it, the older ones are shed: the newest
    /// frame wins. A job that could not be done in time even if it were next is shed itself,
    /// unless nothing else waits: a wrong forecast must not stop all work, since
    /// only work corrects it.
    pub fn push(&mut self, id: QueueId, cap: usize, times: Times, job: J, now: Instant, speed: Speed) -> Pushed<J> {
        let Times { deadline, urgency } = times;
        let period = self.turn_period(id, speed);
        let queue = self.queues.entry(id).or_default();
        let before = queue.len();
        let expired = remove_where(queue, |waiting| waiting.deadline <= now);
        let mut shed = Vec::new();
        // The job at place n of its queue is done after n + 1 turns. Jobs that
        // wait a turn behind a single worker's current job start half a
        // service time late on average; a turn covers it.
        let doable = deadline.saturating_duration_since(now).as_secs_f64() / period.as_secs_f64().max(1e-9);
        let idle = self.waiting == expired.len();
        let turns = (doable as usize).max(usize::from(idle));
        if turns == 0 {
            shed.push(job);
        } else {
            // Only jobs before it delay it; those behind are not harmed by it.
            let mut place = queue.partition_point(|waiting| waiting.urgency <= urgency);
            while place > 0 && (place >= turns || queue.len() >= cap) {
                shed.push(queue.remove(0).job);
                place -= 1;
            }
            if queue.len() < cap {
                queue.insert(place, Waiting { deadline, urgency, job });
            } else {
                shed.push(job);
            }
        }
        let after = queue.len();
        self.waiting = self.waiting + after - before;
        self.keep_turn(id, before == 0, after == 0);
        Pushed { shed, expired, retry_after: period }
    }

    /// Takes the job whose turn it is, and all expired ones before it.
    pub fn take(&mut self, now: Instant) -> Taken<J> {
        let mut expired = Vec::new();
        while let Some(id) = self.turns.pop_front() {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            let before = queue.len();
            expired.extend(remove_where(queue, |waiting| waiting.deadline <= now));
            let next = (!queue.is_empty()).then(|| queue.remove(0).job);
            self.waiting = self.waiting + queue.len() - before;
            if queue.is_empty() {
                self.queues.remove(&id);
            } else {
                self.turns.push_back(id);
            }
            if next.is_some() {
                return Taken { expired, next };
            }
        }
        Taken { expired, next: None }
    }

    /// Takes everything that waits, queue by queue in the order of their turns.
    pub fn clear(&mut self) -> Vec<J> {
        self.waiting = 0;
        let queues = self.turns.drain(..).filter_map(|id| self.queues.remove(&id));
        queues.flatten().map(|waiting| waiting.job).collect()
    }

    fn keep_turn(&mut self, id: QueueId, was_empty: bool, is_empty: bool) {
        match (was_empty, is_empty) {
            (true, false) => self.turns.push_back(id),
            (false, true) => self.turns.retain(|other| *other != id),
            (true, true) | (false, false) => {}
        }
        if is_empty {
            self.queues.remove(&id);
        }
    }
}

fn remove_where<J>(queue: &mut Vec<Waiting<J>>, is_gone: impl Fn(&Waiting<J>) -> bool) -> Vec<J> {
    // `extract_if` keeps the order of what stays and allocates only for what
    // goes.
    queue.extract_if(.., |waiting| is_gone(waiting)).map(|waiting| waiting.job).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const A: QueueId = QueueId(1);
    const B: QueueId = QueueId(2);

    struct Desk {
        schedule: Schedule<u32>,
        start: Instant,
        speed: Speed,
    }

    impl Desk {
        fn new(service_ms: u32) -> Self {
            let speed = Speed { service: MS * service_ms, workers: 1 };
            Self { schedule: Schedule::default(), start: Instant::now(), speed }
        }

        fn push(&mut self, id: QueueId, job: u32, deadline_ms: u32) -> Pushed<u32> {
            let deadline = self.start + MS * deadline_ms;
            self.schedule.push(id, 4, deadline.into(), job, self.start, self.speed)
        }

        fn take(&mut self, at_ms: u32) -> Taken<u32> {
            self.schedule.take(self.start + MS * at_ms)
        }
    }

    #[test]
    fn queues_take_turns() {
        let mut desk = Desk::new(1);
        for job in [10, 11, 12] {
            desk.push(A, job, 1000);
        }
        desk.push(B, 20, 1000);
        let order: Vec<_> = std::iter::from_fn(|| desk.take(0).next).collect();
        assert_eq!(order, [10, 20, 11, 12]);
        assert!(desk.schedule.is_empty());
    }

    #[test]
    fn nearest_deadline_first_within_a_queue() {
        let mut desk = Desk::new(1);
        desk.push(A, 1, 300);
        desk.push(A, 2, 100);
        desk.push(A, 3, 200);
        let order: Vec<_> = std::iter::from_fn(|| desk.take(0).next).collect();
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn urgency_orders_and_the_deadline_expires() {
        let mut desk = Desk::new(1);
        desk.push(A, 1, 300);
        let times = Times { deadline: desk.start + MS * 100, urgency: desk.start + MS * 300 };
        desk.schedule.push(A, 4, times, 2, desk.start, desk.speed);
        desk.push(A, 3, 400);
        assert_eq!(desk.take(0).next, Some(1), "the camera's earlier frame first");
        let taken = desk.take(200);
        assert_eq!((taken.expired, taken.next), (vec![2], Some(3)));
    }

    #[test]
    fn expired_jobs_are_handed_back_and_not_done() {
        let mut desk = Desk::new(1);
        desk.push(A, 1, 10);
        desk.push(A, 2, 100);
        desk.push(B, 3, 10);
        let taken = desk.take(50);
        assert_eq!((taken.expired, taken.next), (vec![1], Some(2)));
        let taken = desk.take(50);
        assert_eq!((taken.expired, taken.next), (vec![3], None));
    }

    #[test]
    fn the_newest_wins_when_not_all_can_be_done() {
        let mut desk = Desk::new(40);
        assert!(desk.push(A, 1, 100).shed.is_empty());
        assert!(desk.push(A, 2, 100).shed.is_empty());
        // Two turns of 40 ms fit into 100 ms, a third does not.
        let pushed = desk.push(A, 3, 100);
        assert_eq!(pushed.shed, [1]);
        assert_eq!(pushed.retry_after, MS * 40);
        // With a second queue waiting a turn takes 80 ms: one fits.
        desk.push(B, 9, 1000);
        assert_eq!(desk.push(A, 4, 100).shed, [2, 3]);
    }

    #[test]
    fn an_urgent_job_sheds_none_of_those_behind_it() {
        let mut desk = Desk::new(40);
        for job in 1..=3 {
            assert!(desk.push(A, job, 1000).shed.is_empty());
        }
        assert!(desk.push(A, 9, 60).shed.is_empty(), "one turn is enough for it");
        assert_eq!(desk.take(0).next, Some(9));
        assert_eq!(desk.schedule.len(), 3);
    }

    #[test]
    fn a_hopeless_job_is_shed_itself() {
        let mut desk = Desk::new(200);
        assert!(desk.push(A, 1, 100).shed.is_empty(), "nothing else waits: try it");
        assert_eq!(desk.push(B, 2, 100).shed, [2]);
        assert_eq!(desk.push(A, 3, 100).shed, [3]);
        assert_eq!(desk.take(0).next, Some(1));
    }

    #[test]
    fn a_full_queue_drops_its_oldest() {
        let mut desk = Desk::new(1);
        for job in 1..=4 {
            assert!(desk.push(A, job, 1000 + job).shed.is_empty());
        }
        assert_eq!(desk.push(A, 5, 2000).shed, [1]);
        assert_eq!(desk.schedule.len(), 4);
    }

    proptest! {
        /// Nothing is lost or doubled, no queue exceeds its cap, nothing is done
        /// too late, and what is handed back as expired is.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((0u64..5, 0u32..300, any::<bool>()), 1..300)) {
            let mut desk = Desk::new(7);
            let (mut given, mut back) = (0u32, Vec::new());
            let (mut clock_ms, mut deadlines) = (0, Vec::new());
            for (id, deadline_ms, take) in steps {
                clock_ms += 3;
                let now = desk.start + MS * clock_ms;
                if take {
                    let taken = desk.schedule.take(now);
                    prop_assert!(taken.expired.iter().all(|job| deadlines[*job as usize] <= now));
                    prop_assert!(taken.next.iter().all(|job| deadlines[*job as usize] > now));
                    back.extend(taken.expired);
                    back.extend(taken.next);
                } else {
                    let deadline = now + MS * deadline_ms;
                    let pushed = desk.schedule.push(QueueId(id), 3, deadline.into(), given, now, desk.speed);
                    given += 1;
                    deadlines.push(deadline);
                    back.extend(pushed.shed);
                    back.extend(pushed.expired);
                }
                prop_assert!(desk.schedule.queues.values().all(|queue| queue.len() <= 3));
                let waiting: usize = desk.schedule.queues.values().map(Vec::len).sum();
                prop_assert_eq!(waiting, desk.schedule.len());
                prop_assert_eq!(desk.schedule.turns.len(), desk.schedule.queues.len());
            }
            back.extend(desk.schedule.clear());
            prop_assert!(desk.schedule.is_empty() && desk.schedule.turns.is_empty());
            back.sort_unstable();
            prop_assert_eq!(back, (0..given).collect::<Vec<_>>());
        }

        /// A queue that waits gets its turn before any other gets a second one,
        /// and its jobs come in the order of their urgency.
        #[test]
        fn every_queue_gets_its_turn(steps in prop::collection::vec((0u64..5, 1u32..50, any::<bool>()), 1..300)) {
            let mut desk = Desk::new(1);
            // Queues served since the waiting one, by the queue that waits.
            let mut served_since: HashMap<u64, Vec<u64>> = HashMap::new();
            for (id, urgency_ms, take) in steps {
                if !take {
                    let far = desk.start + MS * 10_000;
                    let times = Times { deadline: far, urgency: desk.start + MS * urgency_ms };
                    let job = id as u32 * 1000 + urgency_ms;
                    desk.schedule.push(QueueId(id), 3, times, job, desk.start, desk.speed);
                    served_since.entry(id).or_default();
                    continue;
                }
                let Some(job) = desk.take(0).next else {
                    prop_assert!(served_since.is_empty());
                    continue;
                };
                let id = u64::from(job / 1000);
                let left = desk.schedule.queues.get(&QueueId(id)).map_or(&[][..], |queue| &queue[..]);
                prop_assert!(left.iter().all(|waiting| waiting.urgency >= desk.start + MS * (job % 1000)));
                for (waiting, served) in served_since.iter_mut().filter(|(waiting, _)| **waiting != id) {
                    prop_assert!(!served.contains(&id), "{} twice while {} waits", id, waiting);
                    served.push(id);
                }
                served_since.remove(&id);
                if !left.is_empty() {
                    served_since.insert(id, Vec::new());
                }
            }
        }
    }
}
