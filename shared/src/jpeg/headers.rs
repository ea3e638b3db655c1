//! The segments of a JPEG up to its pixels: size, samplings and tables, found
//! without a copy. Tells what cannot be read from what need not be (another
//! process than baseline). Reads no pixel.

use super::standard::{self, HuffmanSpec};
use crate::frame::PictureSize;

/// Why this decoder does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Damaged.
    Corrupt(&'static str),
    /// Perhaps a good JPEG, of a kind that is not read here.
    Unsupported(&'static str),
}

/// One channel as the header describes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Component {
    id: u8,
    /// Blocks of it in one unit, across and down: 1 or 2.
    pub across: usize,
    pub down: usize,
    quant: usize,
    /// Which Huffman tables its scan uses: 0 or 1.
    pub dc: usize,
    pub ac: usize,
}

/// What stands before the pixels.
#[derive(Debug, Clone)]
pub(super) struct Headers<'a> {
    pub size: PictureSize,
    components: [Component; 3],
    component_count: usize,
    /// Units between restart markers; 0: none.
    pub restart_interval: u32,
    quants: [Option<&'a [u8; 64]>; 4],
    dc: [Option<HuffmanSpec<'a>>; 2],
    ac: [Option<HuffmanSpec<'a>>; 2],
    /// From the first byte of coded pixels on, to the end of the data.
    pub coded: &'a [u8],
}

/// Size that the header names; reads as far as that.
pub(super) fn frame_size(jpeg: &[u8]) -> Result<PictureSize, Stop> {
    let mut segments = Segments::begin(jpeg)?;
    loop {
        let (marker, body) = segments.next()?;
        match marker {
            // All frame headers: not DHT, JPG or DAC, whose codes lie between.
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let [_, h1, h0, w1, w0, ..] = *body else { return Err(Stop::Corrupt("frame header is cut")) };
                let size = PictureSize::new(u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
                if size.width_px == 0 {
                    return Err(Stop::Corrupt("width is 0"));
                }
                return Ok(size);
            }
            0xDA => return Err(Stop::Corrupt("pixels come before the frame header")),
            _ => {}
        }
    }
}

impl<'a> Headers<'a> {
    /// Reads up to the first scan.
    pub(super) fn read(jpeg: &'a [u8]) -> Result<Self, Stop> {
        let mut segments = Segments::begin(jpeg)?;
        let mut headers = Self {
            size: PictureSize::new(0, 0),
            components: [Component::default(); 3],
            component_count: 0,
            restart_interval: 0,
            quants: [None; 4],
            dc: [None; 2],
            ac: [None; 2],
            coded: &[],
        };
        let mut is_rgb = false;
        loop {
            let (marker, body) = segments.next()?;
            match marker {
                0xC0 | 0xC1 => headers.frame(body)?,
                0xC4 => headers.huffman(body)?,
                0xC2 | 0xC3 | 0xC5..=0xCF => return Err(Stop::Unsupported("not baseline")),
                0xDB => headers.quant(body)?,
                0xDD => match *body {
                    [high, low] => headers.restart_interval = u16::from_be_bytes([high, low]).into(),
                    _ => return Err(Stop::Corrupt("restart interval is cut")),
                },
                // Adobe's segment: its last byte says which colours these are.
                0xEE if body.starts_with(b"Adobe") => is_rgb = body.get(11) == Some(&0),
                0xDA => {
                    headers.scan(body)?;
                    headers.coded = segments.rest;
                    break;
                }
                _ => {}
            }
        }
        let ids = headers.components.map(|component| component.id);
        if headers.component_count == 3 && (is_rgb || ids == *b"RGB") {
            return Err(Stop::Unsupported("its colours are not YCbCr"));
        }
        Ok(headers)
    }

    /// The channels: one or three.
    pub(super) fn components(&self) -> &[Component] {
        &self.components[..self.component_count]
    }

    /// Quantisation of a channel, in the order of coefficients.
    pub(super) fn quant_of(&self, component: &Component) -> Result<&'a [u8; 64], Stop> {
        self.quants[component.quant].ok_or(Stop::Corrupt("a quantisation table is missing"))
    }

    /// A Huffman table for means (`dc`) or the rest. A JPEG without any uses
    /// those of the standard: so do many cameras.
    pub(super) fn huffman_of(&self, is_dc: bool, index: usize) -> Result<HuffmanSpec<'a>, Stop> {
        if self.dc.iter().chain(&self.ac).all(Option::is_none) {
            return Ok(if is_dc { standard::DC[index] } else { standard::AC[index] });
        }
        let own = if is_dc { self.dc[index] } else { self.ac[index] };
        own.ok_or(Stop::Corrupt("a Huffman table is missing"))
    }

    fn frame(&mut self, body: &[u8]) -> Result<(), Stop> {
        if self.component_count != 0 {
            return Err(Stop::Corrupt("two frame headers"));
        }
        let [precision, h1, h0, w1, w0, count, ref components @ ..] = *body else {
            return Err(Stop::Corrupt("frame header is cut"));
        };
        if precision != 8 {
            return Err(Stop::Unsupported("not 8 bits a channel"));
        }
        self.size = PictureSize::new(u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
        if self.size.width_px == 0 {
            return Err(Stop::Corrupt("width is 0"));
        }
        if self.size.height_px == 0 {
            return Err(Stop::Unsupported("height comes after the pixels"));
        }
        if !matches!(count, 1 | 3) {
            return Err(Stop::Unsupported("neither one nor three channels"));
        }
        if components.len() != 3 * usize::from(count) {
            return Err(Stop::Corrupt("frame header is cut"));
        }
        for (component, bytes) in self.components.iter_mut().zip(components.chunks_exact(3)) {
            let (across, down) = (usize::from(bytes[1] >> 4), usize::from(bytes[1] & 15));
            if across == 0 || down == 0 || bytes[2] > 3 {
                return Err(Stop::Corrupt("a channel's sampling or table is out of range"));
            }
            *component = Component { id: bytes[0], across, down, quant: bytes[2].into(), dc: 0, ac: 0 };
        }
        self.component_count = count.into();
        let [first, others @ ..] = &mut self.components;
        if count == 1 {
            // Alone in its scan, a channel comes block by block.
            (first.across, first.down) = (1, 1);
        } else if first.across > 2
            || first.down > 2
            || others.iter().any(|other| other.across > first.across || other.down > first.down)
        {
            return Err(Stop::Unsupported("unusual sampling"));
        }
        Ok(())
    }

    fn quant(&mut self, mut body: &'a [u8]) -> Result<(), Stop> {
        while let [kind, rest @ ..] = body {
            if kind >> 4 != 0 {
                return Err(Stop::Unsupported("quantisation of 16 bits"));
            }
            let (table, rest) = rest.split_first_chunk().ok_or(Stop::Corrupt("quantisation table is cut"))?;
            let slot = self.quants.get_mut(usize::from(kind & 15));
            *slot.ok_or(Stop::Corrupt("quantisation table is out of range"))? = Some(table);
            body = rest;
        }
        Ok(())
    }

    fn huffman(&mut self, mut body: &'a [u8]) -> Result<(), Stop> {
        while let [kind, rest @ ..] = body {
            let cut = Stop::Corrupt("Huffman table is cut");
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(cut)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total).ok_or(cut)?;
            let slot = match kind {
                0x00 | 0x01 => &mut self.dc[usize::from(*kind)],
                0x10 | 0x11 => &mut self.ac[usize::from(kind & 1)],
                0x02 | 0x03 | 0x12 | 0x13 => return Err(Stop::Unsupported("more than two Huffman tables")),
                _ => return Err(Stop::Corrupt("Huffman table is out of range")),
            };
            *slot = Some(HuffmanSpec { counts, symbols });
            body = rest;
        }
        Ok(())
    }

    fn scan(&mut self, body: &[u8]) -> Result<(), Stop> {
        let count = self.component_count;
        let [named, rest @ ..] = body else { return Err(Stop::Corrupt("scan header is cut")) };
        if count == 0 {
            return Err(Stop::Corrupt("pixels come before the frame header"));
        }
        if usize::from(*named) != count {
            return Err(Stop::Unsupported("channels in scans of their own"));
        }
        if rest.len() != 2 * count + 3 {
            return Err(Stop::Corrupt("scan header is cut"));
        }
        for (component, bytes) in self.components.iter_mut().zip(rest.chunks_exact(2)).take(count) {
            if bytes[0] != component.id {
                return Err(Stop::Unsupported("channels in another order"));
            }
            (component.dc, component.ac) = (usize::from(bytes[1] >> 4), usize::from(bytes[1] & 15));
            if component.dc > 1 || component.ac > 1 {
                return Err(Stop::Unsupported("more than two Huffman tables"));
            }
        }
        Ok(())
    }
}

