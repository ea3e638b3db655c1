//! What is worth sending: from the measured capacity and what every camera
//! would like, the rate and size to ask of each. Lowers the rate first, then
//! the size; recovers in ten seconds. Pure; the server ticks it once a second.

use std::time::Duration;

use flatframe_shared::frame::{Pace, PictureSize};

/// Offered load above this share of capacity is overload.
const OVERLOAD: f64 = 0.95;
/// Shares are handed out up to this much above capacity, so that workers never
/// wait for a frame; the surplus is superseded at the senders.
const SURPLUS: f64 = 1.05;
/// Part of what is wanted that is asked for while memory is short.
const SHORT_MEMORY: f64 = 0.5;
/// A pace rises by at most this part of what is wanted a tick.
const RECOVERY: f64 = 0.1;
/// A change smaller than this is not worth a message.
const NOTICEABLE: f64 = 0.05;
/// Sizes asked for, as parts of the configured one, largest first.
const SIZE_STEPS: [f64; 3] = [1.0, 0.75, 0.5];
/// Overload is over after so many ticks without it in a row: a service at the
/// edge would begin and end it every second.
const CALM_TICKS: u32 = 10;
/// Ticks between two changes of size.
const SIZE_HOLD_TICKS: u32 = 10;

/// What one camera would like and was last told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Frames per second it would like to send.
    pub wanted_fps: f64,
    /// What it was last told; `None`: no limit.
    pub told_fps: Option<f64>,
}

/// What the service can do and does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Expected time of one frame on one worker.
    pub service: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Work done that is not paced (single calls), frames per second.
    pub other_fps: f64,
    /// Whether memory is short.
    pub memory_is_short: bool,
}

/// Decides paces, tick by tick.
#[derive(Debug)]
pub struct Pacing {
    full_size: PictureSize,
    min_fps: f64,
    size_step: usize,
    ticks_since_size: u32,
    /// Ticks since the last with overload; `None` before the first.
    calm_ticks: Option<u32>,
}

impl Pacing {
    /// Asks for pictures up to `full_size`; below `min_fps` a camera is asked
    /// for smaller pictures instead.
    pub fn new(full_size: PictureSize, min_fps: f64) -> Self {
        Self { full_size, min_fps, size_step: 0, ticks_since_size: SIZE_HOLD_TICKS, calm_ticks: None }
    }

    /// The size asked for now.
    pub fn size(&self) -> PictureSize {
        let part = SIZE_STEPS[self.size_step];
        let side = |px: u32| ((f64::from(px) * part) as u32).max(1);
        PictureSize::new(side(self.full_size.width_px), side(self.full_size.height_px))
    }

    /// Whether more was wanted lately than can be done.
    pub fn is_overloaded(&self) -> bool {
        self.calm_ticks.is_some_and(|ticks| ticks < CALM_TICKS)
    }

    /// The pace for each demand, in order. Work that is not
    /// paced (single calls): it takes its turn as one camera does, and gets a
    /// share as one camera does. While memory is short, half of what is wanted
    /// is all there is room for.
    pub fn tick(&mut self, demands: &[Demand], load: Load) -> Vec<Pace> {
        let Load { service, workers, other_fps, memory_is_short } = load;
        let others = (other_fps > 0.0).then_some(other_fps);
        let wanted: Vec<f64> = demands.iter().map(|demand| demand.wanted_fps).chain(others).collect();
        let wanted_fps = wanted.iter().sum::<f64>();
        let mut capacity_fps = workers as f64 / service.as_secs_f64().max(1e-9);
        if memory_is_short {
            capacity_fps = capacity_fps.min(wanted_fps) * SHORT_MEMORY;
        }
        let overloaded = wanted_fps > capacity_fps * OVERLOAD;
        self.calm_ticks = if overloaded { Some(0) } else { self.calm_ticks.map(|ticks| ticks.saturating_add(1)) };
        let level = if overloaded { fair_level(&wanted, capacity_fps * SURPLUS) } else { f64::INFINITY };
        self.step_size(level, overloaded);
        let size = self.size();
        demands
            .iter()
            .map(|demand| Pace { max_fps: next_fps(*demand, level).map(|fps| fps as f32), max_size: size })
            .collect()
    }

    fn step_size(&mut self, level: f64, overloaded: bool) {
        self.ticks_since_size = self.ticks_since_size.saturating_add(1);
        if self.ticks_since_size < SIZE_HOLD_TICKS {
            return;
        }
        let before = self.size_step;
        if overloaded && level < self.min_fps {
            self.size_step = (self.size_step + 1).min(SIZE_STEPS.len() - 1);
        } else if level > 2.0 * self.min_fps {
            self.size_step = self.size_step.saturating_sub(1);
        }
        if self.size_step != before {
            self.ticks_since_size = 0;
        }
    }
}

/// Whether a camera that was told `old` should be told `new`.
pub fn is_noticeable(old: Pace, new: Pace) -> bool {
    if old.max_size != new.max_size {
        return true;
    }
    match (old.max_fps, new.max_fps) {
        (None, None) => false,
        (Some(old), Some(new)) => f64::from((new - old).abs()) > NOTICEABLE * f64::from(old),
        _ => true,
    }
}

/// The next rate to tell a camera whose fair share is `level`.
fn next_fps(demand: Demand, level: f64) -> Option<f64> {
    let target = demand.wanted_fps.min(level);
    match demand.told_fps {
        // Down at once, up in steps.
        Some(told) if target > told => {
            let next = (told + demand.wanted_fps * RECOVERY).min(target);
            (next < demand.wanted_fps).then_some(next)
        }
        _ => (target < demand.wanted_fps).then_some(target),
    }
}

