//! A child process in a process group of its own: its errors are read, it is
//! ended and reaped whatever it does, and the kernel kills it when this process
//! dies. Does not start it again and does not know what it prints.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Time between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// Longest time that [`Supervised::stop`] takes; reaping after SIGKILL is
/// bounded by the kernel alone.
pub const STOP_DEADLINE: Duration = Duration::from_millis(2500);
/// Longest line kept of a child's errors, in bytes.
const MAX_LINE_BYTES: usize = 256;

/// A running child.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    /// The child's process group, which has its id.
    group: libc::pid_t,
    reaped: bool,
}

impl Supervised {
    /// Starts `command` (program and arguments) with its output and errors on
    /// pipes and nothing to read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &[String]) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        Self::start(command, Stdio::null())
    }

    /// As [`Supervised::spawn`], with a pipe to read from.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_fed(command: &[String]) -> io::Result<(ChildStdin, (Self, ChildStdout, ChildStderr))> {
        let mut started = Self::start(command, Stdio::piped())?;
        let stdin = started.0.child.stdin.take().expect("its input was put on a pipe");
        Ok((stdin, started))
    }

    fn start(command: &[String], stdin: Stdio) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
        let parent = std::process::id();
        let mut builder = Command::new(program);
        builder
            .args(arguments)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        // SAFETY: between fork and exec only calls that are safe in a signal
        // handler (prctl, getppid, _exit) are made, and nothing is allocated.
        unsafe {
            builder.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before the line above.
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        let mut child = builder.spawn()?;
        let group = child.id().and_then(|id| libc::pid_t::try_from(id).ok()).expect("a child just started has an id");
        let stdout = child.stdout.take().expect("its output was put on a pipe");
        let stderr = child.stderr.take().expect("its errors were put on a pipe");
        Ok((Self { child, group, reaped: false }, stdout, stderr))
    }

    /// Id of the process.
    pub fn id(&self) -> u32 {
        self.group.unsigned_abs()
    }

    /// Ends the whole group: SIGTERM, after 2 s SIGKILL; then reaps the child.
    /// Also to be called when it ended by itself.
    ///
    /// # Errors
    /// When the system cannot say how it ended.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        self.signal_group(libc::SIGTERM);
        let in_time = timeout(TERM_GRACE, self.child.wait()).await;
        // What it started itself goes too. The group's id stays taken while any
        // member lives; when none does, the signal finds nobody.
        self.signal_group(libc::SIGKILL);
        let status = match in_time {
            Ok(status) => status,
            Err(_) => {
                tracing::warn!(pid = self.id(), "child ignored SIGTERM and was killed");
                self.child.wait().await
            }
        };
        self.reaped = true;
        status
    }

    fn signal_group(&self, signal: libc::c_int) {
        // SAFETY: a plain system call; `group` is above 1, so it names one
        // group and not every process.
        unsafe { libc::killpg(self.group, signal) };
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if !self.reaped {
            // Only when the runtime itself goes away; tokio reaps the child.
            self.signal_group(libc::SIGKILL);
        }
    }
}

/// Reads a child's errors to their end, so that it never blocks on them.
/// Returns the last line, cut to 256 bytes.
pub async fn drain_lines(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut buffer = [0; 1024];
    let mut line = Vec::with_capacity(MAX_LINE_BYTES);
    let mut last = String::new();
    loop {
        let read = stderr.read(&mut buffer).await.unwrap_or(0);
        for &byte in &buffer[..read] {
            if byte == b'\n' {
                take_line(&mut line, &mut last);
            } else if line.len() < MAX_LINE_BYTES {
                line.push(byte);
            }
        }
        if read == 0 {
            take_line(&mut line, &mut last);
            return last;
        }
    }
}

fn take_line(line: &mut Vec<u8>, last: &mut String) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    if !text.is_empty() {
        tracing::trace!(line = text, "child says");
        last.clear();
        last.push_str(text);
    }
    line.clear();
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> (Supervised, ChildStdout, ChildStderr) {
        Supervised::spawn(&["sh".into(), "-c".into(), script.into()]).expect("sh is there")
    }

    fn exists(pid: &str) -> bool {
        std::path::Path::new("/proc").join(pid.trim()).exists()
    }

    #[tokio::test]
    async fn stops_and_reaps_a_child_that_ignores_sigterm_and_its_children() {
        let (child, mut stdout, _stderr) = shell("trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000");
        let mut pid = [0; 32];
        let read = stdout.read(&mut pid).await.expect("reads");
        let grandchild = String::from_utf8_lossy(&pid[..read]).into_owned();
        let id = child.id().to_string();
        assert!(exists(&id) && exists(&grandchild));
        let start = Instant::now();
        let status = child.stop().await.expect("reaped");
        assert!(!status.success());
        assert!(start.elapsed() >= TERM_GRACE, "it ignores SIGTERM");
        assert!(!exists(&id), "no zombie");
        // The pipe ends when the last process that holds it is gone.
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).await.expect("ends");
    }

    #[tokio::test]
    async fn stops_without_force_when_it_obeys_or_has_ended() {
        let (child, _stdout, _stderr) = shell("exec sleep 1000");
        let status = child.stop().await.expect("reaped");
        assert_eq!(status.signal(), Some(libc::SIGTERM), "{status:?}");

        let (child, mut stdout, _stderr) = shell("exit 7");
        stdout.read_to_end(&mut Vec::new()).await.expect("ends");
        let status = child.stop().await.expect("reaped");
        assert!(status.code() == Some(7) || status.code().is_none(), "{status:?}");
    }

    #[tokio::test]
    async fn a_flood_of_errors_is_read_and_cut() {
        let (child, mut stdout, stderr) = shell(
            "i=0; while [ $i -lt 4000 ]; do echo 'a line of forty-six bytes, as a camera writes' >&2; i=$((i+1)); done; head -c 100000 /dev/zero | tr '\\0' x >&2; echo done",
        );
        let (last, output) = tokio::join!(drain_lines(stderr), async {
            let mut output = String::new();
            stdout.read_to_string(&mut output).await.expect("reads");
            output
        });
        assert_eq!(output, "done\n", "the child was not blocked by its errors");
        assert_eq!(last, "x".repeat(MAX_LINE_BYTES));
        child.stop().await.expect("reaped");
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        assert!(Supervised::spawn(&["/no/such/program".into()]).is_err());
        assert!(Supervised::spawn(&[]).is_err());
    }
}
