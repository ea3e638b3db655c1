//! What analysis costs: milliseconds per picture by stage, and resident memory
//! beside its computed bound. Prints; judges nothing.
//!
//!     cargo run --release --example analyze -- \
//!         --models ../shared/models --detector yunet_n --gender gender_dlib \
//!         --sizes 320x256 --runs 5000 --raise-thresholds ../shared/media/CLIP.mjpeg
//!
//! `--raise-thresholds` keeps glibc from mapping and unmapping every tensor.

use std::time::{Duration, Instant};

use flatframe_shared::frame::Rotation;
use inference_service::vision::{Analyzer, VisionConfig};

fn main() {
    let mut config = VisionConfig::default();
    let (mut runs, mut pictures) = (5000, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("every option but --raise-thresholds has a value");
        match arg.as_str() {
            "--models" => config.models_dir = value().into(),
            "--detector" => config.detector = value(),
            "--gender" => config.gender = value(),
            "--sizes" => config.input_sizes = value().split(',').map(|size| size.parse().expect("a size")).collect(),
            "--runs" => runs = value().parse().expect("a number of runs"),
            "--raise-thresholds" => raise_thresholds(),
            file => pictures.extend(jpegs(&std::fs::read(file).expect("a JPEG or a clip of JPEGs"))),
        }
    }

    let bare = resident_bytes();
    let start = Instant::now();
    let analyzer = Analyzer::load(&config).unwrap_or_else(|error| panic!("{error}"));
    println!("loaded {} and {:?} in {:.0?}", analyzer.detector_name(), analyzer.gender_name(), start.elapsed());
    let loaded = resident_bytes();
    println!("bound {:?}", analyzer.memory());
    println!("resident MiB: bare {:.1}, loaded {:.1}", mib(bare), mib(loaded));

    let mut state = analyzer.spawn();
    let mut stages: [Vec<Duration>; 4] = Default::default();
    let mut faces = 0;
    for (run, jpeg) in pictures.iter().cycle().take(runs).enumerate() {
        let start = Instant::now();
        let analysis = state.analyze(jpeg, Rotation::None).unwrap_or_else(|error| panic!("{error}"));
        let timings = analysis.timings;
        let all = [start.elapsed(), timings.decode, timings.detect, timings.gender];
        for (stage, time) in stages.iter_mut().zip(all) {
            stage.push(time);
        }
        faces += analysis.faces.len();
        if (run + 1) % (runs / 5).max(1) == 0 {
            println!("resident MiB after {:5} runs: {:.1}", run + 1, mib(resident_bytes()));
        }
    }
    println!("{:.2} faces per picture", faces as f64 / runs as f64);
    for (name, mut times) in ["all", "decode", "detect", "gender"].into_iter().zip(stages) {
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
        println!("{name:7} ms: p10 {:.3}, p50 {:.3}, p90 {:.3}", at(10), at(50), at(90));
    }
}

/// The JPEGs in `data`, cut before each start marker.
fn jpegs(data: &[u8]) -> Vec<Vec<u8>> {
    let mut starts: Vec<usize> = (0..data.len()).filter(|&at| data[at..].starts_with(&[0xFF, 0xD8])).collect();
    starts.push(data.len());
    starts.windows(2).map(|cut| data[cut[0]..cut[1]].to_vec()).collect()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux has it");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number of kB") << 10
}

fn raise_thresholds() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets numbers, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 20);
    }
}
