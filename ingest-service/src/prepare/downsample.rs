//! Brings a JPEG to the size and the number of bytes that the server takes:
//! untouched when it fits, else decoded, resized and encoded in memory that is
//! kept to reuse the allocation. Dimensions are checked before memory is
//! taken. Does not wait and does not know who asks.

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg::{self, JpegError};
use flatframe_shared::outcome::DropReason;
use flatframe_shared::resize::RgbResizer;

/// What is tried, in this order, to get below the byte limit: a share of the
/// quality, a share of the sides.
const ATTEMPTS: [(f32, f64); 6] = [(1.0, 1.0), (0.75, 1.0), (0.5, 1.0), (0.5, 0.7), (0.5, 0.5), (0.5, 0.35)];
/// Below this a JPEG's blocks hide the faces.
const MIN_QUALITY: u8 = 20;

/// Bytes of scratch for each pixel of the largest source picture: RGB (3), the
/// coefficients of a progressive JPEG (3 channels x 2), the half-resized
/// picture (3), the resized one (3) and its JPEG (3).
pub const SCRATCH_BYTES_PER_PIXEL: u64 = 18;

/// What a picture must be brought to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Largest size sent.
    pub max_size: PictureSize,
    /// Largest JPEG sent, in bytes.
    pub max_bytes: usize,
    /// JPEG quality when it must be encoded anew, 1 to 100.
    pub quality: u8,
}

/// A picture that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// The JPEG.
    pub jpeg: Bytes,
    /// Its size.
    pub size: PictureSize,
}

/// The scratch of one camera.
pub struct Downsampler {
    /// Largest picture decoded.
    source_limit: PictureSize,
    resizer: RgbResizer,
    rgb: Vec<u8>,
    scaled: Vec<u8>,
    encoded: Vec<u8>,
}

impl Downsampler {
    /// Scratch for pictures of at most `source_limit`; taken when first needed.
    pub fn new(source_limit: PictureSize) -> Self {
        Self { source_limit, resizer: RgbResizer::default(), rgb: Vec::new(), scaled: Vec::new(), encoded: Vec::new() }
    }

    /// Brings `jpeg` to what is `wanted`.
    ///
    /// # Errors
    /// [`DropReason::Corrupt`] when it cannot be decoded,
    /// [`DropReason::TooLarge`] when it is above the source limit or no attempt
    /// gets it below the byte limit.
    pub fn fit(&mut self, jpeg: Bytes, wanted: &Wanted) -> Result<Fitted, DropReason> {
        let size = jpeg::read_size(&jpeg).map_err(|error| reason(&error))?;
        if !size.fits(self.source_limit) {
            return Err(DropReason::TooLarge);
        }
        if size.fits(wanted.max_size) && jpeg.len() <= wanted.max_bytes {
            return Ok(Fitted { jpeg, size });
        }
        jpeg::decode_rgb(&jpeg, self.source_limit, &mut self.rgb).map_err(|error| reason(&error))?;
        drop(jpeg);
        let largest = size.fitted(wanted.max_size);
        for (quality_share, side_share) in ATTEMPTS {
            let quality = ((f32::from(wanted.quality) * quality_share) as u8).max(MIN_QUALITY.min(wanted.quality));
            let target = shrunk(largest, side_share);
            self.encode(size, target, quality)?;
            if self.encoded.len() <= wanted.max_bytes {
                return Ok(Fitted { jpeg: Bytes::copy_from_slice(&self.encoded), size: target });
            }
        }
        Err(DropReason::TooLarge)
    }

    fn encode(&mut self, size: PictureSize, target: PictureSize, quality: u8) -> Result<(), DropReason> {
        let rgb = if target == size {
            &self.rgb
        } else {
            self.scaled.resize(3 * target.width_px as usize * target.height_px as usize, 0);
            self.resizer.resize(&self.rgb, size, &mut self.scaled, target);
            &self.scaled
        };
        jpeg::encode_rgb(rgb, target, quality, &mut self.encoded).map_err(|error| reason(&error))
    }
}

fn shrunk(size: PictureSize, share: f64) -> PictureSize {
    let side = |px: u32| ((f64::from(px) * share) as u32).max(1);
    PictureSize::new(side(size.width_px), side(size.height_px))
}

