//! What a run showed: one page for a person, one object for a program. Judges
//! by the promises; a run that is too short to tell says so.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use flatframe_shared::budget::Bytes;
use flatframe_shared::trend::{self, Slope};
use serde_json::{Value, json};

use crate::Args;
use crate::events::Happened;
use crate::pair::{End, SERVICES};
use crate::plot;
use crate::sampler::{Sample, Sampler, Service};

/// Frames for which the slope is told.
pub const PER_FRAMES: f64 = 100_000.0;
/// Highest slope that counts as flat, bytes per [`PER_FRAMES`].
const FLAT_BYTES: f64 = 100_000.0;
/// Growth below this over all that counts is no verdict: pages that fill late. In
/// a whole night [`FLAT_BYTES`] is the stricter of the two.
const SETTLING_BYTES: f64 = 262_144.0;
/// As [`SETTLING_BYTES`] for a run of fewer than [`LONG_FRAMES`]: for minutes the
/// allocator takes and gives back megabytes.
const SHORT_SETTLING_BYTES: f64 = 4_194_304.0;
/// Frames from which on a run tells what grows slowly.
const LONG_FRAMES: f64 = 200_000.0;
/// What is filled once: this share of the samples since the server's restart is
/// left out of every comparison.
const WARM_UP: f64 = 0.15;
/// First and last part of the rest that are compared.
const TENTH: f64 = 0.1;
/// Cameras besides those that read a file: the one over HTTP, and the large one.
const CAMERAS_BESIDES_FILES: i64 = 2;

/// What was measured of one service.
#[derive(Debug)]
struct Measured {
    name: &'static str,
    level_bytes: u64,
    peak_bytes: u64,
    budget_bytes: u64,
    pss_bytes: Option<u64>,
    swap_bytes: u64,
    slope: Option<Slope>,
    /// Frames over which the slope was taken.
    slope_frames: f64,
    fd_growth: i64,
    thread_growth: i64,
    /// Threads that the service's runtime may still start.
    spare_threads: i64,
    ledger_balance: i64,
    /// The fullest that any place was: name, live, cap.
    fullest: Option<(String, u64, u64)>,
    stages: Vec<(String, u64, u64)>,
}

impl Measured {
    /// Whether memory grows for certain, and by more than what settles.
    fn grows(&self) -> bool {
        self.slope.is_some_and(|slope| {
            let least = slope.per_x - slope.ci95;
            let settling = if self.slope_frames < LONG_FRAMES { SHORT_SETTLING_BYTES } else { SETTLING_BYTES };
            least * PER_FRAMES > FLAT_BYTES && least * self.slope_frames > settling
        })
    }
}

/// The report of a run.
pub struct Report {
    frames: u64,
    took: Duration,
    measured: Vec<Measured>,
    throughput_fps: f64,
    throughput_last_over_first: f64,
    happened: Arc<Happened>,
    clean: bool,
    command: String,
    /// Number of the first sample that counts.
    from: usize,
}

impl Report {
    /// Measures a run that is over.
    pub fn new(args: &Args, sampler: &Sampler, happened: &Arc<Happened>, end: End) -> Self {
        let all = sampler.all();
        let restarted = sampler.restarted_at().unwrap_or(0);
        let from = restarted + ((all.len() - restarted) as f64 * WARM_UP) as usize;
        let counted = &all[from.min(all.len().saturating_sub(1))..];
        let (first, last) = tenths(counted);
        let (frames, took) = all.last().map_or((0, Duration::ZERO), |sample| (sample.frames, sample.at));
        Self {
            frames,
            took,
            measured: (0..SERVICES.len())
                .map(|place| measure(place, args.cameras, all, counted, first, last))
                .collect(),
            throughput_fps: frames as f64 / took.as_secs_f64().max(1e-9),
            throughput_last_over_first: fps(last) / fps(first),
            happened: happened.clone(),
            clean: end.clean,
            command: format!("{args:?}"),
            from,
        }
    }

    /// Whether every promise was kept, as far as the run can tell.
    pub fn is_good(&self) -> bool {
        self.clean && self.measured.iter().all(|service| self.broken(service).is_empty())
    }

    fn broken(&self, service: &Measured) -> Vec<String> {
        let mut broken = Vec::new();
        if service.ledger_balance != 0 {
            broken.push(format!("the ledger was out of balance by {}", service.ledger_balance));
        }
        if service.peak_bytes > service.budget_bytes {
            broken.push("memory was above its budget".to_owned());
        }
        if service.fd_growth > 0 || service.thread_growth > service.spare_threads {
            broken.push(format!("files {:+}, threads {:+}", service.fd_growth, service.thread_growth));
        }
        if service.grows() {
            broken.push("memory grows".to_owned());
        }
        broken
    }