/// Walks marker segments.
struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    fn begin(jpeg: &'a [u8]) -> Result<Self, Stop> {
        let rest = jpeg.strip_prefix(&[0xFF, 0xD8]).ok_or(Stop::Corrupt("the start marker (FF D8) is missing"))?;
        Ok(Self { rest })
    }

    /// The next marker's second byte and its body.
    fn next(&mut self) -> Result<(u8, &'a [u8]), Stop> {
        let cut = Stop::Corrupt("cut between its headers");
        let [0xFF, rest @ ..] = self.rest else {
            return Err(if self.rest.is_empty() { cut } else { Stop::Corrupt("a marker is missing") });
        };
        // Any number of fill bytes may stand before the marker's code.
        let fill = rest.iter().position(|&byte| byte != 0xFF).ok_or(cut)?;
        let (marker, rest) = (rest[fill], &rest[fill + 1..]);
        if matches!(marker, 0x00 | 0x01 | 0xD0..=0xD9) {
            return Err(Stop::Corrupt("a marker has no place in the headers"));
        }
        let (length, _) = rest.split_first_chunk::<2>().ok_or(cut)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (segment, rest) = rest.split_at_checked(length).ok_or(cut)?;
        self.rest = rest;
        Ok((marker, segment.get(2..).ok_or(Stop::Corrupt("a segment is shorter than its length"))?))
    }
}
