//! However long a camera or the server was away, frames flow within 10 s of its
//! return.

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::ledger::IngestLedger;
use flatframe_shared::memory_watch::MemoryWatch;
use ingest_service::CameraConfig;
use ingest_service::config::LimitsConfig;
use ingest_service::plan::CameraPlan;
use ingest_service::send::uplink::Deadlines;
use ingest_service::source::capture::Capture;
use ingest_service::source::status::StatusCell;
use ingest_service::source::{BoxFuture, Source, SourceError, run};
use ingest_service::terms::TermsCell;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Cannot be opened before `well`; says when it was.
struct DownUntil {
    well: Instant,
    opened: Option<oneshot::Sender<Instant>>,
}

impl Source for DownUntil {
    fn run_once<'a>(
        &'a mut self,
        _capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move {
            if Instant::now() < self.well {
                return Err(SourceError::NotOpened("down".into()));
            }
            if let Some(opened) = self.opened.take() {
                opened.send(Instant::now()).expect("the test waits");
            }
            stop.cancelled().await;
            Ok(())
        })
    }
}

/// However long it was down: the promise is a picture within 10 s, and the
/// attempt itself, or the one before, may need most of it.
#[tokio::test(start_paused = true)]
async fn a_source_that_is_well_again_is_opened_soon() {
    let plan = CameraPlan::new(&CameraConfig::new("a", "pattern"), &LimitsConfig::default()).expect("valid");
    for down_s in [10, 61, 600, 3601] {
        let well = Instant::now() + Duration::from_secs(down_s);
        let (opened, told) = oneshot::channel();
        let (ledger, memory) = (IngestLedger::new(), Arc::new(MemoryWatch::unlimited()));
        let capture = Capture::new(&plan, ledger, StatusCell::new(), Arc::default(), TermsCell::default(), memory);
        let stop = CancellationToken::new();
        let source = Box::new(DownUntil { well, opened: Some(opened) });
        let running = tokio::spawn(run(source, capture, plan.no_picture, stop.clone()));
        let late = told.await.expect("opened") - well;
        assert!(late <= Duration::from_millis(2500), "down for {down_s} s, then opened after {late:?}");
        stop.cancel();
        running.await.expect("ends");
    }
}

/// An attempt that began just before the server was there again, then the
/// longest delay; or a stream of a dead sender that the server holds for 7 s
/// (its HTTP/2 pings), then the longest delay.
#[test]
fn a_server_that_is_there_again_gets_frames_within_10_s() {
    let deadlines = Deadlines::default();
    let attempt = deadlines.connect.max(deadlines.welcome).max(Duration::from_secs(7));
    assert!(attempt + deadlines.reconnect.1 < Duration::from_secs(10), "{deadlines:?}");
}
