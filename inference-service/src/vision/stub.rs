//! A stand-in engine for load tests: takes a configured time and answers with
//! no face, or with one fixed face.
//!
//! Must never stand in for a model that could not be loaded; only an explicit
//! `vision.stub_engine` makes one.

use std::time::{Duration, Instant};

use flatframe_engine::{Engine, EngineError, EngineMemory, EngineState, InputShape};
use flatframe_shared::frame::PictureSize;

use crate::vision::config::{SizeText, StubEngineConfig, StubWaitPolicy};
use crate::vision::models::manifest::{Colour, DetectorOutput, InputSpec, SideRange};

/// Answers in YuNet's layout at one stride.
pub struct StubEngine {
    config: StubEngineConfig,
    input: InputShape,
    output_shapes: Vec<Vec<usize>>,
}

/// The one stride, in input pixels.
const STRIDE: u32 = 32;
/// Side of the fixed face, in strides.
const FACE_STRIDES: f32 = 2.0;

/// What the stub takes.
pub fn input() -> InputSpec {
    InputSpec {
        size: SizeText(PictureSize::new(320, 256)),
        also: Vec::new(),
        range: Some(SideRange { multiple_px: STRIDE, min_px: 64, max_px: 1920 }),
        colour: Colour::Bgr,
        mean: vec![0.0; 3],
        scale: 1.0,
    }
}

/// What the stub answers.
pub fn output() -> DetectorOutput {
    let [cls, obj, bbox, kps] = ["cls", "obj", "bbox", "kps"].map(String::from);
    DetectorOutput::Yunet { strides: vec![STRIDE], cls, obj, bbox, kps }
}

impl StubEngine {
    /// An engine for one input shape that [`input`] admits.
    pub fn new(config: StubEngineConfig, input: InputShape) -> Self {
        let cells = (input.width * input.height) / (STRIDE * STRIDE) as usize;
        let output_shapes = [1, 1, 4, 10].map(|values| vec![1, cells, values]).to_vec();
        Self { config, input, output_shapes }
    }
}

impl Engine for StubEngine {
    fn spawn(&self) -> Box<dyn EngineState> {
        let mut outputs: Vec<Vec<f32>> =
            self.output_shapes.iter().map(|shape| vec![0.0; shape.iter().product()]).collect();
        // The cell one row and one column in, so that the face lies inside
        // even the smallest picture.
        let cell = self.input.width / STRIDE as usize + 1;
        if self.config.face {
            outputs[0][cell] = 1.0;
            outputs[1][cell] = 1.0;
            outputs[2][4 * cell..][..4].copy_from_slice(&[0.0, 0.0, FACE_STRIDES.ln(), FACE_STRIDES.ln()]);
            let landmarks = [-0.4, -0.3, 0.4, -0.3, 0.0, 0.1, -0.3, 0.5, 0.3, 0.5];
            outputs[3][10 * cell..][..10].copy_from_slice(&landmarks);
        }
        Box::new(StubState { config: self.config, input: vec![0.0; self.input.len()], outputs })
    }

    fn output_shapes(&self) -> &[Vec<usize>] {
        &self.output_shapes
    }

    fn memory(&self) -> EngineMemory {
        let outputs: usize = self.output_shapes.iter().map(|shape| shape.iter().product::<usize>()).sum();
        let held_bytes = ((self.input.len() + outputs) * size_of::<f32>()) as u64;
        EngineMemory { held_bytes, ..EngineMemory::default() }
    }
}

struct StubState {
    config: StubEngineConfig,
    input: Vec<f32>,
    outputs: Vec<Vec<f32>>,
}

impl EngineState for StubState {
    fn input(&mut self) -> &mut [f32] {
        &mut self.input
    }

    fn run(&mut self) -> Result<(), EngineError> {
        let time = Duration::from_micros(u64::from(self.config.time_us));
        match self.config.wait {
            StubWaitPolicy::Sleep => std::thread::sleep(time),
            StubWaitPolicy::Busy => {
                let start = Instant::now();
                while start.elapsed() < time {
                    std::hint::spin_loop();
                }
            }
        }
        Ok(())
    }

    fn output(&self, index: usize) -> &[f32] {
        &self.outputs[index]
    }
}
