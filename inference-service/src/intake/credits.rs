//! How many frames one stream may have on their way. Pure counting: memory for
//! `window` frames is reserved when the stream is admitted, a credit hands out
//! one of them. Sends nothing itself.

use std::time::Duration;

/// Part of a frame's time to live that it may spend waiting at the server; the
/// rest is for the way here, the work and the way back.
const WAIT_SHARE: f64 = 0.5;

/// The credits of one stream. At every moment
/// `held + in_server <= window`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credits {
    window: u32,
    held: u32,
    in_server: u32,
    closed: bool,
}

/// A frame came without a credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCredit;

impl Credits {
    /// A stream that may hold up to `window` credits and holds none yet.
    pub fn new(window: u32) -> Self {
        Self { window, held: 0, in_server: 0, closed: false }
    }

    /// Credits to grant now so that at most `usable` frames (1 to the window)
    /// are on their way; they count as held from here on.
    pub fn grant(&mut self, usable: u32) -> u32 {
        if self.closed {
            return 0;
        }
        let usable = usable.clamp(1, self.window);
        let granted = usable.saturating_sub(self.held + self.in_server);
        self.held += granted;
        granted
    }

    /// A frame came.
    ///
    /// # Errors
    /// [`NoCredit`]: the sender held none; the frame has no memory reserved.
    pub fn spend(&mut self) -> Result<(), NoCredit> {
        self.held = self.held.checked_sub(1).ok_or(NoCredit)?;
        self.in_server += 1;
        Ok(())
    }

    /// A frame that had a credit was answered: its memory is free again.
    pub fn answered(&mut self) {
        self.in_server = self.in_server.saturating_sub(1);
    }

    /// No credit is granted from here on.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Credits granted and not yet spent.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Frames received and not yet answered.
    pub fn in_server(&self) -> u32 {
        self.in_server
    }
}

/// How many frames of a camera are worth having here at once: as many as get
/// their turn within half of `ttl`, at least one. A frame beyond
/// that waits better at the sender, where a newer one can take its place.
pub fn usable_window(window: u32, ttl: Duration, streams: usize, service: Duration, workers: usize) -> u32 {
    let turn_s = service.as_secs_f64() * streams.max(1) as f64 / workers.max(1) as f64;
    let turns = ttl.as_secs_f64() * WAIT_SHARE / turn_s.max(1e-9);
    (turns as u32).clamp(1, window)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grants_fill_the_window_once() {
        let mut credits = Credits::new(2);
        assert_eq!(credits.grant(9), 2);
        assert_eq!(credits.grant(9), 0);
        assert_eq!(credits.spend(), Ok(()));
        assert_eq!(credits.grant(9), 0, "the frame still holds its memory");
        credits.answered();
        assert_eq!(credits.grant(9), 1);
    }

    #[test]
    fn a_frame_without_credit_is_noticed() {
        let mut credits = Credits::new(1);
        assert_eq!(credits.spend(), Err(NoCredit));
        assert_eq!(credits.in_server(), 0);
    }

    #[test]
    fn a_closed_stream_gets_none() {
        let mut credits = Credits::new(4);
        credits.close();
        assert_eq!(credits.grant(4), 0);
    }

    #[test]
    fn window_follows_the_load() {
        let ttl = Duration::from_secs(1);
        let service = Duration::from_millis(5);
        assert_eq!(usable_window(4, ttl, 4, service, 2), 4);
        assert_eq!(usable_window(4, ttl, 64, service, 1), 1);
        assert_eq!(usable_window(4, ttl, 50, service, 1), 2);
        assert_eq!(usable_window(4, ttl, 10_000, service, 1), 1, "never none: a camera must get its turn");
    }

    proptest! {
        /// At every step the window bounds, and no credit is made or lost: what
        /// was granted is held, here, or answered; when all is answered the
        /// whole window can be granted again.
        #[test]
        fn never_above_the_window(window in 1u32..8, steps in prop::collection::vec((0u8..3, 0u32..10), 0..200)) {
            let mut credits = Credits::new(window);
            let (mut granted, mut spent, mut answered) = (0, 0, 0);
            for (step, usable) in steps {
                match step {
                    0 => granted += credits.grant(usable),
                    1 => match credits.spend() {
                        Ok(()) => spent += 1,
                        Err(NoCredit) => prop_assert_eq!(granted, spent, "refused with a credit"),
                    },
                    _ if spent > answered => { credits.answered(); answered += 1 }
                    _ => {}
                }
                prop_assert!(credits.held + credits.in_server <= window);
                prop_assert_eq!((credits.held, credits.in_server), (granted - spent, spent - answered));
            }
            (answered..spent).for_each(|_| credits.answered());
            credits.grant(window);
            prop_assert_eq!((credits.held, credits.in_server), (window, 0));
        }

        /// Never none, never more than the window, and never more for a camera
        /// whose turn comes later or whose frames live shorter.
        #[test]
        fn usable_is_bounded_and_falls_with_the_load(
            window in 1u32..64,
            (ttl_ms, streams, service_us, workers) in (0u64..60_000, 0usize..1000, 0u64..1_000_000, 0usize..64),
        ) {
            let (ttl, service) = (Duration::from_millis(ttl_ms), Duration::from_micros(service_us));
            let usable = usable_window(window, ttl, streams, service, workers);
            prop_assert!((1..=window).contains(&usable));
            prop_assert!(usable_window(window, ttl, streams + 1, service, workers) <= usable);
            prop_assert!(usable_window(window, ttl / 2, streams, service, workers) <= usable);
            prop_assert!(usable_window(window, ttl, streams, service * 2, workers) <= usable);
        }
    }
}
