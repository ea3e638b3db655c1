//! The frames of one stream between sending and answer, and the permission to
//! send more: credits, the window, the pause after `shed`, the deadline of an
//! answer. No async, no I/O, no clock: the caller brings the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flatframe_shared::frame::FrameNumber;
use flatframe_shared::ledger::SentTicket;
use flatframe_shared::outcome::Outcome;

use crate::frame::Birth;
use crate::send::transit::Transit;

/// Longest pause that a server's `retry_after` can cause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is on its way on one stream.
#[derive(Debug)]
pub struct Flight {
    /// Most credits the server lets us hold.
    window: usize,
    max_in_flight: usize,
    /// An answer may come so long after the frame's time to live.
    answer_slack: Duration,
    credits: usize,
    paused_until: Option<Instant>,
    frames: BTreeMap<FrameNumber, Sent>,
    transit: Transit,
}

#[derive(Debug)]
struct Sent {
    ticket: SentTicket,
    birth: Birth,
    sent: Instant,
}

/// The server's answer to one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Which frame.
    pub number: FrameNumber,
    /// Its fate.
    pub outcome: Outcome,
    /// With [`Outcome::Shed`]: how long to wait before sending again.
    pub retry_after: Duration,
    /// Time the server had it.
    pub at_server: Duration,
}

impl Flight {
    /// Nothing on its way. The server lets us hold at most `window` credits, and
    /// we send at most `max_in_flight` frames at once; an answer that is missing
    /// `answer_slack` after the frame's time to live means a broken stream.
    pub fn new(window: usize, max_in_flight: usize, answer_slack: Duration) -> Self {
        Self {
            window,
            max_in_flight,
            answer_slack,
            credits: 0,
            paused_until: None,
            frames: BTreeMap::new(),
            transit: Transit::default(),
        }
    }

    /// The server allows `frames` more. More than the window is not kept.
    pub fn grant(&mut self, frames: usize) {
        self.credits = self.credits.saturating_add(frames).min(self.window);
    }

    /// Frames that may be sent now.
    pub fn may_send(&self, now: Instant) -> usize {
        match self.paused_until {
            Some(until) if now < until => 0,
            _ => self.credits.min(self.max_in_flight.saturating_sub(self.frames.len())),
        }
    }

    /// When sending goes on after `shed`, if it is paused at `now`.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| now < *until)
    }

    /// A frame was handed to the stream; costs one credit.
    pub fn sent(&mut self, birth: Birth, ticket: SentTicket, now: Instant) {
        self.credits = self.credits.saturating_sub(1);
        self.frames.insert(birth.number, Sent { ticket, birth, sent: now });
    }

    /// The server answered. Returns the time since capture; `None` when no such
    /// frame is on its way.
    pub fn answer(&mut self, answer: Answer, now: Instant) -> Option<Duration> {
        let Sent { ticket, birth, sent } = self.frames.remove(&answer.number)?;
        birth.span.record("outcome", answer.outcome.as_str());
        ticket.answer(answer.outcome);
        self.transit.count(now, now.saturating_duration_since(sent), answer.at_server);
        if answer.outcome == Outcome::Shed {
            let until = now + answer.retry_after.min(LONGEST_PAUSE);
            self.paused_until = self.paused_until.max(Some(until));
        }
        Some(birth.age(now))
    }

    /// When the stream counts as broken unless an answer comes.
    pub fn answer_by(&self) -> Option<Instant> {
        self.frames.values().map(|sent| sent.sent + sent.birth.ttl + self.answer_slack).min()
    }

    /// The estimated time a frame travels.
    pub fn transit(&self, now: Instant) -> Duration {
        self.transit.estimate(now)
    }

    /// Frames on their way.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The stream broke: all frames on their way are lost.
    pub fn lose(&mut self) {
        while let Some((_, sent)) = self.frames.pop_first() {
            sent.birth.span.record("outcome", "lost");
            sent.ticket.lose();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // However a stream ends, no frame is left without a fate.
        self.lose();
    }
}

#[cfg(test)]
mod tests {
    use flatframe_shared::ledger::IngestLedger;
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(1);
    const ANSWER_SLACK: Duration = Duration::from_secs(5);

