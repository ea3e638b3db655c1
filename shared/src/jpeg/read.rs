//! Any JPEG to planes: by our scaled decoder where it can, else whole, by
//! zune-jpeg, which reads all kinds. Both refuse what is too large before they
//! take memory, and what is damaged.

use super::headers::{self, Headers, Stop};
use super::planes::{Planes, halved};
use super::scaled::{Colours, Scale, ScaledDecoder};
use super::{JpegError, decode_rgb, ends_with_eoi};
use crate::frame::PictureSize;

/// Decodes to planes, in memory that it keeps to reuse the allocation.
#[derive(Default)]
pub struct PlaneReader {
    scaled: ScaledDecoder,
    /// A whole picture in RGB, for what only the other decoder reads.
    whole: Vec<u8>,
    whole_frames: u64,
}

/// Size of the picture that the header names; reads as far as that, and knows
/// all kinds of JPEG.
pub fn frame_size(jpeg: &[u8]) -> Result<PictureSize, JpegError> {
    headers::frame_size(jpeg).map_err(|stop| match stop {
        Stop::Corrupt(why) | Stop::Unsupported(why) => JpegError::Corrupt(why.into()),
    })
}

impl PlaneReader {
    /// Decodes `jpeg` at `scale` to `planes`. A JPEG that is not baseline comes
    /// at full size; colours have half the resolution of luma or more.
    ///
    /// # Errors
    /// As [`super::decode_rgb`].
    pub fn read(
        &mut self,
        jpeg: &[u8],
        limit: PictureSize,
        scale: Scale,
        colours: Colours,
        planes: &mut Planes,
    ) -> Result<Scale, JpegError> {
        match self.read_scaled(jpeg, limit, scale, colours, planes)? {
            Ok(()) => Ok(scale),
            Err(why) => {
                if self.whole_frames == 0 {
                    tracing::debug!(why, "pictures are decoded whole");
                }
                self.whole_frames += 1;
                self.read_whole(jpeg, limit, colours, planes)?;
                Ok(Scale::Full)
            }
        }
    }

    /// Frames so far that were decoded whole whatever the scale.
    pub fn whole_frames(&self) -> u64 {
        self.whole_frames
    }

    /// The inner error says why the picture is not one for this decoder.
    fn read_scaled(
        &mut self,
        jpeg: &[u8],
        limit: PictureSize,
        scale: Scale,
        colours: Colours,
        planes: &mut Planes,
    ) -> Result<Result<(), &'static str>, JpegError> {
        let decoded = Headers::read(jpeg).and_then(|headers| {
            if !headers.size.fits(limit) {
                return Ok(Err(JpegError::TooLarge { size: headers.size, limit }));
            }
            if !ends_with_eoi(jpeg) {
                return Err(Stop::Corrupt("the end marker (FF D9) is missing"));
            }
            self.scaled.decode(&headers, scale, colours, planes).map(Ok)
        });
        match decoded {
            Ok(decoded) => decoded.map(Ok),
            Err(Stop::Unsupported(why)) => Ok(Err(why)),
            Err(Stop::Corrupt(why)) => Err(JpegError::Corrupt(why.into())),
        }
    }

    fn read_whole(
        &mut self,
        jpeg: &[u8],
        limit: PictureSize,
        colours: Colours,
        planes: &mut Planes,
    ) -> Result<(), JpegError> {
        let size = decode_rgb(jpeg, limit, &mut self.whole)?;
        let sizes = match colours {
            Colours::Kept => [size, halved(size), halved(size)],
            Colours::Dropped => [size, PictureSize::new(0, 0), PictureSize::new(0, 0)],
        };
        let width = size.width_px as usize;
        for (channel, (plane, own)) in planes.channels.iter_mut().zip(sizes).enumerate() {
            plane.fit(own);
            let rows_a_row = if channel == 0 { 1 } else { 2 };
            for row in 0..own.height_px as usize {
                let from = &self.whole[3 * width * row * rows_a_row..][..3 * width];
                // Of every second column and row: these are rare pictures.
                let pixels = from.chunks_exact(3).step_by(rows_a_row).map(|rgb| channel_of(rgb, channel));
                plane.row_mut(row).iter_mut().zip(pixels).for_each(|(to, pixel)| *to = pixel);
            }
        }
        Ok(())
    }
}

/// Luma (0), blue (1) or red difference (2) of a pixel: JFIF's, of ITU-R BT.601.
fn channel_of(rgb: &[u8], channel: usize) -> u8 {
    const FACTORS: [[f32; 3]; 3] =
        [[0.299, 0.587, 0.114], [-0.168_736, -0.331_264, 0.5], [0.5, -0.418_688, -0.081_312]];
    let sum: f32 = FACTORS[channel].iter().zip(rgb).map(|(factor, &value)| factor * f32::from(value)).sum();
    (sum + if channel == 0 { 0.5 } else { 128.5 }) as u8
}
