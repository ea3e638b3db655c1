//! The engine: load, spawn, run. An [`Engine`] is one model for one input
//! shape, shared by all workers; an [`EngineState`] is one worker's own.
//!
//! Knows tensors only: no picture, no face, no file. Batch is always 1.
//!
//! A crate of its own because tract takes long to compile and this changes
//! rarely, and because its kernels have to be compiled for speed in every
//! profile: all frames go through them.

pub mod onnx;
mod ops;

/// An engine could not load a model or run it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// Shape of the one input: `1 x channels x height x width`, 32-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputShape {
    /// 3 (colour) or 1 (grey).
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl InputShape {
    /// Number of values.
    #[expect(clippy::len_without_is_empty, reason = "an input is never empty")]
    pub const fn len(self) -> usize {
        self.channels * self.height * self.width
    }
}

/// Computed bounds of an engine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineMemory {
    /// Once per process, however many models of this kind are loaded.
    pub process_bytes: u64,
    /// Shared: weights and plan.
    pub model_bytes: u64,
    /// Per state, for as long as it lives: input and outputs.
    pub held_bytes: u64,
    /// Per state, only while it runs: tensors between the layers.
    pub running_bytes: u64,
}

/// One model, ready to run on one input shape.
pub trait Engine: Send + Sync {
    /// A state of its own for one worker.
    fn spawn(&self) -> Box<dyn EngineState>;
    /// Shapes of the outputs, in the order in which they were asked for at
    /// load, the batch of 1 included.
    fn output_shapes(&self) -> &[Vec<usize>];
    /// Bounds of its memory.
    fn memory(&self) -> EngineMemory;
}

/// One worker's running model.
pub trait EngineState: Send {
    /// The input to write before [`EngineState::run`]: channel by channel,
    /// each row by row. Keeps what was written last.
    fn input(&mut self) -> &mut [f32];
    /// Runs the model. After an error the next run starts afresh.
    fn run(&mut self) -> Result<(), EngineError>;
    /// Values of one output of the last good run, in row-major order of its
    /// shape; empty before the first run and after an error.
    fn output(&self, index: usize) -> &[f32];
}
