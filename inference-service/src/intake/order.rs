//! Puts results of one camera back into the order in which its frames were
//! handed to workers. Holds at most the camera's window; knows neither frames
//! nor results.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Place in the order of one camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

/// Hands out places; waits for nobody.
#[derive(Debug, Default)]
pub struct Places(AtomicU64);

impl Places {
    /// A frame goes to a worker: its place.
    pub fn begin(&self) -> Place {
        Place(self.0.fetch_add(1, Relaxed))
    }
}

/// Results that wait for earlier ones.
#[derive(Debug)]
pub struct Order<T> {
    /// First place not yet released.
    first: u64,
    /// Results from `first` on; `None` while in work.
    slots: VecDeque<Option<T>>,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { first: 0, slots: VecDeque::new() }
    }
}

impl<T> Order<T> {
    /// The result for `place` is there: returns it and those that waited for
    /// it, in order. Each place is finished once.
    pub fn finish(&mut self, place: Place, result: T) -> Vec<T> {
        let index = (place.0 - self.first) as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(result);
        let ready = self.slots.iter().take_while(|slot| slot.is_some()).count();
        self.first += ready as u64;
        self.slots.drain(..ready).flatten().collect()
    }

    /// Whether no result waits for an earlier one.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In whatever order work ends, results come out in the order begun,
        /// as soon as none before them is in work, and none is held longer.
        #[test]
        fn comes_out_in_order(picks in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..100)) {
            let (places, mut order) = (Places::default(), Order::default());
            let (mut working, mut begun, mut out) = (Vec::new(), 0u32, Vec::new());
            for (begin, pick) in picks {
                if begin || working.is_empty() {
                    working.push((places.begin(), begun));
                    begun += 1;
                } else {
                    let (place, result) = working.swap_remove(pick.index(working.len()));
                    out.extend(order.finish(place, result));
                }
                let first_in_work = working.iter().map(|(_, result)| *result).min().unwrap_or(begun);
                prop_assert_eq!(&out, &(0..first_in_work).collect::<Vec<_>>());
                prop_assert!(order.slots.len() <= (begun - first_in_work) as usize);
            }
            for (place, result) in working {
                out.extend(order.finish(place, result));
            }
            prop_assert_eq!(out, (0..begun).collect::<Vec<_>>());
            prop_assert!(order.is_empty());
        }
    }
}
