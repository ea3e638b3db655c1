//! What one camera's prepare thread does with a frame, and what it remembers
//! from one to the next: look at it, bring it to size, keep to the cap on
//! bytes. Waits for nothing; the caller brings time.

use std::time::{Duration, Instant};

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg::planes::PlaneView;
use flatframe_shared::outcome::DropReason;

use crate::frame::{Picture, Purpose};
use crate::prepare::byte_cap::ByteCap;
use crate::prepare::downsample::{Downsampler, Fitted, Wanted};
use crate::prepare::look::Motion;
use crate::prepare::look::{ConditionCell, Look, MotionGate, MotionPolicy, PictureCondition, PictureState};
use crate::prepare::view::View;
use crate::terms::Terms;

/// Without a motion gate a picture is looked at so often: one that is sent
/// untouched would otherwise not be decoded.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Limits of one camera's preparation.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareLimits {
    /// Largest picture decoded.
    pub source_size: PictureSize,
    /// Largest picture sent, whatever the server takes.
    pub sent_size: PictureSize,
    /// Largest JPEG sent, whatever the server takes, in bytes.
    pub sent_bytes: usize,
    /// JPEG quality when a picture must be encoded anew, 1 to 100.
    pub quality: u8,
    /// What of its pictures may be seen.
    pub view: View,
    /// Whether only frames with motion are sent.
    pub motion: Option<MotionPolicy>,
    /// Share of the picture that must change for the recording to see motion,
    /// in percent; `None`: it does not ask.
    pub recorded_motion_percent: Option<f32>,
    /// Most bytes per second, if there is a cap.
    pub bytes_per_s: Option<u64>,
    /// The rate wanted, frames per second.
    pub fps: f32,
}

impl PrepareLimits {
    /// These limits and, where there is a server, its own: the lower of each.
    fn wanted(&self, terms: Option<Terms>) -> Wanted {
        let (max_size, max_bytes) =
            terms.map_or((self.sent_size, self.sent_bytes), |terms| (terms.max_size, terms.max_frame_bytes));
        Wanted {
            max_size: PictureSize::new(
                self.sent_size.width_px.min(max_size.width_px),
                self.sent_size.height_px.min(max_size.height_px),
            ),
            max_bytes: self.sent_bytes.min(max_bytes),
            quality: self.quality,
        }
    }
}

/// Prepares the frames of one camera, in order.
pub struct Preparer {
    limits: PrepareLimits,
    downsampler: Downsampler,
    cap: Option<ByteCap>,
    looks: Looks,
}

/// A picture that is ready, and what was seen in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The picture.
    pub fitted: Fitted,
    /// Whether something moves, for the recording.
    pub motion: Motion,
    /// Whether it is not to be sent because nothing moves: it was prepared for
    /// the recording alone.
    pub is_still: bool,
}

/// What is known from the looks at earlier frames.
struct Looks {
    motion: Option<MotionPolicy>,
    gate: MotionGate,
    /// What counts as motion for the recording, and what it saw last.
    recorded: Option<(MotionPolicy, MotionGate)>,
    state: PictureState,
    last: Option<Instant>,
    condition: ConditionCell,
}

impl Preparer {
    /// Prepares within `limits` and tells `condition` what pictures look like.
    pub fn new(limits: PrepareLimits, condition: ConditionCell) -> Self {
        Self {
            downsampler: Downsampler::with_view(limits.source_size, limits.view.clone()),
            cap: limits.bytes_per_s.map(|bytes_per_s| ByteCap::new(bytes_per_s, limits.fps)),
            looks: Looks {
                motion: limits.motion,
                gate: MotionGate::default(),
                recorded: limits.recorded_motion_percent.map(|percent| {
                    // What stays as it is never moves.
                    (MotionPolicy { percent, keepalive: Duration::MAX }, MotionGate::default())
                }),
                state: PictureState::default(),
                last: None,
                condition,
            },
            limits,
        }
    }

