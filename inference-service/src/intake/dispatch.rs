//! Between the streams, which are async, and the workers, which are threads:
//! the schedule behind a lock, late frames behind it, and the measured cost of
//! a job. Answers what the schedule hands back; decides nothing itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::clock;

use super::job::{Answer, Job};
use super::schedule::{QueueId, Schedule, Speed, Taken, Times};
use super::service_time::ServiceTime;

/// Bounds of the delay told to a sender whose job was shed.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Jobs that wait, and the workers that wait for jobs.
#[derive(Debug)]
pub struct Dispatch {
    state: Mutex<State>,
    wake: Condvar,
    workers: usize,
    service: Mutex<ServiceTime>,
    /// Time spent on jobs by all workers, nanoseconds.
    busy_ns: AtomicU64,
    done: AtomicU64,
    /// Jobs that waited and were given up.
    given_up: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule<Job>,
    /// Late frames, one of each stream: taken when nothing else waits.
    late: VecDeque<Job>,
    /// Workers that wait for a job.
    idle: usize,
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
            service: Mutex::new(ServiceTime::new(service)),
            busy_ns: AtomicU64::new(0),
            done: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    /// Number of worker threads.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Expected time of one job on one worker.
    pub fn service(&self) -> Duration {
        self.service_time().mean()
    }

    /// Time spent on jobs by all workers since start.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_ns.load(Relaxed))
    }

    /// Jobs done since start.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Jobs that expired or were shed while they waited, since start: there was
    /// no time for them.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Relaxed)
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
        self.give_up(pushed.expired.len() + pushed.shed.len());
        answer_all(pushed.expired, || Answer::Expired);
        answer_all(pushed.shed, || Answer::Shed { retry_after });
    }

    /// Queues a late frame: it gets its turn when nothing else waits, and one
    /// worker stays free, unless there is but one. At its deadline it is given
    /// back.
    pub fn submit_late(&self, job: Job) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return job.reply.answer(Answer::Draining);
        }
        // Bounded by the streams: each has one credit.
        state.late.push_back(job);
        drop(state);
        self.wake.notify_one();
    }

    /// Gives back late frames whose deadline has passed, and lets go of those
    /// for whose answer nobody waits. To be called once a second.
    pub fn tidy_late(&self) {
        let now = clock::now();
        let gone = {
            let mut state = self.lock();
            let (gone, left): (Vec<_>, Vec<_>) = state.late.drain(..).partition(|job| is_due(job, now));
            state.late.extend(left);
            gone
        };
        answer_all(gone, || Answer::Shed { retry_after: RETRY_AFTER.1 });
    }

    /// Late frames that wait now.
    pub fn late_waiting(&self) -> usize {
        self.lock().late.len()
    }

    /// Waits for the next job; `None` when the service stops and nothing waits.
    /// Expired and abandoned jobs are answered here and never returned.
    pub fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let found = Found::in_schedule(&mut state.schedule);
            if !found.is_empty() {
                drop(state);
                self.give_up(found.expired.len());
                if let Some(job) = found.answer_unwanted() {
                    return Some(job);
                }
                state = self.lock();
            } else if let Some(job) = state.next_late(self.workers) {
                return Some(job);
            } else if state.closed {
                return None;
            } else {
                state.idle += 1;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
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
            self.give_up(found.expired.len());
            if let Some(job) = found.answer_unwanted() {
                return Some(job);
            }
        }
    }

    /// A worker spent `took` on a job. What late frames cost says nothing of
    /// what live ones will, unless nothing else was measured.
    pub fn record(&self, took: Duration, is_late: bool) {
        self.busy_ns.fetch_add(took.as_nanos() as u64, Relaxed);
        if self.done.fetch_add(1, Relaxed) == 0 || !is_late {
            self.service_time().record(took, clock::now());
        }
    }

    /// Takes no new job from here on; workers finish what waits and leave. Late
    /// frames that wait are given back: the time that is left is not theirs.
    pub fn close(&self) {
        let late = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.late)
        };
        self.wake.notify_all();
        answer_all(late.into(), || Answer::Draining);
    }

    /// Answers everything that still waits `draining`.
    pub fn flush(&self) {
        let waiting = self.lock().schedule.clear();
        answer_all(waiting, || Answer::Draining);
    }

    fn give_up(&self, jobs: usize) {
        self.given_up.fetch_add(jobs as u64, Relaxed);
    }

    fn service_time(&self) -> MutexGuard<'_, ServiceTime> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The late frame whose turn it is, when nothing else waits, for a worker
    /// beside which another one is idle. An only worker takes it all the same.
    fn next_late(&mut self, workers: usize) -> Option<Job> {
        if workers > 1 && self.idle == 0 {
            return None;
        }
        self.late.pop_front()
    }
}