/// The rate that no camera may exceed so that all together stay at
/// `total_fps` (max-min fairness): those who want less keep what they want,
/// the others share the rest evenly.
fn fair_level(wanted: &[f64], total_fps: f64) -> f64 {
    let mut sorted = wanted.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut left = total_fps;
    for (place, &fps) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - place) as f64;
        if fps > share {
            return share;
        }
        left -= fps;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: PictureSize = PictureSize::new(640, 480);

    fn load(service_ms: u64, workers: usize, other_fps: f64) -> Load {
        Load { service: Duration::from_millis(service_ms), workers, other_fps, memory_is_short: false }
    }

    fn wants(fps: f64) -> Demand {
        Demand { wanted_fps: fps, told_fps: None }
    }

    #[test]
    fn below_capacity_nobody_is_limited() {
        let mut pacing = Pacing::new(SIZE, 1.0);
        let paces = pacing.tick(&[wants(5.0), wants(10.0)], load(10, 1, 0.0));
        assert!(paces.iter().all(|pace| pace.max_fps.is_none() && pace.max_size == SIZE));
    }

    #[test]
    fn the_modest_keep_theirs() {
        // Capacity 100 frames/s, handed out up to 105.
        let mut pacing = Pacing::new(SIZE, 1.0);
        let paces = pacing.tick(&[wants(5.0), wants(200.0), wants(60.0)], load(10, 1, 0.0));
        let fps: Vec<_> = paces.iter().map(|pace| pace.max_fps).collect();
        assert_eq!(fps, [None, Some(50.0), Some(50.0)]);
    }

    #[test]
    fn single_calls_get_the_share_of_one_camera() {
        let mut pacing = Pacing::new(SIZE, 1.0);
        let paces = pacing.tick(&[wants(200.0)], load(10, 1, 10_000.0));
        assert_eq!(paces[0].max_fps, Some(52.5), "half of 100 frames/s and the surplus");
    }

    #[test]
    fn short_memory_halves_what_is_asked_for() {
        let mut pacing = Pacing::new(SIZE, 1.0);
        let short = Load { memory_is_short: true, ..load(1, 1, 0.0) };
        for _ in 0..3 {
            let paces = pacing.tick(&[wants(20.0), wants(20.0)], short);
            assert_eq!(paces[0].max_fps, Some(10.5), "half and the surplus, however often");
        }
        let after = pacing.tick(&[Demand { wanted_fps: 20.0, told_fps: Some(10.5) }], load(1, 1, 0.0));
        assert_eq!(after[0].max_fps, Some(12.5), "back in steps");
    }

    /// 95 and 94.9 of 100 frames/s in turn: one state, not a change a second.
    #[test]
    fn at_the_edge_overload_begins_once() {
        let mut pacing = Pacing::new(SIZE, 1.0);
        let mut tick = |fps| {
            pacing.tick(&[wants(fps)], load(10, 1, 0.0));
            pacing.is_overloaded()
        };
        assert!(!tick(90.0), "not before the first");
        let states: Vec<_> = (0..20).map(|n| tick(if n % 2 == 0 { 96.0 } else { 94.0 })).collect();
        assert_eq!(states, [true; 20]);
        let calm: Vec<_> = (0..CALM_TICKS).map(|_| tick(50.0)).collect();
        assert!(calm[0] && !calm[CALM_TICKS as usize - 1], "over after calm, not before: {calm:?}");
    }

    #[test]
    fn recovers_in_steps_and_fully() {
        for (told, expected) in [(10.0, 4), (0.1, 9)] {
            let mut pacing = Pacing::new(SIZE, 1.0);
            let mut demand = Demand { wanted_fps: 20.0, told_fps: Some(told) };
            let mut ticks = 0;
            while let Some(fps) = pacing.tick(&[demand], load(1, 1, 0.0))[0].max_fps {
                assert!(f64::from(fps) <= demand.told_fps.expect("told") + 2.001);
                demand.told_fps = Some(f64::from(fps));
                ticks += 1;
            }
            assert_eq!(ticks, expected, "steps of 2 from {told} to 20, the last without a limit");
        }
    }

    #[test]
    fn rate_first_then_size_then_back() {
        let mut pacing = Pacing::new(SIZE, 1.0);
        let demands = [wants(10.0); 50];
        let slow = load(100, 2, 0.0);
        assert_eq!(pacing.tick(&demands[..20], slow)[0].max_size, SIZE, "1.05 each is enough");
        assert_eq!(pacing.tick(&demands, slow)[0].max_size, PictureSize::new(480, 360));
        for _ in 0..SIZE_HOLD_TICKS - 1 {
            assert_eq!(pacing.tick(&demands, slow)[0].max_size, PictureSize::new(480, 360), "held");
        }
        assert_eq!(pacing.tick(&demands, slow)[0].max_size, PictureSize::new(320, 240));
        for _ in 0..2 * SIZE_HOLD_TICKS {
            pacing.tick(&demands[..1], slow);
        }
        assert_eq!(pacing.size(), SIZE);
    }

    proptest! {
        #[test]
        fn shares_fill_the_capacity(wanted in prop::collection::vec(0.1f64..100.0, 1..40), total in 1f64..1000.0) {
            let level = fair_level(&wanted, total);
            let given: f64 = wanted.iter().map(|fps| fps.min(level)).sum();
            let offered: f64 = wanted.iter().sum();
            prop_assert!((given - offered.min(total)).abs() < 1e-6 * total);
        }
    }
}
