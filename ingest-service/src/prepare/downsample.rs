//! Brings a picture to the size and the number of bytes that the server takes:
//! untouched when it fits and all of it may be seen, else decoded to planes
//! (scaled, where that is enough), cut, masked, resized and encoded in memory
//! that is kept to reuse the allocation. Dimensions are checked before memory
//! is taken. Does not wait and does not know who asks.

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg::JpegError;
use flatframe_shared::jpeg::planes::{Plane, PlaneView, Planes, Rect, halved};
use flatframe_shared::jpeg::read::{PlaneReader, frame_size};
use flatframe_shared::jpeg::scaled::{Colours, Scale};
use flatframe_shared::jpeg::write::PlaneWriter;
use flatframe_shared::outcome::DropReason;
use flatframe_shared::resize::PlaneResizer;

use crate::frame::Picture;
use crate::prepare::raw::RawReader;
use crate::prepare::view::View;

/// What is tried, in this order, to get below the byte limit: a share of the
/// quality, a share of the sides.
const STEPS: [(f32, f64); 6] = [(1.0, 1.0), (0.75, 1.0), (0.5, 1.0), (0.5, 0.7), (0.5, 0.5), (0.5, 0.35)];
/// Below this a JPEG's blocks hide the faces.
const MIN_QUALITY: u8 = 20;

/// Bytes of scratch for each pixel of the largest source picture: its planes at
/// full size (2, with colours in every row), the resized ones (1.5), one that is
/// half resized (1), the JPEG (3); and for a JPEG that is not baseline the whole
/// picture in RGB (3) and its coefficients (3 channels x 2). What a camera needs
/// whose pictures are made smaller is far less.
pub const SCRATCH_BYTES_PER_PIXEL: u64 = 17;

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
    /// Which step below the wanted quality and size it took; 0: none.
    pub step: usize,
}

