//! The one way tests wait for what nothing announces: the counters and states
//! of running services. Bounded; looks again after a short pause. A machine that
//! stands still for seconds makes no wait fail.

use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// A look with its pause counts as at most so long: what took longer was held
/// up, which says nothing of what is waited for.
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// However much was held up, a wait is over after so many times its limit.
const MOST: u32 = 4;

/// A wait under way.
struct Wait {
    begun: Instant,
    looked: Instant,
    limit: Duration,
    waited: Duration,
}

impl Wait {
    fn begin(limit: Duration) -> Self {
        let now = Instant::now();
        Self { begun: now, looked: now, limit, waited: Duration::ZERO }
    }

    /// Whether there is time for another look.
    fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        self.waited += (now - self.looked).min(LONGEST_LOOK);
        self.looked = now;
        self.waited < self.limit && now - self.begun < MOST * self.limit
    }
}

/// Waits until `is_so`; the time it took.
///
/// # Panics
/// When it is not so within `limit`, saying `what` was waited for.
pub async fn until(what: &str, limit: Duration, is_so: impl Fn() -> bool) -> Duration {
    let mut wait = Wait::begin(limit);
    while !is_so() {
        assert!(wait.goes_on(), "{what}: not within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
    wait.begun.elapsed()
}

/// As [`until`], for what has to be asked for: waits until `ask` answers.
///
/// # Panics
/// As [`until`].
pub async fn answered<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut wait = Wait::begin(limit);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(wait.goes_on(), "{what}: not within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`answered`], for programs: an error in place of a panic, and by the
/// clock alone, since they measure.
///
/// # Errors
/// When nothing answers within `limit`, saying `what` was waited for.
pub async fn try_answered<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        anyhow::ensure!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
