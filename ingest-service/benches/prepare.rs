//! Time to bring a camera's JPEG to 320x240, beside libjpeg-turbo, which does
//! the same in a C program (`turbo_peer.c`) that is compiled here when there is
//! a C compiler and libjpeg-turbo; nothing of the product needs it. The two run
//! in turns, so that both see the same machine.
//!
//!     apt-get install libturbojpeg0-dev valgrind
//!     cargo bench -p ingest-service --bench prepare -- [--photos DIR] [--rounds N] [--instructions]
//!
//! DIR holds JPEGs of any size; without it, generated pictures are used. With
//! `--instructions`, callgrind counts instructions in place of time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use flatframe_shared::resize::RgbResizer;
use ingest_service::prepare::downsample::{Downsampler, Wanted};

/// Sizes of sources, and at how many eighths libjpeg-turbo decodes them.
const SOURCES: [(PictureSize, u32); 3] =
    [(PictureSize::new(640, 480), 4), (PictureSize::new(1280, 720), 2), (PictureSize::new(1920, 1080), 2)];
const TARGET: PictureSize = PictureSize::new(320, 240);
const LIMIT: PictureSize = PictureSize::new(8000, 8000);
/// Of the sources' JPEGs and of what is sent.
const SOURCE_QUALITY: u8 = 85;
const QUALITY: u8 = 75;
/// Pictures of each size.
const PICTURES: usize = 12;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    // As the child that callgrind watches: prepares files, prints nothing.
    if let Some(at) = args.iter().position(|arg| arg == "--only") {
        let repeats = args[at + 1].parse().expect("repeats");
        let pictures: Vec<Bytes> =
            args[at + 2..].iter().map(|file| std::fs::read(file).expect("a file").into()).collect();
        let mut downsampler = Downsampler::new(LIMIT);
        for _ in 0..repeats {
            ours_us(&mut downsampler, &pictures);
        }
        return;
    }
    let rounds = value("--rounds").map_or(15, |rounds| rounds.parse().expect("a number of rounds"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let peer = peer(folder.path());
    if peer.is_none() {
        println!("no libjpeg-turbo or no C compiler: only ours is measured");
    }
    let sources = pictures(value("--photos").map(Path::new));
    for (size, eighths) in SOURCES {
        let files = written(&sources, size, folder.path());
        let target = size.fitted(TARGET);
        let bytes: u64 = files.iter().map(|file| file.metadata().expect("written").len()).sum();
        println!("{size} to {target}, {} pictures of {} kB on average", files.len(), bytes / 1000 / files.len() as u64);
        if args.iter().any(|arg| arg == "--instructions") {
            instructions(peer.as_deref(), target, eighths, &files, folder.path());
        } else {
            times(peer.as_deref(), target, eighths, &files, rounds);
        }
    }
}

/// Microseconds per frame.
fn ours_us(downsampler: &mut Downsampler, pictures: &[Bytes]) -> f64 {
    let wanted = Wanted { max_size: TARGET, max_bytes: usize::MAX, quality: QUALITY };
    let started = Instant::now();
    for jpeg in pictures {
        std::hint::black_box(downsampler.fit(jpeg.clone(), &wanted).expect("fits"));
    }
    started.elapsed().as_secs_f64() * 1e6 / pictures.len() as f64
}

fn times(peer: Option<&Path>, target: PictureSize, eighths: u32, files: &[PathBuf], rounds: usize) {
    let pictures: Vec<Bytes> = files.iter().map(|file| std::fs::read(file).expect("written").into()).collect();
    let mut downsampler = Downsampler::new(LIMIT);
    ours_us(&mut downsampler, &pictures);
    let [mut ours, mut planes, mut rgb] = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        ours.push(median((0..5).map(|_| ours_us(&mut downsampler, &pictures)).collect()));
        if let Some(peer) = peer {
            planes.push(turbo_us(peer, target, eighths, "planes", files));
            rgb.push(turbo_us(peer, target, eighths, "rgb", files));
        }
    }
    let ratio = |others: &[f64]| median(ours.iter().zip(others).map(|(ours, other)| ours / other).collect());
    println!("  ours {:7.0} us", median(ours.clone()));
    if peer.is_some() {
        println!("  libjpeg-turbo, planes {:7.0} us; ours / it {:.2}", median(planes.clone()), ratio(&planes));
        println!("  libjpeg-turbo, RGB    {:7.0} us; ours / it {:.2}", median(rgb.clone()), ratio(&rgb));
    }
}

fn turbo(peer: &Path, target: PictureSize, eighths: u32, way: &str, repeats: usize, files: &[PathBuf]) -> Vec<String> {
    let mut command = vec![peer.display().to_string()];
    command.extend([target.width_px, target.height_px, eighths, QUALITY.into()].map(|number| number.to_string()));
    command.extend([way.into(), repeats.to_string()]);
    command.extend(files.iter().map(|file| file.display().to_string()));
    command
}

