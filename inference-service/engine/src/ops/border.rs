//! What a 3x3 kernel sees of one row of a plane that is padded by one zero on
//! each side. The padding is never stored: nothing is copied, and nothing is
//! read outside the row.

use super::simd::Simd;

/// The rows and columns of a 3x3 convolution with padding 1 over a plane.
pub const fn output_side(side: usize, stride: usize) -> usize {
    side.div_ceil(stride)
}

/// Values of `row` under the left, middle and right column of the kernel, for
/// the outputs from `at` on. Lanes past the last output hold nothing of use.
#[inline(always)]
pub fn taps<S: Simd, const STRIDE: usize>(simd: S, row: &[f32], at: usize) -> [S::Lanes; 3] {
    if at > 0 && STRIDE * (at + S::LANES) < row.len() {
        inner::<S, STRIDE>(simd, row, at)
    } else {
        outer::<S, STRIDE>(simd, row, at)
    }
}

/// Where no tap of any lane is in the padding.
#[inline(always)]
fn inner<S: Simd, const STRIDE: usize>(simd: S, row: &[f32], at: usize) -> [S::Lanes; 3] {
    let row = &row[STRIDE * at - 1..][..STRIDE * S::LANES + 2];
    if STRIDE == 1 {
        return [simd.load(row), simd.load(&row[1..]), simd.load(&row[2..])];
    }
    let (left, _) = simd.even_odd(simd.load(row), simd.load(&row[S::LANES..]));
    let (middle, right) = simd.even_odd(simd.load(&row[1..]), simd.load(&row[S::LANES + 1..]));
    [left, middle, right]
}

/// At the left or the right edge, or at both.
#[inline(always)]
fn outer<S: Simd, const STRIDE: usize>(simd: S, row: &[f32], at: usize) -> [S::Lanes; 3] {
    let from = STRIDE * at;
    if STRIDE == 1 {
        let middle = simd.load_up_to(&row[from..]);
        let left = if from == 0 { simd.shift_up(middle) } else { simd.load_up_to(&row[from - 1..]) };
        return [left, middle, simd.load_up_to(&row[from + 1..])];
    }
    let (middle, right) = load_pairs(simd, &row[from..]);
    let left = if from == 0 { simd.shift_up(right) } else { load_pairs(simd, &row[from - 1..]).0 };
    [left, middle, right]
}

/// The values at even and at odd places of `row`.
#[inline(always)]
fn load_pairs<S: Simd>(simd: S, row: &[f32]) -> (S::Lanes, S::Lanes) {
    let first = simd.load_up_to(row);
    let second = simd.load_up_to(&row[row.len().min(S::LANES)..]);
    simd.even_odd(first, second)
}
