//! Reads coded pixels bit by bit: eight bytes at a time where none of them is
//! FF, byte by byte around those that are. Behind the data come zeros, which
//! are counted, so that a reader may look ahead and still know that it read too
//! far. Knows no code.

/// Least bits there are after [`BitReader::refill`].
pub(super) const REFILLED_BITS: u32 = 32;

/// Reads from the first byte of coded pixels to the next marker.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitReader<'a> {
    data: &'a [u8],
    /// Of the next byte to take.
    position: usize,
    /// The next bits, the first one on top.
    bits: u64,
    /// How many of them there are.
    count: u32,
    /// How many of those taken were made up.
    padding: u32,
}

impl<'a> BitReader<'a> {
    /// Reads `data` from its start.
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0, bits: 0, count: 0, padding: 0 }
    }

    /// Makes sure that [`REFILLED_BITS`] bits can be looked at.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if self.count >= REFILLED_BITS {
            return;
        }
        if let Some(&bytes) = self.data.get(self.position..).and_then(|rest| rest.first_chunk()) {
            let word = u64::from_be_bytes(bytes);
            if !has_ff(word) {
                self.bits |= word >> self.count;
                self.position += (63 - self.count as usize) >> 3;
                self.count |= 56;
                return;
            }
        }
        *self = self.refilled_bytewise();
    }

    // By value, so that the reader of the fast path stays in registers.
    #[inline(never)]
    #[cold]
    fn refilled_bytewise(mut self) -> Self {
        while self.count <= 56 {
            let byte = match self.data.get(self.position..) {
                Some(&[0xFF, 0x00, ..]) => {
                    self.position += 2;
                    0xFF
                }
                Some(&[byte, ..]) if byte != 0xFF => {
                    self.position += 1;
                    byte
                }
                _ => {
                    self.padding += 8;
                    0
                }
            };
            self.bits |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    /// The next `count` bits, 1 to 32.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> usize {
        (self.bits >> (64 - count)) as usize
    }

    /// Takes `count` bits, at most as many as there are.
    #[inline(always)]
    pub(super) fn consume(&mut self, count: u32) {
        self.bits <<= count;
        self.count -= count;
    }

    /// Takes a number of `size` bits, 0 to 15, as coefficients are written
    /// (table F.1): the lower half of the range means negative ones.
    #[inline(always)]
    pub(super) fn signed(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let raw = self.peek(size) as i32;
        self.consume(size);
        extended(raw, size)
    }

    /// Whether more was taken than the data holds.
    pub(super) fn overran(&self) -> bool {
        self.count < self.padding
    }

    /// Drops what is left of this interval and steps over the restart marker
    /// with this number, 0 to 7. `false` when something else comes.
    pub(super) fn restart(&mut self, number: u8) -> bool {
        // Whole bytes that were looked at and not taken would lie before the
        // marker: then the interval was too long. At most 7 bits fill up.
        if self.overran() || self.count - self.padding >= 8 {
            return false;
        }
        let Some([0xFF, rest @ ..]) = self.data.get(self.position..) else { return false };
        let Some(fill) = rest.iter().position(|&byte| byte != 0xFF) else { return false };
        let position = self.position + 1 + fill;
        let is_next = self.data[position] == 0xD0 + number;
        *self = Self { data: self.data, position: position + 1, bits: 0, count: 0, padding: 0 };
        is_next
    }
}

/// The number that `size` bits, 1 to 15, stand for.
pub(super) fn extended(raw: i32, size: u32) -> i32 {
    if raw < 1 << (size - 1) { raw - (1 << size) + 1 } else { raw }
}

/// Whether one of the bytes is FF.
fn has_ff(word: u64) -> bool {
    // A byte of the complement that is 0: the borrow of the subtraction shows it.
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    (!word).wrapping_sub(ONES) & word & (ONES << 7) != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the data, the bits are those of the bytes without stuffing,
        /// up to the first marker; behind it come zeros and the reader knows.
        #[test]
        fn bits_are_those_of_the_bytes(
            data in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0xFF), 1 => Just(0)], 0..80),
            sizes in prop::collection::vec(1u32..=15, 100),
        ) {
            let mut plain = Vec::new();
            let mut rest = &data[..];
            loop {
                rest = match rest {
                    [0xFF, 0x00, rest @ ..] => { plain.push(0xFF); rest }
                    [byte, rest @ ..] if *byte != 0xFF => { plain.push(*byte); rest }
                    _ => break,
                };
            }
            let bit = |at: usize| plain.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
            let (mut reader, mut at) = (BitReader::new(&data), 0);
            for size in sizes {
                reader.refill();
                let expected = (at..at + size as usize).fold(0, |number, at| number << 1 | usize::from(bit(at)));
                prop_assert_eq!(reader.peek(size), expected);
                reader.consume(size);
                at += size as usize;
                prop_assert_eq!(reader.overran(), at > 8 * plain.len());
            }
        }

        #[test]
        fn ff_is_found(bytes in prop::array::uniform8(prop_oneof![any::<u8>(), Just(0xFF), Just(0xFE), Just(0)])) {
            prop_assert_eq!(has_ff(u64::from_be_bytes(bytes)), bytes.contains(&0xFF));
        }
    }

    #[test]
    fn numbers_by_table() {
        for (raw, size, number) in [(0, 1, -1), (1, 1, 1), (0, 3, -7), (3, 3, -4), (4, 3, 4), (7, 3, 7), (0, 11, -2047)]
        {
            assert_eq!(extended(raw, size), number, "{raw} in {size} bits");
        }
    }
}
