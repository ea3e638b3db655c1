//! Own operators for the layers that tract does slowly: dense 1x1 and 3x3 and
//! depthwise 3x3 convolutions of one picture, with bias, ReLU and 2x2 maximum in
//! the same pass. Why, and what they bring: docs/design/002-own-ops.md.
//!
//! In reading order: [`rewrite`] swaps them into a model, `dense` and
//! `depthwise` are the operators, `weights` and `border` what they share, and
//! `simd` what they are made of. Numbers are equal to tract's own up to
//! rounding: sums are taken in another order.
//!
//! Must not look at names or values of a model: a layer is replaced for its
//! shape alone.

mod border;
mod dense;
mod depthwise;
mod rewrite;
mod simd;
mod weights;

#[cfg(test)]
mod tests;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;

pub use rewrite::rewrite;
pub use simd::Level;

/// What an output may not fall below.
const fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// Rows and columns of `1 x channels x rows x columns`.
fn plane_size(shape: &[usize], channels: usize) -> TractResult<(usize, usize)> {
    match *shape {
        [1, found, height, width] if found == channels && height * width > 0 => Ok((height, width)),
        _ => bail!("expected one picture of {channels} channels, got {shape:?}"),
    }
}

/// Runs `fill` from the values of `input` to those of a new tensor of `shape`.
fn with_output(
    input: &Tensor,
    shape: &[usize],
    fill: impl FnOnce(&[f32], &mut [f32]) -> TractResult<()>,
) -> TractResult<TVec<TValue>> {
    // SAFETY: every bit pattern is an f32, and the operators write every value
    // of an output and read none; the tests of the operators run with outputs
    // that tract has filled with NaN.
    let mut output = unsafe { Tensor::uninitialized::<f32>(shape)? };
    fill(input.try_as_plain_ram()?.as_slice()?, output.try_as_plain_ram_mut()?.as_slice_mut()?)?;
    Ok(tvec!(output.into_tvalue()))
}
