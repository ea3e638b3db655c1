//! From the coefficients of a block to its pixels, at full size or at a half, a
//! quarter or an eighth of it: the inverse cosine transform of as many points
//! as the block then has pixels a side, over the lowest frequencies. Constant
//! factors of the transform are part of the dequantisation.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use super::standard::ZIGZAG;

/// What turns a coefficient into what the transform of `SIDE` points takes, in
/// the order of coefficients.
pub(super) fn factors(quant: &[u8; 64], side: usize) -> [f32; 64] {
    std::array::from_fn(|k| {
        let (row, column) = (usize::from(ZIGZAG[k] / 8), usize::from(ZIGZAG[k] % 8));
        f32::from(quant[k]) * axis_factor(row, side) * axis_factor(column, side)
    })
}

/// Where the k-th coefficient lies in a block of `side` x `side`; behind it,
/// when the block has no place for it.
pub(super) fn places(side: usize) -> [u8; 64] {
    std::array::from_fn(|k| {
        let (row, column) = (usize::from(ZIGZAG[k] / 8), usize::from(ZIGZAG[k] % 8));
        if row < side && column < side { (row * side + column) as u8 } else { (side * side) as u8 }
    })
}

/// Factor of one direction. The coefficients are of an orthonormal transform of
/// 8 points; one of N points takes them times sqrt(N / 8).
fn axis_factor(frequency: usize, side: usize) -> f32 {
    let angle = frequency as f32 * std::f32::consts::PI / 16.0;
    match (side, frequency) {
        // sqrt(2 / 8) of the 2 points' own 1 / sqrt(2): the transform only adds.
        (1 | 2, _) => FRAC_1_SQRT_2 / 2.0,
        // sqrt(4 / 8) x 1 / 2; the middle one's cosine, 1 / sqrt(2), with it.
        (4, 0 | 2) => FRAC_1_SQRT_2 / 2.0,
        (4, _) => FRAC_1_SQRT_2 * FRAC_1_SQRT_2,
        // Arai, Agui and Nakajima's: 1 / sqrt(8), times sqrt(2) cos(k pi / 16).
        (_, 0) => FRAC_1_SQRT_2 / 2.0,
        _ => FRAC_1_SQRT_2 / 2.0 * SQRT_2 * angle.cos(),
    }
}

/// The pixel of a value around 0.
#[inline(always)]
pub(super) fn pixel(value: f32) -> u8 {
    // Adding 2^23 leaves the rounded number in the lowest bits: unlike a cast,
    // this is two vector instructions everywhere.
    ((value + 128.0).clamp(0.0, 255.0) + 8_388_608.0).to_bits() as u8
}

/// 2 x 2 pixels.
#[inline(always)]
pub(super) fn to_2(block: &[f32; 8]) -> [[u8; 2]; 2] {
    let [a, b, c, d, ..] = *block;
    let (top, bottom) = ((a + c, b + d), (a - c, b - d));
    [[pixel(top.0 + top.1), pixel(top.0 - top.1)], [pixel(bottom.0 + bottom.1), pixel(bottom.0 - bottom.1)]]
}

/// 4 x 4 pixels.
#[inline(always)]
pub(super) fn to_4(block: &[f32; 32]) -> [[u8; 4]; 4] {
    pixels(&points_4(&transposed(&points_4(&rows(block)))))
}

/// 8 x 8 pixels.
#[inline(always)]
pub(super) fn to_8(block: &[f32; 64]) -> [[u8; 8]; 8] {
    pixels(&points_8(&transposed(&points_8(&rows(block)))))
}

#[inline(always)]
fn rows<const SIDE: usize>(block: &[f32]) -> [[f32; SIDE]; SIDE] {
    let mut rows = [[0.0; SIDE]; SIDE];
    for (row, values) in rows.iter_mut().zip(block.chunks_exact(SIDE)) {
        row.copy_from_slice(values);
    }
    rows
}

/// The pixels of a block that lies on its side.
#[inline(never)]
fn pixels<const SIDE: usize>(sideways: &[[f32; SIDE]; SIDE]) -> [[u8; SIDE]; SIDE] {
    let upright = transposed(sideways);
    let mut out = [[0; SIDE]; SIDE];
    for (row, values) in out.iter_mut().zip(&upright) {
        for (to, &value) in row.iter_mut().zip(values) {
            *to = pixel(value);
        }
    }
    out
}

