//! One token stops a service: the first SIGTERM or SIGINT cancels it, the
//! second ends the process at once. Does not know what is stopped.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
pub use tokio_util::sync::CancellationToken;

/// Everything between the first signal and the exit fits into this.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Exit code after a second signal.
const EXIT_AT_ONCE: i32 = 130;

/// Cancels `token` at the first SIGTERM or SIGINT and ends the process at the
/// second. Runs for the life of the process; drop it to stop listening.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn on_signals(token: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for signals in 1.. {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if signals > 1 {
            tracing::warn!(signal = name, "second signal, exiting at once");
            std::process::exit(EXIT_AT_ONCE);
        }
        tracing::info!(signal = name, deadline_s = SHUTDOWN_DEADLINE.as_secs(), "shutting down");
        token.cancel();
    }
    Ok(())
}
