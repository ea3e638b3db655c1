//! ONNX models on tract. Beside it, only our operators (`ops`) name tract.
//!
//! Must not decide anything: which model, which size and what the numbers mean
//! is said by the caller.

use std::collections::HashSet;
use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{DimLike, TractErrorContext};

use crate::ops::{self, Level};
use crate::{Engine, EngineError, EngineMemory, EngineState, InputShape};

// The four figures below bound what inference-service's `examples/analyze.rs` showed with glibc for
// YuNet-n, flatface-det and UltraFace at 320x192 to 1280x704.

/// What tract takes once: its code, operator tables, what parsing leaves.
const PROCESS_BYTES: u64 = 14 << 20;
/// What one loaded plan takes beside its weights: graph and chosen kernels.
const PLAN_BYTES: u64 = 4 << 20;
/// Weights are held packed for the kernels, beside the constants they came
/// from.
const WEIGHT_COPIES: u64 = 4;
/// Live tensors are counted exactly; kernels take scratch, and an allocator
/// that keeps freed memory keeps gaps (at 1280x704 it held 2.9 times as much).
const GAPS: u64 = 3;

/// Which operators a plan is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpsPolicy {
    /// Own ones where there are any, with the best instructions that the
    /// processor has: what the service uses.
    Own,
    /// tract's own only: to compare with.
    Tract,
}

/// An optimised plan.
pub struct OnnxEngine {
    plan: Arc<TypedRunnableModel>,
    input: InputShape,
    output_shapes: Vec<Vec<usize>>,
    memory: EngineMemory,
}

impl OnnxEngine {
    /// Loads `onnx` for one input shape. `outputs` are names in the file; they
    /// give the order of [`EngineState::output`], others are not computed.
    ///
    /// Fails when the file is no ONNX model, does not take this shape, or has
    /// no output of a name; the text lists the names that it has.
    pub fn load(onnx: &[u8], input: InputShape, outputs: &[String]) -> Result<Self, EngineError> {
        Self::load_with(onnx, input, outputs, OpsPolicy::Own)
    }

    /// [`OnnxEngine::load`] with a choice of operators.
    pub fn load_with(onnx: &[u8], input: InputShape, outputs: &[String], ops: OpsPolicy) -> Result<Self, EngineError> {
        let level = (ops == OpsPolicy::Own).then(Level::best);
        Self::load_plan(onnx, input, outputs, level).map_err(engine_error)
    }

    /// With own operators at `level`, or with tract's only.
    pub(crate) fn load_plan(
        onnx: &[u8],
        input: InputShape,
        outputs: &[String],
        level: Option<Level>,
    ) -> TractResult<Self> {
        let mut model = read(onnx, input, outputs)?;
        if let Some(level) = level {
            ops::rewrite(&mut model, level)?;
        }
        let model = model.into_optimized()?;

        let output_shapes = (0..outputs.len())
            .map(|index| {
                let fact = model.output_fact(index)?;
                let shape = fact.shape.as_concrete().filter(|_| fact.datum_type == f32::datum_type());
                let name = &outputs[index];
                Ok(shape.with_context(|| format!("output {name:?} is {fact:?}, not floats of a fixed shape"))?.to_vec())
            })
            .collect::<TractResult<Vec<_>>>()?;
        let plan = model.into_runnable()?;
        let memory = memory(&plan, onnx.len() as u64, &output_shapes)?;
        Ok(Self { plan, input, output_shapes, memory })
    }
}

/// The model as the file has it, for one input shape.
pub(crate) fn read(onnx: &[u8], input: InputShape, outputs: &[String]) -> TractResult<TypedModel> {
    // Exporters write shapes of one size into dynamic files (YuNet); tract
    // infers better ones from the input.
    let mut model = tract_onnx::onnx()
        .with_ignore_value_info(true)
        .with_ignore_output_shapes(true)
        .model_for_read(&mut &onnx[..])?;
    name_apart(&mut model);
    let wanted = outputs.iter().map(|name| find_output(&model, name)).collect::<TractResult<Vec<_>>>()?;
    model.select_output_outlets(&wanted)?;
    let shape = [1, input.channels, input.height, input.width];
    model.with_input_fact(0, f32::fact(shape).into())?.into_typed()
}

