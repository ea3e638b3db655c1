//! Pictures in pixels to planes, at full size or as means of 2, 4 or 8 pixels a
//! side: what scaled decoding is for JPEGs. Video's range of luma (16 to 235)
//! becomes that of JPEG (0 to 255).

use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg::planes::{Plane, Planes};
use flatframe_shared::jpeg::scaled::{Colours, Scale};

use crate::frame::{PixelLayout, RawPicture};

/// The picture has fewer bytes than its size asks for, or a side that is odd or
/// smaller than 16 pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misshapen;

/// Where one channel lies in a picture.
#[derive(Debug, Clone, Copy)]
struct Channel {
    /// Of its first value.
    offset: usize,
    /// Bytes from one row to the next.
    stride: usize,
    /// Bytes from one value to the next.
    step: usize,
    size: PictureSize,
}

/// Reads raw pictures; keeps its row of sums.
#[derive(Debug, Default)]
pub struct RawReader {
    sums: Vec<u16>,
}

impl RawReader {
    /// Fills `planes` from `picture` at `scale`. Colours get half of luma's
    /// resolution.
    ///
    /// # Errors
    /// [`Misshapen`].
    pub fn read(
        &mut self,
        picture: &RawPicture,
        scale: Scale,
        colours: Colours,
        planes: &mut Planes,
    ) -> Result<(), Misshapen> {
        let channels = channels(picture)?;
        let side = 8 / scale.block_side();
        for (index, (channel, plane)) in channels.iter().zip(&mut planes.channels).enumerate() {
            if index > 0 && colours == Colours::Dropped {
                plane.fit(PictureSize::new(0, 0));
                continue;
            }
            // YUYV has colours in every row.
            let rows = if index > 0 && picture.layout == PixelLayout::Yuyv { 2 * side } else { side };
            self.means(&picture.bytes, channel, (side, rows), plane);
            let range = if index == 0 { luma_range } else { colour_range };
            let table: [u8; 256] = std::array::from_fn(|value| range(value as i32));
            plane.pixels_mut().iter_mut().for_each(|pixel| *pixel = table[usize::from(*pixel)]);
        }
        Ok(())
    }

    /// Means over so many columns and rows; what is left at the edges is cut.
    fn means(&mut self, bytes: &[u8], channel: &Channel, (columns, rows): (usize, usize), plane: &mut Plane) {
        let Channel { offset, stride, step, size } = *channel;
        let small = PictureSize::new(size.width_px / columns as u32, size.height_px / rows as u32);
        plane.fit(small);
        for y in 0..small.height_px as usize {
            self.sums.clear();
            // At most 8 x 16 values of 255.
            self.sums.resize(small.width_px as usize, 0);
            for row in 0..rows {
                let from = &bytes[offset + (y * rows + row) * stride..];
                for column in 0..columns {
                    let values = from[column * step..].iter().step_by(columns * step);
                    self.sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += u16::from(value));
                }
            }
            let (count, half) = ((columns * rows) as u16, (columns * rows / 2) as u16);
            let pixels = plane.row_mut(y).iter_mut().zip(&self.sums);
            pixels.for_each(|(pixel, sum)| *pixel = ((sum + half) / count) as u8);
        }
    }
}

/// Where the channels lie; all of their bytes are there.
fn channels(picture: &RawPicture) -> Result<[Channel; 3], Misshapen> {
    let (size, stride) = (picture.size, picture.stride);
    let (width, height) = (size.width_px as usize, size.height_px as usize);
    let least_stride = if picture.layout == PixelLayout::Yuyv { 2 * width } else { width };
    // Of 16 pixels an eighth still has colours.
    if width % 2 != 0 || height % 2 != 0 || width < 16 || height < 16 || stride < least_stride || stride > 1 << 20 {
        return Err(Misshapen);
    }
    let half = PictureSize::new(size.width_px / 2, size.height_px / 2);
    let beside = PictureSize::new(size.width_px / 2, size.height_px);
    let channel = |offset, stride, step, size| Channel { offset, stride, step, size };
    let luma_bytes = stride * height;
    let (channels, total) = match picture.layout {
        PixelLayout::Yuyv => {
            let colour = |offset| channel(offset, stride, 4, beside);
            ([channel(0, stride, 2, size), colour(1), colour(3)], luma_bytes)
        }
        PixelLayout::Nv12 => {
            let colour = |offset| channel(luma_bytes + offset, stride, 2, half);
            ([channel(0, stride, 1, size), colour(0), colour(1)], luma_bytes + luma_bytes / 2)
        }
        PixelLayout::I420 => {
            let colour = |number| channel(luma_bytes + number * (luma_bytes / 4), stride / 2, 1, half);
            // Rows of half an odd stride would not be whole.
            if stride % 2 != 0 {
                return Err(Misshapen);
            }
            ([channel(0, stride, 1, size), colour(0), colour(1)], luma_bytes + luma_bytes / 2)
        }
    };
    if picture.bytes.len() < total { Err(Misshapen) } else { Ok(channels) }
}