/// Whether the turn of a late frame is over.
fn is_due(job: &Job, now: Instant) -> bool {
    job.deadline <= now || job.reply.is_abandoned()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use bytes::Bytes;
    use flatframe_shared::frame::Rotation;
    use tracing::Span;

    use super::super::job::Reply;
    use super::*;

    /// Longest wait for a worker.
    const PATIENCE: Duration = Duration::from_secs(60);

    struct Nobody;

    impl Reply for Nobody {
        fn answer(self: Box<Self>, _: Answer) {}
    }

    fn job(name: &'static str) -> Job {
        let now = clock::now();
        let deadline = now + PATIENCE;
        Job {
            jpeg: Bytes::from_static(name.as_bytes()),
            rotation: Rotation::None,
            arrived: now,
            deadline,
            urgency: deadline,
            span: Span::none(),
            reply: Box::new(Nobody),
        }
    }

    /// A worker that takes jobs one by one and is done with each when told.
    struct Worker {
        took: mpsc::Receiver<Bytes>,
        go_on: mpsc::Sender<()>,
        thread: std::thread::JoinHandle<()>,
    }

    fn worker(dispatch: &Arc<Dispatch>) -> Worker {
        let (took_in, took) = mpsc::channel();
        let (go_on, told) = mpsc::channel();
        let dispatch = dispatch.clone();
        let thread = std::thread::spawn(move || {
            while let Some(job) = dispatch.take() {
                took_in.send(job.jpeg).expect("the test lives");
                told.recv().expect("the test lives");
            }
        });
        Worker { took, go_on, thread }
    }

    impl Worker {
        fn takes(&self) -> Bytes {
            self.took.recv_timeout(PATIENCE).expect("takes a job")
        }

        fn done(&self) {
            self.go_on.send(()).expect("works");
        }
    }

    fn idle(dispatch: &Dispatch, workers: usize) {
        let start = Instant::now();
        while dispatch.lock().idle != workers {
            assert!(start.elapsed() < PATIENCE, "{workers} idle workers");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_late_frame_never_takes_the_last_idle_worker() {
        let dispatch = Arc::new(Dispatch::new(2, Duration::from_millis(1)));
        let first = worker(&dispatch);
        idle(&dispatch, 1);
        dispatch.submit(QueueId(1), 4, job("live 1"));
        assert_eq!(first.takes(), "live 1");
        let second = worker(&dispatch);
        idle(&dispatch, 1);
        dispatch.submit_late(job("late"));
        // Had it been taken, this one would have to wait.
        dispatch.submit(QueueId(1), 4, job("live 2"));
        assert_eq!(second.takes(), "live 2");
        assert_eq!(dispatch.late_waiting(), 1);
        first.done();
        idle(&dispatch, 1);
        second.done();
        assert_eq!(second.takes(), "late", "the other one is idle");
        second.done();
        dispatch.close();
        for worker in [first, second] {
            worker.thread.join().expect("ends");
        }
    }

    #[test]
    fn an_only_worker_takes_late_frames_when_nothing_else_waits() {
        let dispatch = Arc::new(Dispatch::new(1, Duration::from_millis(1)));
        let only = worker(&dispatch);
        idle(&dispatch, 1);
        dispatch.submit(QueueId(1), 4, job("live 1"));
        assert_eq!(only.takes(), "live 1");
        dispatch.submit_late(job("late"));
        dispatch.submit(QueueId(1), 4, job("live 2"));
        for expected in ["live 2", "late"] {
            only.done();
            assert_eq!(only.takes(), expected);
        }
        only.done();
        dispatch.close();
        only.thread.join().expect("ends");
    }
}
