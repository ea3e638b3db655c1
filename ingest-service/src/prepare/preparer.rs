//! What one camera's prepare thread does with a frame, and what it remembers
//! from one to the next: look at it, bring it to size, keep to the cap on
//! bytes. Waits for nothing; the caller brings time.

use std::time::{Duration, Instant};

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg::planes::PlaneView;
use flatframe_shared::outcome::DropReason;

use crate::frame::Picture;
use crate::prepare::byte_cap::ByteCap;
use crate::prepare::downsample::{Downsampler, Fitted, Wanted};
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
    /// Most bytes per second, if there is a cap.
    pub bytes_per_s: Option<u64>,
    /// The rate wanted, frames per second.
    pub fps: f32,
}

impl PrepareLimits {
    /// These limits and the server's, the lower of each.
    fn wanted(&self, terms: Terms) -> Wanted {
        Wanted {
            max_size: PictureSize::new(
                self.sent_size.width_px.min(terms.max_size.width_px),
                self.sent_size.height_px.min(terms.max_size.height_px),
            ),
            max_bytes: self.sent_bytes.min(terms.max_frame_bytes),
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

/// What is known from the looks at earlier frames.
struct Looks {
    motion: Option<MotionPolicy>,
    gate: MotionGate,
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
                state: PictureState::default(),
                last: None,
                condition,
            },
            limits,
        }
    }

    /// Brings `picture` to what the server takes.
    ///
    /// # Errors
    /// Why it is not sent.
    pub fn prepare(&mut self, now: Instant, picture: Picture, terms: Terms) -> Result<Fitted, DropReason> {
        let mut wanted = self.limits.wanted(terms);
        let mut first_step = 0;
        let limit_bytes = wanted.max_bytes;
        if let Some(cap) = &mut self.cap {
            let allowed = cap.allow(now);
            (wanted.max_bytes, first_step) = (limit_bytes.min(allowed.bytes), allowed.step);
        }
        let looks = &mut self.looks;
        let fitted = if looks.due(now) {
            let mut watcher = |luma: PlaneView<'_>| looks.passes(now, &Look::of(luma));
            self.downsampler.fit_picture(picture, &wanted, first_step, Some(&mut watcher))
        } else {
            self.downsampler.fit_picture(picture, &wanted, first_step, None)
        };
        match (&fitted, &mut self.cap) {
            (Ok(fitted), Some(cap)) => cap.made(now, fitted.jpeg.len(), fitted.step),
            // It would fit at another time: that is pacing.
            (Err(DropReason::TooLarge), Some(_)) if wanted.max_bytes < limit_bytes => return Err(DropReason::Paced),
            _ => {}
        }
        fitted
    }
}

impl Looks {
    fn due(&self, now: Instant) -> bool {
        let is_old = |last: Instant| now.saturating_duration_since(last) >= LOOK_PERIOD;
        self.motion.is_some() || self.last.is_none_or(is_old)
    }

    /// Whether the frame is wanted; remembers what it looks like.
    fn passes(&mut self, now: Instant, look: &Look) -> bool {
        self.last = Some(now);
        let (before, condition) = (self.condition.get(), self.state.frame(now, look));
        if before != condition {
            self.condition.set(condition);
            match condition {
                PictureCondition::Good => tracing::info!(before = before.as_str(), "the picture is good again"),
                _ => tracing::warn!(condition = condition.as_str(), "something is wrong with the picture"),
            }
        }
        self.motion.is_none_or(|policy| self.gate.passes(now, look, policy))
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
                let fitted = preparer.prepare(start + Duration::from_millis(ms), picture(size, bar, 4), TERMS);
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
                preparer.prepare(start + Duration::from_secs(second), same.clone(), TERMS).expect("fits");
            }
            assert_eq!(condition.get(), PictureCondition::Frozen);
            let other = picture(PictureSize::new(side, side / 4 * 3), 5, 30);
            preparer.prepare(start + Duration::from_secs(32), other, TERMS).expect("fits");
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
            match preparer.prepare(start + Duration::from_millis(frame * 100), noisy, TERMS) {
                Ok(fitted) => sent.push(fitted.jpeg.len() as u64),
                Err(reason) => assert_eq!(reason, DropReason::Paced),
            }
        }
        assert!(sent.iter().sum::<u64>() <= 5 * cap + cap, "{sent:?}");
        assert!(sent.len() >= 5, "{sent:?}");
    }
}
