//! Where pictures come from. One source per camera, each in a task of its own,
//! opened again for ever. In reading order: what can be asked for ([`spec`]),
//! the sources themselves, what they share ([`jpeg_framing`], [`child`],
//! [`mjpeg_child`]), and
//! what is kept of them ([`capture`], [`status`], [`watchdog`]).
//!
//! A source yields whole pictures and knows neither rates, sizes nor servers.

pub mod spec;

pub mod ffmpeg;
pub mod files;
pub mod mjpeg_http;
pub mod pattern;
pub mod rpicam;
pub mod rtsp;
pub mod v4l2;

pub mod child;
pub mod jpeg_framing;
pub mod mjpeg_child;

pub mod capture;
pub mod status;
pub mod watchdog;

use std::pin::Pin;
use std::time::Duration;

use flatframe_shared::backoff::Backoff;
use flatframe_shared::frame::CameraState;
use tokio_util::sync::CancellationToken;

use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::spec::SourceSpec;

/// Delays between attempts to open a source. A source that is well again gives
/// pictures within 10 s: an attempt that began before may take 5 s (opening, or
/// the no-picture limit as it comes), its child 2 s to end.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_millis(2500);

/// A future that owns its place; a trait cannot have `async fn` behind `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Yields pictures from a device, URL, child process or file.
pub trait Source: Send {
    /// One attempt: opens, yields pictures to `capture`, and releases all it
    /// holds before it returns, soon after `stop` at the latest (a child
    /// process: within [`child::STOP_DEADLINE`]). `Ok` only when stopped.
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>>;

    /// Longest pause between two attempts.
    fn longest_delay(&self) -> Duration {
        LONGEST_DELAY
    }
}

/// Why an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It could not be opened.
    #[error("cannot open the source: {0}")]
    NotOpened(String),
    /// It ended or broke while pictures came.
    #[error("the source ended: {0}")]
    Ended(String),
    /// It was open, but gave no whole picture for so long.
    #[error("no whole picture for {} ms", .0.as_millis())]
    NoPicture(Duration),
}

/// The source that a camera asks for.
pub fn of(plan: &CameraPlan) -> Box<dyn Source> {
    match &plan.source {
        SourceSpec::Pattern => Box::new(pattern::PatternSource::new(plan)),
        SourceSpec::Files(path) => Box::new(files::FilesSource::new(path.clone(), plan)),
        SourceSpec::MjpegHttp(address) => Box::new(mjpeg_http::MjpegHttpSource::new(address.clone(), plan)),
        SourceSpec::Rtsp(address) => Box::new(rtsp::RtspSource::new(address.clone(), plan)),
        SourceSpec::V4l2(path) => Box::new(v4l2::V4l2Source::new(path.clone(), plan)),
        SourceSpec::Rpicam(number) => Box::new(rpicam::RpicamSource::new(*number, plan)),
        SourceSpec::Ffmpeg(input) => Box::new(ffmpeg::FfmpegSource::new(&input.0, plan)),
    }
}

/// Runs a source until `shutdown`, opening it again for ever. An open source
/// without a whole picture for `no_picture` is closed and opened again.
pub async fn run(mut source: Box<dyn Source>, mut capture: Capture, no_picture: Duration, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(FIRST_DELAY, source.longest_delay());
    for attempt in 0_u64.. {
        capture.status.attempt(attempt > 0);
        let before = capture.whole();
        let Err(error) = attempt_once(&mut *source, &mut capture, no_picture, &shutdown).await else { return };
        note(&capture, &error);
        if capture.whole() > before {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tracing::debug!(%error, delay_ms = delay.as_millis() as u64, "source is opened again");
        if shutdown.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            return;
        }
    }
}

async fn attempt_once(
    source: &mut dyn Source,
    capture: &mut Capture,
    no_picture: Duration,
    shutdown: &CancellationToken,
) -> Result<(), SourceError> {
    let stop = shutdown.child_token();
    let status = capture.status.clone();
    let mut attempt = source.run_once(capture, &stop);
    tokio::select! {
        ended = &mut attempt => return ended,
        () = watchdog::no_picture(&status, no_picture) => {}
    }
    // The source must release its device before it is opened again.
    stop.cancel();
    let _ = attempt.await;
    if shutdown.is_cancelled() { Ok(()) } else { Err(SourceError::NoPicture(no_picture)) }
}

/// Sets the state that `error` means; entering a bad state is logged once.
fn note(capture: &Capture, error: &SourceError) {
    let state = match (error, capture.status.state()) {
        (SourceError::NoPicture(_), _) => CameraState::Stalled,
        (SourceError::Ended(_), CameraState::Live) => CameraState::Connecting,
        (SourceError::Ended(_) | SourceError::NotOpened(_), _) => CameraState::Down,
    };
    let before = capture.status.not_live(state, error.to_string());
    if before != state {
        tracing::warn!(%error, before = before.as_str(), state = state.as_str(), "camera is not live");
    }
}
