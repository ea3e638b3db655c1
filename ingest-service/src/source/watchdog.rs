//! Notices that an open source gives no whole picture. Counts pictures, not
//! bytes, so that a camera that trickles, or sends nothing but garbage, is
//! caught as well as a silent one. Does not close anything itself.

use std::time::Duration;

use crate::source::status::StatusCell;

/// Returns when the open source gave no whole picture for `limit`. Never
/// returns while the source is not open: opening has its own deadlines.
pub async fn no_picture(status: &StatusCell, limit: Duration) {
    let mut since = status.watched_since().await;
    loop {
        tokio::time::sleep_until((since + limit).into()).await;
        let latest = status.watched_since().await;
        if latest <= since {
            return;
        }
        since = latest;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_and_pictures_are_not() {
        let status = StatusCell::new();
        status.attempt(false);
        let early = timeout(Duration::from_secs(60), no_picture(&status, LIMIT)).await;
        assert!(early.is_err(), "not open: not watched");

        status.opened(Instant::now().into_std());
        let start = Instant::now();
        no_picture(&status, LIMIT).await;
        assert_eq!(start.elapsed(), LIMIT);

        status.picture(Instant::now().into_std());
        let (live, watched) = (status.clone(), status.clone());
        let pictures = async {
            for _ in 0..20 {
                advance(Duration::from_secs(4)).await;
                live.picture(Instant::now().into_std());
            }
            Instant::now()
        };
        let watchdog = async {
            no_picture(&watched, LIMIT).await;
            Instant::now()
        };
        let (last, fired) = tokio::join!(pictures, watchdog);
        assert_eq!(fired - last, LIMIT);
    }
}
