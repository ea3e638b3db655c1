//! The history at the beginning and at the end of a run.

use std::time::Duration;

use flatframe_shared::clock;

use crate::config::HistoryConfig;
use crate::history::query::MAX_PAGE_ROWS;
use crate::history::{self, History, HistoryWriter, IncidentQuery, OpenError, Record};
use crate::results::archive::Archive;

/// What still waits for the history is written within this.
const HISTORY_DEADLINE: Duration = Duration::from_secs(2);

/// Opens the history, if one is kept.
///
/// # Errors
/// [`OpenError`].
pub(super) fn open(config: &HistoryConfig) -> Result<(Option<History>, Option<HistoryWriter>), OpenError> {
    let Some(settings) = config.settings() else {
        tracing::info!("no history is kept (history.file is empty)");
        return Ok((None, None));
    };
    let (history, writer) = History::open(settings)?;
    end_left_open(&history);
    Ok((Some(history), Some(writer)))
}

/// Incidents that the last run left open ended with it, if not before.
fn end_left_open(history: &History) {
    let now_ms = clock::unix_us().div_euclid(1000);
    let query = IncidentQuery {
        camera: None,
        from_unix_ms: 0,
        to_unix_ms: now_ms.saturating_add(1),
        only_open: true,
        after: None,
        limit: MAX_PAGE_ROWS,
    };
    match history.query_incidents(&query, clock::now() + HISTORY_DEADLINE) {
        Ok(open) => open.into_iter().for_each(|incident| {
            let end = now_ms.max(incident.opened_unix_ms);
            history.offer(Record::Incident(history::Incident { resolved_unix_ms: Some(end), ..incident }));
        }),
        Err(error) => tracing::warn!(%error, "incidents that the last run left open stay open in the history"),
    }
}

/// Writes what still waits for the disk.
pub(super) async fn close(archive: &Archive, writer: HistoryWriter) {
    let closed = tokio::task::spawn_blocking(move || writer.close(HISTORY_DEADLINE)).await;
    if !closed.unwrap_or(false) {
        let state = archive.history.as_ref().map(History::state);
        tracing::error!(?state, "the disk is too slow: what was not yet in the history is lost");
    }
}
