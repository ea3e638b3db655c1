//! Which of a device's formats, sizes and rates is taken. Pure: asks no device.

use std::fmt;

use flatframe_shared::frame::PictureSize;

use crate::frame::PixelLayout;

/// A rate this much below the wanted one still counts as reaching it: cameras
/// say 29.97 and mean 30.
const RATE_TOLERANCE: f64 = 0.9;

/// A pixel format's code of four letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FourCc(pub u32);

/// How pictures of a format are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// One JPEG in each buffer.
    Jpeg,
    /// Pixels.
    Raw(PixelLayout),
}

/// Sizes of one format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// These. None at all: the device does not say.
    Exact(Vec<PictureSize>),
    /// All between two, in steps of columns and rows.
    Range {
        /// The smallest.
        from: PictureSize,
        /// The largest.
        to: PictureSize,
        /// Columns and rows from one size to the next.
        step: (u32, u32),
    },
}

/// Times per picture, each a fraction of seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intervals {
    /// These. None at all: the device does not say.
    Exact(Vec<(u32, u32)>),
    /// All between two.
    Range {
        /// At the highest rate.
        shortest: (u32, u32),
        /// At the lowest rate.
        longest: (u32, u32),
    },
}

impl FourCc {
    const fn new(letters: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(letters))
    }

    /// How it is read; `None` for formats that are not.
    pub fn coding(self) -> Option<Coding> {
        const FORMATS: [(FourCc, Coding); 5] = [
            (FourCc::new(*b"MJPG"), Coding::Jpeg),
            (FourCc::new(*b"JPEG"), Coding::Jpeg),
            (FourCc::new(*b"NV12"), Coding::Raw(PixelLayout::Nv12)),
            (FourCc::new(*b"YU12"), Coding::Raw(PixelLayout::I420)),
            (FourCc::new(*b"YUYV"), Coding::Raw(PixelLayout::Yuyv)),
        ];
        FORMATS.into_iter().find(|(format, _)| *format == self).map(|(_, coding)| coding)
    }
}

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_le_bytes() {
            write!(f, "{}", if letter.is_ascii_graphic() { letter as char } else { '.' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The format and size to ask for: MJPEG before pixels, which cost decoding
/// nothing but memory and USB much; then the smallest size that covers `asked`,
/// else the largest. Nothing beyond `limit`.
///
/// # Errors
/// What the device offers in place of it.
pub fn choose_size(
    offers: &[(FourCc, Sizes)],
    asked: PictureSize,
    limit: PictureSize,
) -> Result<(FourCc, PictureSize), String> {
    let readable = offers.iter().filter_map(|(format, sizes)| Some((*format, format.coding()?, sizes)));
    let best = readable
        .clone()
        .flat_map(|(format, coding, sizes)| {
            candidates(sizes, asked, limit).into_iter().map(move |size| (format, coding, size))
        })
        .filter(|(_, coding, size)| {
            let even = size.width_px % 2 == 0 && size.height_px % 2 == 0;
            size.fits(limit) && size.pixels() > 0 && (*coding == Coding::Jpeg || even)
        })
        .min_by_key(|(_, coding, size)| {
            let covers = asked.fits(*size);
            let pixels = if covers { size.pixels() } else { u64::MAX - size.pixels() };
            (!covers, rank(*coding), pixels)
        });
    match best {
        Some((format, _, size)) => Ok((format, size)),
        None if readable.clone().next().is_none() => {
            let formats: Vec<String> = offers.iter().map(|(format, _)| format.to_string()).collect();
            Err(format!(
                "it gives {}, not MJPG, NV12, YU12 or YUYV; is it a Raspberry Pi camera (source = \"rpicam\")?",
                if formats.is_empty() { "no format".to_owned() } else { formats.join(", ") }
            ))
        }
        None => Err(format!(
            "all its sizes are above {}x{}: raise limits.max_source_width_px and limits.max_source_height_px",
            limit.width_px, limit.height_px
        )),
    }
}

/// Fewer bytes first.
fn rank(coding: Coding) -> u8 {
    match coding {
        Coding::Jpeg => 0,
        Coding::Raw(PixelLayout::Nv12 | PixelLayout::I420) => 1,
        Coding::Raw(PixelLayout::Yuyv) => 2,
    }
}

fn candidates(sizes: &Sizes, asked: PictureSize, limit: PictureSize) -> Vec<PictureSize> {
    match sizes {
        Sizes::Exact(exact) if exact.is_empty() => vec![asked],
        Sizes::Exact(exact) => exact.clone(),
        Sizes::Range { from, to, step } => {
            let side = |asked: u32, from: u32, to: u32, step: u32| {
                let step = step.max(1);
                let to = from.max(to);
                let steps = |px: u32| (px - from) / step;
                from + step * (asked.clamp(from, to) - from).div_ceil(step).min(steps(to))
            };
            vec![PictureSize::new(
                side(asked.width_px, from.width_px, to.width_px.min(limit.width_px), step.0),
                side(asked.height_px, from.height_px, to.height_px.min(limit.height_px), step.1),
            )]
        }
    }
}

/// The time per picture to ask for: the longest that still gives `fps`, else
/// the shortest.
pub fn choose_interval(intervals: &Intervals, fps: f32) -> (u32, u32) {
    let wanted = (1000, ((f64::from(fps) * 1000.0) as u32).max(1));
    match intervals {
        Intervals::Range { shortest, longest } => {
            let (wanted_rate, least, most) = (rate(wanted), rate(*longest), rate(*shortest));
            if wanted_rate > most {
                *shortest
            } else if wanted_rate < least {
                *longest
            } else {
                wanted
            }
        }
        Intervals::Exact(exact) => {
            let reaching = exact.iter().filter(|one| rate(**one) >= RATE_TOLERANCE * f64::from(fps));
            let slowest = reaching.min_by(|a, b| rate(**a).total_cmp(&rate(**b)));
            let fastest = || exact.iter().max_by(|a, b| rate(**a).total_cmp(&rate(**b)));
            slowest.or_else(fastest).copied().unwrap_or(wanted)
        }
    }
}

/// Pictures per second of a time per picture; 0 when it is no fraction.
pub fn rate((numerator, denominator): (u32, u32)) -> f64 {
    if numerator == 0 { 0.0 } else { f64::from(denominator) / f64::from(numerator) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: PictureSize = PictureSize::new(1920, 1080);

    fn exact(format: &[u8; 4], sizes: &[(u32, u32)]) -> (FourCc, Sizes) {
        (FourCc::new(*format), Sizes::Exact(sizes.iter().map(|(w, h)| PictureSize::new(*w, *h)).collect()))
    }

    #[test]
    fn format_and_size() {
        let webcam = [
            exact(b"YUYV", &[(640, 480), (320, 240), (1280, 720)]),
            exact(b"MJPG", &[(1920, 1080), (640, 480), (1280, 720), (800, 600)]),
        ];
        let raw = [exact(b"YUYV", &[(640, 480), (1280, 720)]), exact(b"NV12", &[(640, 480)])];
        let steps = |format, step| {
            let (from, to) = (PictureSize::new(48, 32), PictureSize::new(4096, 2160));
            [(FourCc::new(format), Sizes::Range { from, to, step })]
        };
        for (offers, asked, expected) in [
            (&webcam[..], (640, 480), "MJPG 640x480"),
            (&webcam, (641, 480), "MJPG 800x600"),
            (&webcam, (320, 240), "MJPG 640x480"),
            (&webcam, (1920, 1080), "MJPG 1920x1080"),
            // Nothing is large enough: the largest.
            (&webcam[..1], (1920, 1080), "YUYV 1280x720"),
            (&raw, (640, 480), "NV12 640x480"),
            (&raw, (800, 600), "YUYV 1280x720"),
            (&[exact(b"BA81", &[(640, 480)]), exact(b"YU12", &[(640, 480)])], (1, 1), "YU12 640x480"),
            // Sizes above the limit are not there.
            (&[exact(b"MJPG", &[(4000, 3000), (160, 120)])], (640, 480), "MJPG 160x120"),
            (&steps(*b"YUYV", (2, 2)), (641, 479), "YUYV 642x480"),
            (&steps(*b"MJPG", (16, 16)), (4000, 10), "MJPG 1920x32"),
            (&steps(*b"MJPG", (0, 0)), (99, 99), "MJPG 99x99"),
            // A device that does not say.
            (&[exact(b"MJPG", &[])], (640, 480), "MJPG 640x480"),
        ] {
            let (format, size) =
                choose_size(offers, PictureSize::new(asked.0, asked.1), LIMIT).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(format!("{format} {}x{}", size.width_px, size.height_px), expected, "{asked:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (offers, words) in [
            (vec![], "no format"),
            (vec![exact(b"pRAA", &[(640, 480)]), exact(b"H264", &[(640, 480)])], "pRAA, H264, not MJPG"),
            (vec![exact(b"MJPG", &[(4000, 3000)])], "limits.max_source_width_px"),
            (vec![exact(b"YUYV", &[(641, 481)])], "limits."),
        ] {
            let error = choose_size(&offers, PictureSize::new(640, 480), LIMIT).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn intervals_reach_the_wanted_rate_where_they_can() {
        let webcam = Intervals::Exact(vec![(1, 30), (1, 24), (1, 15), (2, 15), (1, 5)]);
        let ntsc = Intervals::Exact(vec![(1001, 60_000), (1001, 30_000)]);
        let range = Intervals::Range { shortest: (1, 50), longest: (1, 5) };
        for (intervals, fps, expected) in [
            (&webcam, 30.0, (1, 30)),
            (&webcam, 60.0, (1, 30)),
            // Not 7.5, though it is nearer.
            (&webcam, 10.0, (1, 15)),
            (&webcam, 1.0, (1, 5)),
            (&ntsc, 30.0, (1001, 30_000)),
            (&range, 10.0, (1000, 10_000)),
            (&range, 100.0, (1, 50)),
            (&range, 0.5, (1, 5)),
            (&Intervals::Exact(vec![]), 12.5, (1000, 12_500)),
            (&Intervals::Exact(vec![(0, 0)]), 10.0, (0, 0)),
        ] {
            assert_eq!(choose_interval(intervals, fps), expected, "{intervals:?} at {fps}");
        }
    }
}
