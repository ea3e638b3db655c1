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
mod tests;
