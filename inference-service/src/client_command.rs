//! `inference-service watch | counts | status | incidents | detect`: asks a
//! running service, as any client can, and prints what it says.
//!
//! Starts no service and reads no configuration: only `--server` counts.

mod connect;
mod counts;
mod detect;
mod incidents;
mod status;
mod watch;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use flatframe_shared::r#gen::v1;
use flatframe_shared::renewal::FileError;
use serde_json::json;
use tonic::{Code, Request, Status};

use self::connect::ServerArgs;
use self::counts::CountsArgs;
use self::detect::DetectArgs;
use self::incidents::IncidentsArgs;
use self::status::StatusArgs;
use self::watch::WatchArgs;
use crate::table::printable;
use crate::words;

/// Longest wait for a connection, and for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to ask a running service.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Print results as they come, one line each, until Ctrl-C.
    Watch(WatchArgs),
    /// Print how many people were counted over a time.
    Counts(CountsArgs),
    /// Print one line for each camera, and how the server is.
    Status(StatusArgs),
    /// Print what is wrong, and the latest that was.
    Incidents(IncidentsArgs),
    /// Find the faces in one picture.
    Detect(DetectArgs),
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("--server {url}: {why}: use an address like http://127.0.0.1:50051")]
    Address { url: String, why: String },
    #[error("cannot reach {url}: {why}; is inference-service running there (--server URL)?")]
    Unreachable { url: String, why: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the server refuses: {} ({:?})", printable(.0.message()), .0.code())]
    Refused(Box<Status>),
    #[error("{0}")]
    Wrong(String),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Failure {
    /// Whether the same may succeed later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(status) => {
                matches!(
                    status.code(),
                    Code::Unavailable
                        | Code::ResourceExhausted
                        | Code::DeadlineExceeded
                        | Code::Cancelled
                        | Code::Unknown
                )
            }
            Self::Address { .. } | Self::File(_) | Self::Wrong(_) | Self::Output(_) => false,
        }
    }
}

/// Does what was asked; the answer goes to `out`, complaints to stderr.
///
/// # Errors
/// When `out` cannot be written; everything else is in the exit code.
pub fn run(command: &ClientCommand, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match command {
            ClientCommand::Watch(args) => watch::run(args, out).await,
            ClientCommand::Counts(args) => counts::run(args, out).await,
            ClientCommand::Status(args) => status::run(args, out).await,
            ClientCommand::Incidents(args) => incidents::run(args, out).await,
            ClientCommand::Detect(args) => detect::run(args, out).await,
        }
    });
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Failure::Output(error)) => Err(error),
        Err(failure) => {
            eprintln!("inference-service: {failure}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Says why an answer may lack something; `incomplete` is empty where it does
/// not.
fn write_incomplete(incomplete: &str, as_json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    match (incomplete, as_json) {
        ("", _) => Ok(()),
        (why, true) => writeln!(out, "{}", json!({ "incomplete": why })),
        (why, false) => writeln!(out, "this may not be all: {}", printable(why)),
    }
}

/// A request with a deadline.
fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// A time for people and machines: RFC 3339, in UTC, to the second.
fn time(unix_ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
    match SystemTime::UNIX_EPOCH.checked_add(since).filter(|_| since < Duration::from_secs(250_000_000_000)) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => "?".to_owned(),
    }
}

/// A count with its genders, such as `3 (2 f, 1 m)`; `-` when not known.
fn people(counts: Option<&v1::FaceCounts>) -> String {
    let Some(counts) = counts else { return "-".to_owned() };
    let of = [(counts.female, "f"), (counts.male, "m"), (counts.unknown, "?")];
    let parts: Vec<_> =
        of.iter().filter(|(count, _)| *count > 0).map(|(count, mark)| format!("{count} {mark}")).collect();
    if parts.is_empty() { counts.faces.to_string() } else { format!("{} ({})", counts.faces, parts.join(", ")) }
}

/// The faces of a result or a picture, for machines.
fn faces_json(faces: &[v1::Face]) -> serde_json::Value {
    let face = |face: &v1::Face| {
        let bounds = face.r#box.unwrap_or_default();
        serde_json::json!({
            "x_px": bounds.x_px, "y_px": bounds.y_px, "width_px": bounds.width_px, "height_px": bounds.height_px,
            "score": face.score,
            "gender": words::gender(face.gender()),
            "female_probability": face.female_probability,
            "track": face.track.as_ref().map(|track| serde_json::json!({
                "id": track.track_id, "is_visit": track.is_visit, "gender": words::gender(track.gender()),
                "female_probability": track.female_probability, "age_ms": track.age_ms,
            })),
        })
    };
    faces.iter().map(face).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_zero() {
        assert_eq!(people(None), "-");
        assert_eq!(people(Some(&v1::FaceCounts::default())), "0");
        let counts = v1::FaceCounts { faces: 3, female: 2, male: 0, unknown: 1 };
        assert_eq!(people(Some(&counts)), "3 (2 f, 1 ?)");
    }

    #[test]
    fn times_of_any_server() {
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!((time(-5), time(i64::MAX)), ("1970-01-01T00:00:00Z".to_owned(), "?".to_owned()));
    }
}
