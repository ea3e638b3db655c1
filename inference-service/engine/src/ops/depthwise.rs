//! Depthwise 3x3 convolution with padding 1, stride 1 or 2, bias, ReLU and 2x2
//! maximum in one pass.
//!
//! tract's own is slow where planes are small, and its ReLU and maximum are
//! layers of their own, each through memory once more.

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;

use super::border::{output_side, taps};
use super::simd::{Kernel, Level, Simd};
use super::{floor, plane_size, with_output};

/// The operator; takes and gives `1 x channels x height x width`.
#[derive(Debug, Clone)]
pub struct Depthwise {
    pub level: Level,
    pub weights: Arc<DepthwiseWeights>,
    /// 1 or 2, in both directions.
    pub stride: usize,
    pub relu: bool,
    /// Whether the greatest of every 2x2 outputs is given instead of the
    /// outputs; a last odd row or column is dropped. With stride 1 only.
    pub pool: bool,
}

/// One 3x3 kernel and one bias for each channel.
#[derive(Debug)]
pub struct DepthwiseWeights {
    /// Row by row.
    pub kernels: Vec<[f32; 9]>,
    pub biases: Vec<f32>,
}

/// Weights are compared by where they are: an operator is made once from a
/// model, and equal ones of another layer are not worth finding.
impl PartialEq for Depthwise {
    fn eq(&self, other: &Self) -> bool {
        let settings = |op: &Self| (op.level, op.stride, op.relu, op.pool);
        Arc::ptr_eq(&self.weights, &other.weights) && settings(self) == settings(other)
    }
}

impl Eq for Depthwise {}

impl Depthwise {
    /// Side of the output for a side of the input.
    fn output_side(&self, side: usize) -> usize {
        let side = output_side(side, self.stride);
        if self.pool { side / 2 } else { side }
    }

    fn output_shape(&self, input: &[usize]) -> TractResult<[usize; 4]> {
        let (height, width) = plane_size(input, self.weights.biases.len())?;
        Ok([1, self.weights.biases.len(), self.output_side(height), self.output_side(width)])
    }
}

impl Op for Depthwise {
    fn name(&self) -> StaticName {
        "FlatframeDepthwise".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("3x3, stride {}, relu {}, pool {}", self.stride, self.relu, self.pool)])
    }

    op_as_typed_op!();
}

impl EvalOp for Depthwise {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        with_output(&input, &self.output_shape(input.shape())?, |x, to| {
            let size = plane_size(input.shape(), self.weights.biases.len())?;
            self.level.run(Planes { op: self, x, size, to });
            Ok(())
        })
    }
}

impl TypedOp for Depthwise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = inputs[0].shape.as_concrete().context("own operators are made for fixed shapes")?;
        Ok(tvec!(f32::fact(self.output_shape(shape)?)))
    }

    as_op!();
}

/// All channels of one picture.
struct Planes<'a> {
    op: &'a Depthwise,
    x: &'a [f32],
    /// Rows and columns of a plane of `x`.
    size: (usize, usize),
    to: &'a mut [f32],
}

impl Kernel for Planes<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { op, x, size: (height, width), to } = self;
        let to_width = op.output_side(width);
        let to_plane = op.output_side(height) * to_width;
        if to_plane == 0 {
            return;
        }
        let weights = op.weights.kernels.iter().zip(&op.weights.biases);
        let planes = x.chunks_exact(height * width).zip(to.chunks_exact_mut(to_plane));
        for ((x, to), (kernel, bias)) in planes.zip(weights) {
            let mut plane = Plane {
                simd,
                x,
                width,
                kernel: [[simd.splat(0.0); 3]; 3],
                bias: simd.splat(*bias),
                floor: simd.splat(floor(op.relu)),
                to,
                to_width,
            };
            for (lanes, value) in plane.kernel.as_flattened_mut().iter_mut().zip(kernel) {
                *lanes = simd.splat(*value);
            }
            match (op.stride, op.pool) {
                (1, false) => plane.columns::<1, false>(),
                (1, true) => plane.columns::<1, true>(),
                _ => plane.columns::<2, false>(),
            }
        }
    }
}

