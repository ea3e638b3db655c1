//! Huffman tables in the shape in which they are fast to read. One look at the
//! next bits gives a coefficient with its run where both are short, as they
//! mostly are; where coefficients are only skipped, one look steps over as many
//! as fit into it. Knows no picture.

use super::bits::{BitReader, extended};
use super::headers::Stop;
use super::standard::HuffmanSpec;

/// Bits of one look for a number.
const NUMBER_BITS: u32 = 10;
/// Bits of one look that only steps over coefficients.
const SKIP_BITS: u32 = 12;
/// Steps from the end-of-block code: beyond any block.
pub(super) const END_OF_BLOCK: usize = 128;

const BAD_CODE: Stop = Stop::Corrupt("a code that stands for nothing");

/// A number, and what a look at it tells.
#[derive(Debug, Clone, Copy, Default)]
struct Number {
    value: i16,
    /// Coefficients it steps over, itself included; [`END_OF_BLOCK`].
    steps: u8,
    /// Bits of code and number; of the code alone when `more` is not 0; 0: the
    /// code is longer than the look.
    bits: u8,
}

/// How many bits a number has that did not fit into the look: kept in `value`,
/// told by this bit of `bits`.
const MORE: u8 = 0x80;

/// Several coefficients at once.
#[derive(Debug, Clone, Copy, Default)]
struct Skip {
    /// Coefficients stepped over; the end of the block is not one.
    steps: u8,
    /// Bits taken; 0: not even one coefficient fits. [`ENDS`] is set when the
    /// last code ends the block.
    bits: u8,
}

/// Tells in [`Skip`] that the block ends.
const ENDS: u8 = 0x80;

/// A table, ready to be read from.
#[derive(Clone)]
pub(super) struct HuffmanTable {
    /// What it was built from: cameras repeat their tables in every frame.
    counts: [u8; 16],
    symbols: Vec<u8>,
    /// For each length: above the last code, moved to 16 bits.
    limits: [u32; 17],
    /// For each length: what must be added to a code to get its symbol's index.
    offsets: [i32; 17],
    numbers: Box<[Number; 1 << NUMBER_BITS]>,
    skips: Box<[Skip; 1 << SKIP_BITS]>,
}

impl HuffmanTable {
    /// A table without a code.
    pub(super) fn empty() -> Self {
        Self {
            counts: [0; 16],
            symbols: Vec::new(),
            limits: [0; 17],
            offsets: [0; 17],
            numbers: Box::new([Number::default(); 1 << NUMBER_BITS]),
            skips: Box::new([Skip::default(); 1 << SKIP_BITS]),
        }
    }

    /// Makes this the table of `spec`. `is_dc`: its symbols are sizes alone.
    pub(super) fn set(&mut self, spec: HuffmanSpec<'_>, is_dc: bool) -> Result<(), Stop> {
        if self.counts == *spec.counts && self.symbols == spec.symbols {
            return Ok(());
        }
        // Not the table of anything until it is whole.
        self.counts = [0; 16];
        self.symbols.clear();
        let (mut code, mut index) = (0u32, 0u32);
        for length in 1..=16usize {
            let count = u32::from(spec.counts[length - 1]);
            self.offsets[length] = index as i32 - code as i32;
            (code, index) = (code + count, index + count);
            if code > 1 << length {
                return Err(Stop::Corrupt("a Huffman table has more codes than fit"));
            }
            self.limits[length] = code << (16 - length);
            code <<= 1;
        }
        let bad = |&symbol: &u8| if is_dc { symbol > 15 } else { symbol & 15 == 0 && !matches!(symbol, 0x00 | 0xF0) };
        if spec.symbols.len() != index as usize || spec.symbols.len() > 256 || spec.symbols.iter().any(bad) {
            return Err(Stop::Corrupt("a Huffman table has wrong symbols"));
        }
        self.symbols.extend_from_slice(spec.symbols);
        self.counts = *spec.counts;
        for look in 0..1 << NUMBER_BITS {
            self.numbers[look] = self.number_at(look as u32, is_dc);
        }
        if !is_dc {
            for look in 0..1 << SKIP_BITS {
                self.skips[look] = self.skip_at(look as u32);
            }
        }
        Ok(())
    }

