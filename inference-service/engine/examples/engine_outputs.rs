//! Raw outputs of a model for given inputs, to compare with another runtime:
//! `benches/equals_ort.py` does.
//!
//!     engine_outputs MODEL:CHANNELSxHEIGHTxWIDTH:OUTPUT,... INPUTS OUTPUTS
//!
//! INPUTS and OUTPUTS are files of little-endian 32-bit floats: all inputs one
//! after the other; for each input all outputs in the order of their names.

use std::io::Write;

use flatframe_engine::onnx::OnnxEngine;
use flatframe_engine::{Engine, InputShape};

fn main() {
    let [model, inputs, outputs] = std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("three arguments");
    let [file, shape, names] = model.split(':').collect::<Vec<_>>()[..] else {
        panic!("{model:?} has not three parts")
    };
    let sides: Vec<usize> = shape.split('x').map(|side| side.parse().expect("a side in pixels")).collect();
    let [channels, height, width] = sides[..] else { panic!("{shape:?} has not three sides") };
    let names: Vec<String> = names.split(',').map(String::from).collect();

    let onnx = std::fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let input = InputShape { channels, height, width };
    let engine = OnnxEngine::load(&onnx, input, &names).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut state = engine.spawn();
    let inputs = std::fs::read(inputs).expect("the inputs can be read");
    let mut to = std::io::BufWriter::new(std::fs::File::create(outputs).expect("the outputs can be written"));
    for picture in inputs.chunks_exact(input.len() * size_of::<f32>()) {
        for (value, bytes) in state.input().iter_mut().zip(picture.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        state.run().unwrap_or_else(|error| panic!("{error}"));
        for index in 0..names.len() {
            for value in state.output(index) {
                to.write_all(&value.to_le_bytes()).expect("the outputs can be written");
            }
        }
    }
    to.flush().expect("the outputs can be written");
}
