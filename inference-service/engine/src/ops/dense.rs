//! Dense convolutions with bias and ReLU: 1x1, and 3x3 with padding 1 and
//! stride 1 or 2, which a 1x1 may follow in the same pass.
//!
//! A tile of pixels is gathered so that it fits the first cache, then
//! multiplied with all weights. tract's own pays for packing what is too small
//! to be worth it, and for the ReLU once more through memory.

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;

use super::border::{output_side, taps};
use super::simd::{Kernel, Simd};
use super::weights::{DenseWeights, TileOutput, multiply, tile_px};
use super::{plane_size, with_output};

/// What lies under the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseKernel {
    /// 1x1.
    Point,
    /// 3x3, padded by one.
    Square {
        /// 1 or 2, in both directions.
        stride: usize,
    },
}

impl DenseKernel {
    /// Values under the kernel in one channel.
    pub const fn taps(self) -> usize {
        match self {
            Self::Point => 1,
            Self::Square { .. } => 9,
        }
    }

    const fn stride(self) -> usize {
        match self {
            Self::Point => 1,
            Self::Square { stride } => stride,
        }
    }
}

/// The operator; takes and gives `1 x channels x height x width`.
#[derive(Debug, Clone)]
pub struct Dense {
    pub kernel: DenseKernel,
    /// With the values under the kernel in the order channel, row, column.
    pub weights: Arc<DenseWeights>,
    /// A 1x1 convolution of the result. After the first layer of a detector it
    /// saves the largest tensor of the model.
    pub then: Option<Arc<DenseWeights>>,
}

/// As for [`super::depthwise::Depthwise`].
impl PartialEq for Dense {
    fn eq(&self, other: &Self) -> bool {
        let address = |weights: &Arc<_>| Arc::as_ptr(weights);
        let weights = |op: &Self| (address(&op.weights), op.then.as_ref().map(address));
        self.kernel == other.kernel && weights(self) == weights(other)
    }
}

impl Eq for Dense {}

impl Dense {
    fn input_channels(&self) -> usize {
        self.weights.inputs / self.kernel.taps()
    }

    /// Room for a tile between the two layers; none where there is one.
    fn middle(&self, tile_px: usize) -> Vec<f32> {
        vec![0.0; if self.then.is_some() { tile_px * self.weights.outputs } else { 0 }]
    }

    fn output_shape(&self, input: &[usize]) -> TractResult<[usize; 4]> {
        let (height, width) = plane_size(input, self.input_channels())?;
        let stride = self.kernel.stride();
        let outputs = self.then.as_ref().unwrap_or(&self.weights).outputs;
        Ok([1, outputs, output_side(height, stride), output_side(width, stride)])
    }
}

impl Op for Dense {
    fn name(&self) -> StaticName {
        "FlatframeDense".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        let channels = [Some(&self.weights), self.then.as_ref()].map(|weights| weights.map(|weights| weights.outputs));
        Ok(vec![format!("{:?}, {} inputs, outputs {channels:?}", self.kernel, self.weights.inputs)])
    }

    op_as_typed_op!();
}

impl EvalOp for Dense {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        with_output(&input, &self.output_shape(input.shape())?, |x, to| {
            let size = plane_size(input.shape(), self.input_channels())?;
            self.weights.level.run(Tiles { op: self, x, size, to });
            Ok(())
        })
    }
}

impl TypedOp for Dense {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = inputs[0].shape.as_concrete().context("own operators are made for fixed shapes")?;
        Ok(tvec!(f32::fact(self.output_shape(shape)?)))
    }

    as_op!();
}

/// All pixels of one picture.
struct Tiles<'a> {
    op: &'a Dense,
    x: &'a [f32],
    /// Rows and columns of a plane of `x`.
    size: (usize, usize),
    to: &'a mut [f32],
}

impl Kernel for Tiles<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut tile = vec![0.0; tile_px::<S>() * self.op.weights.inputs];
        match self.op.kernel {
            DenseKernel::Point => self.point(simd, &mut tile),
            DenseKernel::Square { stride: 1 } => self.square::<S, 1>(simd, &mut tile),
            DenseKernel::Square { .. } => self.square::<S, 2>(simd, &mut tile),
        }
    }
}

impl Tiles<'_> {
    #[inline(always)]
    fn point<S: Simd>(self, simd: S, tile: &mut [f32]) {
        let plane = self.size.0 * self.size.1;
        let mut middle = self.op.middle(tile_px::<S>());
        for at in (0..plane).step_by(tile_px::<S>()) {
            let count = tile_px::<S>().min(plane - at);
            // Channels lie a power of two apart more often than not, which
            // makes them fight for the same places of the cache: hence a copy.
            for (x, tile) in self.x.chunks_exact(plane).zip(tile.chunks_exact_mut(tile_px::<S>())) {
                let x = &x[at..at + count];
                for (x, tile) in x.chunks(S::LANES).zip(tile.chunks_exact_mut(S::LANES)) {
                    simd.store(simd.load_up_to(x), tile);
                }
            }
            finish(self.op, tile, &mut middle, TileOutput { to: self.to, plane, at, count });
        }
    }

    /// Tiles lie within a row.
    #[inline(always)]
    fn square<S: Simd, const STRIDE: usize>(self, simd: S, tile: &mut [f32]) {
        let (height, width) = self.size;
        let (to_height, to_width) = (output_side(height, STRIDE), output_side(width, STRIDE));
        let zeros = vec![0.0; width];
        let mut middle = self.op.middle(tile_px::<S>());
        for to_y in 0..to_height {
            for at in (0..to_width).step_by(tile_px::<S>()) {
                let count = tile_px::<S>().min(to_width - at);
                let rows = self.x.chunks_exact(height * width).flat_map(|plane| {
                    [0, 1, 2].map(|kernel_y| match (STRIDE * to_y + kernel_y).checked_sub(1) {
                        Some(y) if y < height => &plane[y * width..][..width],
                        _ => &zeros[..],
                    })
                });
                for (row, tile) in rows.zip(tile.chunks_exact_mut(3 * tile_px::<S>())) {
                    for from in (0..count).step_by(S::LANES) {
                        let taps = taps::<S, STRIDE>(simd, row, at + from);
                        simd.store(taps[0], &mut tile[from..]);
                        simd.store(taps[1], &mut tile[tile_px::<S>() + from..]);
                        simd.store(taps[2], &mut tile[2 * tile_px::<S>() + from..]);
                    }
                }
                let output = TileOutput { to: self.to, plane: to_height * to_width, at: to_y * to_width + at, count };
                finish(self.op, tile, &mut middle, output);
            }
        }
    }
}

/// Multiplies one gathered tile.
fn finish(op: &Dense, tile: &[f32], middle: &mut [f32], output: TileOutput<'_>) {
    let Some(then) = &op.then else { return multiply(&op.weights, tile, output) };
    let plane = middle.len() / op.weights.outputs;
    multiply(&op.weights, tile, TileOutput { to: middle, plane, at: 0, count: plane });
    multiply(then, middle, output);
}