    fn send(flight: &mut Flight, ledger: &IngestLedger, number: u64, now: Instant) {
        let number = FrameNumber(number);
        let birth = Birth { number, captured: now, captured_unix_us: 0, ttl: TTL, span: tracing::Span::none() };
        flight.sent(birth, ledger.capture().send(), now);
    }

    fn answer(number: u64, outcome: Outcome, retry_after: Duration) -> Answer {
        Answer { number: FrameNumber(number), outcome, retry_after, at_server: Duration::ZERO }
    }

    #[test]
    fn credits_and_window() {
        let (ledger, now) = (IngestLedger::new(), Instant::now());
        let mut flight = Flight::new(3, 2, ANSWER_SLACK);
        assert_eq!(flight.may_send(now), 0, "never without a credit");
        flight.grant(100);
        assert_eq!((flight.credits, flight.may_send(now)), (3, 2), "no more than window and limit");
        send(&mut flight, &ledger, 1, now);
        send(&mut flight, &ledger, 2, now);
        flight.grant(2);
        assert_eq!(flight.may_send(now), 0, "as many as we want are on their way");
        assert_eq!(flight.answer(answer(1, Outcome::Analyzed, TTL), now + TTL), Some(TTL));
        assert_eq!(flight.may_send(now), 1);
        assert_eq!(flight.answer(answer(1, Outcome::Analyzed, TTL), now), None, "one answer per frame");
        drop(flight);
        let counts = ledger.counts();
        assert_eq!((counts.answered(Outcome::Analyzed), counts.lost, counts.balance()), (1, 1, 0));
    }

    #[test]
    fn shed_pauses() {
        let (ledger, now) = (IngestLedger::new(), Instant::now());
        let mut flight = Flight::new(4, 4, ANSWER_SLACK);
        flight.grant(4);
        send(&mut flight, &ledger, 1, now);
        send(&mut flight, &ledger, 2, now);
        let ms = Duration::from_millis;
        flight.answer(answer(1, Outcome::Shed, ms(500)), now);
        flight.answer(answer(2, Outcome::Shed, ms(100)), now);
        assert_eq!(flight.may_send(now + ms(499)), 0, "the longer pause counts");
        assert_eq!(flight.paused_until(now), Some(now + ms(500)));
        assert_eq!(flight.may_send(now + ms(500)), 2);
        send(&mut flight, &ledger, 3, now);
        flight.answer(answer(3, Outcome::Shed, Duration::MAX), now);
        assert_eq!(flight.may_send(now + LONGEST_PAUSE), 1, "not for ever");
    }

    #[test]
    fn the_oldest_frame_decides_the_deadline() {
        let (ledger, now) = (IngestLedger::new(), Instant::now());
        let mut flight = Flight::new(4, 4, ANSWER_SLACK);
        assert_eq!(flight.answer_by(), None);
        send(&mut flight, &ledger, 1, now);
        send(&mut flight, &ledger, 2, now + TTL);
        assert_eq!(flight.answer_by(), Some(now + TTL + ANSWER_SLACK));
        flight.answer(answer(1, Outcome::Failed, TTL), now);
        assert_eq!(flight.answer_by(), Some(now + TTL + TTL + ANSWER_SLACK));
    }

    proptest! {
        #[test]
        fn never_above_the_limits(steps in prop::collection::vec((0u8..4, 0usize..9), 0..200)) {
            let (ledger, now) = (IngestLedger::new(), Instant::now());
            let mut flight = Flight::new(9, 5, ANSWER_SLACK);
            let mut number = 0;
            for (step, amount) in steps {
                match step {
                    0 => flight.grant(amount),
                    1 => for _ in 0..flight.may_send(now) { number += 1; send(&mut flight, &ledger, number, now) },
                    2 => { flight.answer(answer(amount as u64, Outcome::Analyzed, TTL), now); }
                    _ => { flight.answer(answer(number, Outcome::Invalid, TTL), now); }
                }
                prop_assert!(flight.frames() <= 5 && flight.credits <= 9);
                prop_assert_eq!(ledger.counts().in_flight as usize, flight.frames());
                prop_assert_eq!(ledger.counts().balance(), 0);
            }
        }
    }
}