/// Says whether a picture is wanted, by its luma at any scale: cut and masked as
/// it would be sent.
pub type Watcher<'a> = &'a mut dyn FnMut(PlaneView<'_>) -> bool;

/// The scratch of one camera.
pub struct Downsampler {
    /// Largest picture decoded.
    source_limit: PictureSize,
    view: View,
    reader: PlaneReader,
    raw: RawReader,
    planes: Planes,
    resizer: PlaneResizer,
    sized: [Plane; 3],
    writer: PlaneWriter,
    encoded: Vec<u8>,
}

impl Downsampler {
    /// Scratch for pictures of at most `source_limit`, all of which may be
    /// seen; taken when first needed.
    pub fn new(source_limit: PictureSize) -> Self {
        Self::with_view(source_limit, View::default())
    }

    /// As [`Self::new`], of which only `view` may be seen.
    pub fn with_view(source_limit: PictureSize, view: View) -> Self {
        Self {
            source_limit,
            view,
            reader: PlaneReader::default(),
            raw: RawReader::default(),
            planes: Planes::default(),
            resizer: PlaneResizer::default(),
            sized: Default::default(),
            writer: PlaneWriter::default(),
            encoded: Vec::new(),
        }
    }

    /// Brings `jpeg` to what is `wanted`.
    ///
    /// # Errors
    /// As [`Self::fit_picture`].
    pub fn fit(&mut self, jpeg: Bytes, wanted: &Wanted) -> Result<Fitted, DropReason> {
        self.fit_picture(Picture::Jpeg(jpeg), wanted, 0, None)
    }

    /// Brings `picture` to what is `wanted`, beginning with `first_step` where it
    /// is encoded, unless `watcher` does not want it.
    ///
    /// # Errors
    /// [`DropReason::Corrupt`] when it cannot be decoded, [`DropReason::Still`]
    /// when the watcher does not want it, [`DropReason::TooLarge`] when it is
    /// above the source limit or no step gets it below the byte limit.
    pub fn fit_picture(
        &mut self,
        picture: Picture,
        wanted: &Wanted,
        first_step: usize,
        watcher: Option<Watcher<'_>>,
    ) -> Result<Fitted, DropReason> {
        let size = match &picture {
            Picture::Jpeg(jpeg) => frame_size(jpeg).map_err(|error| reason(&error))?,
            Picture::Raw(raw) => raw.size,
        };
        if !size.fits(self.source_limit) {
            return Err(DropReason::TooLarge);
        }
        if let Picture::Jpeg(jpeg) = &picture
            && size.fits(wanted.max_size)
            && jpeg.len() <= wanted.max_bytes
            && self.view.is_all()
        {
            if let Some(watcher) = watcher {
                self.load(&picture, Scale::Eighth, Colours::Dropped)?;
                watch(watcher, self.planes.channels[0].view())?;
            }
            return Ok(Fitted { jpeg: jpeg.clone(), size, step: 0 });
        }
        let seen = self.view.size_in(size);
        let largest = seen.fitted(wanted.max_size);
        let scale = self.load(&picture, Scale::towards(seen, largest), Colours::Kept)?;
        drop(picture);
        self.view.mask(&mut self.planes, scale);
        if let Some(watcher) = watcher {
            let luma = self.planes.channels[0].view();
            watch(watcher, luma.part(self.view.region_in(luma.size, 2)))?;
        }
        let first_step = first_step.min(STEPS.len() - 1);
        for (step, (quality_share, side_share)) in STEPS.into_iter().enumerate().skip(first_step) {
            let quality = ((f32::from(wanted.quality) * quality_share) as u8).max(MIN_QUALITY.min(wanted.quality));
            let target = shrunk(largest, side_share);
            self.encode(target, quality)?;
            if self.encoded.len() <= wanted.max_bytes {
                return Ok(Fitted { jpeg: Bytes::copy_from_slice(&self.encoded), size: target, step });
            }
        }
        Err(DropReason::TooLarge)
    }

    /// Decodes to the planes, at `scale` where the picture's kind allows it;
    /// returns the scale they have.
    fn load(&mut self, picture: &Picture, scale: Scale, colours: Colours) -> Result<Scale, DropReason> {
        match picture {
            Picture::Jpeg(jpeg) => self
                .reader
                .read(jpeg, self.source_limit, scale, colours, &mut self.planes)
                .map_err(|error| reason(&error)),
            Picture::Raw(raw) => {
                let read = self.raw.read(raw, scale, colours, &mut self.planes);
                read.map(|()| scale).map_err(|_| DropReason::Corrupt)
            }
        }
    }

    /// Encodes what may be seen of the planes.
    fn encode(&mut self, target: PictureSize, quality: u8) -> Result<(), DropReason> {
        let sizes = [target, halved(target), halved(target)];
        let luma_rect = self.view.region_in(self.planes.size(), 2);
        let mut rects = [luma_rect; 3];
        for (channel, rect) in rects.iter_mut().enumerate().skip(1) {
            *rect = self.view.region_in(self.planes.channels[channel].size(), 1);
        }
        let channels = if self.planes.is_grey() { 1 } else { 3 };
        for channel in 0..channels {
            let (plane, rect) = (&self.planes.channels[channel], rects[channel]);
            if rect.size != sizes[channel] {
                self.resizer.resize(plane, rect, &mut self.sized[channel], sizes[channel]);
            }
        }
        let views: [PlaneView<'_>; 3] = std::array::from_fn(|channel| {
            let rect: Rect = rects[channel];
            if channel >= channels || rect.size != sizes[channel] {
                self.sized[channel].view()
            } else {
                self.planes.channels[channel].view().part(rect)
            }
        });
        let [luma, blue, red] = views;
        let written = self.writer.write(luma, (channels == 3).then_some([blue, red]), quality, &mut self.encoded);
        written.map_err(|error| reason(&error))
    }
}

