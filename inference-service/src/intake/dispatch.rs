//! Between the streams, which are async, and the workers, which are threads:
//! the schedule behind a lock, and the measured cost of a job. Answers what the
//! schedule hands back; decides nothing itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job::{Answer, Job};
use super::schedule::{QueueId, Schedule, Speed, Times};

/// Weight of the newest job in the running mean of service time.
const NEWEST_WEIGHT: f64 = 0.1;
/// Bounds of the delay told to a sender whose job was shed.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Jobs that wait, and the workers that wait for jobs.
#[derive(Debug)]
pub struct Dispatch {
    state: Mutex<State>,
    wake: Condvar,
    workers: usize,
    /// Running mean, nanoseconds.
    service_ns: AtomicU64,
    /// Time spent on jobs by all workers, nanoseconds.
    busy_ns: AtomicU64,
    done: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule<Job>,
    /// New jobs are answered `draining`; workers leave when nothing waits.
    closed: bool,
}

impl Dispatch {
    /// For `workers` threads, each expected to need `service` for a job until
    /// it is measured.
    pub fn new(workers: usize, service: Duration) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            workers,
            service_ns: AtomicU64::new(service.as_nanos() as u64),
            busy_ns: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// Number of worker threads.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Expected time of one job on one worker.
    pub fn service(&self) -> Duration {
        Duration::from_nanos(self.service_ns.load(Relaxed))
    }

    /// Time spent on jobs by all workers since start.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_ns.load(Relaxed))
    }

    /// Jobs done since start.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Jobs that wait now.
    pub fn waiting(&self) -> usize {
        self.lock().schedule.len()
    }

    /// Queues a job in a queue that holds at most `cap`; every job that does
    /// not stay there is answered before this returns.
    pub fn submit(&self, queue: QueueId, cap: usize, job: Job) {
        let now = Instant::now();
        if job.deadline <= now {
            return job.reply.answer(Answer::Expired);
        }
        let speed = Speed { service: self.service(), workers: self.workers };
        let pushed = {
            let mut state = self.lock();
            if state.closed {
                drop(state);
                return job.reply.answer(Answer::Draining);
            }
            let times = Times { deadline: job.deadline, urgency: job.urgency };
            state.schedule.push(queue, cap, times, job, now, speed)
        };
        self.wake.notify_one();
        let retry_after = pushed.retry_after.clamp(RETRY_AFTER.0, RETRY_AFTER.1);
        answer_all(pushed.expired, || Answer::Expired);
        answer_all(pushed.shed, || Answer::Shed { retry_after });
    }

    /// Waits for the next job; `None` when the service stops and nothing waits.
    /// Expired and abandoned jobs are answered here and never returned.
    pub fn take(&self) -> Option<Job> {
        loop {
            let (expired, next) = {
                let mut state = self.lock();
                let mut taken = state.schedule.take(Instant::now());
                while taken.next.is_none() && taken.expired.is_empty() && !state.closed {
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    taken = state.schedule.take(Instant::now());
                }
                if taken.next.is_none() && taken.expired.is_empty() {
                    return None;
                }
                let next = taken.next.map(|mut job| {
                    let is_wanted = !job.reply.is_abandoned();
                    if is_wanted {
                        // Under the lock: jobs begin in the order they leave.
                        job.reply.begin();
                    }
                    (job, is_wanted)
                });
                (taken.expired, next)
            };
            // Answers are given without the lock: they take others.
            answer_all(expired, || Answer::Expired);
            match next {
                Some((job, true)) => return Some(job),
                Some((job, false)) => job.reply.answer(Answer::Expired),
                None => {}
            }
        }
    }

    /// A worker spent `took` on a job.
    pub fn record(&self, took: Duration) {
        let took_ns = took.as_nanos() as u64;
        self.busy_ns.fetch_add(took_ns, Relaxed);
        let is_first = self.done.fetch_add(1, Relaxed) == 0;
        // The first measurement replaces what was assumed. Two workers may
        // overwrite each other's update: a lost sample of a running mean does
        // no harm.
        let mean_ns = self.service_ns.load(Relaxed) as f64;
        let weight = if is_first { 1.0 } else { NEWEST_WEIGHT };
        let next_ns = mean_ns + weight * (took_ns as f64 - mean_ns);
        self.service_ns.store(next_ns as u64, Relaxed);
    }

    /// Takes no new job from here on; workers finish what waits and leave.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Answers everything that still waits `draining`.
    pub fn flush(&self) {
        let waiting = self.lock().schedule.clear();
        answer_all(waiting, || Answer::Draining);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer_all(jobs: Vec<Job>, answer: impl Fn() -> Answer) {
    for job in jobs {
        job.reply.answer(answer());
    }
}
