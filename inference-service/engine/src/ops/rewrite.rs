//! Finds the layers of a model that own operators do faster, with the ReLU and
//! the 2x2 maximum that follow them.
//!
//! To be used before tract declutters: that turns 1x1 convolutions into matrix
//! products. What it does not know it leaves to tract.

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, MaxPool, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::nn::DataFormat;

use super::dense::{Dense, DenseKernel};
use super::depthwise::{Depthwise, DepthwiseWeights};
use super::simd::Level;
use super::weights::DenseWeights;

/// Replaces what can be replaced in `model`, whose shapes are known.
pub fn rewrite(model: &mut TypedModel, level: Level) -> TractResult<()> {
    // tract's reader puts a cast between a bias and its layer.
    model.prop_consts()?;
    let rule = move |_: &(), model: &_, node: &_, name: &_, conv: &_| replace(level, model, node, name, conv);
    Rewriter::<()>::default().with_rule_for("own-convolution", rule).rewrite(&(), model)
}

fn replace(
    level: Level,
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    conv: &Conv,
) -> TractResult<Option<TypedModelPatch>> {
    rule_if_some!(shape = shape(conv));
    let fact = model.outlet_fact(node.inputs[0])?;
    // One picture: a batch of more is not worth a second kernel.
    let is_one_picture = fact.shape.as_concrete().is_some_and(|shape| shape.len() == 4 && shape[0] == 1);
    rule_if!(is_one_picture && fact.datum_type == f32::datum_type());
    rule_if_some!((weights, biases) = constants(model, node, conv)?);

    let relu = only_reader(model, node).filter(|reader| is_relu(model, reader));
    let mut last = relu.unwrap_or(node);
    let op: Box<dyn TypedOp> = match shape {
        Shape::Dense(kernel) => {
            let weights = Arc::new(DenseWeights::new(level, &weights, &biases, relu.is_some()));
            let mut then = None;
            if let Some((point, weights, biases)) = point_after(model, last)? {
                let relu = only_reader(model, point).filter(|reader| is_relu(model, reader));
                last = relu.unwrap_or(point);
                then = Some(Arc::new(DenseWeights::new(level, &weights, &biases, relu.is_some())));
            }
            Box::new(Dense { kernel, weights, then })
        }
        Shape::Depthwise { stride } => {
            let pool = only_reader(model, last).filter(|reader| stride == 1 && is_pool(reader));
            last = pool.unwrap_or(last);
            let weights = Arc::new(DepthwiseWeights { kernels: weights.as_chunks().0.to_vec(), biases });
            Box::new(Depthwise { level, weights, stride, relu: relu.is_some(), pool: pool.is_some() })
        }
    };
    let mut patch = TypedModelPatch::default();
    let input = patch.tap_model(model, node.inputs[0])?;
    let output = patch.wire_node(format!("{name}.own"), op, &[input])?;
    patch.shunt_outside(model, last.id.into(), output[0])?;
    Ok(Some(patch))
}

/// Weights, and one bias for each output channel, where both are known floats.
fn constants(model: &TypedModel, node: &TypedNode, conv: &Conv) -> TractResult<Option<(Vec<f32>, Vec<f32>)>> {
    let floats = |input: usize| -> TractResult<Option<Vec<f32>>> {
        rule_if_some!(value = &model.outlet_fact(node.inputs[input])?.konst);
        rule_if!(value.datum_type() == f32::datum_type());
        Ok(Some(value.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
    };
    rule_if_some!(weights = floats(1)?);
    rule_if_some!(mut biases = floats(2)?);
    if let [one] = biases[..] {
        biases = vec![one; conv.output_channels()];
    }
    Ok(Some((weights, biases)))
}

/// The 1x1 convolution that alone reads `node`, with its constants.
#[allow(clippy::type_complexity, reason = "a node with its two constants")]
fn point_after<'a>(
    model: &'a TypedModel,
    node: &TypedNode,
) -> TractResult<Option<(&'a TypedNode, Vec<f32>, Vec<f32>)>> {
    rule_if_some!(reader = only_reader(model, node));
    rule_if_some!(conv = reader.op_as::<Conv>());
    rule_if!(matches!(shape(conv), Some(Shape::Dense(DenseKernel::Point))));
    rule_if_some!((weights, biases) = constants(model, reader, conv)?);
    Ok(Some((reader, weights, biases)))
}

enum Shape {
    Dense(DenseKernel),
    Depthwise { stride: usize },
}

/// The shape of a convolution that we have an operator for.
fn shape(conv: &Conv) -> Option<Shape> {
    let spec = &conv.pool_spec;
    let is_plain = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && spec.data_format == DataFormat::NCHW
        && spec.dilations.as_ref().is_none_or(|dilations| dilations[..] == [1, 1]);
    let stride = stride(spec)?;
    let channels = conv.output_channels();
    let is_depthwise = conv.group == channels && conv.group == conv.input_channels();
    match spec.kernel_shape[..] {
        _ if !is_plain => None,
        [1, 1] if conv.group == 1 && stride == 1 && padding(spec) == Some(0) => Some(Shape::Dense(DenseKernel::Point)),
        [3, 3] if !(1..=2).contains(&stride) || padding(spec) != Some(1) => None,
        // With one channel it is both.
        [3, 3] if is_depthwise => Some(Shape::Depthwise { stride }),
        [3, 3] if conv.group == 1 => Some(Shape::Dense(DenseKernel::Square { stride })),
        _ => None,
    }
}

/// The same step in both directions.
fn stride(spec: &PoolSpec) -> Option<usize> {
    match spec.strides.as_deref() {
        None => Some(1),
        Some([y, x]) if y == x => Some(*y),
        Some(_) => None,
    }
}

/// The same padding on all four sides.
fn padding(spec: &PoolSpec) -> Option<usize> {
    match &spec.padding {
        PaddingSpec::Valid => Some(0),
        PaddingSpec::Explicit(before, after) | PaddingSpec::ExplicitOnnxPool(before, after, false) => {
            let first = before[0];
            before.iter().chain(after).all(|side| *side == first).then_some(first)
        }
        _ => None,
    }
}

/// The one node that reads the one output of `node`, which the caller of the
/// model does not see.
fn only_reader<'a>(model: &'a TypedModel, node: &TypedNode) -> Option<&'a TypedNode> {
    match &node.outputs[..] {
        [output] if output.successors.len() == 1 && !model.outputs.contains(&node.id.into()) => {
            Some(model.node(output.successors[0].node))
        }
        _ => None,
    }
}

/// Whether `node` gives the greater of its input and zero.
fn is_relu(model: &TypedModel, node: &TypedNode) -> bool {
    let is_zero = |outlet: &OutletId| {
        let constant = model.outlet_fact(*outlet).ok().and_then(|fact| fact.konst.as_ref());
        constant.is_some_and(|value| value.len() == 1 && value.cast_to_scalar::<f32>().is_ok_and(|value| value == 0.0))
    };
    node.op_as::<TypedBinOp>().is_some_and(|op| op.0.name() == "Max") && node.inputs.iter().any(is_zero)
}

/// Whether `node` gives the greatest of every 2x2.
fn is_pool(node: &TypedNode) -> bool {
    node.op_as::<MaxPool>().is_some_and(|pool| {
        let spec = &pool.pool_spec;
        pool.with_index_outputs.is_none()
            && spec.data_format == DataFormat::NCHW
            && spec.kernel_shape[..] == [2, 2]
            && spec.dilations.as_ref().is_none_or(|dilations| dilations[..] == [1, 1])
            && stride(spec) == Some(2)
            && padding(spec) == Some(0)
    })
}
