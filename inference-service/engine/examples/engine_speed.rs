//! Milliseconds per run of models, one thread, with tract's own operators and
//! with ours. Prints one line for each; judges nothing.
//!
//!     cargo run --release -p flatframe-engine --example engine_speed -- --seconds 2
//!
//! More models: `--model FILE:CHANNELSxHEIGHTxWIDTH:OUTPUT,...`, with names of
//! outputs as the file has them. `benches/vs_ort.py` runs this beside
//! ONNX Runtime, in turns. `--ops own` or `--ops tract` runs one of the two.

use std::time::{Duration, Instant};

use flatframe_engine::onnx::{OnnxEngine, OpsPolicy};
use flatframe_engine::{Engine, InputShape};

struct Model {
    name: String,
    onnx: Vec<u8>,
    input: InputShape,
    outputs: Vec<String>,
}

fn main() {
    let (mut seconds, mut models) = (1.0, Vec::new());
    let mut policies = vec![("tract", OpsPolicy::Tract), ("own", OpsPolicy::Own)];
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("every option has a value");
        match arg.as_str() {
            "--seconds" => seconds = value().parse().expect("a number of seconds"),
            "--ops" => {
                let wanted = value();
                policies.retain(|(name, _)| *name == wanted);
            }
            "--model" => models.push(model(&value())),
            other => panic!("{other:?} is no option"),
        }
    }
    if models.is_empty() {
        models = embedded();
    }
    for Model { name, onnx, input, outputs } in models {
        for &(ops, policy) in &policies {
            let engine =
                OnnxEngine::load_with(&onnx, input, &outputs, policy).unwrap_or_else(|error| panic!("{error}"));
            // On a thread of its own, as in the service: the allocator treats
            // the first thread differently.
            let run = || run(&engine, Duration::from_secs_f64(seconds));
            let (times, faults) = std::thread::scope(|scope| scope.spawn(run).join().expect("the run ends"));
            let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
            println!(
                "{name} {}x{} {ops}: median {:.4} ms, p10 {:.4}, least {:.4}, {} runs, {:.1} page faults a run, \
                 resident {:.1} MiB",
                input.width,
                input.height,
                at(50),
                at(10),
                at(0),
                times.len(),
                faults as f64 / times.len() as f64,
                resident_bytes() as f64 / f64::from(1 << 20),
            );
        }
    }
}

/// Times of the runs in `duration`, sorted, and page faults of all of them.
fn run(engine: &OnnxEngine, duration: Duration) -> (Vec<Duration>, u64) {
    let mut state = engine.spawn();
    for (at, value) in state.input().iter_mut().enumerate() {
        // Anything but zeros, the same in every run.
        *value = (at * 7919 % 256) as f32;
    }
    for _ in 0..10 {
        state.run().unwrap_or_else(|error| panic!("{error}"));
    }
    let faults = page_faults();
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < duration {
        let start = Instant::now();
        state.run().unwrap_or_else(|error| panic!("{error}"));
        times.push(start.elapsed());
    }
    let faults = page_faults() - faults;
    times.sort();
    (times, faults)
}

/// The embedded models, at the sizes at which the service runs them.
fn embedded() -> Vec<Model> {
    ["flatface-det.onnx:3x256x320:head_8,head_16,head_32", "flatface-gender.onnx:3x48x48:male_logit"]
        .map(|file| model(&format!("{}/../models/{file}", env!("CARGO_MANIFEST_DIR"))))
        .into()
}

/// `FILE:CHANNELSxHEIGHTxWIDTH:OUTPUT,...`
fn model(text: &str) -> Model {
    let [file, shape, outputs] = text.split(':').collect::<Vec<_>>()[..] else {
        panic!("{text:?} has not three parts")
    };
    let sides: Vec<usize> = shape.split('x').map(|side| side.parse().expect("a side in pixels")).collect();
    let [channels, height, width] = sides[..] else { panic!("{shape:?} has not three sides") };
    Model {
        name: file.rsplit('/').next().unwrap_or(file).trim_end_matches(".onnx").into(),
        onnx: std::fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}")),
        input: InputShape { channels, height, width },
        outputs: outputs.split(',').map(String::from).collect(),
    }
}

fn resident_bytes() -> u64 {
    flatframe_shared::process::current_use().rss_bytes.expect("Linux has it")
}

/// Page faults of this process that needed no disk.
fn page_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    let after_name = stat.rsplit(')').next().expect("the name is in brackets");
    after_name.split_whitespace().nth(7).and_then(|faults| faults.parse().ok()).expect("the tenth field is a number")
}
