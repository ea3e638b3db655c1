//! The store as its callers see it, in real files: what goes in comes out,
//! bounds hold, faults are told and survived. The writer's turns are run by
//! hand, so that nothing waits for a clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::CameraId;

use super::*;

mod bounds;
mod faults;
mod late;
mod rollups;
mod round_trip;

/// A day in 2026, at a full hour.
const DAY_MS: i64 = 1_790_000_000_000 / 86_400_000 * 86_400_000;
const DAY_S: i64 = DAY_MS / 1000;

fn camera(name: &str) -> CameraId {
    CameraId::parse(name).expect("valid")
}

fn result(name: &str, at_unix_ms: i64, position: u64, body: &[u8]) -> Record {
    Record::Result { camera: camera(name), at_unix_ms, position, late_us: None, body: Bytes::copy_from_slice(body) }
}

fn count(name: &str, at_unix_s: i64, counter: &str, [female, male, unknown]: [i32; 3]) -> Record {
    let change = Change { female, male, unknown };
    Record::Count { camera: camera(name), at_unix_s, counter: counter.into(), change }
}

fn covered(name: &str, from_unix_s: i64, to_unix_s: i64) -> Record {
    Record::Covered { camera: camera(name), from_unix_s, to_unix_s }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A store whose writer has its turns when the test says so.
struct Stage {
    folder: Arc<tempfile::TempDir>,
    history: History,
    writer: writer::Writer,
    now_ms: Arc<AtomicI64>,
    free_bytes: Arc<AtomicU64>,
}

impl Stage {
    fn new(max_bytes: u64) -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().expect("folder")), max_bytes).expect("opens")
    }

    fn in_folder(folder: Arc<tempfile::TempDir>, max_bytes: u64) -> Result<Self, OpenError> {
        let settings =
            HistorySettings { max_bytes, max_waiting_records: 100_000, ..HistorySettings::new(store_file(&folder)) };
        let (now_ms, free_bytes) = (Arc::new(AtomicI64::new(DAY_MS + 86_400_000)), Arc::new(AtomicU64::new(u64::MAX)));
        let (now, free) = (Arc::clone(&now_ms), Arc::clone(&free_bytes));
        let surroundings = Surroundings {
            free_bytes: Arc::new(move |_: &Path| Ok(free.load(Relaxed))),
            now_unix_ms: Arc::new(move || now.load(Relaxed)),
        };
        let (shared, writer) = History::parts(settings, surroundings)?;
        Ok(Self { folder, history: History { shared }, writer, now_ms, free_bytes })
    }

    fn file(&self) -> PathBuf {
        store_file(&self.folder)
    }

    fn offer(&mut self, record: Record) -> &mut Self {
        assert!(self.history.offer(record));
        self
    }

    /// One turn of the writer with all that waits.
    fn turn(&mut self) -> HistoryState {
        self.writer.take_now();
        self.writer.turn();
        self.history.state()
    }

    /// Ends it as the service does.
    fn close(self) -> Arc<tempfile::TempDir> {
        self.history.shared.queue.close();
        self.writer.run();
        self.folder
    }

    /// Ends it as a kill does: what is not committed is gone. The log stays,
    /// because it is kept under another name while the connections close.
    fn kill(self) -> Arc<tempfile::TempDir> {
        let (file, folder) = (self.file(), self.folder);
        let copy = folder.path().join("copy");
        std::fs::copy(&file, &copy).expect("copied");
        std::fs::copy(lock::beside(&file, "-wal"), lock::beside(&copy, "-wal")).expect("copied");
        drop((self.history, self.writer));
        std::fs::rename(&copy, &file).expect("renamed");
        std::fs::rename(lock::beside(&copy, "-wal"), lock::beside(&file, "-wal")).expect("renamed");
        folder
    }

    fn results(&self, name: &str) -> Vec<StoredResult> {
        self.page(name, 0, i64::MAX, None, usize::MAX).results
    }

    fn page(&self, name: &str, from_ms: i64, to_ms: i64, after: Option<Cursor>, limit: usize) -> ResultPage {
        let camera = camera(name);
        let query = ResultQuery {
            camera: &camera,
            from_unix_ms: from_ms,
            to_unix_ms: to_ms,
            after,
            limit,
            max_bytes: usize::MAX,
        };
        self.history.query_results(&query, soon()).expect("answered")
    }

    fn counts(&self, names: &[&str], from_s: i64, to_s: i64, bucket_s: i64) -> CountAnswer {
        let cameras: Vec<_> = names.iter().map(|name| camera(name)).collect();
        let query = CountQuery { cameras: &cameras, counters: &[], from_unix_s: from_s, to_unix_s: to_s, bucket_s };
        self.history.query_counts(&query, soon()).expect("answered")
    }
}

fn store_file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("history.sqlite")
}
