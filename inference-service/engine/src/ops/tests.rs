//! Own operators compared with tract's, layer by layer and for whole models, at
//! every level that this processor has.

use std::path::Path;

use proptest::prelude::*;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, MaxPool, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::math;
use tract_onnx::tract_core::ops::nn::DataFormat;

use super::dense::Dense;
use super::depthwise::Depthwise;
use super::{Level, rewrite};
use crate::onnx::{self, OnnxEngine};
use crate::{Engine, InputShape};

/// A convolution with what may follow it.
#[derive(Debug, Clone, Copy)]
struct Layer {
    group: usize,
    inputs: usize,
    outputs: usize,
    side: usize,
    stride: usize,
    height: usize,
    width: usize,
    relu: bool,
    pool: bool,
    /// Output channels of a 1x1 convolution after it.
    then: Option<usize>,
}

fn layers() -> impl Strategy<Value = Layer> {
    let sizes = (1usize..40, 1usize..80, 1usize..20, 1usize..20);
    // Which of the three operators, its stride, and what follows.
    let kinds = (0..3, 1usize..=2, any::<bool>(), any::<bool>(), proptest::option::of(1usize..20));
    (sizes, kinds).prop_map(|((height, width, inputs, outputs), (kind, stride, relu, pool, then))| {
        let layer = Layer { group: 1, inputs, outputs, side: 3, stride, height, width, relu, pool: false, then };
        match kind {
            0 => Layer { side: 1, stride: 1, ..layer },
            // One channel counts as depthwise, which has no second layer in it.
            1 => Layer { then: then.filter(|_| inputs.max(outputs) > 1), ..layer },
            _ => {
                let pool = pool && height.min(width) >= 2 * stride;
                Layer { group: inputs, outputs: inputs, pool, then: None, ..layer }
            }
        }
    })
}

impl Layer {
    /// The layer as tract reads it from a file.
    fn model(self, random: &mut fastrand::Rng) -> TractResult<TypedModel> {
        let Self { group, inputs, outputs, side, stride, .. } = self;
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([1, inputs, self.height, self.width]))?;
        let kernel = model.add_const("kernel", values(&[outputs, inputs / group, side, side], random)?)?;
        let bias = model.add_const("bias", values(&[outputs], random)?)?;
        let around = tvec![side / 2; 2];
        let spec = |side, padding, stride, inputs, outputs| {
            let format = DataFormat::NCHW;
            PoolSpec::new(format, tvec![side; 2], padding, None, Some(tvec![stride; 2]), inputs, outputs)
        };
        let padding = PaddingSpec::Explicit(around.clone(), around);
        let conv = Conv::new(spec(side, padding, stride, inputs, outputs), KernelFormat::OIHW, group, None);
        let mut last = model.wire_node("conv", conv, &[x, kernel, bias])?;
        if self.relu {
            let zero = model.add_const("zero", tensor4(&[[[[0f32]]]]))?;
            last = model.wire_node("relu", math::max(), &[last[0], zero])?;
        }
        if self.pool {
            let pool = MaxPool::new(spec(2, PaddingSpec::Valid, 2, outputs, outputs), None);
            last = model.wire_node("pool", pool, &last)?;
        }
        if let Some(then) = self.then {
            let kernel = model.add_const("then.kernel", values(&[then, outputs, 1, 1], random)?)?;
            let bias = model.add_const("then.bias", values(&[then], random)?)?;
            let spec = spec(1, PaddingSpec::Valid, 1, outputs, then);
            last = model.wire_node("then", Conv::new(spec, KernelFormat::OIHW, 1, None), &[last[0], kernel, bias])?;
        }
        model.select_output_outlets(&last)?;
        Ok(model)
    }
}

/// Between -1 and 1.
fn values(shape: &[usize], random: &mut fastrand::Rng) -> TractResult<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 2.0 * random.f32() - 1.0).collect();
    Tensor::from_shape(shape, &values)
}

fn is_own(node: &TypedNode) -> bool {
    node.op_is::<Dense>() || node.op_is::<Depthwise>()
}

