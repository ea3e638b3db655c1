//! From the pixels of a block to its quantised coefficients: the cosine
//! transform with five multiplications of Arai, Agui and Nakajima (1988). Its
//! constant factors are part of the quantisation.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use super::idct::transposed;

/// What a coefficient is multiplied by to quantise it, row by row.
pub(super) fn factors(quant: &[u8; 64]) -> [f32; 64] {
    let axis = |k: usize| if k == 0 { 1.0 } else { SQRT_2 * (k as f32 * std::f32::consts::PI / 16.0).cos() };
    std::array::from_fn(|at| 1.0 / (8.0 * axis(at / 8) * axis(at % 8) * f32::from(quant[at])))
}

/// The quantised coefficients of a block, on its side: column by column, with
/// `factors` likewise.
#[inline(always)]
pub(super) fn quantised(block: &[[u8; 8]; 8], factors: &[f32; 64]) -> [i16; 64] {
    let sideways = points(&transposed(&points(&centred(block))));
    rounded(&sideways, factors)
}

/// Pixels around 0.
#[inline(never)]
fn centred(block: &[[u8; 8]; 8]) -> [[f32; 8]; 8] {
    let mut out = [[0.0; 8]; 8];
    for (value, &pixel) in out.as_flattened_mut().iter_mut().zip(block.as_flattened()) {
        *value = f32::from(pixel) - 128.0;
    }
    out
}

/// The nearest whole numbers of the products.
#[inline(never)]
fn rounded(values: &[[f32; 8]; 8], factors: &[f32; 64]) -> [i16; 64] {
    // Adding 1.5 x 2^23 leaves the rounded number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let mut out = [0; 64];
    for ((to, value), factor) in out.iter_mut().zip(values.as_flattened()).zip(factors) {
        *to = (value * factor + ROUND).to_bits() as i16;
    }
    out
}

/// Down each column. A loop over lanes in a function of its own becomes vector
/// instructions; inlined, it is unrolled first and does not.
#[inline(never)]
fn points(rows: &[[f32; 8]; 8]) -> [[f32; 8]; 8] {
    /// cos(3 pi / 8), and its difference and sum with cos(pi / 8).
    const C6: f32 = 0.382_683_43;
    const C2_LESS_C6: f32 = 0.541_196_1;
    const C2_AND_C6: f32 = 1.306_563;
    let mut out = [[0.0; 8]; 8];
    for x in 0..8 {
        let (sum07, diff07) = (rows[0][x] + rows[7][x], rows[0][x] - rows[7][x]);
        let (sum16, diff16) = (rows[1][x] + rows[6][x], rows[1][x] - rows[6][x]);
        let (sum25, diff25) = (rows[2][x] + rows[5][x], rows[2][x] - rows[5][x]);
        let (sum34, diff34) = (rows[3][x] + rows[4][x], rows[3][x] - rows[4][x]);

        let (outer, outer_diff, inner, inner_diff) = (sum07 + sum34, sum07 - sum34, sum16 + sum25, sum16 - sum25);
        let turned = (inner_diff + outer_diff) * FRAC_1_SQRT_2;
        out[0][x] = outer + inner;
        out[4][x] = outer - inner;
        out[2][x] = outer_diff + turned;
        out[6][x] = outer_diff - turned;

        let (low, middle, high) = (diff34 + diff25, (diff25 + diff16) * FRAC_1_SQRT_2, diff16 + diff07);
        let shared = (low - high) * C6;
        let (low, high) = (low * C2_LESS_C6 + shared, high * C2_AND_C6 + shared);
        let (near, far) = (diff07 + middle, diff07 - middle);
        out[5][x] = far + low;
        out[3][x] = far - low;
        out[1][x] = near + high;
        out[7][x] = near - high;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A.3.3 of the standard, quantised by 1.
        #[test]
        fn follows_the_definition(pixels in prop::collection::vec(any::<u8>(), 64)) {
            let block: [[u8; 8]; 8] = std::array::from_fn(|y| std::array::from_fn(|x| pixels[8 * y + x]));
            let found = quantised(&block, &factors(&[1; 64]));
            let cosine = |k: usize, x: usize| ((2 * x + 1) as f64 * k as f64 * std::f64::consts::PI / 16.0).cos();
            let norm = |k: usize| if k == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
            for (v, u) in (0..64).map(|at| (at / 8, at % 8)) {
                let sum: f64 = (0..64)
                    .map(|at| (f64::from(pixels[at]) - 128.0) * cosine(v, at / 8) * cosine(u, at % 8))
                    .sum();
                let expected = norm(u) * norm(v) * sum / 4.0;
                let (found, at) = (f64::from(found[8 * u + v]), (v, u));
                prop_assert!((expected - found).abs() < 0.51, "{at:?}: {expected} {found}");
            }
        }
    }
}
