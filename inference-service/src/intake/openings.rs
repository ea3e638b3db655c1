//! Streams that have not said hello yet: few at once, since each may hold a
//! message that never ends. One more makes the oldest give way: a camera says
//! hello in the breath in which it opens its stream, so the oldest is one that
//! does not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The streams that open, oldest first.
#[derive(Debug)]
pub struct Openings {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: VecDeque<(u64, CancellationToken)>,
}

/// A stream that opens; over when this is dropped.
#[derive(Debug)]
pub struct Opening {
    id: u64,
    gives_way: CancellationToken,
    openings: Arc<Openings>,
}

impl Openings {
    /// At most `max` at once.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    /// How many open now.
    pub fn live(&self) -> usize {
        lock(&self.state).open.len()
    }

    /// One more; the oldest gives way when there are too many.
    pub fn begin(self: &Arc<Self>) -> Opening {
        let gives_way = CancellationToken::new();
        let mut state = lock(&self.state);
        let id = state.next;
        state.next += 1;
        state.open.push_back((id, gives_way.clone()));
        if state.open.len() > self.max
            && let Some((_, oldest)) = state.open.pop_front()
        {
            oldest.cancel();
        }
        Opening { id, gives_way, openings: self.clone() }
    }
}

impl Opening {
    /// Waits until it must give way to a later one.
    pub async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        lock(&self.openings.state).open.retain(|(id, _)| *id != self.id);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        let openings = Openings::new(2);
        let [first, second, third] = std::array::from_fn(|_| openings.begin());
        let gave_way = |opening: &Opening| opening.gives_way.is_cancelled();
        assert_eq!([&first, &second, &third].map(gave_way), [true, false, false]);
        drop((first, third));
        let fourth = openings.begin();
        assert_eq!([&second, &fourth].map(gave_way), [false, false]);
        let _fifth = openings.begin();
        assert!(gave_way(&second));
    }
}
