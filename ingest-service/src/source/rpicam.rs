//! Reads MJPEG from the standard output of a child process: `rpicam-vid`, or
//! any command configured in its place. The child is asked for the wanted size
//! and rate, so that nothing is decoded here to make pictures smaller.

use std::process::ExitStatus;

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::child::{self, Supervised};
use crate::source::jpeg_framing::JpegFramer;
use crate::source::{BoxFuture, Source, SourceError};

/// Most read at once, in bytes: a Linux pipe holds as much.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;

/// A camera behind a child process.
#[derive(Debug)]
pub struct RpicamSource {
    command: Vec<String>,
    max_picture_bytes: usize,
}

impl RpicamSource {
    /// The plan's command, or `rpicam-vid` asked for the plan's size and rate.
    pub fn new(plan: &CameraPlan) -> Self {
        let command = if plan.command.is_empty() { rpicam_vid(plan) } else { plan.command.clone() };
        Self { command, max_picture_bytes: plan.max_picture_bytes }
    }

    async fn read(&self, capture: &mut Capture, stop: &CancellationToken) -> Result<(), SourceError> {
        let program = self.command.first().map_or("", String::as_str);
        let (child, mut stdout, stderr) = Supervised::spawn(&self.command)
            .map_err(|error| SourceError::NotOpened(format!("{program} does not start: {error}")))?;
        tracing::debug!(program, pid = child.id(), "child started");
        capture.opened();
        let mut framer = JpegFramer::new(self.max_picture_bytes);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut errors = std::pin::pin!(child::drain_lines(stderr));
        let mut last_line = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                line = &mut errors, if last_line.is_none() => last_line = Some(line),
                read = stdout.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(read) => capture.bytes(&mut framer, &buffer[..read]),
                },
            }
        }
        // A child that still writes must not block while it is ended.
        drop(stdout);
        let (status, line) = tokio::join!(child.stop(), async {
            match last_line {
                Some(line) => line,
                None => tokio::time::timeout(child::STOP_DEADLINE, errors).await.unwrap_or_default(),
            }
        });
        if stop.is_cancelled() {
            return Ok(());
        }
        capture.end_of_bytes(&mut framer);
        let how = status.map_or("is gone".into(), ended);
        Err(SourceError::Ended(format!("{program} {how}: {line}")))
    }
}

impl Source for RpicamSource {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(self.read(capture, stop))
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with code {code}"),
        None => "was ended by a signal".into(),
    }
}

fn rpicam_vid(plan: &CameraPlan) -> Vec<String> {
    let size = plan.asked_size();
    let mut command: Vec<String> =
        ["rpicam-vid", "--codec", "mjpeg", "-o", "-", "-t", "0", "-n", "--flush"].map(String::from).into();
    for (option, value) in [
        ("--width", size.width_px.to_string()),
        ("--height", size.height_px.to_string()),
        ("--framerate", plan.fps.to_string()),
        ("--quality", plan.quality.to_string()),
    ] {
        command.extend([option.to_owned(), value]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CameraConfig;

    #[test]
    fn the_camera_is_asked_for_size_and_rate() {
        let config = CameraConfig { width_px: 320, height_px: 240, fps: 7.5, ..CameraConfig::new("a", "rpicam") };
        let plan = CameraPlan::new(&config, &Default::default()).expect("valid");
        let command = RpicamSource::new(&plan).command.join(" ");
        assert_eq!(
            command,
            "rpicam-vid --codec mjpeg -o - -t 0 -n --flush --width 320 --height 240 --framerate 7.5 --quality 75"
        );
        let config = CameraConfig { command: vec!["cat".into(), "x.mjpeg".into()], ..config };
        let plan = CameraPlan::new(&config, &Default::default()).expect("valid");
        assert_eq!(RpicamSource::new(&plan).command, ["cat", "x.mjpeg"]);
    }
}