    /// Brings `picture` to what the server takes; without `terms`, to what is
    /// configured. A frame that is not to be sent costs nothing of the cap on
    /// bytes.
    ///
    /// # Errors
    /// Why it is neither sent nor recorded.
    pub fn prepare(
        &mut self,
        now: Instant,
        picture: Picture,
        terms: Option<Terms>,
        purpose: Purpose,
    ) -> Result<Prepared, DropReason> {
        let mut wanted = self.limits.wanted(terms);
        let mut first_step = 0;
        let limit_bytes = wanted.max_bytes;
        let mut cap = self.cap.as_mut().filter(|_| purpose.unsent.is_none());
        if let Some(cap) = &mut cap {
            let allowed = cap.allow(now);
            (wanted.max_bytes, first_step) = (limit_bytes.min(allowed.bytes), allowed.step);
        }
        let looks = &mut self.looks;
        let (mut motion, mut is_still) = (Motion::Unknown, false);
        let fitted = if looks.due(now, purpose) {
            let mut watcher = |luma: PlaneView<'_>| {
                (motion, is_still) = looks.seen(now, &Look::of(luma), purpose);
                !is_still || purpose.is_recorded
            };
            self.downsampler.fit_picture(picture, &wanted, first_step, Some(&mut watcher))
        } else {
            self.downsampler.fit_picture(picture, &wanted, first_step, None)
        };
        match (&fitted, cap) {
            (Ok(_), _) if is_still => {}
            (Ok(fitted), Some(cap)) => cap.made(now, fitted.jpeg.len(), fitted.step),
            // It would fit at another time: that is pacing.
            (Err(DropReason::TooLarge), Some(_)) if wanted.max_bytes < limit_bytes => return Err(DropReason::Paced),
            _ => {}
        }
        fitted.map(|fitted| Prepared { fitted, motion, is_still })
    }
}

impl Looks {
    fn due(&self, now: Instant, purpose: Purpose) -> bool {
        let is_old = |last: Instant| now.saturating_duration_since(last) >= LOOK_PERIOD;
        self.motion.is_some() || (purpose.is_recorded && self.recorded.is_some()) || self.last.is_none_or(is_old)
    }