/// One channel, and what stays in registers for all of it.
struct Plane<'a, S: Simd> {
    simd: S,
    x: &'a [f32],
    width: usize,
    kernel: [[S::Lanes; 3]; 3],
    bias: S::Lanes,
    floor: S::Lanes,
    to: &'a mut [f32],
    to_width: usize,
}

impl<S: Simd> Plane<'_, S> {
    /// Columns of a register's width, one after the other from top to bottom,
    /// so that every row is read once and the sums stay in registers.
    #[inline(always)]
    fn columns<const STRIDE: usize, const POOL: bool>(&mut self) {
        let mut at = 0;
        while STRIDE * at < self.width {
            if STRIDE == 1 {
                self.column::<POOL>(at);
            } else {
                self.column_of_stride_2(at);
            }
            at += S::LANES;
        }
    }

    #[inline(always)]
    fn column<const POOL: bool>(&mut self, at: usize) {
        let Self { simd, width, kernel: [upper, middle, lower], bias, .. } = *self;
        let x = self.x;
        let mut to = self.rows_from::<POOL>(at);
        // Sums for the row above the one just read, and for that one.
        let (mut above, mut here) = (bias, bias);
        for (y, row) in x.chunks_exact(width).enumerate() {
            let taps = taps::<S, 1>(simd, row, at);
            let done = add_row(simd, taps, lower, above);
            above = add_row(simd, taps, middle, here);
            here = add_row(simd, taps, upper, bias);
            if y > 0 {
                to.put::<POOL>(simd, done);
            }
        }
        to.put::<POOL>(simd, above);
    }

    #[inline(always)]
    fn column_of_stride_2(&mut self, at: usize) {
        let Self { simd, width, kernel: [upper, middle, lower], bias, .. } = *self;
        let mut rows = self.x.chunks_exact(width);
        let mut to = self.rows_from::<false>(at);
        let mut sum = bias;
        while let Some(row) = rows.next() {
            sum = add_row(simd, taps::<S, 2>(simd, row, at), middle, sum);
            // The second of two rows lies under this output and above the next.
            let mut next = bias;
            if let Some(row) = rows.next() {
                let taps = taps::<S, 2>(simd, row, at);
                sum = add_row(simd, taps, lower, sum);
                next = add_row(simd, taps, upper, bias);
            }
            to.put::<false>(simd, sum);
            sum = next;
        }
    }

    /// Where the outputs of the column at `at` go.
    #[inline(always)]
    fn rows_from<const POOL: bool>(&mut self, at: usize) -> OutputColumn<'_, S> {
        let (from, lanes) = if POOL { (at / 2, S::LANES / 2) } else { (at, S::LANES) };
        let from = from.min(self.to_width);
        let end = (from + lanes).min(self.to_width);
        OutputColumn { rows: self.to.chunks_exact_mut(self.to_width), from, end, floor: self.floor, upper: None }
    }
}

/// `sum` plus one row of the kernel times what it sees.
#[inline(always)]
fn add_row<S: Simd>(simd: S, taps: [S::Lanes; 3], kernel: [S::Lanes; 3], sum: S::Lanes) -> S::Lanes {
    let sum = simd.mul_add(taps[0], kernel[0], sum);
    let sum = simd.mul_add(taps[1], kernel[1], sum);
    simd.mul_add(taps[2], kernel[2], sum)
}

/// One column of the output, filled from the top.
struct OutputColumn<'a, S: Simd> {
    rows: std::slice::ChunksExactMut<'a, f32>,
    /// Columns of the output, `from..end`.
    from: usize,
    end: usize,
    floor: S::Lanes,
    /// With pooling, the first of two rows.
    upper: Option<S::Lanes>,
}

impl<S: Simd> OutputColumn<'_, S> {
    #[inline(always)]
    fn put<const POOL: bool>(&mut self, simd: S, sum: S::Lanes) {
        let mut value = simd.max(self.floor, sum);
        if POOL {
            let Some(upper) = self.upper.take() else {
                self.upper = Some(value);
                return;
            };
            let greater = simd.max(upper, value);
            let (even, odd) = simd.even_odd(greater, greater);
            value = simd.max(even, odd);
        }
        if let Some(row) = self.rows.next() {
            simd.store_up_to(value, &mut row[self.from..self.end]);
        }
    }
}
