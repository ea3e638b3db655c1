//! Reads a USB camera, or anything else that is a V4L2 capture device, into
//! buffers shared with the kernel. MJPEG is passed on untouched, pixels as they
//! lie. Waits with the runtime, on no thread of its own; what may take long
//! (opening, closing) is done on a thread for blocking work.
//!
//! A camera that is unplugged ends the attempt; the next one finds it again
//! under the same name.

pub mod attached;
pub mod device;
mod kernel;
pub mod mode;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::outcome::DropReason;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::frame::{Picture, PixelLayout, RawPicture};
use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::jpeg_framing::JpegFramer;
use crate::source::v4l2::device::{Agreed, Device, Streaming};
use crate::source::v4l2::mode::{Coding, FourCc, choose_interval, choose_size};
use crate::source::{BoxFuture, Source, SourceError};

/// Buffers shared with the kernel: one is filled while one is read, one is
/// spare. A picture lies in one only until it is copied out.
pub const BUFFERS: u32 = 3;
/// Most bytes between two rows of pixels; drivers align rows to 128 at most.
const ROW_PADDING_BYTES: usize = 255;
/// Time for a device to be opened and to agree on a mode.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Longest pause before an unplugged camera is looked for again.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// One V4L2 device.
#[derive(Debug)]
pub struct V4l2Source {
    wanted: Wanted,
    max_picture_bytes: usize,
    /// An opening that has not ended in time: there is never a second one.
    opening: Option<JoinHandle<Result<Opened, String>>>,
}

/// What is asked of a device.
#[derive(Debug, Clone)]
struct Wanted {
    path: PathBuf,
    size: PictureSize,
    fps: f32,
    limit: PictureSize,
}

/// A device that captures in the agreed mode.
#[derive(Debug)]
struct Opened {
    streaming: Streaming,
    coding: Coding,
    agreed: Agreed,
    card: String,
}

impl V4l2Source {
    /// The device at `path`, asked for the plan's size and rate.
    pub fn new(path: PathBuf, plan: &CameraPlan) -> Self {
        let (size, fps, limit) = (plan.asked_size(), plan.fps, plan.prepare.source_size);
        let wanted = Wanted { path, size, fps, limit };
        Self { wanted, max_picture_bytes: plan.max_picture_bytes, opening: None }
    }

    async fn open(&mut self) -> Result<Opened, SourceError> {
        let wanted = &self.wanted;
        let opening = self.opening.get_or_insert_with(|| {
            let wanted = wanted.clone();
            spawn_blocking(move || open(&wanted))
        });
        let Ok(opened) = timeout(OPEN_DEADLINE, &mut *opening).await else {
            let limit = OPEN_DEADLINE.as_secs();
            return Err(SourceError::NotOpened(format!("{} does not answer within {limit} s", wanted.path.display())));
        };
        self.opening = None;
        opened.map_err(|error| error.to_string()).flatten().map_err(SourceError::NotOpened)
    }

    async fn read(&mut self, capture: &mut Capture, stop: &CancellationToken) -> Result<(), SourceError> {
        let Some(opened) = stop.run_until_cancelled(self.open()).await else { return Ok(()) };
        let Opened { streaming, coding, agreed, card } = opened?;
        let Agreed { format, size, interval, .. } = agreed;
        let fps = interval.map(mode::rate);
        tracing::info!(card, %format, width_px = size.width_px, height_px = size.height_px, fps, "video device is open");
        let ended = |error: io::Error| SourceError::Ended(why_ended(&self.wanted.path, &error));
        let device = streaming.watched().map_err(ended)?;
        capture.opened();
        let result = loop {
            let Some(ready) = stop.run_until_cancelled(device.ready(device::EVENTS)).await else {
                break Ok(());
            };
            let mut ready = match ready {
                Ok(ready) => ready,
                Err(error) => break Err(ended(error)),
            };
            match device.get_ref().take(|bytes, whole| self.take(capture, coding, &agreed, bytes, whole)) {
                Ok(true) => {}
                Ok(false) if ready.ready().is_error() || ready.ready().is_read_closed() => {
                    break Err(ended(io::Error::from_raw_os_error(libc::ENODEV)));
                }
                Ok(false) => ready.clear_ready(),
                Err(error) => break Err(ended(error)),
            }
        };
        // Stopping a USB camera takes a while, and it must have ended before
        // it is opened again.
        let _ = spawn_blocking(move || drop(device.into_inner())).await;
        result
    }

    fn take(&self, capture: &mut Capture, coding: Coding, agreed: &Agreed, bytes: &[u8], whole: bool) {
        match coding {
            _ if !whole => capture.broken(DropReason::Corrupt),
            Coding::Jpeg => one_jpeg(capture, self.max_picture_bytes, bytes),
            Coding::Raw(layout) => match bytes.get(..raw_bytes(layout, agreed.size, agreed.stride)) {
                Some(bytes) => {
                    let (size, stride, bytes) = (agreed.size, agreed.stride, Bytes::copy_from_slice(bytes));
                    capture.picture(Picture::Raw(RawPicture { layout, size, stride, bytes }));
                }
                None => capture.broken(DropReason::Corrupt),
            },
        }
    }
}