    /// Remembers what a frame looks like. Whether something moves in it, for the
    /// recording, and whether it is too still to be sent.
    fn seen(&mut self, now: Instant, look: &Look, purpose: Purpose) -> (Motion, bool) {
        self.last = Some(now);
        let (before, condition) = (self.condition.get(), self.state.frame(now, look));
        if before != condition {
            self.condition.set(condition);
            match condition {
                PictureCondition::Good => tracing::info!(before = before.as_str(), "the picture is good again"),
                _ => tracing::warn!(condition = condition.as_str(), "something is wrong with the picture"),
            }
        }
        let motion = match self.recorded.as_mut().filter(|_| purpose.is_recorded) {
            Some((policy, gate)) => {
                if gate.passes(now, look, *policy) {
                    Motion::Moving
                } else {
                    Motion::Still
                }
            }
            None => Motion::Unknown,
        };
        // A frame that is not sent anyway is none that passed.
        let is_to_be_sent = purpose.unsent.is_none();
        let is_still = is_to_be_sent && self.motion.is_some_and(|policy| !self.gate.passes(now, look, policy));
        (motion, is_still)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flatframe_shared::jpeg::encode_rgb;

    use super::*;
    use crate::config::{CameraConfig, LimitsConfig};
    use crate::plan::CameraPlan;

    const TERMS: Terms = Terms { max_fps: None, max_size: PictureSize::new(320, 240), max_frame_bytes: 100_000 };

    fn limits() -> PrepareLimits {
        CameraPlan::new(&CameraConfig::new("a", "pattern"), &LimitsConfig::default()).expect("valid").prepare
    }

    /// Grey, with noise and a white bar.
    fn picture(size: PictureSize, bar: u32, noise: u8) -> Picture {
        let mut random = fastrand::Rng::with_seed(u64::from(bar));
        let rgb: Vec<u8> = (0..size.pixels() as u32)
            .flat_map(|at| {
                let is_bar = at % size.width_px / 32 == bar;
                [if is_bar { 255 } else { 60 + random.u8(0..=noise) }; 3]
            })
            .collect();
        let mut jpeg = Vec::new();
        encode_rgb(&rgb, size, 85, &mut jpeg).expect("encodes");
        Picture::Jpeg(Bytes::from(jpeg))
    }

    #[test]
    fn without_motion_one_frame_a_keepalive_is_sent() {
        let motion = Some(MotionPolicy { percent: 1.0, keepalive: Duration::from_secs(2) });
        for size in [PictureSize::new(320, 240), PictureSize::new(640, 480)] {
            let mut preparer = Preparer::new(PrepareLimits { motion, ..limits() }, ConditionCell::default());
            let start = Instant::now();
            for (ms, bar, still) in
                [(0, 1, false), (100, 1, true), (1900, 1, true), (2000, 1, false), (2100, 4, false), (2200, 4, true)]
            {
                let fitted = preparer.prepare(
                    start + Duration::from_millis(ms),
                    picture(size, bar, 4),
                    Some(TERMS),
                    Purpose::default(),
                );
                assert_eq!(fitted.err(), still.then_some(DropReason::Still), "{size} {ms} ms");
            }
        }
    }

    #[test]
    fn a_frozen_picture_is_told_whether_it_is_decoded_or_not() {
        for side in [320, 640] {
            let condition = ConditionCell::default();
            let mut preparer = Preparer::new(limits(), condition.clone());
            let (start, same) = (Instant::now(), picture(PictureSize::new(side, side / 4 * 3), 2, 30));
            for second in 0..=31 {
                assert_eq!(condition.get(), PictureCondition::Good);
                preparer
                    .prepare(start + Duration::from_secs(second), same.clone(), Some(TERMS), Purpose::default())
                    .expect("fits");
            }
            assert_eq!(condition.get(), PictureCondition::Frozen);
            let other = picture(PictureSize::new(side, side / 4 * 3), 5, 30);
            preparer.prepare(start + Duration::from_secs(32), other, Some(TERMS), Purpose::default()).expect("fits");
            assert_eq!(condition.get(), PictureCondition::Good);
        }
    }

    #[test]
    fn the_cap_on_bytes_is_kept() {
        let cap = 20_000;
        let limits = PrepareLimits { bytes_per_s: Some(cap), fps: 10.0, ..limits() };
        let mut preparer = Preparer::new(limits, ConditionCell::default());
        let start = Instant::now();
        let mut sent = Vec::new();
        for frame in 0..50u64 {
            let noisy = picture(PictureSize::new(640, 480), frame as u32 % 9, 190);
            match preparer.prepare(start + Duration::from_millis(frame * 100), noisy, Some(TERMS), Purpose::default()) {
                Ok(prepared) => sent.push(prepared.fitted.jpeg.len() as u64),
                Err(reason) => assert_eq!(reason, DropReason::Paced),
            }
        }
        assert!(sent.iter().sum::<u64>() <= 5 * cap + cap, "{sent:?}");
        assert!(sent.len() >= 5, "{sent:?}");
    }

    #[test]
    fn a_recording_sees_motion_and_gets_still_frames_too() {
        let motion = Some(MotionPolicy { percent: 1.0, keepalive: Duration::from_secs(60) });
        let limits = PrepareLimits { motion, recorded_motion_percent: Some(1.0), ..limits() };
        let mut preparer = Preparer::new(limits, ConditionCell::default());
        let start = Instant::now();
        let recorded = Purpose { is_recorded: true, ..Purpose::default() };
        let only_recorded = Purpose { is_recorded: true, unsent: Some(DropReason::Offline), is_of_outage: true };
        for (ms, bar, purpose, terms, motion, is_still) in [
            (0, 1, recorded, Some(TERMS), Motion::Moving, false),
            (100, 1, recorded, Some(TERMS), Motion::Still, true),
            (200, 4, only_recorded, Some(TERMS), Motion::Moving, false),
            // The recording has seen this one, the server has not.
            (300, 4, recorded, Some(TERMS), Motion::Still, false),
            (400, 4, recorded, Some(TERMS), Motion::Still, true),
        ] {
            let now = start + Duration::from_millis(ms);
            let prepared = preparer.prepare(now, picture(PictureSize::new(640, 480), bar, 4), terms, purpose);
            let prepared = prepared.expect("is recorded");
            assert_eq!((prepared.motion, prepared.is_still), (motion, is_still), "{ms} ms");
        }
    }
}