/// Gives every node a name of its own, which tract demands; ONNX lets a node
/// and its weights share one, and mini_XCEPTION does.
fn name_apart(model: &mut InferenceModel) {
    let mut seen = HashSet::new();
    for node in model.nodes_mut() {
        if !seen.insert(node.name.clone()) {
            node.name = format!("{}#{}", node.name, node.id);
        }
    }
}

/// The outlet that the file calls `name`.
fn find_output(model: &InferenceModel, name: &str) -> TractResult<OutletId> {
    let outlets = model.output_outlets()?;
    let label = |outlet: &OutletId| model.outlet_label(*outlet).unwrap_or_default();
    outlets.iter().copied().find(|outlet| label(outlet) == name).with_context(|| {
        let names: Vec<&str> = outlets.iter().map(label).collect();
        format!("there is no output {name:?}; there are {}", names.join(", "))
    })
}

fn memory(plan: &TypedRunnableModel, onnx_bytes: u64, output_shapes: &[Vec<usize>]) -> TractResult<EngineMemory> {
    let model = plan.model();
    let live = model.eval_tmp_memory_usage(plan.order_without_consts(), |node| !node.inputs.is_empty())?;
    let mut peak_bytes = 0;
    for (_, bytes) in live {
        peak_bytes = peak_bytes.max(bytes.to_i64()?.unsigned_abs());
    }
    let mut held = output_shapes.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>();
    held += model.input_fact(0)?.shape.volume().to_usize()?;
    Ok(EngineMemory {
        process_bytes: PROCESS_BYTES,
        model_bytes: PLAN_BYTES + WEIGHT_COPIES * onnx_bytes,
        held_bytes: (held * size_of::<f32>()) as u64,
        running_bytes: GAPS * peak_bytes,
    })
}

/// The whole chain of causes on one line.
fn engine_error(error: TractError) -> EngineError {
    EngineError(format!("{error:#}"))
}

impl Engine for OnnxEngine {
    fn spawn(&self) -> Box<dyn EngineState> {
        let shape = [1, self.input.channels, self.input.height, self.input.width];
        let input = Tensor::zero::<f32>(&shape).expect("zeros of a shape that the plan was made for");
        Box::new(OnnxState { plan: self.plan.clone(), state: None, input: input.into(), outputs: TVec::new() })
    }

    fn output_shapes(&self) -> &[Vec<usize>] {
        &self.output_shapes
    }

    fn memory(&self) -> EngineMemory {
        self.memory
    }
}

struct OnnxState {
    plan: Arc<TypedRunnableModel>,
    /// Empty before the first run and after an error: tract leaves a failed
    /// state half reset.
    state: Option<TypedSimpleState>,
    input: Arc<Tensor>,
    outputs: TVec<TValue>,
}

impl EngineState for OnnxState {
    fn input(&mut self) -> &mut [f32] {
        // The plan gives its reference back after each run, so this copies
        // nothing.
        let input = Arc::make_mut(&mut self.input);
        let view = input.to_plain_array_view_mut().expect("the input was made of plain 32-bit floats");
        view.into_slice().expect("the input was made in row-major order")
    }

    fn run(&mut self) -> Result<(), EngineError> {
        self.outputs.clear();
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.plan.spawn().map_err(engine_error)?,
        };
        self.outputs = state.run(tvec!(self.input.clone().into_tvalue())).map_err(engine_error)?;
        self.state = Some(state);
        Ok(())
    }

    fn output(&self, index: usize) -> &[f32] {
        self.outputs.get(index).map_or(&[], |value| {
            let view = value.as_plain_ram().expect("outputs are plain tensors");
            view.as_slice().expect("outputs were checked at load to be 32-bit floats")
        })
    }
}