impl Source for V4l2Source {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(self.read(capture, stop))
    }

    /// To look for a device that is not there costs one failed call.
    fn longest_delay(&self) -> Duration {
        LONGEST_DELAY
    }
}

/// Takes the JPEG out of one buffer: drivers pad behind it, and say "whole" of
/// what USB has cut.
fn one_jpeg(capture: &mut Capture, max_picture_bytes: usize, mut bytes: &[u8]) {
    let mut framer = JpegFramer::new(max_picture_bytes);
    let framed = framer.next(&mut bytes).or_else(|| framer.finish());
    match framed {
        Some(framed) => capture.framed(framed),
        None => capture.broken(DropReason::Corrupt),
    }
}

/// Bytes of one picture in pixels.
fn raw_bytes(layout: PixelLayout, size: PictureSize, stride: usize) -> usize {
    let rows = size.height_px as usize;
    match layout {
        PixelLayout::Yuyv => stride * rows,
        PixelLayout::Nv12 | PixelLayout::I420 => stride * rows + stride * (rows / 2),
    }
}

fn row_bytes(layout: PixelLayout, size: PictureSize) -> usize {
    size.width_px as usize * if layout == PixelLayout::Yuyv { 2 } else { 1 }
}

/// Most bytes of one picture of at most `limit` in pixels.
pub fn most_bytes(limit: PictureSize) -> u64 {
    let stride = row_bytes(PixelLayout::Yuyv, limit) + ROW_PADDING_BYTES;
    raw_bytes(PixelLayout::Yuyv, limit, stride) as u64
}

/// Opens the device in the best mode that it has.
fn open(wanted: &Wanted) -> Result<Opened, String> {
    let path = &wanted.path;
    let failed = |error: io::Error| why_not_opened(path, &error);
    let device = Device::open(path).map_err(failed)?;
    let identity = device.identity().map_err(failed)?;
    if !identity.captures {
        return Err(format!(
            "{} ({}) gives no pictures: cameras have other nodes beside the one to read; {SEE_LIST}",
            path.display(),
            identity.card
        ));
    }
    let offers: Vec<_> = device.formats().into_iter().map(|format| (format, device.sizes(format))).collect();
    let (format, size) = choose_size(&offers, wanted.size, wanted.limit)
        .map_err(|why| format!("{} ({}): {why}", path.display(), identity.card))?;
    let interval = choose_interval(&device.intervals(format, size), wanted.fps);
    let agreed = device.agree(format, size, Some(interval)).map_err(failed)?;
    let coding = check(format, &agreed, wanted.limit).map_err(|why| format!("{}: {why}", path.display()))?;
    let streaming = device.stream(BUFFERS).map_err(failed)?;
    Ok(Opened { streaming, coding, agreed, card: identity.card })
}

/// Whether what the driver gives in place of what was asked for can be read.
fn check(asked: FourCc, agreed: &Agreed, limit: PictureSize) -> Result<Coding, String> {
    let Agreed { format, size, stride, .. } = *agreed;
    let coding = format.coding().ok_or_else(|| format!("asked for {asked}, it gives {format}"))?;
    let shown = format!("{}x{}", size.width_px, size.height_px);
    if !size.fits(limit) {
        return Err(format!("its pictures are {shown}: raise limits.max_source_width_px and _height_px"));
    }
    let Coding::Raw(layout) = coding else { return Ok(coding) };
    let row_bytes = row_bytes(layout, size);
    let even = size.width_px % 2 == 0 && size.height_px % 2 == 0 && stride % 2 == 0;
    if !even || !(row_bytes..=row_bytes + ROW_PADDING_BYTES).contains(&stride) {
        return Err(format!("{format} pictures of {shown} in rows of {stride} bytes are not read"));
    }
    Ok(coding)
}

const SEE_LIST: &str = "`ingest-service cameras` lists what is attached";

/// Why a device cannot be opened, and what to do.
fn why_not_opened(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) => format!("{path} is not there: is the camera plugged in? {SEE_LIST}"),
        (ErrorKind::PermissionDenied, _) => {
            format!("no permission for {path}: add the user to group video (sudo usermod -aG video USER)")
        }
        (_, Some(libc::ENOTTY | libc::EINVAL)) => format!("{path} is not a camera; {SEE_LIST}"),
        (_, Some(libc::EBUSY)) => format!("{path} is in use by another program"),
        (_, Some(libc::ENODEV | libc::ENXIO)) => format!("no camera behind {path}: was it unplugged?"),
        _ => format!("{path}: {error}"),
    }
}

fn why_ended(path: &Path, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV) => format!("{} was unplugged", path.display()),
        _ => format!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests;