fn watch(watcher: Watcher<'_>, luma: PlaneView<'_>) -> Result<(), DropReason> {
    if watcher(luma) { Ok(()) } else { Err(DropReason::Still) }
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
    use flatframe_shared::jpeg;

    use super::*;
    use crate::frame::{PixelLayout, RawPicture};

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
        let held = |d: &Downsampler| {
            [d.planes.channels[0].view().pixels.as_ptr(), d.sized[0].view().pixels.as_ptr(), d.encoded.as_ptr()]
        };
        let before = held(&downsampler);
        for _ in 0..5 {
            downsampler.fit(jpeg.clone(), &WANTED).expect("fits");
        }
        assert_eq!(held(&downsampler), before);
    }

    #[test]
    fn raw_pictures_become_jpegs() {
        let size = PictureSize::new(640, 480);
        let bytes = Bytes::from(vec![128; 640 * 480 * 3 / 2]);
        let raw = RawPicture { layout: PixelLayout::Nv12, size, stride: 640, bytes };
        let mut downsampler = Downsampler::new(LIMIT);
        for max_size in [PictureSize::new(160, 120), PictureSize::new(500, 500), size] {
            let wanted = Wanted { max_size, ..WANTED };
            let fitted = downsampler.fit_picture(Picture::Raw(raw.clone()), &wanted, 0, None).expect("fits");
            let mut rgb = Vec::new();
            assert_eq!(fitted.size, size.fitted(max_size));
            assert_eq!(jpeg::decode_rgb(&fitted.jpeg, LIMIT, &mut rgb), Ok(fitted.size));
            // (128 - 16) x 255 / 219.
            assert!(rgb.iter().all(|&value| value.abs_diff(130) <= 2), "{:?}", &rgb[..3]);
        }
        let cut = RawPicture { bytes: raw.bytes.slice(1..), ..raw };
        let result = downsampler.fit_picture(Picture::Raw(cut), &WANTED, 0, None);
        assert_eq!(result, Err(DropReason::Corrupt));
    }

    /// A white picture with a black square in its middle, cut to the square.
    #[test]
    fn a_region_is_cut_before_anything_else() {
        let size = PictureSize::new(640, 480);
        let inside = |x: u32, y: u32| (160..480).contains(&x) && (120..360).contains(&y);
        let rgb: Vec<u8> =
            (0..480).flat_map(|y| (0..640).flat_map(move |x| [if inside(x, y) { 0 } else { 255 }; 3])).collect();
        let mut encoded = Vec::new();
        jpeg::encode_rgb(&rgb, size, 90, &mut encoded).expect("encode");
        let view = View::new([0.25, 0.25, 0.5, 0.5], Vec::new());
        for max in [640, 320, 160, 100] {
            let wanted = Wanted { max_size: PictureSize::new(max, max), ..WANTED };
            let mut downsampler = Downsampler::with_view(LIMIT, view.clone());
            let fitted = downsampler.fit(encoded.clone().into(), &wanted).expect("fits");
            assert_eq!(fitted.size, PictureSize::new(320, 240).fitted(wanted.max_size));
            let mut rgb = Vec::new();
            jpeg::decode_rgb(&fitted.jpeg, LIMIT, &mut rgb).expect("decodes");
            let dark = rgb.iter().filter(|&&value| value < 40).count();
            assert!(dark as f32 > 0.97 * rgb.len() as f32, "{max}: {dark} of {}", rgb.len());
        }
    }

    /// Of a picture that is white only under its mask, no light may be sent.
    #[test]
    fn nothing_shows_through_a_mask() {
        let size = PictureSize::new(640, 480);
        let under = |x: u32, y: u32| (201..330).contains(&x) && (99..203).contains(&y);
        let rgb: Vec<u8> =
            (0..480).flat_map(|y| (0..640).flat_map(move |x| [if under(x, y) { 255 } else { 16 }; 3])).collect();
        let mut encoded = Vec::new();
        jpeg::encode_rgb(&rgb, size, 100, &mut encoded).expect("encode");
        let mask = [201.0 / 640.0, 99.0 / 480.0, 129.0 / 640.0, 104.0 / 480.0];
        for region in [crate::prepare::view::WHOLE, [0.2, 0.1, 0.5, 0.7]] {
            for max in [640, 500, 320, 160, 100, 60] {
                let wanted = Wanted { max_size: PictureSize::new(max, max), ..WANTED };
                let mut downsampler = Downsampler::with_view(LIMIT, View::new(region, vec![mask]));
                let fitted = downsampler.fit(encoded.clone().into(), &wanted).expect("fits");
                let mut rgb = Vec::new();
                jpeg::decode_rgb(&fitted.jpeg, LIMIT, &mut rgb).expect("decodes");
                let brightest = rgb.iter().max();
                assert!(brightest < Some(&48), "{region:?} {max}: {brightest:?}");
            }
        }
    }

    #[test]
    fn the_watcher_sees_every_picture_and_may_refuse_it() {
        let mut downsampler = Downsampler::new(LIMIT);
        for side in [160, 640] {
            let jpeg = picture(PictureSize::new(side, side * 3 / 4), false);
            for wants in [true, false] {
                let mut seen = None;
                let mut watcher = |luma: PlaneView<'_>| {
                    seen = Some(luma.size);
                    wants
                };
                let fitted = downsampler.fit_picture(Picture::Jpeg(jpeg.clone()), &WANTED, 0, Some(&mut watcher));
                assert_eq!(fitted.map(|fitted| fitted.size).ok(), wants.then_some(WANTED.max_size));
                assert_eq!(seen, Some(if side == 160 { PictureSize::new(20, 15) } else { WANTED.max_size }));
            }
        }
    }

    #[test]
    fn a_later_step_is_smaller_from_the_start() {
        let mut downsampler = Downsampler::new(LIMIT);
        let jpeg = picture(PictureSize::new(640, 480), true);
        let mut fit = |step| {
            let fitted = downsampler.fit_picture(Picture::Jpeg(jpeg.clone()), &WANTED, step, None).expect("fits");
            (fitted.step, fitted.jpeg.len())
        };
        let bytes: Vec<usize> = (0..STEPS.len())
            .map(|step| {
                let (took, bytes) = fit(step);
                assert_eq!(took, step);
                bytes
            })
            .collect();
        assert!(bytes.windows(2).all(|pair| pair[1] < pair[0]), "{bytes:?}");
        assert_eq!(fit(99).0, STEPS.len() - 1);
    }
}
