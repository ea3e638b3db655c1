//! How much one identity takes: connections at once, and calls in a short time.
//! Knows who is connected as whom, so that an identity that ends can be shown
//! out. Judges no token and no certificate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::serve::Connection;
use tokio_util::sync::CancellationToken;

use super::tokens::TokenId;

/// Most identities that are remembered; those that take nothing make room.
pub const MAX_IDENTITIES: usize = 4096;
/// Memory of one of them, in bytes: its name, its bucket, and its place among
/// its connections.
pub const IDENTITY_BYTES: u64 = 1024;
/// Calls that may come at once: what is allowed in so long.
const BURST: Duration = Duration::from_secs(2);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The owner of this token.
    Token(TokenId),
    /// The owner of a certificate; what it says of itself.
    Certificate(Arc<str>),
}

/// What one identity may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Connections at once.
    pub connections: usize,
    /// Calls in a second, over a while.
    pub calls_per_s: f64,
}

/// Why an identity gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMuch {
    /// Connections.
    Connections,
    /// Calls.
    Calls,
    /// Identities: there is no place for another.
    Identities,
}

/// Everyone who takes something, or did a moment ago.
#[derive(Debug, Default)]
pub struct Identities(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    by_identity: HashMap<Identity, Usage>,
}

#[derive(Debug)]
struct Usage {
    connections: Vec<(u64, CancellationToken)>,
    /// Calls that may still come at once, at `at`.
    left: f64,
    at: Instant,
}

impl Usage {
    fn new(allowance: Allowance, now: Instant) -> Self {
        Self { connections: Vec::new(), left: full(allowance), at: now }
    }

    /// Refills by the time that went by, and takes one call.
    fn take_call(&mut self, allowance: Allowance, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.at).as_secs_f64() * allowance.calls_per_s;
        self.left = (self.left + more).min(full(allowance));
        self.at = now;
        let may = self.left >= 1.0;
        self.left -= if may { 1.0 } else { 0.0 };
        may
    }
}

fn full(allowance: Allowance) -> f64 {
    (allowance.calls_per_s * BURST.as_secs_f64()).max(1.0)
}

/// The places of one connection among those of its identities; kept with it.
#[derive(Clone, Default)]
struct Seats(Vec<Arc<Seat>>);

struct Seat {
    identities: Arc<Identities>,
    identity: Identity,
    id: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut known = self.identities.lock();
        if let Some(usage) = known.by_identity.get_mut(&self.identity) {
            usage.connections.retain(|(id, _)| *id != self.id);
        }
    }
}

impl Identities {
    /// Takes a call of `identity` that comes on `connection`, and a place for
    /// the connection if it has none yet.
    ///
    /// # Errors
    /// What it has too much of.
    pub fn take(
        self: &Arc<Self>,
        identity: &Identity,
        connection: &Connection,
        allowance: Allowance,
        now: Instant,
    ) -> Result<(), TooMuch> {
        let mut kept = connection.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_seated = kept.get::<Seats>().is_some_and(|seats| seats.0.iter().any(|seat| seat.identity == *identity));
        let mut known = self.lock();
        let is_known = known.by_identity.contains_key(identity);
        if !is_known && known.by_identity.len() >= MAX_IDENTITIES {
            // Who is not connected and could make all calls again loses nothing by being forgotten.
            known
                .by_identity
                .retain(|_, usage| !usage.connections.is_empty() || now.saturating_duration_since(usage.at) < BURST);
            if known.by_identity.len() >= MAX_IDENTITIES {
                return Err(TooMuch::Identities);
            }
        }
        let id = known.next;
        known.next += 1;
        let usage = known.by_identity.entry(identity.clone()).or_insert_with(|| Usage::new(allowance, now));
        if !usage.take_call(allowance, now) {
            return Err(TooMuch::Calls);
        }
        if is_seated {
            return Ok(());
        }
        if usage.connections.len() >= allowance.connections {
            return Err(TooMuch::Connections);
        }
        usage.connections.push((id, connection.close.clone()));
        drop(known);
        let seat = Arc::new(Seat { identities: self.clone(), identity: identity.clone(), id });
        kept.get_or_insert_default::<Seats>().0.push(seat);
        Ok(())
    }

    /// Closes all connections of those for whom `is_over` says so; how many.
    pub fn close_where(&self, is_over: impl Fn(&Identity) -> bool) -> usize {
        let known = self.lock();
        let over = known.by_identity.iter().filter(|(identity, _)| is_over(identity));
        // One that was told to close is here until it is closed.
        let open = over.flat_map(|(_, usage)| &usage.connections).filter(|(_, close)| !close.is_cancelled());
        open.map(|(_, close)| close.cancel()).count()
    }

    /// How many are remembered.
    pub fn known(&self) -> usize {
        self.lock().by_identity.len()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One of nobody in particular.
    pub(in crate::access) fn connection() -> Connection {
        Connection {
            peer: ([127, 0, 0, 1], 1).into(),
            certificate: None,
            kept: Arc::default(),
            close: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    fn identity(name: &str) -> Identity {
        Identity::Certificate(name.into())
    }

    const TWO: Allowance = Allowance { connections: 2, calls_per_s: 1000.0 };

    #[test]
    fn connections_are_counted_by_identity_and_leave() {
        let (identities, now) = (Arc::new(Identities::default()), Instant::now());
        let [first, second, third] = [connection(), connection(), connection()];
        for _ in 0..3 {
            assert_eq!(identities.take(&identity("a"), &first, TWO, now), Ok(()));
        }
        assert_eq!(identities.take(&identity("a"), &second, TWO, now), Ok(()));
        assert_eq!(identities.take(&identity("a"), &third, TWO, now), Err(TooMuch::Connections));
        assert_eq!(identities.take(&identity("b"), &third, TWO, now), Ok(()));
        drop(first);
        assert_eq!(identities.take(&identity("a"), &third, TWO, now), Ok(()));
        let close_b = || identities.close_where(|other| *other == identity("b"));
        assert_eq!((close_b(), close_b()), (1, 0), "each is closed once");
        assert!(third.close.is_cancelled() && !second.close.is_cancelled());
    }

    #[test]
    fn calls_are_bounded_over_a_while() {
        let (identities, start) = (Arc::new(Identities::default()), Instant::now());
        let allowance = Allowance { connections: 1, calls_per_s: 5.0 };
        let connection = connection();
        let calls =
            |now| (0..100).filter(|_| identities.take(&identity("a"), &connection, allowance, now).is_ok()).count();
        assert_eq!(calls(start), 10);
        assert_eq!(calls(start + Duration::from_secs(1)), 5);
        assert_eq!(calls(start + Duration::from_secs(3600)), 10);
    }

    #[test]
    fn identities_that_take_nothing_make_room() {
        let (identities, start) = (Arc::new(Identities::default()), Instant::now());
        let stays = connection();
        assert_eq!(identities.take(&identity("stays"), &stays, TWO, start), Ok(()));
        for name in 1..MAX_IDENTITIES {
            assert_eq!(identities.take(&identity(&name.to_string()), &connection(), TWO, start), Ok(()));
        }
        assert_eq!(identities.take(&identity("late"), &connection(), TWO, start), Err(TooMuch::Identities));
        assert_eq!(identities.take(&identity("late"), &connection(), TWO, start + BURST), Ok(()));
        assert_eq!(identities.known(), 2);
    }
}
