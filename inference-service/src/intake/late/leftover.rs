//! How many late frames a second there is time for: what live cameras left
//! over lately, with a reserve, and none for a while after one of their frames
//! was refused or came too late. Pure; the server ticks it once a second.

use std::time::Duration;

/// Share of capacity that live and late frames may take together: live cameras
/// find the rest free when they want more.
const SHARE: f64 = 0.8;
/// Live load counts as its peak over so many ticks; and so long nothing is left
/// over after overload.
const TICKS: usize = 10;

/// What was seen in the last second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    /// Frames of live cameras and single calls that came, per second.
    pub live_fps: f64,
    /// Jobs that were given up while they waited.
    pub given_up: u64,
    /// Expected time of one frame on one worker.
    pub service: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Whether cameras are asked for less than they would like, memory is
    /// short, or the history takes nothing.
    pub must_rest: bool,
}

/// Remembers the load of the last seconds.
#[derive(Debug, Default)]
pub struct Leftover {
    live_fps: [f64; TICKS],
    at: usize,
    rest_ticks: usize,
}

impl Leftover {
    /// Late frames a second that there is time for from now on.
    pub fn tick(&mut self, tick: Tick) -> f64 {
        self.live_fps[self.at] = tick.live_fps;
        self.at = (self.at + 1) % TICKS;
        let rests = tick.must_rest || tick.given_up > 0;
        self.rest_ticks = if rests { TICKS } else { self.rest_ticks.saturating_sub(1) };
        if self.rest_ticks > 0 {
            return 0.0;
        }
        let capacity_fps = tick.workers as f64 / tick.service.as_secs_f64().max(1e-6);
        let live_fps = self.live_fps.iter().copied().fold(0.0, f64::max);
        (capacity_fps * SHARE - live_fps).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Tick =
        Tick { live_fps: 0.0, given_up: 0, service: Duration::from_millis(10), workers: 2, must_rest: false };

    #[test]
    fn the_peak_of_live_load_is_kept_free() {
        let mut leftover = Leftover::default();
        assert!((leftover.tick(IDLE) - 160.0).abs() < 1e-9);
        assert!((leftover.tick(Tick { live_fps: 100.0, ..IDLE }) - 60.0).abs() < 1e-9);
        for _ in 1..TICKS {
            assert!((leftover.tick(IDLE) - 60.0).abs() < 1e-9, "the peak counts for a while");
        }
        assert!((leftover.tick(IDLE) - 160.0).abs() < 1e-9);
        assert!(leftover.tick(Tick { live_fps: 190.0, ..IDLE }) <= 0.0);
    }

    #[test]
    fn nothing_after_a_refused_frame_until_it_was_calm() {
        for trouble in [Tick { given_up: 1, ..IDLE }, Tick { must_rest: true, ..IDLE }] {
            let mut leftover = Leftover::default();
            assert!(leftover.tick(IDLE) > 0.0);
            for _ in 0..3 {
                assert!(leftover.tick(trouble) <= 0.0);
            }
            for _ in 1..TICKS {
                assert!(leftover.tick(IDLE) <= 0.0);
            }
            assert!(leftover.tick(IDLE) > 0.0);
        }
    }
}
