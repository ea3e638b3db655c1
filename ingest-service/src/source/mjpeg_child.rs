//! Reads MJPEG from the standard output of a child process and keeps what it
//! says last. Does not know which program it is, and does not start it again.

use std::pin::Pin;
use std::process::ExitStatus;

use tokio::io::AsyncReadExt;
use tokio::process::{ChildStdin, ChildStdout};
use tokio_util::sync::CancellationToken;

use crate::source::capture::Capture;
use crate::source::child::{self, Supervised};
use crate::source::jpeg_framing::JpegFramer;
use crate::source::{SourceError, spec};

/// Most read at once, in bytes: a Linux pipe holds as much.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;

/// A running child that writes JPEGs.
pub struct MjpegChild {
    program: String,
    child: Supervised,
    stdout: ChildStdout,
    framer: JpegFramer,
    buffer: Vec<u8>,
    errors: Pin<Box<dyn Future<Output = String> + Send>>,
    /// Its last line, once its errors have ended.
    last_line: Option<String>,
}

impl MjpegChild {
    /// Starts `command` with nothing to read.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(command: &[String], max_picture_bytes: usize) -> Result<Self, SourceError> {
        let started = Supervised::spawn(command).map_err(|error| not_started(command, &error))?;
        Ok(Self::new(command, started, max_picture_bytes))
    }

    /// Starts `command` with a pipe to read from.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_fed(command: &[String], max_picture_bytes: usize) -> Result<(Self, ChildStdin), SourceError> {
        let (stdin, started) = Supervised::spawn_fed(command).map_err(|error| not_started(command, &error))?;
        Ok((Self::new(command, started, max_picture_bytes), stdin))
    }

    fn new(
        command: &[String],
        (child, stdout, stderr): (Supervised, ChildStdout, tokio::process::ChildStderr),
        max_picture_bytes: usize,
    ) -> Self {
        let program = command.first().cloned().unwrap_or_default();
        tracing::debug!(program, pid = child.id(), "child started");
        Self {
            program,
            child,
            stdout,
            framer: JpegFramer::new(max_picture_bytes),
            buffer: vec![0; READ_BUFFER_BYTES],
            errors: Box::pin(child::drain_lines(stderr)),
            last_line: None,
        }
    }

    /// Id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Takes what the child has written; `false` when it writes no more. May be
    /// dropped while it waits.
    pub async fn read(&mut self, capture: &mut Capture) -> bool {
        loop {
            tokio::select! {
                biased;
                line = &mut self.errors, if self.last_line.is_none() => self.last_line = Some(line),
                read = self.stdout.read(&mut self.buffer) => match read {
                    Ok(0) | Err(_) => return false,
                    Ok(read) => {
                        capture.bytes(&mut self.framer, &self.buffer[..read]);
                        return true;
                    }
                },
            }
        }
    }

    /// Reads until the child ends or `stop`, and ends it.
    ///
    /// # Errors
    /// How it ended, when that was not `stop`.
    pub async fn read_to_end(mut self, capture: &mut Capture, stop: &CancellationToken) -> Result<(), SourceError> {
        while stop.run_until_cancelled(self.read(capture)).await == Some(true) {}
        if stop.is_cancelled() {
            self.end().await;
            return Ok(());
        }
        capture.end_of_bytes(&mut self.framer);
        Err(SourceError::Ended(self.end().await))
    }

    /// Ends the child, if it has not. Returns how it ended, with its last line.
    pub async fn end(self) -> String {
        let Self { program, child, stdout, errors, last_line, .. } = self;
        // A child that still writes must not block while it is ended.
        drop(stdout);
        let (status, line) = tokio::join!(child.stop(), async {
            match last_line {
                Some(line) => line,
                None => tokio::time::timeout(child::STOP_DEADLINE, errors).await.unwrap_or_default(),
            }
        });
        let how = status.map_or("is gone".into(), ended);
        // ffmpeg repeats the address that it was given, password and all.
        let line = spec::redacted(&line);
        if line.is_empty() { format!("{program} {how}") } else { format!("{program} {how}: {line}") }
    }
}

fn not_started(command: &[String], error: &std::io::Error) -> SourceError {
    let program = command.first().map_or("", String::as_str);
    let hint = match (error.kind(), program) {
        (std::io::ErrorKind::NotFound, "ffmpeg") => " (install it: sudo apt-get install ffmpeg)",
        (std::io::ErrorKind::NotFound, "rpicam-vid") => " (install it: sudo apt-get install rpicam-apps-lite)",
        _ => "",
    };
    SourceError::NotOpened(format!("{program} does not start: {error}{hint}"))
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with code {code}"),
        None => "was ended by a signal".into(),
    }
}
