//! `ingest-service recordings list | export`: what is recorded, and taking it
//! along. Reads beside a running service; starts none and changes nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use flatframe_shared::budget::Bytes;
use flatframe_shared::cli::{self, EXIT_CONFIG, ServiceArgs};
use flatframe_shared::frame::CameraId;
use serde_json::json;

use crate::board::Machine;
use crate::config::Config;
use crate::record::catalog::{self, Damage, Gap, Listing, TimeRange};
use crate::record::export::{self, Exported};

const PROGRAM: &str = "ingest-service";
/// Least time without a frame that counts as a gap, by default.
const GAP: &str = "10s";

/// What is recorded, and taking it along.
#[derive(Debug, Args)]
pub struct RecordingsArgs {
    /// Folder of the recordings; without it recording.dir of the configuration.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: RecordingsCommand,
}

#[derive(Debug, Subcommand)]
enum RecordingsCommand {
    /// Print one line for each camera: segments, frames, from, to, gaps.
    List(ListArgs),
    /// Write the frames of a camera into an AVI file or a folder of JPEGs.
    Export(ExportArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only this camera.
    #[arg(long, value_name = "ID", value_parser = CameraId::parse)]
    camera: Option<CameraId>,
    /// So long without a frame is a gap.
    #[arg(long, value_name = "DURATION", default_value = GAP, value_parser = humantime::parse_duration)]
    gap: Duration,
    /// Read and check every picture, which takes as long as reading the disk.
    #[arg(long)]
    check: bool,
    /// Print JSON, one object in each line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("to").required(true).args(["avi", "jpegs"]))]
struct ExportArgs {
    /// Of this camera.
    #[arg(long, value_name = "ID", value_parser = CameraId::parse)]
    camera: CameraId,
    /// From this time (UTC), such as 2026-11-22T03:15:00; without it from the
    /// first frame.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak, conflicts_with = "last")]
    from: Option<SystemTime>,
    /// To before this time; without it to the last frame.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak, conflicts_with = "last")]
    until: Option<SystemTime>,
    /// The last so long before now, such as 10min.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    last: Option<Duration>,
    /// Write this AVI file, which must not be there.
    #[arg(long, value_name = "FILE")]
    avi: Option<PathBuf>,
    /// Write a JPEG for each frame into this folder.
    #[arg(long, value_name = "FOLDER")]
    jpegs: Option<PathBuf>,
}

/// Does what was asked; the answer goes to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(
    args: &RecordingsArgs,
    service: &ServiceArgs,
    machine: &Machine,
    out: &mut dyn Write,
) -> std::io::Result<ExitCode> {
    let dir = match (&args.dir, Config::load(service.config.as_deref(), &service.set, machine)) {
        (Some(dir), _) => dir.clone(),
        (None, Err(error)) => return Ok(cli::fail(PROGRAM, EXIT_CONFIG, &error)),
        (None, Ok(config)) if config.recording.dir.is_empty() => {
            let text = "nothing is recorded: recording.dir is empty; give --dir DIR, --config FILE or \
                        --set recording.dir=DIR";
            return Ok(cli::fail(PROGRAM, 1, &text));
        }
        (None, Ok(config)) => PathBuf::from(config.recording.dir),
    };
    match &args.command {
        RecordingsCommand::List(list) => run_list(list, &dir, out),
        RecordingsCommand::Export(export) => run_export(export, &dir, out),
    }
}

fn run_list(args: &ListArgs, dir: &Path, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let unreadable = |error: std::io::Error| cli::fail(PROGRAM, 1, &format!("{}: {error}", dir.display()));
    let cameras = match &args.camera {
        Some(camera) => vec![camera.clone()],
        None => match catalog::cameras(dir) {
            Ok(cameras) => cameras,
            Err(error) => return Ok(unreadable(error)),
        },
    };
    let mut whole = true;
    for camera in cameras {
        let listing = match catalog::list(dir, &camera, args.gap, args.check) {
            Ok(listing) => listing,
            Err(error) => return Ok(unreadable(error)),
        };
        whole &= listing.damage.is_empty();
        if args.json {
            writeln!(out, "{}", as_json(&listing))?;
        } else {
            print(&listing, out)?;
        }
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(listing: &Listing, out: &mut dyn Write) -> std::io::Result<()> {
    let Listing { camera, segments, bytes, frames, from_unix_us, to_unix_us, gaps, .. } = listing;
    let (from, to) = (time(*from_unix_us), time(*to_unix_us));
    let bytes = Bytes(*bytes);
    let gap_count = gaps.len();
    writeln!(out, "{camera}: {frames} frames, {bytes} in {segments} segments, {from} to {to}, {gap_count} gaps")?;
    for Gap { from_unix_us, to_unix_us, lasted } in gaps {
        let lasted = lasted.map_or("unknown".into(), |lasted| {
            humantime::format_duration(Duration::from_secs(lasted.as_secs())).to_string()
        });
        writeln!(out, "  gap      {} to {}  {lasted}", time(*from_unix_us), time(*to_unix_us))?;
    }
    if listing.frames_without_time > 0 {
        writeln!(out, "  no time  {} frames: the clock was not set", listing.frames_without_time)?;
    }
    for Damage { file, bytes } in &listing.damage {
        writeln!(out, "  damaged  {bytes} bytes in {}", file.display())?;
    }
    Ok(())
}

fn as_json(listing: &Listing) -> serde_json::Value {
    let gaps: Vec<_> = listing
        .gaps
        .iter()
        .map(|gap| {
            let lasted_s = gap.lasted.map(|lasted| lasted.as_secs_f64());
            json!({ "from": json_time(gap.from_unix_us), "to": json_time(gap.to_unix_us), "lasted_s": lasted_s })
        })
        .collect();
    let damage: Vec<_> =
        listing.damage.iter().map(|damage| json!({ "file": damage.file, "bytes": damage.bytes })).collect();
    json!({
        "camera": listing.camera.as_str(),
        "segments": listing.segments,
        "bytes": listing.bytes,
        "frames": listing.frames,
        "frames_without_time": listing.frames_without_time,
        "from": json_time(listing.from_unix_us),
        "to": json_time(listing.to_unix_us),
        "gaps": gaps,
        "damage": damage,
    })
}

fn run_export(args: &ExportArgs, dir: &Path, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let from = args.last.map_or(args.from, |last| SystemTime::now().checked_sub(last));
    let range = TimeRange { from_unix_us: from.map(unix_us), to_unix_us: args.until.map(unix_us) };
    let exported = match (&args.avi, &args.jpegs) {
        (Some(file), _) => export::to_avi(dir, &args.camera, range, file),
        (_, Some(folder)) => export::to_folder(dir, &args.camera, range, folder),
        (None, None) => return Ok(cli::fail(PROGRAM, 2, &"give --avi FILE or --jpegs FOLDER")),
    };
    let Exported { frames, from_unix_us, to_unix_us, period_us, gaps, rotation_degrees, damage, .. } = match exported {
        Ok(exported) => exported,
        Err(error) => return Ok(cli::fail(PROGRAM, 1, &error)),
    };
    let (from, to) = (time(from_unix_us), time(to_unix_us));
    let rate = if period_us == 0 { String::new() } else { format!(", {:.2} a second", 1e6 / f64::from(period_us)) };
    writeln!(out, "{frames} frames, {from} to {to}{rate}, {gaps} gaps")?;
    if rotation_degrees != 0 {
        writeln!(out, "turn them clockwise by {rotation_degrees} degrees to have them upright")?;
    }
    for Damage { file, bytes } in &damage {
        writeln!(out, "left out: {bytes} damaged bytes in {}", file.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unix_us(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn time(unix_us: Option<i64>) -> String {
    json_time(unix_us).unwrap_or_else(|| "no time".into())
}

fn json_time(unix_us: Option<i64>) -> Option<String> {
    let since = Duration::from_micros(u64::try_from(unix_us?).ok()?);
    // The year 9999 is the last that has a name.
    let time = UNIX_EPOCH + since.min(Duration::from_secs(253_402_300_799));
    Some(humantime::format_rfc3339_millis(time).to_string())
}
