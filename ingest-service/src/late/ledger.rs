//! The counters of late frames, and the ticket of the one on its way. A frame
//! that was kept has its outcome in the camera's own ledger; this one says what
//! became of it afterwards. They balance:
//!
//! ```text
//! found + again = sum(dropped by reason) + sent + waiting
//! sent          = sum(answered by outcome) + lost + in_flight
//! ```
//!
//! `again` are frames that wait once more: the server gave them back unread
//! (`shed`, `draining`), or the stream broke before the answer (`lost`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flatframe_shared::outcome::Outcome;

/// Why a late frame was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LateDrop {
    /// Older than `recording.late_max_age_s`.
    TooOld,
    /// The ring removed it before its turn.
    Removed,
    /// It cannot be read any more.
    Damaged,
    /// Captured while the clock was not set, or was ahead.
    NoClock,
    /// Not captured after the frame before it: the clock was set back, or it was
    /// sent in an earlier run.
    NotNewer,
    /// The server has its result already.
    Known,
    /// Larger than the server takes.
    TooLarge,
}

impl LateDrop {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::TooOld, Self::Removed, Self::Damaged, Self::NoClock, Self::NotNewer, Self::Known, Self::TooLarge];

    /// In one word, as used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooOld => "too_old",
            Self::Removed => "removed",
            Self::Damaged => "damaged",
            Self::NoClock => "no_clock",
            Self::NotNewer => "not_newer",
            Self::Known => "known",
            Self::TooLarge => "too_large",
        }
    }
}

/// Counters of the late frames of one camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LateCounts {
    /// Found on disk.
    pub found: u64,
    /// Sent in vain, and waiting again.
    pub again: u64,
    /// Never sent, by [`LateDrop::ALL`].
    pub dropped: [u64; LateDrop::ALL.len()],
    /// Handed to a stream.
    pub sent: u64,
    /// Answered, by [`Outcome::index`].
    pub answered: [u64; Outcome::COUNT],
    /// The stream broke before the answer.
    pub lost: u64,
    /// On disk, found and not yet sent.
    pub waiting: u64,
    /// Sent and not yet answered.
    pub in_flight: u64,
}

impl LateCounts {
    /// How far the two sums are apart; 0 unless a frame has no outcome.
    pub fn balance(&self) -> i64 {
        let before = self.dropped.iter().sum::<u64>() + self.sent + self.waiting;
        let after = self.answered.iter().sum::<u64>() + self.lost + self.in_flight;
        let apart = (self.found + self.again).abs_diff(before) + self.sent.abs_diff(after);
        i64::try_from(apart).unwrap_or(i64::MAX)
    }

    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: LateDrop) -> u64 {
        self.dropped[reason as usize]
    }

    /// Frames answered with `outcome`.
    pub fn answered(&self, outcome: Outcome) -> u64 {
        self.answered[outcome.index()]
    }
}

impl std::ops::AddAssign for LateCounts {
    fn add_assign(&mut self, other: Self) {
        self.found += other.found;
        self.again += other.again;
        self.dropped.iter_mut().zip(other.dropped).for_each(|(to, from)| *to += from);
        self.sent += other.sent;
        self.answered.iter_mut().zip(other.answered).for_each(|(to, from)| *to += from);
        self.lost += other.lost;
        self.waiting += other.waiting;
        self.in_flight += other.in_flight;
    }
}

/// The ledger of the late frames of one camera; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct LateLedger(Arc<Mutex<LateCounts>>);

impl LateLedger {
    /// So many more are on disk.
    pub fn find(&self, frames: u64) {
        let mut counts = self.lock();
        counts.found += frames;
        counts.waiting += frames;
    }

    /// So many that waited are not sent.
    pub fn drop_as(&self, reason: LateDrop, frames: u64) {
        let mut counts = self.lock();
        counts.waiting -= frames;
        counts.dropped[reason as usize] += frames;
    }

    /// One that waited is handed to a stream.
    pub fn send(&self) -> LateTicket {
        let mut counts = self.lock();
        counts.waiting -= 1;
        counts.sent += 1;
        counts.in_flight += 1;
        LateTicket { ledger: Some(self.clone()) }
    }

    /// All counters at one instant.
    pub fn counts(&self) -> LateCounts {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, LateCounts> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a late frame between sending and its answer.
#[derive(Debug)]
#[must_use = "a frame needs an outcome"]
pub struct LateTicket {
    ledger: Option<LateLedger>,
}

impl LateTicket {
    /// The server answered; one that was given back waits again.
    pub fn answer(mut self, outcome: Outcome) {
        let is_given_back = matches!(outcome, Outcome::Shed | Outcome::Draining);
        self.spend(|counts| {
            counts.answered[outcome.index()] += 1;
            counts.again += u64::from(is_given_back);
            counts.waiting += u64::from(is_given_back);
        });
    }

    /// The stream broke before the answer: it waits again.
    pub fn lose(mut self) {
        self.spend(|counts| {
            counts.lost += 1;
            counts.again += 1;
            counts.waiting += 1;
        });
    }

    fn spend(&mut self, spend: impl FnOnce(&mut LateCounts)) {
        if let Some(ledger) = self.ledger.take() {
            let mut counts = ledger.lock();
            counts.in_flight -= 1;
            spend(&mut counts);
        }
    }
}

impl Drop for LateTicket {
    fn drop(&mut self) {
        // Unspent, it shows as an imbalance for ever.
        self.spend(|_| {});
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever happens, in whatever order, the ledger balances.
        #[test]
        fn balances_at_every_step(steps in prop::collection::vec((0u8..5, 0usize..8), 0..200)) {
            let ledger = LateLedger::default();
            let mut sent = Vec::new();
            for (step, choice) in steps {
                let waiting = ledger.counts().waiting;
                match step {
                    0 => ledger.find(choice as u64),
                    1 if waiting > 0 => ledger.drop_as(LateDrop::ALL[choice % LateDrop::ALL.len()], 1),
                    2 if waiting > 0 => sent.push(ledger.send()),
                    3 => if let Some(ticket) = sent.pop() { LateTicket::answer(ticket, Outcome::ALL[choice % Outcome::COUNT]) },
                    4 => if let Some(ticket) = sent.pop() { LateTicket::lose(ticket) },
                    _ => {}
                }
                let counts = ledger.counts();
                prop_assert_eq!((counts.balance(), counts.in_flight as usize), (0, sent.len()));
            }
            let forgotten = sent.len() as i64;
            drop(sent);
            prop_assert_eq!(ledger.counts().balance(), forgotten);
        }
    }
}