proptest! {
    #[test]
    fn layers_equal_those_of_tract(layer in layers(), seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let model = layer.model(&mut random).expect("a good layer");
        let x = values(&[1, layer.inputs, layer.height, layer.width], &mut random).expect("a good shape");
        let run = |model: TypedModel| {
            let plan = model.into_runnable().expect("a good model");
            plan.run(tvec!(x.clone().into_tvalue())).expect("runs").remove(0)
        };
        let expected = run(model.clone().into_optimized().expect("a good model"));
        for level in Level::available() {
            let mut own = model.clone();
            rewrite(&mut own, level).expect("a good model");
            prop_assert_eq!(own.nodes().iter().filter(|node| is_own(node)).count(), 1);
            let fused = !layer.pool || layer.stride == 1;
            prop_assert_eq!(own.nodes().len() == 2, fused, "{:?}: {}", level, own);
            let found = run(own);
            if let Err(error) = found.close_enough(&expected, Approximation::Approximate) {
                prop_assert!(false, "{:?}: {}", level, error);
            }
        }
    }
}

/// Values of all outputs of a model for an input of noise.
fn outputs_of(onnx: &[u8], input: InputShape, names: &[String], level: Option<Level>) -> Vec<f32> {
    let engine = OnnxEngine::load_plan(onnx, input, names, level).unwrap_or_else(|error| panic!("{error:#}"));
    let mut state = engine.spawn();
    let mut random = fastrand::Rng::with_seed(1);
    state.input().fill_with(|| 255.0 * random.f32());
    state.run().expect("runs");
    let outputs = 0..engine.output_shapes().len();
    outputs.flat_map(|index| state.output(index).to_vec()).collect()
}

#[test]
fn whole_models_equal_those_of_tract() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (embedded, shared) = (folder.join("../models"), folder.join("../../../shared/models"));
    let yunet: Vec<String> = ["cls", "obj", "bbox", "kps"]
        .iter()
        .flat_map(|name| [8, 16, 32].map(|stride| format!("{name}_{stride}")))
        .collect();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (file, [channels, height, width], outputs) in [
        (embedded.join("flatface-det.onnx"), [3, 256, 320], names(&["head_8", "head_16", "head_32"])),
        (embedded.join("flatface-det.onnx"), [3, 96, 160], names(&["head_8", "head_16", "head_32"])),
        (embedded.join("flatface-gender.onnx"), [3, 48, 48], names(&["male_logit"])),
        (shared.join("yunet_n_dynamic.onnx"), [3, 256, 320], yunet.clone()),
        (shared.join("yunet_s_dynamic.onnx"), [3, 96, 160], yunet),
        (shared.join("RFB-320.onnx"), [3, 240, 320], names(&["scores", "boxes"])),
        (shared.join("slim-320.onnx"), [3, 240, 320], names(&["scores", "boxes"])),
    ] {
        let Ok(onnx) = std::fs::read(&file) else {
            eprintln!("SKIPPED: {} is not there", file.display());
            continue;
        };
        let input = InputShape { channels, height, width };
        let mut model = onnx::read(&onnx, input, &outputs).expect("a good model");
        rewrite(&mut model, Level::best()).expect("a good model");
        let count = |is: fn(&TypedNode) -> bool| model.nodes().iter().filter(|node| is(node)).count();
        println!("{}: {} own, {} left to tract", file.display(), count(is_own), count(|node| node.op_is::<Conv>()));
        assert!(count(is_own) > 10);
        // What the service ships is made of convolutions that we do.
        assert!(file.starts_with(&shared) || count(|node| node.op_is::<Conv>()) == 0);

        let expected = outputs_of(&onnx, input, &outputs, None);
        let greatest = expected.iter().fold(0f32, |greatest, value| greatest.max(value.abs()));
        for level in Level::available() {
            let found = outputs_of(&onnx, input, &outputs, Some(level));
            assert_eq!(found.len(), expected.len());
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            println!("{} at {level:?}: differs by {worst:.2e} of up to {greatest:.1}", file.display());
            assert!(worst < 1e-4 * greatest.max(1.0), "{} at {level:?}: {worst}", file.display());
        }
    }
}
