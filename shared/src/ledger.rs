//! The counters of outcomes, and the tickets that make them balance.
//!
//! A frame carries a ticket from capture (or arrival) to its outcome. A ticket
//! is spent exactly once, by value, so the compiler forbids two outcomes. A
//! ticket that is dropped unspent leaves `waiting`, `in_flight` or `queued`
//! without adding an outcome: the balance then reads other than 0 for ever,
//! which is how a lost frame is found. Nothing here repairs an imbalance.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::outcome::{DropReason, Outcome};

/// Counters of one camera on the sending side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IngestCounts {
    /// Pictures taken from the source.
    pub captured: u64,
    /// Never sent, by [`DropReason::index`].
    pub dropped: [u64; DropReason::COUNT],
    /// Handed to the stream.
    pub sent: u64,
    /// Answered, by [`Outcome::index`].
    pub answered: [u64; Outcome::COUNT],
    /// Stream broke before the answer.
    pub lost: u64,
    /// Between capture and sending now.
    pub waiting: u64,
    /// Sent and not yet answered now.
    pub in_flight: u64,
}

impl IngestCounts {
    /// `captured - (dropped + sent + waiting)` plus
    /// `sent - (answered + lost + in_flight)`, each without its sign; 0 unless
    /// a frame was lost without an outcome.
    pub fn balance(&self) -> i64 {
        let before = self.dropped.iter().sum::<u64>() + self.sent + self.waiting;
        let after = self.answered.iter().sum::<u64>() + self.lost + self.in_flight;
        difference(self.captured, before) + difference(self.sent, after)
    }

    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()]
    }

    /// Frames answered with `outcome`.
    pub fn answered(&self, outcome: Outcome) -> u64 {
        self.answered[outcome.index()]
    }
}

impl std::ops::AddAssign for IngestCounts {
    fn add_assign(&mut self, other: Self) {
        self.captured += other.captured;
        add_each(&mut self.dropped, &other.dropped);
        self.sent += other.sent;
        add_each(&mut self.answered, &other.answered);
        self.lost += other.lost;
        self.waiting += other.waiting;
        self.in_flight += other.in_flight;
    }
}

/// Counters of one camera, or of the unary calls, on the answering side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerCounts {
    /// Frames that arrived.
    pub received: u64,
    /// Answered, by [`Outcome::index`].
    pub answered: [u64; Outcome::COUNT],
    /// Waiting or in work now.
    pub queued: u64,
}

impl ServerCounts {
    /// `received - (answered + queued)` without its sign; 0 unless a frame was
    /// lost without an outcome.
    pub fn balance(&self) -> i64 {
        difference(self.received, self.answered.iter().sum::<u64>() + self.queued)
    }

    /// Frames answered with `outcome`.
    pub fn answered(&self, outcome: Outcome) -> u64 {
        self.answered[outcome.index()]
    }
}

impl std::ops::AddAssign for ServerCounts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        add_each(&mut self.answered, &other.answered);
        self.queued += other.queued;
    }
}

fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(a.abs_diff(b)).unwrap_or(i64::MAX)
}

fn add_each<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// The ledger of one camera on the sending side; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct IngestLedger(Arc<Mutex<IngestCounts>>);

impl IngestLedger {
    /// A ledger that reads 0 everywhere.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a captured picture, which now waits.
    pub fn capture(&self) -> WaitingTicket {
        let mut counts = lock(&self.0);
        counts.captured += 1;
        counts.waiting += 1;
        WaitingTicket { ledger: Some(self.clone()) }
    }

    /// All counters at one instant.
    pub fn counts(&self) -> IngestCounts {
        *lock(&self.0)
    }
}

/// Held by a frame between capture and sending.
#[derive(Debug)]
#[must_use = "a frame needs an outcome"]
pub struct WaitingTicket {
    ledger: Option<IngestLedger>,
}

impl WaitingTicket {
    /// The frame is not sent, for `reason`.
    pub fn drop_as(mut self, reason: DropReason) {
        if let Some(ledger) = self.ledger.take() {
            let mut counts = lock(&ledger.0);
            counts.waiting -= 1;
            counts.dropped[reason.index()] += 1;
        }
    }

    /// The frame is handed to the stream.
    pub fn send(mut self) -> SentTicket {
        let ledger = self.ledger.take();
        if let Some(ledger) = &ledger {
            let mut counts = lock(&ledger.0);
            counts.waiting -= 1;
            counts.sent += 1;
            counts.in_flight += 1;
        }
        SentTicket { ledger }
    }
}

impl Drop for WaitingTicket {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            lock(&ledger.0).waiting -= 1;
        }
    }
}

/// Held by a frame between sending and its answer.
#[derive(Debug)]
#[must_use = "a frame needs an outcome"]
pub struct SentTicket {
    ledger: Option<IngestLedger>,
}

