//! `ingest-service probe`: opens one source, once, and says what it gives.
//! Sends nothing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use flatframe_shared::cli::ServiceArgs;
use flatframe_shared::clock;
use flatframe_shared::config::ConfigError;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use flatframe_shared::ledger::{IngestCounts, IngestLedger};
use flatframe_shared::memory_watch::MemoryWatch;
use flatframe_shared::outcome::DropReason;
use tokio_util::sync::CancellationToken;

use crate::board::Machine;
use crate::config::{CameraConfig, Config};
use crate::frame::{CapturedFrame, Picture, Purpose};
use crate::plan::CameraPlan;
use crate::prepare::RawSlot;
use crate::prepare::look::ConditionCell;
use crate::prepare::preparer::{PrepareLimits, Preparer};
use crate::source::capture::Capture;
use crate::source::status::StatusCell;
use crate::source::{self, SourceError, spec};
use crate::terms::{Terms, TermsCell};

/// A picture waits until all have come, and must not grow stale.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What to open, and for how long.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What a camera's `source` key may say, such as v4l2:/dev/video0; with
    /// --config also the id of a camera there.
    source: String,
    /// How long to look.
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Write the first picture into this file, as JPEG.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// What came of a source.
#[derive(Debug)]
struct Report {
    seen: Seen,
    counts: IngestCounts,
    /// Why it ended before the time; `None` when it did not.
    ended: Option<SourceError>,
}

/// What was seen of its pictures.
#[derive(Debug, Default)]
struct Seen {
    pictures: u64,
    bytes: u64,
    /// From the start to the first, and from there to the last.
    first: Option<(Duration, CapturedFrame)>,
    lasted: Duration,
}

