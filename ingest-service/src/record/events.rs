//! Which frames belong to an event: those with motion, those shortly before,
//! kept in memory until it is known, and those for a while after. Pure: the
//! caller brings time and motion.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::prepare::look::Motion;

/// How much is recorded around motion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Around {
    /// From so long before the first motion.
    pub before: Duration,
    /// Until so long after the last.
    pub after: Duration,
    /// Most memory of the frames before, bytes.
    pub before_bytes: usize,
}

/// The events of one camera, with the frames that may become their begin.
#[derive(Debug)]
pub struct Events<T> {
    around: Around,
    /// The frames before, with their bytes, oldest first.
    before: VecDeque<(Instant, usize, T)>,
    before_bytes: usize,
    /// The event lasts until then.
    until: Option<Instant>,
}

impl<T> Events<T> {
    /// No event, nothing before.
    pub fn new(around: Around) -> Self {
        Self { around, before: VecDeque::new(), before_bytes: 0, until: None }
    }

    /// Takes the frame of `at`, of `bytes` in memory. All that is to be
    /// recorded by now goes to `record`, in the order of capture.
    pub fn take(&mut self, frame: T, bytes: usize, at: Instant, motion: Motion, mut record: impl FnMut(T)) {
        if motion != Motion::Still {
            self.until = Some(at + self.around.after);
        }
        if self.until.is_some_and(|until| at <= until) {
            self.forget_before(at);
            self.before_bytes = 0;
            self.before.drain(..).for_each(|(_, _, frame)| record(frame));
            record(frame);
            return;
        }
        self.until = None;
        self.before.push_back((at, bytes, frame));
        self.before_bytes += bytes;
        self.forget_before(at);
    }

    /// Memory of the frames before, bytes.
    pub fn before_bytes(&self) -> usize {
        self.before_bytes
    }

    fn forget_before(&mut self, now: Instant) {
        while let Some((at, bytes, _)) = self.before.front() {
            let old = now.saturating_duration_since(*at) > self.around.before;
            if !old && self.before_bytes <= self.around.before_bytes {
                return;
            }
            self.before_bytes -= bytes;
            self.before.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AROUND: Around = Around { before: Duration::from_secs(2), after: Duration::from_secs(3), before_bytes: 1000 };

    /// Which of the frames, one a second of 100 bytes each, are recorded.
    fn recorded(around: Around, motion: &str) -> Vec<usize> {
        let (mut events, start, mut all) = (Events::new(around), Instant::now(), Vec::new());
        for (second, letter) in motion.chars().enumerate() {
            let motion = match letter {
                'm' => Motion::Moving,
                '?' => Motion::Unknown,
                _ => Motion::Still,
            };
            events.take(second, 100, start + Duration::from_secs(second as u64), motion, |frame| all.push(frame));
        }
        all
    }

    #[test]
    fn before_during_and_after() {
        assert_eq!(recorded(AROUND, ".........."), Vec::<usize>::new());
        assert_eq!(recorded(AROUND, ".....m........"), [3, 4, 5, 6, 7, 8]);
        assert_eq!(recorded(AROUND, "m............."), [0, 1, 2, 3], "nothing was before");
        assert_eq!(recorded(AROUND, "..m..m........"), [0, 1, 2, 3, 4, 5, 6, 7, 8], "one event, no frame twice");
        assert_eq!(recorded(AROUND, "m....m....."), [0, 1, 2, 3, 4, 5, 6, 7, 8], "two that touch");
        assert_eq!(recorded(AROUND, "?"), [0], "what nobody looked at is recorded");
        let small = Around { before_bytes: 150, ..AROUND };
        assert_eq!(recorded(small, ".....m...."), [4, 5, 6, 7, 8], "memory bounds the frames before");
        let none = Around { before_bytes: 0, after: Duration::ZERO, ..AROUND };
        assert_eq!(recorded(none, "..m..m"), [2, 5]);
    }

    proptest! {
        /// Memory keeps its bound at every step; frames come out in order, none
        /// twice; every moving frame does.
        #[test]
        fn bounded_and_in_order(steps in prop::collection::vec((any::<bool>(), 1usize..600, 0u64..4000), 1..200)) {
            let (mut events, mut now, mut all) = (Events::new(AROUND), Instant::now(), Vec::new());
            let mut moving = Vec::new();
            for (number, (moves, bytes, ms)) in steps.into_iter().enumerate() {
                now += Duration::from_millis(ms);
                let motion = if moves { Motion::Moving } else { Motion::Still };
                moving.extend(moves.then_some(number));
                events.take(number, bytes, now, motion, |frame| all.push(frame));
                prop_assert!(events.before_bytes() <= 1000);
                prop_assert_eq!(events.before_bytes(), events.before.iter().map(|(_, bytes, _)| bytes).sum::<usize>());
            }
            prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(moving.iter().all(|number| all.contains(number)));
        }
    }
}
