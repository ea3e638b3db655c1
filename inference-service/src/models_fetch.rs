//! Gets the weights of one third-party model: into a `.part` file beside their
//! place, resumed where an earlier attempt stopped, and only with the right
//! hash renamed to where the service looks for them.
//!
//! Bounded in bytes and in every wait. Must never leave a file of the final
//! name whose hash was not checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::timeout;

mod client;
mod part;
#[cfg(test)]
mod tests;

use client::Reply;
pub use client::{Client, HttpError};
use part::Part;

use crate::vision::ModelError;
use crate::vision::models::Listed;
use crate::vision::models::manifest::{MAX_WEIGHTS_BYTES, Weights};

/// The longest waits for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitLimits {
    /// For its name, a connection and TLS together.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub head: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
    /// For everything, redirects included.
    pub overall: Duration,
}

impl Default for WaitLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), head: seconds(20), idle: seconds(20), overall: seconds(600) }
    }
}

/// How a fetch ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The binary carries the weights.
    Embedded,
    /// The right file was there before.
    AlreadyThere(PathBuf),
    /// It is there now.
    Downloaded {
        /// Where.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// Why weights were not fetched. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// They are offered in another form only.
    #[error(
        "its weights were {note}, and fetch does not convert; get the original from {source_url}, convert it, and put \
         the file at {} (sha256 {sha256}); other weights need a manifest of their own",
        path.display()
    )]
    Converted {
        /// How they were made.
        note: String,
        /// Where the original comes from.
        source_url: String,
        /// Where they belong.
        path: PathBuf,
        /// What they must have.
        sha256: String,
    },
    /// The manifest names no address.
    #[error(
        "its manifest has no weights.url; the file comes from {source_url}: put it at {} (sha256 {sha256})",
        path.display()
    )]
    NoAddress {
        /// Where it comes from.
        source_url: String,
        /// Where it belongs.
        path: PathBuf,
        /// What it must have.
        sha256: String,
    },
    /// What is there cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No connection, or no HTTP.
    #[error("{error}; try again, or download {url} elsewhere and put it at {}", path.display())]
    Http {
        /// What failed.
        error: HttpError,
        /// Address in the manifest.
        url: String,
        /// Where the file belongs.
        path: PathBuf,
    },
    /// The server has no such file for us.
    #[error("{url} answered {status}; see whether weights.url in the manifest is still right")]
    Status {
        /// The address after redirects.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// More than the manifest says, or than is allowed.
    #[error("the server sends {offered} bytes, {allowed} are allowed; it is not the file that the manifest describes")]
    TooLarge {
        /// At least so much.
        offered: u64,
        /// `weights.bytes`, or the limit for weights without it.
        allowed: u64,
    },
    /// Less than the manifest says.
    #[error("the server offers {offered} bytes, the manifest says {expected}; it is not the file that it describes")]
    TooSmall {
        /// All of it.
        offered: u64,
        /// `weights.bytes`.
        expected: u64,
    },
    /// The answer stopped before its end.
    #[error("{reason} after {got} bytes; what came is kept, run the same command again to go on from there")]
    Broken {
        /// Bytes in the `.part` file.
        got: u64,
        /// What happened.
        reason: String,
    },
    /// All came, and it is something else.
    #[error(
        "what came has sha256 {found}, the manifest says {expected}; it was removed{}",
        if *resumed { "; it was put together from two downloads, run the same command again to start anew" } else { "" }
    )]
    WrongHash {
        /// What the manifest says.
        expected: String,
        /// What came.
        found: String,
        /// Whether the first part was of an earlier attempt.
        resumed: bool,
    },
    /// The folder cannot be written.
    #[error("{} could not be written: {error}{}", path.display(), if is_full(error) { "; make room and run the same command again" } else { "; check vision.models_dir and who may write there" })]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Another process fetches the same model.
    #[error("another fetch of it is under way: {} is locked; wait for its end", path.display())]
    Busy {
        /// The `.part` file.
        path: PathBuf,
    },
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Called with the bytes that are there, and with how many it will be where
/// that is known.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// Fetches the weights of a model unless they are there already. Dropping the
/// future keeps what came for the next attempt.
///
/// # Errors
/// [`FetchError`], saying what to do.
pub async fn fetch(listed: &Listed, client: &Client, on_progress: OnProgress<'_>) -> Result<Fetched, FetchError> {
    let Some(path) = &listed.weights_file else { return Ok(Fetched::Embedded) };
    match listed.read_weights() {
        Ok(_) => return Ok(Fetched::AlreadyThere(path.clone())),
        // A wrong file is replaced, once the right one is complete.
        Err(ModelError::MissingWeights { .. } | ModelError::WrongHash { .. }) => (),
        Err(error) => return Err(error.into()),
    }
    let weights = listed.manifest.weights();
    let url = address(weights, path)?;
    let mut part = Part::open(path)?;
    let download = async {
        let allowed = weights.bytes.unwrap_or(MAX_WEIGHTS_BYTES);
        if part.bytes() > allowed {
            part.restart()?;
        }
        // An attempt may have ended between the last byte and the new name.
        if weights.bytes != Some(part.bytes()) {
            let reply = request(url, client, &mut part, path).await?;
            receive(reply, weights, client, &mut part, on_progress).await?;
        }
        Ok::<(), FetchError>(())
    };
    let overall = client.waits().overall;
    let done = timeout(overall, download).await.unwrap_or_else(|_| {
        Err(FetchError::Broken { got: part.bytes(), reason: format!("no end within {overall:?}") })
    });
    if done.is_err() && part.bytes() == 0 {
        // Nothing to go on from; the first error says more than one of this.
        let _ = part.remove();
    }
    done?;
    let bytes = part.bytes();
    part.finish(&weights.sha256, path)?;
    Ok(Fetched::Downloaded { path: path.clone(), bytes })
}

