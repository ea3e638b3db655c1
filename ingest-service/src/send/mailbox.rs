//! Where prepared frames wait for a credit: bounded in frames and in bytes,
//! the newest wins. One of the three places that say no; each no is counted.
//! No async, no I/O, no clock: the caller brings the time.

use std::collections::VecDeque;
use std::time::Instant;

use flatframe_shared::outcome::DropReason;

use crate::frame::PreparedFrame;

/// The waiting frames of one camera, oldest first.
#[derive(Debug)]
pub struct Mailbox {
    frames: VecDeque<PreparedFrame>,
    bytes: usize,
    max_frames: usize,
    max_bytes: usize,
}

impl Mailbox {
    /// Room for `max_frames` frames (at least 1) of `max_bytes` together.
    pub fn new(max_frames: usize, max_bytes: usize) -> Self {
        let max_frames = max_frames.max(1);
        Self { frames: VecDeque::with_capacity(max_frames), bytes: 0, max_frames, max_bytes }
    }

    /// Puts a frame in. What is worthless by `now` goes first, then the oldest
    /// until there is room.
    pub fn put(&mut self, frame: PreparedFrame, now: Instant) {
        self.drop_expired(now);
        if frame.birth.expired(now) {
            frame.ticket.drop_as(DropReason::Expired);
            return;
        }
        if frame.jpeg.len() > self.max_bytes {
            frame.ticket.drop_as(DropReason::TooLarge);
            return;
        }
        while self.frames.len() >= self.max_frames || self.bytes + frame.jpeg.len() > self.max_bytes {
            self.drop_oldest(DropReason::Superseded);
        }
        self.bytes += frame.jpeg.len();
        self.frames.push_back(frame);
    }

    /// Takes the next frame to send for a sender that may send `credits` of
    /// them. Numbers only grow on a stream, so of the waiting frames the newest
    /// `credits` can still go, in order; the older ones are superseded.
    pub fn take(&mut self, credits: usize, now: Instant) -> Option<PreparedFrame> {
        if credits == 0 {
            return None;
        }
        self.drop_expired(now);
        while self.frames.len() > credits {
            self.drop_oldest(DropReason::Superseded);
        }
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.jpeg.len();
        Some(frame)
    }

    /// Drops all that wait.
    pub fn clear(&mut self, reason: DropReason) {
        while !self.frames.is_empty() {
            self.drop_oldest(reason);
        }
    }

