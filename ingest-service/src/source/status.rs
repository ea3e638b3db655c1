//! What a source is doing: its state, its last picture, its rate, its restarts.
//! Written by the source's loop, read by uplink, watchdog and metrics. Decides
//! nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::frame::CameraState;
use tokio::sync::{Notify, watch};

/// The rate is taken over this time.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// The window in steps of this.
const RATE_STEP: Duration = Duration::from_millis(250);

/// The status of one source; a cheap handle.
#[derive(Debug, Clone)]
pub struct StatusCell(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Sends every new state.
    state: watch::Sender<CameraState>,
    /// Wakes the watchdog.
    opened: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last_picture: Option<Instant>,
    /// Set while the source is open: its opening or its last picture.
    watched_since: Option<Instant>,
    restarts: u64,
    detail: String,
    rate: Rate,
}

/// What a source is doing at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceStatus {
    /// Its state.
    pub state: CameraState,
    /// Time since the last whole picture; `None` before the first.
    pub last_picture_age: Option<Duration>,
    /// Pictures per second over the last 5 s.
    pub fps: f32,
    /// Times it was started again.
    pub restarts: u64,
    /// What is wrong; empty when live.
    pub detail: String,
}

impl Default for StatusCell {
    fn default() -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::default(),
            state: watch::Sender::new(CameraState::Connecting),
            opened: Notify::new(),
        }))
    }
}

impl StatusCell {
    /// Status of a source not yet opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// An attempt begins; `again` when it is not the first.
    pub fn attempt(&self, again: bool) {
        let mut inner = self.lock();
        inner.watched_since = None;
        inner.restarts += u64::from(again);
    }

    /// The device answered; pictures are expected from now on.
    pub fn opened(&self, now: Instant) {
        self.lock().watched_since = Some(now);
        self.0.opened.notify_one();
    }

    /// A whole picture came. Returns the state before.
    pub fn picture(&self, now: Instant) -> CameraState {
        {
            let mut inner = self.lock();
            inner.last_picture = Some(now);
            inner.watched_since = Some(now);
            inner.rate.count(now);
            if !inner.detail.is_empty() {
                inner.detail = String::new();
            }
        }
        self.enter(CameraState::Live)
    }

    /// The source is not live, and why. Returns the state before.
    pub fn not_live(&self, state: CameraState, detail: String) -> CameraState {
        self.lock().detail = detail;
        self.enter(state)
    }

    /// The status at `now`.
    pub fn read(&self, now: Instant) -> SourceStatus {
        let inner = self.lock();
        SourceStatus {
            state: self.state(),
            last_picture_age: inner.last_picture.map(|last| now.saturating_duration_since(last)),
            fps: inner.rate.per_second(now),
            restarts: inner.restarts,
            detail: inner.detail.clone(),
        }
    }

    /// The state now.
    pub fn state(&self) -> CameraState {
        *self.0.state.borrow()
    }

    /// Follows the changes of the state.
    pub fn follow(&self) -> watch::Receiver<CameraState> {
        self.0.state.subscribe()
    }

    /// When the last picture came, or the source was opened; waits for the
    /// opening.
    pub async fn watched_since(&self) -> Instant {
        loop {
            let watched_since = self.lock().watched_since;
            match watched_since {
                Some(since) => return since,
                None => self.0.opened.notified().await,
            }
        }
    }

    fn enter(&self, state: CameraState) -> CameraState {
        let mut before = state;
        self.0.state.send_if_modified(|current| {
            before = std::mem::replace(current, state);
            before != state
        });
        before
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Status is for people: half-written is better than gone.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts pictures in steps of the window; at most 21 entries.
#[derive(Debug, Default)]
struct Rate {
    steps: VecDeque<(Instant, u32)>,
}

impl Rate {
    fn count(&mut self, now: Instant) {
        while self.steps.front().is_some_and(|(begun, _)| now.saturating_duration_since(*begun) > RATE_WINDOW) {
            self.steps.pop_front();
        }
        match self.steps.back_mut() {
            Some((begun, pictures)) if now.saturating_duration_since(*begun) < RATE_STEP => *pictures += 1,
            _ => self.steps.push_back((now, 1)),
        }
    }

    fn per_second(&self, now: Instant) -> f32 {
        let recent = self.steps.iter().filter(|(begun, _)| now.saturating_duration_since(*begun) <= RATE_WINDOW);
        let pictures: u32 = recent.map(|(_, pictures)| pictures).sum();
        pictures as f32 / RATE_WINDOW.as_secs_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_over_the_window() {
        let (status, start) = (StatusCell::new(), Instant::now());
        for i in 0..300 {
            status.picture(start + Duration::from_millis(i * 100));
        }
        let fps = status.read(start + Duration::from_secs(30)).fps;
        assert!((9.0..=11.0).contains(&fps), "{fps}");
        assert_eq!(status.read(start + Duration::from_secs(40)).fps, 0.0);
        assert!(status.lock().rate.steps.len() <= 22);
    }

    #[test]
    fn states_and_ages() {
        let (status, start) = (StatusCell::new(), Instant::now());
        assert_eq!(status.read(start).last_picture_age, None);
        assert_eq!(status.picture(start), CameraState::Connecting);
        assert_eq!(status.not_live(CameraState::Stalled, "no picture".into()), CameraState::Live);
        let read = status.read(start + Duration::from_secs(3));
        assert_eq!((read.state, read.last_picture_age), (CameraState::Stalled, Some(Duration::from_secs(3))));
        assert_eq!(read.detail, "no picture");
        assert_eq!(status.picture(start), CameraState::Stalled);
        assert_eq!(status.read(start).detail, "");
    }
}
