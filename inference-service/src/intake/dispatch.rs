//! Between the streams, which are async, and the workers, which are threads:
//! the schedule behind a lock, and the measured cost of a job. Answers what the
//! schedule hands back; decides nothing itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flatframe_shared::clock;

use super::job::{Answer, Job};
use super::schedule::{QueueId, Schedule, Speed, Taken, Times};

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
        let now = clock::now();
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
        let mut state = self.lock();
        loop {
            let found = Found::in_schedule(&mut state.schedule);
            if !found.is_empty() {
                drop(state);
                if let Some(job) = found.answer_unwanted() {
                    return Some(job);
                }
                state = self.lock();
            } else if state.closed {
                return None;
            } else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// As [`Self::take`], without the wait: for a worker that is a task.
    pub fn try_take(&self) -> Option<Job> {
        loop {
            let found = Found::in_schedule(&mut self.lock().schedule);
            if found.is_empty() {
                return None;
            }
            if let Some(job) = found.answer_unwanted() {
                return Some(job);
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

/// What left the schedule at once.
struct Found {
    expired: Vec<Job>,
    abandoned: Option<Job>,
    wanted: Option<Job>,
}

impl Found {
    /// Takes the next job, under the lock: jobs begin in the order they leave.
    fn in_schedule(schedule: &mut Schedule<Job>) -> Self {
        let Taken { expired, next } = schedule.take(clock::now());
        match next {
            Some(job) if job.reply.is_abandoned() => Self { expired, abandoned: Some(job), wanted: None },
            Some(mut job) => {
                job.reply.begin();
                Self { expired, abandoned: None, wanted: Some(job) }
            }
            None => Self { expired, abandoned: None, wanted: None },
        }
    }

    fn is_empty(&self) -> bool {
        self.expired.is_empty() && self.abandoned.is_none() && self.wanted.is_none()
    }

    /// Answers all but the job to do. Without the lock: answers take others.
    fn answer_unwanted(self) -> Option<Job> {
        answer_all(self.expired, || Answer::Expired);
        if let Some(job) = self.abandoned {
            job.reply.answer(Answer::Expired);
        }
        self.wanted
    }
}

fn answer_all(jobs: Vec<Job>, answer: impl Fn() -> Answer) {
    for job in jobs {
        job.reply.answer(answer());
    }
}