/// Luma from 16 to 235 as 0 to 255.
fn luma_range(value: i32) -> u8 {
    (((value - 16) * 255 + 109).div_euclid(219)).clamp(0, 255) as u8
}

/// Colours from 16 to 240 around 128, as 1 to 255.
fn colour_range(value: i32) -> u8 {
    (((value - 128) * 255 + 112).div_euclid(224) + 128).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SIZE: PictureSize = PictureSize::new(32, 16);

    /// A picture whose left half is one colour and whose right half another.
    fn halves(layout: PixelLayout, padding: usize, [left, right]: [[u8; 3]; 2]) -> RawPicture {
        let (width, height) = (SIZE.width_px as usize, SIZE.height_px as usize);
        let at = |x: usize, channel: usize| if x < width / 2 { left[channel] } else { right[channel] };
        let bytes_a_row = if layout == PixelLayout::Yuyv { 2 * width } else { width };
        let stride = bytes_a_row + padding;
        let row = |values: Vec<u8>, stride: usize| [values.clone(), vec![99; stride - values.len()]].concat();
        let mut bytes = Vec::new();
        match layout {
            PixelLayout::Yuyv => {
                let line = (0..width / 2).flat_map(|x| [at(2 * x, 0), at(2 * x, 1), at(2 * x + 1, 0), at(2 * x, 2)]);
                bytes.extend(row(line.collect(), stride).repeat(height));
            }
            PixelLayout::Nv12 => {
                bytes.extend(row((0..width).map(|x| at(x, 0)).collect(), stride).repeat(height));
                let line = (0..width / 2).flat_map(|x| [at(2 * x, 1), at(2 * x, 2)]).collect();
                bytes.extend(row(line, stride).repeat(height / 2));
            }
            PixelLayout::I420 => {
                bytes.extend(row((0..width).map(|x| at(x, 0)).collect(), stride).repeat(height));
                for channel in [1, 2] {
                    let line = (0..width / 2).map(|x| at(2 * x, channel)).collect();
                    bytes.extend(row(line, stride / 2).repeat(height / 2));
                }
            }
        }
        RawPicture { layout, size: SIZE, stride, bytes: Bytes::from(bytes) }
    }

    #[test]
    fn every_layout_at_every_scale_gives_the_same_colours() {
        for layout in [PixelLayout::Yuyv, PixelLayout::Nv12, PixelLayout::I420] {
            for padding in [0, 6] {
                let picture = halves(layout, padding, [[16, 128, 240], [235, 16, 128]]);
                for scale in [Scale::Full, Scale::Half, Scale::Quarter, Scale::Eighth] {
                    let mut planes = Planes::default();
                    RawReader::default().read(&picture, scale, Colours::Kept, &mut planes).expect("well shaped");
                    assert_eq!(planes.size(), scale.of(SIZE));
                    for (channel, (left, right)) in [(0, 255), (128, 1), (255, 128)].into_iter().enumerate() {
                        for row in planes.channels[channel].view().rows() {
                            let (a, b) = row.split_at(row.len() / 2);
                            let found = (a.iter().all(|&p| p == left), b.iter().all(|&p| p == right));
                            assert_eq!(found, (true, true), "{layout:?} {scale:?} {channel}: {row:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn misshapen_pictures_are_refused() {
        let good = halves(PixelLayout::Nv12, 0, [[90, 90, 90]; 2]);
        let with = |change: fn(&mut RawPicture)| {
            let mut picture = good.clone();
            change(&mut picture);
            RawReader::default().read(&picture, Scale::Full, Colours::Kept, &mut Planes::default())
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|p| p.bytes.truncate(p.bytes.len() - 1)), Err(Misshapen));
        assert_eq!(with(|p| p.stride = 31), Err(Misshapen));
        assert_eq!(with(|p| p.stride = usize::MAX), Err(Misshapen));
        assert_eq!(with(|p| p.size = PictureSize::new(31, 16)), Err(Misshapen));
        assert_eq!(with(|p| p.size = PictureSize::new(0, 0)), Err(Misshapen));
        assert_eq!(with(|p| p.layout = PixelLayout::Yuyv), Err(Misshapen));
    }
}