    /// Frames that wait.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn drop_expired(&mut self, now: Instant) {
        while let Some(place) = self.frames.iter().position(|frame| frame.birth.expired(now)) {
            self.drop_at(place, DropReason::Expired);
        }
    }

    fn drop_oldest(&mut self, reason: DropReason) {
        self.drop_at(0, reason);
    }

    fn drop_at(&mut self, place: usize, reason: DropReason) {
        if let Some(frame) = self.frames.remove(place) {
            self.bytes -= frame.jpeg.len();
            frame.ticket.drop_as(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use flatframe_shared::frame::{FrameNumber, PictureSize};
    use flatframe_shared::ledger::IngestLedger;
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Birth;

    const TTL: Duration = Duration::from_millis(100);

    fn frame(ledger: &IngestLedger, number: u64, captured: Instant, bytes: usize) -> PreparedFrame {
        PreparedFrame {
            birth: Birth {
                number: FrameNumber(number),
                captured,
                captured_unix_us: 0,
                ttl: TTL,
                span: tracing::Span::none(),
            },
            ticket: ledger.capture(),
            jpeg: Bytes::from(vec![0; bytes]),
            size: PictureSize::new(1, 1),
        }
    }

    fn take(mailbox: &mut Mailbox, credits: usize, now: Instant) -> Option<u64> {
        let frame = mailbox.take(credits, now)?;
        frame.ticket.send().lose();
        Some(frame.birth.number.0)
    }

    #[test]
    fn one_credit_takes_the_newest_and_more_take_more_in_order() {
        let (ledger, now) = (IngestLedger::new(), Instant::now());
        let mut mailbox = Mailbox::new(3, 1000);
        for number in 1..=4 {
            mailbox.put(frame(&ledger, number, now, 10), now);
        }
        assert_eq!(ledger.counts().dropped(DropReason::Superseded), 1, "room for 3");
        assert_eq!(take(&mut mailbox, 0, now), None);
        assert_eq!(take(&mut mailbox, 2, now), Some(3));
        assert_eq!(take(&mut mailbox, 1, now), Some(4));
        assert_eq!(take(&mut mailbox, 1, now), None);
        assert_eq!(ledger.counts().dropped(DropReason::Superseded), 2);
        assert_eq!(ledger.counts().balance(), 0);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (ledger, now) = (IngestLedger::new(), Instant::now());
        let mut mailbox = Mailbox::new(10, 100);
        mailbox.put(frame(&ledger, 1, now, 60), now);
        mailbox.put(frame(&ledger, 2, now, 60), now);
        assert_eq!((mailbox.frames(), mailbox.bytes()), (1, 60));
        mailbox.put(frame(&ledger, 3, now, 101), now);
        let counts = ledger.counts();
        assert_eq!((counts.dropped(DropReason::Superseded), counts.dropped(DropReason::TooLarge)), (1, 1));
        assert_eq!(take(&mut mailbox, 1, now), Some(2), "a frame that can never fit drives out none");
    }

    proptest! {
        /// At every step: bounds are kept, the ledger balances, numbers taken
        /// grow, nothing worthless is handed out, the newest frame that can fit
        /// is never dropped for an older one, and what goes is worthless or
        /// older than all that stay.
        #[test]
        fn invariants(
            max_frames in 1usize..6,
            steps in prop::collection::vec((0u8..3, 1usize..120, 0u64..60), 1..200),
        ) {
            let (ledger, mut now) = (IngestLedger::new(), Instant::now());
            let mut mailbox = Mailbox::new(max_frames, 200);
            let (mut number, mut last_taken) = (0, 0);
            for (step, size, ms) in steps {
                now += Duration::from_millis(ms);
                let before: Vec<_> = mailbox.frames.iter().map(|frame| frame.birth.clone()).collect();
                let taken_before = last_taken;
                match step {
                    0 | 1 => {
                        number += 1;
                        let age = Duration::from_millis(ms);
                        mailbox.put(frame(&ledger, number, now.checked_sub(age).unwrap_or(now), size * 2), now);
                        if size * 2 <= 200 {
                            prop_assert_eq!(mailbox.frames.back().map(|f| f.birth.number.0), Some(number));
                        }
                    }
                    _ => {
                        let credits = size % 4;
                        if let Some(frame) = mailbox.take(credits, now) {
                            prop_assert!(credits > 0 && !frame.birth.expired(now));
                            prop_assert!(frame.birth.number.0 > last_taken);
                            last_taken = frame.birth.number.0;
                            frame.ticket.send().lose();
                        }
                    }
                }
                let stays = |number| mailbox.frames.iter().any(|frame| frame.birth.number == number);
                let oldest = mailbox.frames.front().map_or(FrameNumber(u64::MAX), |frame| frame.birth.number);
                for gone in before.iter().filter(|birth| !stays(birth.number)) {
                    let was_taken = last_taken > taken_before && gone.number.0 == last_taken;
                    prop_assert!(was_taken || gone.expired(now) || gone.number < oldest, "{}", gone.number);
                }
                prop_assert!(mailbox.frames() <= max_frames && mailbox.bytes() <= 200);
                prop_assert_eq!(mailbox.bytes(), mailbox.frames.iter().map(|f| f.jpeg.len()).sum::<usize>());
                prop_assert_eq!(ledger.counts().waiting as usize, mailbox.frames());
                prop_assert_eq!(ledger.counts().balance(), 0);
            }
            mailbox.clear(DropReason::Shutdown);
            prop_assert_eq!((mailbox.frames(), mailbox.bytes(), ledger.counts().waiting), (0, 0, 0));
        }
    }
}