fn reason(error: &JpegError) -> DropReason {
    match error {
        JpegError::Corrupt(_) => DropReason::Corrupt,
        JpegError::TooLarge { .. } | JpegError::Unwritable(_) => DropReason::TooLarge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: PictureSize = PictureSize::new(800, 600);
    const WANTED: Wanted = Wanted { max_size: PictureSize::new(160, 120), max_bytes: 64 * 1024, quality: 80 };

    fn picture(size: PictureSize, noise: bool) -> Bytes {
        let mut random = fastrand::Rng::with_seed(1);
        let rgb: Vec<u8> = (0..size.pixels() * 3)
            .map(|i| if noise { random.u8(..) } else { (i / 3 % u64::from(size.width_px)) as u8 })
            .collect();
        let mut jpeg = Vec::new();
        jpeg::encode_rgb(&rgb, size, 90, &mut jpeg).expect("encode");
        jpeg.into()
    }

    #[test]
    fn a_picture_that_fits_is_untouched() {
        let jpeg = picture(PictureSize::new(160, 120), false);
        let before = jpeg.as_ptr();
        let fitted = Downsampler::new(LIMIT).fit(jpeg.clone(), &WANTED).expect("fits");
        assert_eq!((fitted.jpeg.as_ptr(), fitted.jpeg), (before, jpeg));
    }

    #[test]
    fn a_large_picture_is_brought_to_size() {
        let mut downsampler = Downsampler::new(LIMIT);
        for (from, to) in [((640, 480), (160, 120)), ((640, 360), (160, 90)), ((100, 400), (30, 120))] {
            let jpeg = picture(PictureSize::new(from.0, from.1), false);
            let fitted = downsampler.fit(jpeg, &WANTED).expect("decodes");
            assert_eq!(fitted.size, PictureSize::new(to.0, to.1));
            assert_eq!(jpeg::read_size(&fitted.jpeg), Ok(fitted.size), "the JPEG has the size it is said to have");
        }
    }

    #[test]
    fn the_byte_limit_is_kept_by_quality_then_size() {
        let mut downsampler = Downsampler::new(LIMIT);
        let noise = picture(PictureSize::new(160, 120), true);
        let mut sizes = Vec::new();
        for max_bytes in [12_000, 6_000, 3_000] {
            let fitted = downsampler.fit(noise.clone(), &Wanted { max_bytes, ..WANTED }).expect("fits");
            assert!(fitted.jpeg.len() <= max_bytes);
            sizes.push(fitted.size.pixels());
        }
        assert_eq!(sizes[0], 160 * 120, "quality first");
        assert!(sizes[2] < sizes[0], "then size: {sizes:?}");
        assert_eq!(downsampler.fit(noise, &Wanted { max_bytes: 100, ..WANTED }), Err(DropReason::TooLarge));
    }

    #[test]
    fn broken_and_huge_pictures_are_refused_and_the_next_is_served() {
        let mut downsampler = Downsampler::new(LIMIT);
        let good = picture(PictureSize::new(640, 480), false);
        let cut = good.slice(..good.len() / 2);
        let mut bomb = picture(PictureSize::new(32, 32), false).to_vec();
        let header = bomb.windows(2).position(|w| w == [0xFF, 0xC0]).expect("SOF0");
        bomb[header + 5..header + 9].copy_from_slice(&[0xFF; 4]);
        for (bad, why) in [
            (Bytes::new(), DropReason::Corrupt),
            (Bytes::from_static(b"not a picture"), DropReason::Corrupt),
            (cut, DropReason::Corrupt),
            (bomb.into(), DropReason::TooLarge),
            (picture(PictureSize::new(801, 10), false), DropReason::TooLarge),
        ] {
            assert_eq!(downsampler.fit(bad, &WANTED), Err(why));
            assert!(downsampler.fit(good.clone(), &WANTED).is_ok());
        }
    }

    #[test]
    fn scratch_is_kept() {
        let mut downsampler = Downsampler::new(LIMIT);
        let jpeg = picture(PictureSize::new(640, 480), false);
        downsampler.fit(jpeg.clone(), &WANTED).expect("fits");
        let held = |d: &Downsampler| [d.rgb.as_ptr(), d.scaled.as_ptr(), d.encoded.as_ptr()];
        let before = held(&downsampler);
        for _ in 0..5 {
            downsampler.fit(jpeg.clone(), &WANTED).expect("fits");
        }
        assert_eq!(held(&downsampler), before);
    }
}
