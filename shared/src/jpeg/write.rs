//! Writes planes as a baseline JPEG with halved colours, without a detour over
//! RGB, with the tables of the standard. Buffers are the caller's.

use super::JpegError;
use super::fdct;
use super::planes::{PlaneView, halved};
use super::standard::{AC, CHROMA_QUANT, DC, HuffmanSpec, LUMA_QUANT, ZIGZAG};
use crate::frame::PictureSize;

/// The codes of a Huffman table, by symbol: bits, and how many.
type Codes = [(u32, u32); 256];

/// Writes JPEGs of one quality after the other; keeps its tables.
pub struct PlaneWriter {
    quality: u8,
    quants: [[u8; 64]; 2],
    factors: [[f32; 64]; 2],
    dc: [Codes; 2],
    ac: [Codes; 2],
}

impl Default for PlaneWriter {
    fn default() -> Self {
        let mut writer =
            Self { quality: 0, quants: [[1; 64]; 2], factors: [[0.0; 64]; 2], dc: DC.map(codes), ac: AC.map(codes) };
        writer.set_quality(75);
        writer
    }
}

impl PlaneWriter {
    /// Writes luma and, unless the picture is grey, colours of half its size
    /// (rounded up) at `quality` (1 to 100). `jpeg` is cleared first; its
    /// allocation is reused.
    ///
    /// # Errors
    /// When the sides are not 1 to 65535 pixels.
    ///
    /// # Panics
    /// When the colours' size is not half of luma's.
    pub fn write(
        &mut self,
        luma: PlaneView<'_>,
        colours: Option<[PlaneView<'_>; 2]>,
        quality: u8,
        jpeg: &mut Vec<u8>,
    ) -> Result<(), JpegError> {
        let size = luma.size;
        let side = |px: u32| u16::try_from(px).ok().filter(|&px| px > 0);
        let (Some(width), Some(height)) = (side(size.width_px), side(size.height_px)) else {
            return Err(JpegError::Unwritable(size));
        };
        for colour in colours.iter().flatten() {
            assert_eq!(colour.size, halved(size), "colours have half of the resolution");
        }
        self.set_quality(quality.clamp(1, 100));
        jpeg.clear();
        self.headers(width, height, colours.is_some(), jpeg);

        let mut bits = BitWriter { out: jpeg, bits: 0, count: 0 };
        let mut means = [0; 3];
        let unit_px = if colours.is_some() { 16 } else { 8 };
        for y in 0..size.height_px.div_ceil(unit_px) as usize {
            for x in 0..size.width_px.div_ceil(unit_px) as usize {
                let Some([blue, red]) = colours else {
                    self.block(luma, x, y, 0, &mut means[0], &mut bits);
                    continue;
                };
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    self.block(luma, 2 * x + dx, 2 * y + dy, 0, &mut means[0], &mut bits);
                }
                self.block(blue, x, y, 1, &mut means[1], &mut bits);
                self.block(red, x, y, 1, &mut means[2], &mut bits);
            }
        }
        bits.finish();
        jpeg.extend([0xFF, 0xD9]);
        Ok(())
    }

    fn set_quality(&mut self, quality: u8) {
        if self.quality == quality {
            return;
        }
        self.quality = quality;
        // The scale that everybody's "quality" means: libjpeg's.
        let percent = if quality < 50 { 5000 / u32::from(quality) } else { 200 - 2 * u32::from(quality) };
        let scaled = |step: u8| ((u32::from(step) * percent + 50) / 100).clamp(1, 255) as u8;
        self.quants = [LUMA_QUANT.map(scaled), CHROMA_QUANT.map(scaled)];
        self.factors = [0, 1].map(|table| {
            let upright = fdct::factors(&self.quants[table]);
            std::array::from_fn(|at| upright[at % 8 * 8 + at / 8])
        });
    }