/// Opens the source and looks; the answer goes to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code: 0 when a
/// picture came.
pub fn run(
    args: &ProbeArgs,
    service: &ServiceArgs,
    machine: &Machine,
    out: &mut dyn Write,
) -> std::io::Result<ExitCode> {
    let (camera, plan) = match plan(args, service, machine) {
        Ok(known) => known,
        Err(error) => return failed(flatframe_shared::cli::EXIT_CONFIG, &error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(probe(&plan, args.time))?;
    // A look-up of a name may hold a thread.
    runtime.shutdown_background();
    writeln!(out, "source    {}", spec::redacted(&camera.source))?;
    print(&report, out)?;
    let Report { seen, ended, .. } = report;
    let Some((_, first)) = seen.first else {
        let why = ended.map_or_else(|| "it is open, but gives no picture".to_owned(), |error| error.to_string());
        return failed(1, &format!("no picture within {} s: {why}", args.time.as_secs_f32()));
    };
    if let Some(path) = &args.save {
        let saved = encoded(first, &plan).and_then(|bytes| std::fs::write(path, bytes).map_err(|e| e.to_string()));
        match saved {
            Ok(()) => writeln!(out, "saved     {}", path.display())?,
            Err(why) => return failed(1, &format!("--save {}: {why}", path.display())),
        }
    } else {
        first.ticket.drop_as(DropReason::Shutdown);
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(code: u8, why: &dyn std::fmt::Display) -> std::io::Result<ExitCode> {
    Ok(flatframe_shared::cli::fail("ingest-service", code, why))
}

/// The camera of the configuration with that id, or one with this source.
fn plan(args: &ProbeArgs, service: &ServiceArgs, machine: &Machine) -> Result<(CameraConfig, CameraPlan), ConfigError> {
    let config = match &service.config {
        Some(file) => Config::load(Some(file), &service.set, machine)?,
        None if !service.set.is_empty() => {
            let (key, value) = &service.set[0];
            return Err(ConfigError::not_allowed(key, value, "--set changes what --config names: give both"));
        }
        None => Config::default(),
    };
    let known = config.camera.iter().find(|camera| camera.id == args.source).cloned();
    let camera = known.unwrap_or_else(|| CameraConfig::new("probe", &args.source));
    let mut plan = CameraPlan::new(&camera, &config.limits)?;
    plan.ttl = NEVER;
    Ok((camera, plan))
}

/// One attempt, for so long.
async fn probe(plan: &CameraPlan, time: Duration) -> std::io::Result<Report> {
    let (slot, terms, ledger) = (Arc::<RawSlot>::default(), TermsCell::default(), IngestLedger::new());
    let limit = plan.prepare.source_size;
    terms.set(Some(Terms { max_fps: None, max_size: limit, max_frame_bytes: plan.max_picture_bytes }));
    let memory = Arc::new(MemoryWatch::unlimited());
    let mut capture = Capture::new(plan, ledger.clone(), StatusCell::new(), slot.clone(), terms, memory);
    let looking = std::thread::Builder::new().name("look".into()).spawn({
        let (slot, begun) = (slot.clone(), Instant::now());
        move || look(&slot, begun)
    })?;
    let mut source = source::of(plan);
    let stop = CancellationToken::new();
    let mut attempt = source.run_once(&mut capture, &stop);
    let ended = tokio::select! {
        ended = &mut attempt => ended.err(),
        () = tokio::time::sleep(time) => {
            stop.cancel();
            let _ = attempt.await;
            None
        }
    };
    slot.close();
    let seen = looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok(Report { seen, counts: ledger.counts(), ended })
}

/// Looks at every picture until the slot is closed.
fn look(slot: &RawSlot, begun: Instant) -> Seen {
    let mut seen = Seen::default();
    while let Some(frame) = slot.take() {
        seen.pictures += 1;
        seen.bytes += match &frame.picture {
            Picture::Jpeg(jpeg) => jpeg.len() as u64,
            Picture::Raw(raw) => raw.bytes.len() as u64,
        };
        match &seen.first {
            None => seen.first = Some((frame.birth.captured.saturating_duration_since(begun), frame)),
            Some((_, first)) => {
                seen.lasted = frame.birth.captured.saturating_duration_since(first.birth.captured);
                frame.ticket.drop_as(DropReason::Shutdown);
            }
        }
    }
    seen
}

fn print(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let Report { seen, counts, ended } = report;
    if let Some((after, first)) = &seen.first {
        let format = match &first.picture {
            Picture::Jpeg(jpeg) => match jpeg::read_size(jpeg) {
                Ok(PictureSize { width_px, height_px }) => format!("JPEG {width_px}x{height_px}"),
                Err(error) => format!("JPEG that cannot be read: {error}"),
            },
            Picture::Raw(raw) => format!("{:?} {}x{}", raw.layout, raw.size.width_px, raw.size.height_px),
        };
        let broken = counts.dropped(DropReason::Corrupt) + counts.dropped(DropReason::TooLarge);
        let whole = counts.captured - broken;
        writeln!(out, "format    {format}")?;
        write!(out, "pictures  {whole}, the first after {:.1} s", after.as_secs_f32())?;
        let seconds = seen.lasted.as_secs_f64();
        if seconds > 0.0 {
            write!(out, ", {:.1} a second", (whole - 1) as f64 / seconds)?;
        }
        writeln!(out, "\nbytes     {} each", seen.bytes / seen.pictures)?;
    }
    for reason in [DropReason::Corrupt, DropReason::TooLarge] {
        if counts.dropped(reason) > 0 {
            writeln!(out, "broken    {} {reason}", counts.dropped(reason))?;
        }
    }
    match ended {
        Some(error) if seen.first.is_some() => writeln!(out, "ended     {error}"),
        _ => Ok(()),
    }
}

/// A picture as JPEG, at its full size: what a camera with these masks and this
/// region would send of it.
fn encoded(frame: CapturedFrame, plan: &CameraPlan) -> Result<Bytes, String> {
    let CapturedFrame { ticket, picture, .. } = frame;
    ticket.drop_as(DropReason::Shutdown);
    let (max_size, max_frame_bytes) = (plan.prepare.source_size, plan.max_picture_bytes);
    let limits =
        PrepareLimits { sent_size: max_size, sent_bytes: max_frame_bytes, bytes_per_s: None, ..plan.prepare.clone() };
    let mut preparer = Preparer::new(limits, ConditionCell::default());
    let prepared = preparer.prepare(clock::now(), picture, None, Purpose::default());
    prepared.map(|prepared| prepared.fitted.jpeg).map_err(|reason| format!("the picture cannot be encoded: {reason}"))
}
