//! The one way tests wait for what nothing announces: the counters and states
//! of running services. Bounded; looks again after a short pause.

use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `is_so`; the time it took.
///
/// # Panics
/// When it is not so within `limit`, saying `what` was waited for.
pub async fn until(what: &str, limit: Duration, is_so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
    start.elapsed()
}

/// As [`until`], for what has to be asked for: waits until `ask` answers.
///
/// # Panics
/// As [`until`].
pub async fn answered<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`answered`], for programs: an error in place of a panic.
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
