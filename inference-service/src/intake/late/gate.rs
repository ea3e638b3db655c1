//! Lets late frames through at the rate there is time for, the streams in turn.
//! Knows no stream and no frame.

use std::time::{Duration, Instant};

use flatframe_shared::clock;
use tokio::sync::{Mutex, watch};

/// Between two frames at the most: a rate that rises again is noticed at once,
/// but one that was tiny must not hold the next turn for hours.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// Less than this is nothing.
const LEAST_FPS: f64 = 0.01;

/// The gate; closed until it is told a rate.
#[derive(Debug)]
pub struct Gate {
    fps: watch::Sender<f64>,
    /// When the next turn may be; held by the stream whose turn is next, so
    /// that the others queue in their order.
    next: Mutex<Option<Instant>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { fps: watch::channel(0.0).0, next: Mutex::new(None) }
    }
}

impl Gate {
    /// From now on at most `fps` turns a second; 0: none.
    pub fn set_fps(&self, fps: f64) {
        self.fps.send_replace(fps);
    }

    /// Turns a second now.
    pub fn fps(&self) -> f64 {
        *self.fps.borrow()
    }

    /// Waits for a turn, for as long as it takes: the stream that waits watches
    /// its sender meanwhile.
    pub async fn turn(&self) {
        let mut next = self.next.lock().await;
        let mut rate = self.fps.subscribe();
        loop {
            let fps = *rate.borrow_and_update();
            let (now, is_open) = (clock::now(), fps >= LEAST_FPS);
            let due = next.filter(|due| *due > now);
            match due {
                None if is_open => {
                    *next = Some(now + Duration::from_secs_f64(fps.recip()).min(LONGEST_INTERVAL));
                    return;
                }
                Some(due) if is_open => {
                    tokio::select! {
                        () = tokio::time::sleep_until(due.into()) => {}
                        // Fails only without a gate, which `self` is.
                        _ = rate.changed() => {}
                    }
                }
                _ => {
                    let _ = rate.changed().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const FAR: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn turns_at_the_rate_and_in_order() {
        let gate = Arc::new(Gate::default());
        let closed = tokio::time::timeout(Duration::from_millis(20), gate.turn()).await;
        assert!(closed.is_err(), "closed until it is told, and who gave up holds up nobody");

        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.turn().await }
        });
        gate.set_fps(50.0);
        tokio::time::timeout(FAR, waiting).await.expect("has its turn").expect("no panic");
        let start = Instant::now();
        for _ in 0..5 {
            tokio::time::timeout(FAR, gate.turn()).await.expect("has its turn");
        }
        assert!(start.elapsed() >= Duration::from_millis(80), "four intervals of 20 ms lie between");

        gate.set_fps(0.0);
        assert!(tokio::time::timeout(Duration::from_millis(50), gate.turn()).await.is_err(), "closed again");
    }
}