    /// The symbol at the top of 16 bits, and the length of its code.
    fn symbol(&self, next: u32) -> Option<(u8, u32)> {
        let length = (1..=16).find(|&length| next < self.limits[length])?;
        let index = (next >> (16 - length)) as i32 + self.offsets[length];
        Some((*self.symbols.get(index as usize)?, length as u32))
    }

    /// As [`Self::symbol`], when all of its code lies in the first `known`
    /// bits.
    fn symbol_within(&self, next: u32, known: u32) -> Option<(u8, u32)> {
        self.symbol(next).filter(|&(_, length)| length <= known)
    }

    fn number_at(&self, look: u32, is_dc: bool) -> Number {
        let Some((symbol, length)) = self.symbol_within(look << (16 - NUMBER_BITS), NUMBER_BITS) else {
            return Number::default();
        };
        let (size, steps) = (u32::from(symbol & 15), steps_of(symbol, is_dc));
        if length + size > NUMBER_BITS {
            return Number { value: size as i16, steps, bits: length as u8 | MORE };
        }
        let raw = look >> (NUMBER_BITS - length - size) & ((1 << size) - 1);
        let value = if size == 0 { 0 } else { extended(raw as i32, size) as i16 };
        Number { value, steps, bits: (length + size) as u8 }
    }

    fn skip_at(&self, look: u32) -> Skip {
        let (mut steps, mut bits) = (0, 0);
        loop {
            let next = (look << bits & ((1 << SKIP_BITS) - 1)) << (16 - SKIP_BITS);
            let known = SKIP_BITS - bits;
            let Some((symbol, length)) = self.symbol_within(next, known) else { break };
            let taken = length + u32::from(symbol & 15);
            if symbol == 0 {
                return Skip { steps, bits: (bits + taken) as u8 | ENDS };
            }
            if taken > known || steps + (symbol >> 4) + 1 > 63 {
                break;
            }
            steps += (symbol >> 4) + 1;
            bits += taken;
        }
        Skip { steps, bits: bits as u8 }
    }

    /// Takes one number, with the coefficients that it steps over.
    #[inline(always)]
    pub(super) fn number(&self, bits: &mut BitReader<'_>) -> Result<(i32, usize), Stop> {
        bits.refill();
        let number = self.numbers[bits.peek(NUMBER_BITS)];
        if number.bits & MORE == 0 && number.bits != 0 {
            bits.consume(number.bits.into());
            return Ok((number.value.into(), number.steps.into()));
        }
        if number.bits != 0 {
            bits.consume((number.bits & !MORE).into());
            return Ok((bits.signed(number.value as u32), number.steps.into()));
        }
        let (symbol, length) = self.symbol_of_long_code(bits.peek(16) as u32).ok_or(BAD_CODE)?;
        bits.consume(length);
        Ok((bits.signed((symbol & 15).into()), steps_of(symbol, false).into()))
    }

    #[inline(never)]
    #[cold]
    fn symbol_of_long_code(&self, next: u32) -> Option<(u8, u32)> {
        self.symbol(next)
    }

    /// Steps over the rest of a block, from coefficient `at` on, 1 to 64.
    #[inline(always)]
    pub(super) fn skip_block(&self, bits: &mut BitReader<'_>, mut at: usize) -> Result<(), Stop> {
        while at < 64 {
            bits.refill();
            let skip = self.skips[bits.peek(SKIP_BITS)];
            let next = at + usize::from(skip.steps);
            // The block may end between two coefficients of one look.
            if next < 64 && skip.bits != 0 {
                bits.consume((skip.bits & !ENDS).into());
                if skip.bits & ENDS != 0 {
                    return Ok(());
                }
                at = next;
                continue;
            }
            let (_, steps) = self.number(bits)?;
            if steps == END_OF_BLOCK {
                return Ok(());
            }
            at += steps;
        }
        if at == 64 { Ok(()) } else { Err(TOO_LONG) }
    }
}

/// More coefficients than a block has.
pub(super) const TOO_LONG: Stop = Stop::Corrupt("a block is too long");

fn steps_of(symbol: u8, is_dc: bool) -> u8 {
    match symbol {
        _ if is_dc => 0,
        0 => END_OF_BLOCK as u8,
        _ => (symbol >> 4) + 1,
    }
}