impl SentTicket {
    /// The server answered.
    pub fn answer(mut self, outcome: Outcome) {
        if let Some(ledger) = self.ledger.take() {
            let mut counts = lock(&ledger.0);
            counts.in_flight -= 1;
            counts.answered[outcome.index()] += 1;
        }
    }

    /// The stream broke before the answer.
    pub fn lose(mut self) {
        if let Some(ledger) = self.ledger.take() {
            let mut counts = lock(&ledger.0);
            counts.in_flight -= 1;
            counts.lost += 1;
        }
    }
}

impl Drop for SentTicket {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            lock(&ledger.0).in_flight -= 1;
        }
    }
}

/// The ledger of one camera on the answering side; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct ServerLedger(Arc<Mutex<ServerCounts>>);

impl ServerLedger {
    /// A ledger that reads 0 everywhere.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a frame that arrived, which is now queued.
    pub fn receive(&self) -> QueuedTicket {
        let mut counts = lock(&self.0);
        counts.received += 1;
        counts.queued += 1;
        QueuedTicket { ledger: Some(self.clone()) }
    }

    /// All counters at one instant.
    pub fn counts(&self) -> ServerCounts {
        *lock(&self.0)
    }
}

/// Held by a frame between arrival and its answer.
#[derive(Debug)]
#[must_use = "a frame needs an outcome"]
pub struct QueuedTicket {
    ledger: Option<ServerLedger>,
}

impl QueuedTicket {
    /// The frame is answered.
    pub fn answer(mut self, outcome: Outcome) {
        if let Some(ledger) = self.ledger.take() {
            let mut counts = lock(&ledger.0);
            counts.queued -= 1;
            counts.answered[outcome.index()] += 1;
        }
    }
}

impl Drop for QueuedTicket {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            lock(&ledger.0).queued -= 1;
        }
    }
}

fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds the lock; if something did, the counters
    // are still the best knowledge there is.
    counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unspent_ticket_shows_as_imbalance() {
        let ledger = IngestLedger::new();
        drop(ledger.capture());
        assert_eq!(ledger.counts().balance(), 1);
        drop(ledger.capture().send());
        assert_eq!(ledger.counts().balance(), 2);

        let server = ServerLedger::new();
        drop(server.receive());
        assert_eq!(server.counts().balance(), 1);
    }

    proptest! {
        /// Whatever happens to frames, in whatever order, the ledger balances
        /// after every step.
        #[test]
        fn balances_at_every_step(steps in prop::collection::vec((0u8..4, 0usize..8), 0..200)) {
            let ledger = IngestLedger::new();
            let (mut waiting, mut sent) = (Vec::new(), Vec::new());
            for (step, choice) in steps {
                match step {
                    0 => waiting.push(ledger.capture()),
                    1 => if let Some(t) = waiting.pop() { t.drop_as(DropReason::ALL[choice % DropReason::COUNT]) },
                    2 => if let Some(t) = waiting.pop() { sent.push(WaitingTicket::send(t)) },
                    _ => if let Some(t) = sent.pop() {
                        let t: SentTicket = t;
                        if choice == 0 { t.lose() } else { t.answer(Outcome::ALL[choice % Outcome::COUNT]) }
                    },
                }
                let counts = ledger.counts();
                prop_assert_eq!(counts.balance(), 0);
                prop_assert_eq!(counts.waiting as usize, waiting.len());
                prop_assert_eq!(counts.in_flight as usize, sent.len());
            }
            // What is left is forgotten: each ticket shows, and shows for ever.
            let forgotten = waiting.len() + sent.len();
            drop((waiting, sent));
            prop_assert_eq!(ledger.counts().balance(), forgotten as i64);
            ledger.capture().drop_as(DropReason::Paced);
            prop_assert_eq!(ledger.counts().balance(), forgotten as i64);
        }

        /// The same at the server, and the sum of ledgers balances as they do.
        #[test]
        fn the_server_balances_at_every_step(steps in prop::collection::vec((0usize..3, any::<bool>(), 0usize..8), 0..200)) {
            let ledgers = [(); 3].map(|()| ServerLedger::new());
            let mut queued = [(); 3].map(|()| Vec::new());
            for (camera, arrives, choice) in steps {
                if arrives {
                    queued[camera].push(ledgers[camera].receive());
                } else if let Some(ticket) = queued[camera].pop() {
                    QueuedTicket::answer(ticket, Outcome::ALL[choice % Outcome::COUNT]);
                }
                let mut total = ServerCounts::default();
                for (ledger, queued) in ledgers.iter().zip(&queued) {
                    prop_assert_eq!((ledger.counts().balance(), ledger.counts().queued), (0, queued.len() as u64));
                    total += ledger.counts();
                }
                prop_assert_eq!(total.balance(), 0);
            }
        }
    }
}