fn address<'a>(weights: &'a Weights, path: &Path) -> Result<&'a str, FetchError> {
    let (source_url, path, sha256) = (weights.source.clone(), path.to_owned(), weights.sha256.clone());
    match &weights.url {
        Some(url) => Ok(url),
        None if weights.note.is_empty() => Err(FetchError::NoAddress { source_url, path, sha256 }),
        None => Err(FetchError::Converted { note: weights.note.clone(), source_url, path, sha256 }),
    }
}

/// Asks for what is missing of `part`, which is emptied when the server can
/// only send all.
async fn request(url: &str, client: &Client, part: &mut Part, path: &Path) -> Result<Reply, FetchError> {
    let failed = |error| FetchError::Http { error, url: url.into(), path: path.into() };
    let get = async |from| client.get(url, from).await.map_err(failed);
    let mut reply = get(part.bytes()).await?;
    let goes_on = reply.status() == StatusCode::PARTIAL_CONTENT && reply.range_start() == Some(part.bytes());
    if part.bytes() > 0 && goes_on {
        return Ok(reply);
    }
    let disagrees = matches!(reply.status(), StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE);
    if part.bytes() > 0 && disagrees {
        part.restart()?;
        reply = get(0).await?;
    }
    if reply.status() != StatusCode::OK {
        return Err(FetchError::Status { url: reply.url(), status: reply.status() });
    }
    part.restart()?;
    Ok(reply)
}

/// Writes the body to `part`.
async fn receive(
    mut reply: Reply,
    weights: &Weights,
    client: &Client,
    part: &mut Part,
    on_progress: OnProgress<'_>,
) -> Result<(), FetchError> {
    let allowed = weights.bytes.unwrap_or(MAX_WEIGHTS_BYTES);
    let whole = reply.content_bytes().map(|bytes| part.bytes().saturating_add(bytes));
    match whole {
        Some(offered) if offered > allowed => return Err(FetchError::TooLarge { offered, allowed }),
        Some(offered) if weights.bytes.is_some_and(|expected| offered < expected) => {
            return Err(FetchError::TooSmall { offered, expected: allowed });
        }
        _ => (),
    }
    let idle = client.waits().idle;
    loop {
        let broken = |part: &Part, reason| FetchError::Broken { got: part.bytes(), reason };
        let frame = match timeout(idle, reply.body().frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(broken(part, format!("the connection broke ({error})"))),
            Err(_) => return Err(broken(part, format!("the server sent nothing for {idle:?}"))),
        };
        let Some(data) = frame.data_ref() else { continue };
        let offered = part.bytes() + data.len() as u64;
        if offered > allowed {
            part.remove()?;
            return Err(FetchError::TooLarge { offered, allowed });
        }
        part.write(data)?;
        on_progress(part.bytes(), whole.or(weights.bytes));
    }
    match weights.bytes {
        Some(bytes) if part.bytes() < bytes => {
            Err(FetchError::Broken { got: part.bytes(), reason: format!("the server ended before {bytes} bytes") })
        }
        _ => Ok(()),
    }
}
