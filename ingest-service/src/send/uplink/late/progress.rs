//! What goes on from one stream of late frames to the next: the number of the
//! last frame, and a rest after live frames were lost. Pure.

use std::time::{Duration, Instant};

/// Late frames rest for so long after live ones did not find their way in time:
/// on a slow link each takes the room of live ones. The shortest rest, and the
/// longest: it doubles while live ones go on being lost, and halves with each
/// late frame that harmed none.
const REST: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// When live frames are lost also while late ones rest, late ones are not why:
/// for so long they do not rest again.
const BLAMELESS: Duration = Duration::from_secs(60);

/// How far one camera's late frames are; nothing is sent yet.
#[derive(Debug)]
pub struct Progress {
    /// Of the last frame: numbers only grow within a session.
    number: u64,
    /// Live frames lost until the last frame was sent; `None`: none was sent.
    lost: Option<u64>,
    /// The rest of now.
    resting: Option<Rest>,
    /// Length of the next one.
    length: Duration,
    blameless_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    /// Live frames lost when it began.
    lost: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { number: 0, lost: None, resting: None, length: REST[0], blameless_until: None }
    }
}

impl Progress {
    /// Not before this the next frame may be sent, if so many live ones were
    /// `lost` so far; `None`: at once.
    pub(super) fn rest_until(&mut self, lost: u64, now: Instant) -> Option<Instant> {
        if self.blameless_until.is_some_and(|until| now < until) {
            return None;
        }
        if self.resting.is_none() && self.lost.is_some_and(|before| lost > before) {
            self.resting = Some(Rest { until: now + self.length, lost });
            self.length = (2 * self.length).min(REST[1]);
        }
        let Rest { until, lost: lost_before } = self.resting?;
        if now >= until && lost > lost_before {
            (self.resting, self.blameless_until) = (None, Some(now + BLAMELESS));
            return None;
        }
        Some(until)
    }

    /// The next frame is sent: its number.
    pub(super) fn send(&mut self, lost: u64) -> u64 {
        if self.resting.take().is_none() {
            self.length = (self.length / 2).max(REST[0]);
        }
        self.number += 1;
        self.lost = Some(lost);
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_after_live_frames_were_lost() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(progress.rest_until(7, at(0)), None, "whatever was lost in the outage");
        assert_eq!(progress.send(7), 1);
        assert_eq!(progress.rest_until(7, at(1)), None);
        assert_eq!(progress.rest_until(8, at(2)), Some(at(2) + REST[0]));
        assert_eq!(progress.rest_until(8, at(1002)), Some(at(2) + REST[0]), "it is over, and helped");
        assert_eq!(progress.send(8), 2);
        assert_eq!(progress.rest_until(8, at(1003)), None);
        assert_eq!(progress.rest_until(9, at(1004)), Some(at(1004) + 2 * REST[0]), "this one harmed too");
    }

    #[test]
    fn rests_grow_while_live_frames_are_lost_and_shrink_after() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        progress.send(0);
        let rests: Vec<_> = (1..8)
            .map(|lost| {
                let rest = progress.rest_until(lost, now).expect("one was lost") - now;
                progress.send(lost);
                rest.as_secs()
            })
            .collect();
        assert_eq!(rests, [1, 2, 4, 8, 10, 10, 10]);
        (0..10).for_each(|_| assert!(progress.send(7) > 8));
        assert_eq!(progress.rest_until(8, now), Some(now + REST[0]));
    }

    /// A slow processor, or a camera that gives more than the link takes
    /// anyway: a backlog that rested for it would never be sent.
    #[test]
    fn what_is_lost_without_late_frames_does_not_hold_them_up() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        progress.send(0);
        let mut lost = 0;
        let mut sent_after = |progress: &mut Progress, since: Instant| {
            let mut now = since;
            loop {
                lost += 1;
                if progress.rest_until(lost, now).is_none_or(|until| now >= until) {
                    progress.send(lost);
                    return now;
                }
                now += Duration::from_millis(100);
            }
        };
        let first = sent_after(&mut progress, start);
        assert_eq!(first - start, REST[0], "tried once");
        assert!((0..500).all(|_| sent_after(&mut progress, first) == first));
        assert!(sent_after(&mut progress, first + BLAMELESS) > first + BLAMELESS, "and tried again later");
    }
}
