//! Decodes baseline JPEGs to planes at full size, a half, a quarter or an
//! eighth of it, without computing what the smaller picture does not show. The
//! codes of coefficients that it does not need are stepped over, several at
//! once. Other kinds of JPEG are told apart, not read; memory is taken only for
//! sizes that were checked.

use super::bits::BitReader;
use super::headers::{Component, Headers, Stop};
use super::huffman::{END_OF_BLOCK, HuffmanTable, TOO_LONG};
use super::idct;
use super::planes::{Plane, Planes};
use crate::frame::PictureSize;

/// A size at which a picture can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As it is.
    Full,
    /// Half as wide and high.
    Half,
    /// A quarter.
    Quarter,
    /// An eighth: the means of blocks.
    Eighth,
}

impl Scale {
    /// All of them, smallest pictures first.
    const ALL: [Self; 4] = [Self::Eighth, Self::Quarter, Self::Half, Self::Full];

    /// The one that gives the smallest picture which is not smaller than
    /// `target` from a picture of `size`.
    pub fn towards(size: PictureSize, target: PictureSize) -> Self {
        let covers = |scale: &Self| target.fits(scale.of(size));
        Self::ALL.into_iter().find(covers).unwrap_or(Self::Full)
    }

    /// Pixels a side that a block of 8 x 8 becomes.
    pub fn block_side(self) -> usize {
        match self {
            Self::Full => 8,
            Self::Half => 4,
            Self::Quarter => 2,
            Self::Eighth => 1,
        }
    }

    /// What becomes of a picture of `size`.
    pub fn of(self, size: PictureSize) -> PictureSize {
        scaled(size, self.block_side())
    }
}

fn scaled(size: PictureSize, block_side: usize) -> PictureSize {
    let side = |px: u32| (px * block_side as u32).div_ceil(8);
    PictureSize::new(side(size.width_px), side(size.height_px))
}

/// What is wanted of the colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// At half the resolution of luma, or more where the JPEG has more.
    Kept,
    /// Not wanted: the planes are grey.
    Dropped,
}

/// Tables that are kept from frame to frame.
pub(super) struct ScaledDecoder {
    dc: [HuffmanTable; 2],
    ac: [HuffmanTable; 2],
}

/// One channel while it is decoded.
struct Channel {
    component: Component,
    /// Pixels a side that its blocks become; 0: they are stepped over.
    block_side: usize,
    factors: [f32; 64],
    places: [u8; 64],
    /// The last block's mean, which the next one's is told as a step from.
    mean: i32,
}

impl Default for ScaledDecoder {
    fn default() -> Self {
        let empty = || [HuffmanTable::empty(), HuffmanTable::empty()];
        Self { dc: empty(), ac: empty() }
    }
}

impl ScaledDecoder {
    /// Decodes the picture of `headers`, whose size the caller has checked.
    pub(super) fn decode(
        &mut self,
        headers: &Headers<'_>,
        scale: Scale,
        colours: Colours,
        planes: &mut Planes,
    ) -> Result<(), Stop> {
        let components = headers.components();
        for component in components {
            self.dc[component.dc].set(headers.huffman_of(true, component.dc)?, true)?;
            self.ac[component.ac].set(headers.huffman_of(false, component.ac)?, false)?;
        }
        let most = components.iter().fold((1, 1), |most, c| (most.0.max(c.across), most.1.max(c.down)));
        let units_across = headers.size.width_px.div_ceil(8 * most.0 as u32);
        let units_down = headers.size.height_px.div_ceil(8 * most.1 as u32);

        let mut channels = Vec::with_capacity(components.len());
        for plane in &mut planes.channels {
            plane.reshape(PictureSize::new(0, 0), 0, 0);
        }
        for (&component, plane) in components.iter().zip(&mut planes.channels) {
            let is_colour = !channels.is_empty();
            let block_side = match colours {
                Colours::Dropped if is_colour => 0,
                // Written with half of the resolution, they need no more.
                _ if is_colour && (component.across, component.down) == most => (scale.block_side() / 2).max(1),
                _ => scale.block_side(),
            };
            let share = |px: u32, own: usize, most: usize| (px * own as u32).div_ceil(most as u32);
            let own_size = PictureSize::new(
                share(headers.size.width_px, component.across, most.0),
                share(headers.size.height_px, component.down, most.1),
            );
            let (across, down) = (units_across as usize * component.across, units_down as usize * component.down);
            if block_side > 0 {
                plane.reshape(scaled(own_size, block_side), across * block_side, down * block_side);
            }
            let quant = headers.quant_of(&component)?;
            let (factors, places) = (idct::factors(quant, block_side.max(1)), idct::places(block_side.max(1)));
            channels.push(Channel { component, block_side, factors, places, mean: 0 });
        }
        self.scan(headers, units_across, units_down, &mut channels, planes)
    }

