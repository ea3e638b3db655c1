//! The recording in real files, with the writer's turns run by hand and a
//! clock of the test's own, so that nothing waits.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI64, AtomicU64};

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;

use super::catalog::{Frames, TimeRange};
use super::*;
use crate::config::{CameraConfig, LimitsConfig};

mod bounds;
mod faults;
mod reading;

/// 2026-11-22T03:15:00Z.
const START_US: i64 = 1_795_317_300_000_000;
const SIZE: PictureSize = PictureSize::new(64, 48);

/// A recording whose writer has its turns when the test says so.
struct Stage {
    folder: Arc<tempfile::TempDir>,
    shared: Arc<Shared>,
    recorders: Vec<Recorder>,
    writer: Option<Writer>,
    start: Instant,
    clock: Arc<Clock>,
    number: u64,
}

/// What surrounds it.
struct Clock {
    now_ms: AtomicU64,
    /// Wall clock at the start, microseconds; 0: not set.
    wall_us: AtomicI64,
    free_bytes: AtomicU64,
}

fn camera(id: &str) -> CameraId {
    CameraId::parse(id).expect("valid")
}

fn plan(id: &str, record: RecordPolicy) -> CameraPlan {
    let mut plan = CameraPlan::new(&CameraConfig::new(id, "pattern"), &LimitsConfig::default()).expect("valid");
    plan.record = record;
    plan
}

/// In memory where there is such a folder: tests write a lot.
fn folder() -> Arc<tempfile::TempDir> {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    Arc::new(made.expect("temporary folder"))
}

fn settings(dir: &Path) -> RecordingSettings {
    RecordingSettings {
        dir: dir.join("recordings"),
        bounds: Bounds {
            max_bytes: 1 << 20,
            max_age: Duration::from_secs(7 * 86_400),
            segment: Duration::from_secs(300),
        },
        min_free_bytes: 1000,
        max_write_bytes_per_s: 1 << 30,
        sync_every: Duration::from_secs(5),
        queue_bytes: 64 << 20,
        fps: 5.0,
        around: Around { before: Duration::from_secs(2), after: Duration::from_secs(3), before_bytes: 1 << 20 },
        late: None,
    }
}

impl Stage {
    fn new(change: impl FnOnce(&mut RecordingSettings)) -> Self {
        Self::of(folder(), &[plan("a", RecordPolicy::Continuous), plan("b", RecordPolicy::Continuous)], change)
    }

    fn of(folder: Arc<tempfile::TempDir>, plans: &[CameraPlan], change: impl FnOnce(&mut RecordingSettings)) -> Self {
        let mut settings = settings(folder.path());
        change(&mut settings);
        let (start, clock) = (
            Instant::now(),
            Arc::new(Clock {
                now_ms: AtomicU64::new(0),
                wall_us: AtomicI64::new(START_US),
                free_bytes: AtomicU64::new(1 << 40),
            }),
        );
        let (now, wall, free) = (Arc::clone(&clock), Arc::clone(&clock), Arc::clone(&clock));
        let surroundings = Surroundings {
            free_bytes: Arc::new(move |_| Ok(free.free_bytes.load(Relaxed))),
            now: Arc::new(move || start + Duration::from_millis(now.now_ms.load(Relaxed))),
            now_unix_us: Arc::new(move || wall.wall_us()),
        };
        let (shared, writer) = Recording::parts(settings, plans, surroundings);
        let recording = Recording { shared: Arc::clone(&shared) };
        let recorders = plans.iter().filter_map(|plan| recording.recorder(plan)).collect();
        Self { folder, shared, recorders, writer: Some(writer), start, clock, number: 0 }
    }

    fn dir(&self) -> PathBuf {
        self.shared.settings.dir.clone()
    }

    fn advance(&mut self, ms: u64) -> &mut Self {
        self.clock.now_ms.fetch_add(ms, Relaxed);
        self
    }

    /// A frame of now; its JPEG is `bytes` times its number.
    fn frame(&mut self, camera: usize, bytes: usize) -> Frame {
        self.number += 1;
        let now_ms = self.clock.now_ms.load(Relaxed);
        Frame {
            camera,
            number: self.number,
            captured: self.start + Duration::from_millis(now_ms),
            captured_unix_us: self.clock.wall_us(),
            size: SIZE,
            is_late: false,
            jpeg: Bytes::from(vec![self.number as u8; bytes]),
        }
    }

    fn offer(&mut self, camera: usize, bytes: usize) -> &mut Self {
        self.offer_with(camera, bytes, Motion::Unknown)
    }

    fn offer_with(&mut self, camera: usize, bytes: usize, motion: Motion) -> &mut Self {
        let frame = self.frame(camera, bytes);
        self.recorders[camera].record(frame, motion);
        self
    }

    fn turn(&mut self) -> &mut Self {
        let writer = self.writer.as_mut().expect("not closed");
        writer.take_now();
        writer.turn();
        self
    }

    fn of_camera(&self, number: usize) -> CameraRecording {
        self.shared.cameras[number].tally.read()
    }

    /// Frames of a camera by their numbers, and what is damaged.
    fn read(&self, id: &str) -> (Vec<u64>, u64) {
        read(&self.dir(), id)
    }

    /// The files of a camera, sorted.
    fn files(&self, id: &str) -> Vec<PathBuf> {
        files(&self.dir().join(id))
    }

    /// As a kill does: nothing is written any more, the lock is free.
    fn kill(&mut self) {
        self.writer = None;
    }

    fn close(mut self) -> Arc<tempfile::TempDir> {
        self.writer.take().expect("not closed").end();
        Arc::clone(&self.folder)
    }
}

impl Clock {
    fn wall_us(&self) -> Option<i64> {
        let start_us = self.wall_us.load(Relaxed);
        (start_us != 0).then(|| start_us + self.now_ms.load(Relaxed) as i64 * 1000)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("readable");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

fn read(dir: &Path, id: &str) -> (Vec<u64>, u64) {
    let mut frames = Frames::of(dir, &camera(id), TimeRange::default()).expect("readable");
    let (mut numbers, mut jpeg) = (Vec::new(), Vec::new());
    while let Some(found) = frames.next(Some(&mut jpeg)).expect("readable") {
        assert!(jpeg.iter().all(|byte| *byte == found.header.number as u8), "a frame of another");
        numbers.push(found.header.number);
    }
    (numbers, frames.damage.iter().map(|damage| damage.bytes).sum())
}

/// What the files of a camera take of the disk.
fn on_disk(folder: &Path) -> u64 {
    files(folder).iter().map(|file| fs::metadata(file).expect("there").len().next_multiple_of(4096)).sum()
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(file).expect("opens").write_all_at(bytes, at).expect("written");
}

fn cut(file: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(file).expect("opens").set_len(len).expect("cut");
}
