//! The ingest-service: captures pictures of cameras, thins them out, makes them
//! small and sends them to the inference-service, in flat memory.
//!
//! The folders follow the frame: [`source`] (a picture from a device),
//! [`prepare`] (wanted at all, and small enough), [`send`] (waiting, on its
//! way, answered); [`record`] keeps on disk what it is told to, nothing unless
//! it is, and [`late`] finds there what was kept during an outage. [`camera`] puts one camera together, [`ingest`] all of them. For
//! people, without a service: [`setup`], [`cameras_command`] (what is attached),
//! [`probe_command`] (what a source gives), [`recordings_command`]. Nothing here
//! finds faces.

pub mod board;
pub mod config;
pub mod memory;
pub mod plan;
pub mod profile;

pub mod frame;
pub mod late;
pub mod prepare;
pub mod record;
pub mod send;
pub mod source;
pub mod terms;

pub mod camera;
pub mod ingest;
pub mod metrics;
pub mod setup;

pub mod cameras_command;
pub mod probe_command;
pub mod recordings_command;

pub use camera::CameraView;
pub use config::{CameraConfig, Config};
pub use flatframe_shared::ledger::IngestCounts;
pub use ingest::{Checked, Ingest, StartError, check};
pub use source::pattern::{KnownAnswer, known_answer};

use tokio_util::sync::CancellationToken;

/// The whole program: starts, waits for `shutdown`, stops. Returns the final
/// counts.
///
/// # Errors
/// [`StartError`], before anything is captured.
pub async fn run(checked: Checked, shutdown: CancellationToken) -> Result<IngestCounts, StartError> {
    Ok(Ingest::start_checked(checked, shutdown).await?.join().await)
}