    fn headers(&self, width: u16, height: u16, has_colours: bool, out: &mut Vec<u8>) {
        let tables = if has_colours { 2 } else { 1 };
        out.extend([0xFF, 0xD8]);
        segment(out, 0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
        for (number, quant) in (0..).zip(&self.quants[..tables]) {
            let zigzag = ZIGZAG.map(|place| quant[usize::from(place)]);
            segment(out, 0xDB, &[&[number], &zigzag[..]].concat());
        }
        let ([h1, h0], [w1, w0]) = (height.to_be_bytes(), width.to_be_bytes());
        if has_colours {
            segment(out, 0xC0, &[8, h1, h0, w1, w0, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
        } else {
            segment(out, 0xC0, &[8, h1, h0, w1, w0, 1, 1, 0x11, 0]);
        }
        for (class, specs) in [(0x00, DC), (0x10, AC)] {
            for (number, spec) in (class..).zip(&specs[..tables]) {
                segment(out, 0xC4, &[&[number], &spec.counts[..], spec.symbols].concat());
            }
        }
        let scan: &[u8] = if has_colours { &[3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0] } else { &[1, 1, 0x00, 0, 63, 0] };
        segment(out, 0xDA, scan);
    }

    /// Writes the block at `x`, `y`, counted in blocks.
    #[inline(never)]
    fn block(&self, plane: PlaneView<'_>, x: usize, y: usize, table: usize, mean: &mut i32, bits: &mut BitWriter<'_>) {
        let block = fdct::quantised(&pixels(plane, x, y), &self.factors[table]);
        let (dc, ac) = (&self.dc[table], &self.ac[table]);
        let step = i32::from(block[0]) - std::mem::replace(mean, block[0].into());
        bits.number(dc, 0, step);

        // Most blocks of colours have no more than their mean.
        if present(&block) & !1 == 0 {
            return bits.put(ac[0x00]);
        }
        let mut ordered = [0i16; 64];
        for (value, place) in ordered.iter_mut().zip(SIDEWAYS) {
            *value = block[usize::from(place) & 63];
        }
        let mut there = present(&ordered) & !1;
        let mut at = 1;
        while there != 0 {
            let next = there.trailing_zeros();
            there &= there - 1;
            let mut run = next - at;
            while run > 15 {
                bits.put(ac[0xF0]);
                run -= 16;
            }
            bits.number(ac, run, ordered[next as usize & 63].into());
            at = next + 1;
        }
        if at < 64 {
            bits.put(ac[0x00]);
        }
    }
}

/// Which numbers are not 0, the first one lowest.
#[inline(never)]
fn present(numbers: &[i16; 64]) -> u64 {
    let mut flags = [0u8; 64];
    for (flag, &number) in flags.iter_mut().zip(numbers) {
        *flag = u8::from(number != 0);
    }
    let mut bits = 0;
    for (at, eight) in flags.chunks_exact(8).enumerate() {
        let eight = u64::from_le_bytes(eight.try_into().expect("eight"));
        // Moves the lowest bit of each byte into the top one, side by side.
        bits |= (eight.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * at);
    }
    bits
}

/// The order of coefficients of a block on its side.
const SIDEWAYS: [u8; 64] = {
    let mut order = [0; 64];
    let mut k = 0;
    while k < 64 {
        order[k] = ZIGZAG[k] % 8 * 8 + ZIGZAG[k] / 8;
        k += 1;
    }
    order
};

/// The pixels of a block; the last column and row go on beyond the edge.
#[inline(always)]
fn pixels(plane: PlaneView<'_>, x: usize, y: usize) -> [[u8; 8]; 8] {
    let (width, height) = (plane.size.width_px as usize, plane.size.height_px as usize);
    if 8 * x + 8 <= width && 8 * y + 8 <= height {
        let mut block = [[0; 8]; 8];
        let rows = plane.pixels[8 * y * plane.stride + 8 * x..].chunks(plane.stride);
        for (to, row) in block.iter_mut().zip(rows) {
            to.copy_from_slice(&row[..8]);
        }
        return block;
    }
    std::array::from_fn(|dy| {
        let row = plane.row((8 * y + dy).min(height - 1));
        std::array::from_fn(|dx| row[(8 * x + dx).min(width - 1)])
    })
}

fn segment(out: &mut Vec<u8>, marker: u8, body: &[u8]) {
    let length = u16::try_from(body.len() + 2).expect("our segments are short");
    out.extend([0xFF, marker]);
    out.extend(length.to_be_bytes());
    out.extend(body);
}

fn codes(spec: HuffmanSpec<'_>) -> Codes {
    let (mut codes, mut code, mut symbols) = ([(0, 0); 256], 0, spec.symbols.iter());
    for (length, &count) in (1..).zip(spec.counts) {
        for &symbol in symbols.by_ref().take(count.into()) {
            codes[usize::from(symbol)] = (code, length);
            code += 1;
        }
        code <<= 1;
    }
    codes
}

/// Collects codes; writes them four bytes at a time.
struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    /// The last bits, the newest lowest; less than 32 of them count.
    bits: u64,
    count: u32,
}

impl BitWriter<'_> {
    #[inline(always)]
    fn put(&mut self, (code, length): (u32, u32)) {
        self.bits = self.bits << length | u64::from(code);
        self.count += length;
        if self.count >= 32 {
            self.count -= 32;
            let word = (self.bits >> self.count) as u32;
            // A byte of FF among them needs a zero behind it.
            if (!word).wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.out.extend_from_slice(&word.to_be_bytes());
            } else {
                self.stuffed(word);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn stuffed(&mut self, word: u32) {
        for byte in word.to_be_bytes() {
            self.out.push(byte);
            if byte == 0xFF {
                self.out.push(0);
            }
        }
    }

    /// A number with its size behind `run` zeros.
    #[inline(always)]
    fn number(&mut self, codes: &Codes, run: u32, value: i32) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        // Negative numbers are written as one less, without the sign.
        let low = (value + (value >> 31)) as u32 & ((1 << size) - 1);
        let (code, length) = codes[(run << 4 | size) as usize & 255];
        self.put((code << size | low, length + size));
    }

    /// Fills the last byte up with ones.
    fn finish(mut self) {
        let fill = self.count.wrapping_neg() % 8;
        self.put(((1 << fill) - 1, fill));
        let (bytes, bits) = (self.count / 8, self.bits);
        for byte in (0..bytes).rev().map(|at| (bits >> (8 * at)) as u8) {
            self.out.push(byte);
            if byte == 0xFF {
                self.out.push(0);
            }
        }
    }
}

/// Bytes of a JPEG of that size, at most: every coefficient with its longest
/// code, and stuffed.
pub fn most_bytes(size: PictureSize) -> u64 {
    let blocks = u64::from(size.width_px.div_ceil(16)) * u64::from(size.height_px.div_ceil(16)) * 6;
    1024 + blocks * 64 * 4
}
