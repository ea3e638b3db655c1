//! One sample a second of both services: kept for the report, and written to a
//! file as it comes, so that a run that is killed leaves what it saw.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use flatframe_shared::budget::Bytes;

use crate::pair::SERVICES;

/// One service at one instant.
#[derive(Debug, Clone, Default)]
pub struct Service {
    pub rss_bytes: u64,
    pub rss_peak_bytes: u64,
    /// `None` where the kernel does not say.
    pub pss_bytes: Option<u64>,
    pub swap_bytes: u64,
    pub open_files: u64,
    pub threads: u64,
    pub allocator_in_use_bytes: Option<u64>,
    pub allocator_held_bytes: Option<u64>,
    pub budget_bytes: u64,
    pub ledger_balance: i64,
    /// Bounded places: name, live, cap.
    pub places: Vec<(String, u64, u64)>,
    /// Stages since start: name, p50 and p99 in microseconds.
    pub stages: Vec<(String, u64, u64)>,
}

/// Both services at one instant.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Since the run began.
    pub at: Duration,
    /// Frames analysed so far.
    pub frames: u64,
    /// In the order of [`SERVICES`].
    pub services: [Service; 2],
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.0} s  {:7} frames", self.at.as_secs_f64(), self.frames)?;
        for (name, service) in SERVICES.iter().zip(&self.services) {
            write!(
                f,
                "  {name}: RSS {} of {}, {} files, {} threads, balance {}",
                Bytes(service.rss_bytes),
                Bytes(service.budget_bytes),
                service.open_files,
                service.threads,
                service.ledger_balance
            )?;
        }
        Ok(())
    }
}

/// All samples of a run.
pub struct Sampler {
    samples: Vec<Sample>,
    file: BufWriter<File>,
    restarted_at: Option<usize>,
}

impl Sampler {
    /// Writes `samples.csv` in `folder`.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("samples.csv");
        let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        Ok(Self { samples: Vec::new(), file: BufWriter::new(file), restarted_at: None })
    }

    /// Takes a sample.
    pub fn take(&mut self, sample: Sample) -> anyhow::Result<()> {
        // Every stage has shown itself when there are frames: the columns are known then.
        if self.samples.is_empty() {
            writeln!(self.file, "{}", header(&sample))?;
        }
        writeln!(self.file, "{}", row(&sample))?;
        self.file.flush()?;
        self.samples.push(sample);
        Ok(())
    }

    /// The server was started again after the last sample.
    pub fn server_restarted(&mut self) {
        self.restarted_at = Some(self.samples.len());
    }

    /// Number of the first sample after the server's restart.
    pub fn restarted_at(&self) -> Option<usize> {
        self.restarted_at
    }

    /// All samples, oldest first.
    pub fn all(&self) -> &[Sample] {
        &self.samples
    }
}

fn header(sample: &Sample) -> String {
    let mut columns = vec!["at_s".to_owned(), "frames".to_owned()];
    for (name, service) in SERVICES.iter().zip(&sample.services) {
        let fixed = [
            "rss_bytes",
            "rss_peak_bytes",
            "pss_bytes",
            "swap_bytes",
            "open_files",
            "threads",
            "allocator_in_use_bytes",
            "allocator_held_bytes",
            "ledger_balance",
            "stages",
        ];
        columns.extend(fixed.iter().map(|column| format!("{name} {column}")));
        columns.extend(service.places.iter().map(|(place, _, cap)| format!("{name} {place} (cap {cap})")));
    }
    columns.join(",")
}

fn row(sample: &Sample) -> String {
    let mut cells = vec![format!("{:.1}", sample.at.as_secs_f64()), sample.frames.to_string()];
    let known = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    for service in &sample.services {
        let stages: Vec<_> = service.stages.iter().map(|(name, p50, p99)| format!("{name} {p50}/{p99} us")).collect();
        cells.extend([
            service.rss_bytes.to_string(),
            service.rss_peak_bytes.to_string(),
            known(service.pss_bytes),
            service.swap_bytes.to_string(),
            service.open_files.to_string(),
            service.threads.to_string(),
            known(service.allocator_in_use_bytes),
            known(service.allocator_held_bytes),
            service.ledger_balance.to_string(),
            stages.join("; "),
        ]);
        cells.extend(service.places.iter().map(|(_, live, _)| live.to_string()));
    }
    cells.join(",")
}