    fn scan(
        &self,
        headers: &Headers<'_>,
        units_across: u32,
        units_down: u32,
        channels: &mut [Channel],
        planes: &mut Planes,
    ) -> Result<(), Stop> {
        const CUT: Stop = Stop::Corrupt("the picture has too few rows");
        let mut bits = BitReader::new(headers.coded);
        let (mut until_restart, mut restart) = (headers.restart_interval, 0);
        for unit_y in 0..units_down as usize {
            for unit_x in 0..units_across as usize {
                if headers.restart_interval > 0 {
                    if until_restart == 0 {
                        if !bits.restart(restart) {
                            return Err(Stop::Corrupt("a restart marker is not where it should be"));
                        }
                        (until_restart, restart) = (headers.restart_interval, (restart + 1) % 8);
                        channels.iter_mut().for_each(|channel| channel.mean = 0);
                    }
                    until_restart -= 1;
                }
                for (channel, plane) in channels.iter_mut().zip(&mut planes.channels) {
                    let Component { across, down, dc, ac, .. } = channel.component;
                    let (dc, ac) = (&self.dc[dc], &self.ac[ac]);
                    for y in unit_y * down..(unit_y + 1) * down {
                        for x in unit_x * across..(unit_x + 1) * across {
                            channel.block(&mut bits, dc, ac, plane, x, y)?;
                        }
                    }
                }
            }
            // What is missing reads as zeros, which may decode: end here.
            if bits.overran() {
                return Err(CUT);
            }
        }
        Ok(())
    }
}

impl Channel {
    /// Decodes the block at `x`, `y`, counted in blocks.
    #[inline(always)]
    fn block(
        &mut self,
        bits: &mut BitReader<'_>,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
        plane: &mut Plane,
        x: usize,
        y: usize,
    ) -> Result<(), Stop> {
        // The last coefficient that counts, and room for them and one more.
        match self.block_side {
            0 => self.coefficients::<0, 1>(bits, dc, ac).map(|_| ()),
            1 => {
                let ([mean], _) = self.coefficients::<0, 1>(bits, dc, ac)?;
                put(plane, x, y, [[idct::pixel(mean)]]);
                Ok(())
            }
            2 => {
                let (block, _) = self.coefficients::<4, 8>(bits, dc, ac)?;
                put(plane, x, y, idct::to_2(&block));
                Ok(())
            }
            4 => {
                let (block, is_flat) = self.coefficients::<24, 32>(bits, dc, ac)?;
                put(plane, x, y, if is_flat { [[idct::pixel(block[0]); 4]; 4] } else { idct::to_4(&block) });
                Ok(())
            }
            _ => {
                let (block, is_flat) = self.coefficients::<63, 64>(bits, dc, ac)?;
                put(plane, x, y, if is_flat { [[idct::pixel(block[0]); 8]; 8] } else { idct::to_8(&block) });
                Ok(())
            }
        }
    }

    /// Reads one block: its coefficients up to `LAST`, dequantised, each at its
    /// place, and whether there is none but the mean. `LEN` is a power of two; what has no place goes behind the block.
    #[inline(always)]
    fn coefficients<const LAST: usize, const LEN: usize>(
        &mut self,
        bits: &mut BitReader<'_>,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
    ) -> Result<([f32; LEN], bool), Stop> {
        let mut block = [0.0; LEN];
        let (step, _) = dc.number(bits)?;
        // A whole JPEG stays far within 16 bits; a damaged one may not.
        self.mean = i32::from(self.mean.wrapping_add(step) as i16);
        block[0] = self.mean as f32 * self.factors[0];
        let mut at = 1;
        while at <= LAST {
            let (value, steps) = ac.number(bits)?;
            if steps == END_OF_BLOCK {
                return Ok((block, at == 1));
            }
            at += steps;
            if at > 64 {
                return Err(TOO_LONG);
            }
            let last = (at - 1) & 63;
            block[usize::from(self.places[last]) & (LEN - 1)] = value as f32 * self.factors[last];
        }
        ac.skip_block(bits, at)?;
        Ok((block, false))
    }
}

/// Writes a block at `x`, `y`, counted in blocks.
#[inline(always)]
fn put<const SIDE: usize>(plane: &mut Plane, x: usize, y: usize, block: [[u8; SIDE]; SIDE]) {
    let stride = plane.stride();
    let rows = plane.pixels_mut()[y * SIDE * stride..].chunks_mut(stride);
    for (row, pixels) in rows.zip(block) {
        row[x * SIDE..][..SIDE].copy_from_slice(&pixels);
    }
}