    /// Writes the page, the object and the plot into `folder`.
    pub fn write(&self, folder: &Path, sampler: &Sampler) -> anyhow::Result<()> {
        let slopes: Vec<_> = self.measured.iter().map(|service| service.slope).collect();
        for (name, text) in [
            ("soak.txt", self.to_string()),
            ("soak.json", format!("{:#}\n", self.json())),
            ("soak.svg", plot::svg(sampler.all(), sampler.restarted_at(), self.from, &slopes)),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        println!("report, plot and samples are in {}", folder.display());
        Ok(())
    }

    /// The object for programs.
    pub fn json(&self) -> Value {
        let by_service = |value: &dyn Fn(&Measured) -> Value| -> Value {
            self.measured.iter().map(|service| (service.name.to_owned(), value(service))).collect()
        };
        json!({
            "frames": self.frames,
            "seconds": self.took.as_secs_f64(),
            "throughput_fps": self.throughput_fps,
            "throughput_last_over_first": self.throughput_last_over_first,
            "rss_slope_bytes_per_100k_frames": by_service(&|service| match service.slope {
                Some(slope) => json!({ "slope": slope.per_x * PER_FRAMES, "ci": slope.ci95 * PER_FRAMES }),
                None => Value::Null,
            }),
            "rss_level_bytes": by_service(&|service| json!(service.level_bytes)),
            "rss_peak_bytes": by_service(&|service| json!(service.peak_bytes)),
            "pss_bytes": by_service(&|service| json!(service.pss_bytes)),
            "swap_bytes": by_service(&|service| json!(service.swap_bytes)),
            "budget_bytes": by_service(&|service| json!(service.budget_bytes)),
            "ledger_balance": self.measured.iter().map(|service| service.ledger_balance.abs()).sum::<i64>(),
            "fd_growth": by_service(&|service| json!(service.fd_growth)),
            "thread_growth": by_service(&|service| json!(service.thread_growth)),
            "clean_exit": self.clean,
            "events": self.events().into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect::<Value>(),
            "good": self.is_good(),
        })
    }

    fn events(&self) -> Vec<(&'static str, u64)> {
        let happened = &*self.happened;
        let read = |count: &AtomicU64| count.load(Relaxed);
        vec![
            ("clients that watched and never read", read(&happened.slept)),
            ("of them cut by the server", read(&happened.cut)),
            ("clients that left at once", read(&happened.left)),
            ("watches opened anew", read(&happened.reconnected)),
            ("watches that gave nothing in time", read(&happened.refused)),
            ("camera restarts", read(&happened.camera_restarts)),
            ("results read by the faithful client", read(&happened.read)),
            ("results it was told that it missed", read(&happened.missed)),
        ]
    }
}

/// One service over a run: `counted` without the warm-up, `first` and `last` of it.
fn measure(
    place: usize,
    cameras: u32,
    all: &[Sample],
    counted: &[Sample],
    first: &[Sample],
    last: &[Sample],
) -> Measured {
    let service = |sample: &'_ Sample| -> Service { sample.services[place].clone() };
    let points: Vec<trend::Sample> = counted
        .iter()
        .map(|sample| trend::Sample { x: sample.frames as f64, y: sample.services[place].rss_bytes as f64 })
        .collect();
    let grown = |value: fn(&Service) -> u64| {
        let level = |part: &[Sample]| median(part.iter().map(|sample| value(&sample.services[place])));
        level(last) as i64 - level(first) as i64
    };
    let places = all.iter().flat_map(|sample| &sample.services[place].places);
    let fullest = places.max_by(|a, b| {
        let share = |(_, live, cap): &(String, u64, u64)| *live as f64 / (*cap).max(1) as f64;
        share(a).total_cmp(&share(b))
    });
    let end = all.last().map(service).unwrap_or_default();
    Measured {
        name: SERVICES[place],
        level_bytes: median(counted.iter().map(|sample| sample.services[place].rss_bytes)),
        peak_bytes: all.iter().map(|sample| sample.services[place].rss_peak_bytes).max().unwrap_or_default(),
        budget_bytes: end.budget_bytes,
        pss_bytes: end.pss_bytes,
        swap_bytes: all.iter().map(|sample| sample.services[place].swap_bytes).max().unwrap_or_default(),
        slope: trend::slope(&points),
        slope_frames: points.last().map_or(0.0, |last| last.x) - points.first().map_or(0.0, |first| first.x),
        fd_growth: grown(|service| service.open_files),
        thread_growth: grown(|service| service.threads),
        spare_threads: spare_threads(place, cameras, first),
        // The worst of all samples: an imbalance never goes away, and must not be missed if it does.
        ledger_balance: all
            .iter()
            .map(|s| s.services[place].ledger_balance)
            .max_by_key(|b| b.abs())
            .unwrap_or_default(),
        fullest: fullest.cloned(),
        stages: end.stages,
    }
}

/// Threads that the runtime of ingest-service may still start for files and
/// names: it has a main thread, a worker, one for each camera's pictures, and
/// starts up to two more for each camera and six when they are first needed (21 in
/// all with five cameras is what a night came to).
/// inference-service starts all of its threads at once.
fn spare_threads(place: usize, cameras: u32, first: &[Sample]) -> i64 {
    if SERVICES[place] != "ingest-service" {
        return 0;
    }
    let cameras = i64::from(cameras) + CAMERAS_BESIDES_FILES;
    let most = 2 + cameras + 2 * cameras + 6;
    (most - median(first.iter().map(|sample| sample.services[place].threads)) as i64).max(0)
}

/// The first and the last tenth, by time.
fn tenths(samples: &[Sample]) -> (&[Sample], &[Sample]) {
    let tenth = ((samples.len() as f64 * TENTH) as usize).clamp(1, samples.len().max(1));
    (&samples[..tenth.min(samples.len())], &samples[samples.len().saturating_sub(tenth)..])
}

/// Frames per second over a part of a run.
fn fps(part: &[Sample]) -> f64 {
    match (part.first(), part.last()) {
        (Some(first), Some(last)) if last.at > first.at => {
            (last.frames - first.frames) as f64 / (last.at - first.at).as_secs_f64()
        }
        _ => f64::NAN,
    }
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frames, seconds) = (self.frames, self.took.as_secs_f64());
        writeln!(
            f,
            "\n{frames} frames in {seconds:.0} s: {:.1} frames/s; last tenth over first {:.3}",
            self.throughput_fps, self.throughput_last_over_first
        )?;
        writeln!(f, "{}\n", self.command)?;
        for service in &self.measured {
            writeln!(f, "{}", service.name)?;
            writeln!(
                f,
                "  RSS      {} (peak {}, budget {}), PSS {}, swap {}",
                Bytes(service.level_bytes),
                Bytes(service.peak_bytes),
                Bytes(service.budget_bytes),
                service.pss_bytes.map_or("unknown".to_owned(), |pss| Bytes(pss).to_string()),
                Bytes(service.swap_bytes)
            )?;
            match service.slope {
                None => writeln!(f, "  slope    unknown: the run was too short")?,
                Some(slope) => {
                    let (slope, ci) = (slope.per_x * PER_FRAMES, slope.ci95 * PER_FRAMES);
                    let precise =
                        if slope.abs() + ci <= FLAT_BYTES { "flat" } else { "too short a run to tell below 0.1 MB" };
                    writeln!(
                        f,
                        "  slope    {:+.1} kB per 100,000 frames, 95 % confidence +-{:.1} kB ({})",
                        slope / 1e3,
                        ci / 1e3,
                        if service.grows() { "GROWS" } else { precise }
                    )?;
                }
            }
            writeln!(
                f,
                "  files    {:+}, threads {:+} (last tenth against first)",
                service.fd_growth, service.thread_growth
            )?;
            writeln!(f, "  ledger   balance {}", service.ledger_balance)?;
            if let Some((name, live, cap)) = &service.fullest {
                writeln!(f, "  fullest  {name}: {live} of {cap}")?;
            }
            for (name, p50, p99) in &service.stages {
                writeln!(f, "  {name:<20} p50 {:.2} ms, p99 {:.2} ms", *p50 as f64 / 1e3, *p99 as f64 / 1e3)?;
            }
            for broken in self.broken(service) {
                writeln!(f, "  BROKEN   {broken}")?;
            }
        }
        writeln!(f)?;
        for (name, count) in self.events() {
            writeln!(f, "  {count:>9}  {name}")?;
        }
        if !self.clean {
            writeln!(f, "BROKEN: a service did not end with code 0")?;
        }
        writeln!(f, "{}", if self.is_good() { "every promise was kept" } else { "A PROMISE WAS BROKEN" })
    }
}