fn turbo_us(peer: &Path, target: PictureSize, eighths: u32, way: &str, files: &[PathBuf]) -> f64 {
    // The first repeat warms up.
    let command = turbo(peer, target, eighths, way, 6, files);
    let output = Command::new(&command[0]).args(&command[1..]).output().expect("the peer runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let times = String::from_utf8(output.stdout).expect("numbers");
    median(times.lines().skip(1).map(|line| line.parse().expect("a number")).collect())
}

/// Instructions per frame: the difference between two repeats and one, so that
/// starting up does not count.
fn instructions(peer: Option<&Path>, target: PictureSize, eighths: u32, files: &[PathBuf], folder: &Path) {
    let count = |command: &[String]| {
        let out = format!("--callgrind-out-file={}", folder.join("callgrind").display());
        let output = Command::new("valgrind").args(["--tool=callgrind", &out]).args(command).output();
        let said = String::from_utf8_lossy(&output.expect("valgrind is installed").stderr).into_owned();
        let line = said.lines().find(|line| line.contains("Collected")).expect("a count").to_owned();
        line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    let per_frame = |of: &dyn Fn(usize) -> Vec<String>| (count(&of(2)) - count(&of(1))) / files.len() as u64;
    let program = std::env::current_exe().expect("this program").display().to_string();
    let own = |repeats: usize| {
        let mut command = vec![program.clone(), "--only".into(), repeats.to_string()];
        command.extend(files.iter().map(|file| file.display().to_string()));
        command
    };
    let ours = per_frame(&own);
    println!("  ours {ours:10} instructions");
    for way in ["planes", "rgb"] {
        let Some(peer) = peer else { continue };
        let its = per_frame(&|repeats| turbo(peer, target, eighths, way, repeats, files));
        println!("  libjpeg-turbo, {way} {its:10} instructions; ours / it {:.2}", ours as f64 / its as f64);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The C program, when it can be built.
fn peer(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/turbo_peer.c");
    let program = folder.join("turbo_peer");
    let built = Command::new("cc").arg("-O3").arg("-o").args([&program, &source]).arg("-lturbojpeg").output();
    built.is_ok_and(|output| output.status.success()).then_some(program)
}

/// Photographs in RGB, or generated shapes with grain.
fn pictures(photos: Option<&Path>) -> Vec<(PictureSize, Vec<u8>)> {
    let Some(folder) = photos else {
        println!("generated pictures");
        return (0..PICTURES as u64).map(generated).collect();
    };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jpg"));
    files.sort();
    println!("photographs of {}", folder.display());
    let read = |file: &PathBuf| {
        let mut rgb = Vec::new();
        let size = jpeg::decode_rgb(&std::fs::read(file).expect("a photograph"), LIMIT, &mut rgb).ok()?;
        Some((size, rgb))
    };
    files.iter().filter_map(read).take(PICTURES).collect()
}

fn generated(seed: u64) -> (PictureSize, Vec<u8>) {
    let (size, mut random) = (PictureSize::new(1920, 1080), fastrand::Rng::with_seed(seed));
    let waves: Vec<(f32, f32, f32)> = (0..12).map(|n| (random.f32(), random.f32(), 4.0 * 1.5f32.powi(n))).collect();
    let rgb = (0..size.pixels() as u32).flat_map(|at| {
        let (x, y) = ((at % 1920) as f32 / 1920.0, (at / 1920) as f32 / 1080.0);
        let light: f32 = waves.iter().map(|(a, b, f)| (f * (a * x + b * y) * 6.3).sin().signum() * 14.0).sum();
        let grain = random.f32() * 6.0;
        [1.0, 0.8, 0.6].map(|tint| (120.0 + light * tint + grain) as u8)
    });
    let rgb = rgb.collect();
    (size, rgb)
}

/// The pictures as JPEGs of one size.
fn written(sources: &[(PictureSize, Vec<u8>)], size: PictureSize, folder: &Path) -> Vec<PathBuf> {
    let mut resizer = RgbResizer::default();
    let files = sources.iter().enumerate().map(|(number, (from_size, from))| {
        let (mut rgb, mut encoded) = (vec![0; 3 * size.pixels() as usize], Vec::new());
        resizer.resize(from, *from_size, &mut rgb, size);
        jpeg::encode_rgb(&rgb, size, SOURCE_QUALITY, &mut encoded).expect("encodes");
        let file = folder.join(format!("{size}-{number}.jpg"));
        std::fs::write(&file, encoded).expect("writes");
        file
    });
    files.collect()
}