/// Rows become columns.
#[inline(always)]
pub(super) fn transposed<const SIDE: usize>(rows: &[[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
    let mut out = [[0.0; SIDE]; SIDE];
    for (y, row) in out.iter_mut().enumerate() {
        for (value, other) in row.iter_mut().zip(rows) {
            *value = other[y];
        }
    }
    out
}

/// Down each column. A loop over lanes in a function of its own becomes vector
/// instructions; inlined, it is unrolled first and does not.
#[inline(never)]
fn points_4(rows: &[[f32; 4]; 4]) -> [[f32; 4]; 4] {
    /// cos(pi / 8) and cos(3 pi / 8).
    const COSINES: [f32; 2] = [0.923_879_5, 0.382_683_43];
    let mut out = [[0.0; 4]; 4];
    for x in 0..4 {
        let (outer, inner) = (rows[0][x] + rows[2][x], rows[0][x] - rows[2][x]);
        let odd_outer = rows[1][x] * COSINES[0] + rows[3][x] * COSINES[1];
        let odd_inner = rows[1][x] * COSINES[1] - rows[3][x] * COSINES[0];
        out[0][x] = outer + odd_outer;
        out[1][x] = inner + odd_inner;
        out[2][x] = inner - odd_inner;
        out[3][x] = outer - odd_outer;
    }
    out
}

/// Down each column: the transform with five multiplications of Arai, Agui and
/// Nakajima (1988), backwards.
#[inline(never)]
fn points_8(rows: &[[f32; 8]; 8]) -> [[f32; 8]; 8] {
    /// 2 cos(pi / 8), and its difference and sum with 2 cos(3 pi / 8).
    const C2: f32 = 1.847_759;
    const C2_LESS_C6: f32 = 1.082_392_2;
    const C2_AND_C6: f32 = 2.613_126;
    let mut out = [[0.0; 8]; 8];
    for x in 0..8 {
        let (sum04, diff04) = (rows[0][x] + rows[4][x], rows[0][x] - rows[4][x]);
        let sum26 = rows[2][x] + rows[6][x];
        let diff26 = (rows[2][x] - rows[6][x]) * SQRT_2 - sum26;
        let (even0, even3, even1, even2) = (sum04 + sum26, sum04 - sum26, diff04 + diff26, diff04 - diff26);

        let (sum53, diff53) = (rows[5][x] + rows[3][x], rows[5][x] - rows[3][x]);
        let (sum17, diff17) = (rows[1][x] + rows[7][x], rows[1][x] - rows[7][x]);
        let turned = (diff53 + diff17) * C2;
        let odd0 = sum17 + sum53;
        let odd1 = turned - diff53 * C2_AND_C6 - odd0;
        let odd2 = (sum17 - sum53) * SQRT_2 - odd1;
        let odd3 = turned - diff17 * C2_LESS_C6 - odd2;
        out[0][x] = even0 + odd0;
        out[7][x] = even0 - odd0;
        out[1][x] = even1 + odd1;
        out[6][x] = even1 - odd1;
        out[2][x] = even2 + odd2;
        out[5][x] = even2 - odd2;
        out[3][x] = even3 + odd3;
        out[4][x] = even3 - odd3;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition (A.3.3 for 8 points), over the lowest frequencies.
    fn by_definition(coefficients: &[i16; 64], side: usize) -> Vec<f64> {
        let norm = |k: usize| if k == 0 { (1.0 / side as f64).sqrt() } else { (2.0 / side as f64).sqrt() };
        let cosine = |k: usize, x: usize| {
            norm(k) * ((2 * x + 1) as f64 * k as f64 * std::f64::consts::PI / (2 * side) as f64).cos()
        };
        let pixels = (0..side * side).map(|at| {
            let (y, x) = (at / side, at % side);
            let sum: f64 = (0..side * side)
                .map(|k| (k / side, k % side))
                .map(|(v, u)| f64::from(coefficients[8 * v + u]) * cosine(v, y) * cosine(u, x))
                .sum();
            (128.0 + sum * side as f64 / 8.0).clamp(0.0, 255.0)
        });
        pixels.collect()
    }

    fn filled<const LEN: usize>(natural: &[i16; 64], side: usize) -> [f32; LEN] {
        let (factors, places, mut block) = (factors(&[1; 64], side), places(side), [0.0; LEN]);
        for k in 0..64 {
            if let Some(slot) = block.get_mut(usize::from(places[k])).filter(|_| usize::from(places[k]) < side * side) {
                *slot = f32::from(natural[usize::from(ZIGZAG[k])]) * factors[k];
            }
        }
        block
    }

    proptest! {
        #[test]
        fn every_size_follows_the_definition(values in prop::collection::vec(-300i16..=300, 64)) {
            let natural: [i16; 64] = values.try_into().expect("64");
            let found = [
                (2, to_2(&filled(&natural, 2)).concat()),
                (4, to_4(&filled(&natural, 4)).concat()),
                (8, to_8(&filled(&natural, 8)).concat()),
            ];
            for (side, pixels) in found {
                for (expected, pixel) in by_definition(&natural, side).iter().zip(&pixels) {
                    prop_assert!((expected - f64::from(*pixel)).abs() < 0.51, "{side}: {expected} {pixel}");
                }
            }
        }
    }

    #[test]
    fn pixels_round_and_stay_in_range() {
        for (value, expected) in [(-1e9, 0), (-128.4, 0), (0.0, 128), (0.6, 129), (126.7, 255), (1e9, 255)] {
            assert_eq!(pixel(value), expected, "{value}");
        }
    }
}
