//! One token stops a service: the first SIGTERM or SIGINT cancels it, the
//! second ends the process at once. Does not know what is stopped.

use std::convert::Infallible;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
pub use tokio_util::sync::CancellationToken;

/// Everything between the first signal and the exit fits into this.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Exit code after a second signal.
const EXIT_AT_ONCE: i32 = 130;
/// Exit code when the shutdown hangs.
const EXIT_LATE: i32 = 1;
/// What is left of the deadline for the exit itself.
const EXIT_MARGIN: Duration = Duration::from_millis(500);
/// After everything has ended, threads that hang are left behind so soon.
pub const LEAVE_THREADS_AFTER: Duration = Duration::from_millis(200);

/// The handlers of SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers: from here on no signal ends the process the
    /// default way.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Cancels `token` at the first signal, and ends the process at the second
    /// or when it is not over at the deadline, whatever hangs. Returns never;
    /// drop it to stop listening.
    pub async fn stop(mut self, token: CancellationToken) -> Infallible {
        let name = self.next().await;
        tracing::info!(signal = name, deadline_s = SHUTDOWN_DEADLINE.as_secs(), "shutting down");
        token.cancel();
        match tokio::time::timeout(SHUTDOWN_DEADLINE - EXIT_MARGIN, self.next()).await {
            Ok(name) => {
                tracing::warn!(signal = name, "second signal, exiting at once");
                std::process::exit(EXIT_AT_ONCE)
            }
            Err(_) => {
                tracing::error!("the shutdown hangs, exiting without the rest");
                std::process::exit(EXIT_LATE)
            }
        }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
