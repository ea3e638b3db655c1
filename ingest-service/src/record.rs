//! Recording, off unless an operator names a folder: the pictures of a camera
//! as they were prepared for sending, masks and all, in a ring of segment
//! files on disk.
//!
//! One thread writes (`writer`); prepare threads offer frames, which never
//! waits: what the disk cannot take is counted as not recorded, and streaming
//! goes on as if there was no disk. In reading order: what is recorded when
//! ([`events`]), where frames wait (`queue`), how they lie on disk
//! ([`container`], [`name`], `ring`, `store`), how they get there (`writer`,
//! `write_rate`), how they are read ([`reader`], [`catalog`]) and taken along
//! ([`export`], [`avi`]), and what can be seen of it ([`state`]).

pub mod avi;
pub mod catalog;
pub mod container;
pub mod events;
pub mod export;
pub mod name;
mod queue;
pub mod reader;
mod ring;
pub mod state;
mod store;
#[cfg(test)]
mod tests;
mod write_rate;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flatframe_shared::budget::Place;
use flatframe_shared::clock;
use flatframe_shared::disk;
use flatframe_shared::frame::CameraId;

pub use self::ring::{Bounds, MAX_SEGMENTS, SEGMENT_ENTRY_BYTES};
pub use self::write_rate::BURST;

use crate::frame::PreparedFrame;
use crate::plan::CameraPlan;
use crate::prepare::look::Motion;
use crate::record::events::{Around, Events};
use crate::record::queue::{Frame, NotTaken, Queue};
use crate::record::ring::Writing;
use crate::record::state::{CameraRecording, CameraTally, NotRecorded, Pause, Seen};
use crate::record::writer::Writer;
use crate::source::capture::RecordedAt;

/// Stack of the writer.
const STACK_BYTES: usize = 256 * 1024;
/// Memory of the thread, and of looking through a segment at a start, bytes.
pub const WRITER_BYTES: u64 = 1 << 20;

/// What of a camera is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordPolicy {
    /// Nothing.
    #[default]
    Off,
    /// Everything, at the recording's rate.
    Continuous,
    /// What moves, with what was shortly before and after.
    Motion,
    /// Everything, at the recording's rate, while no server takes frames.
    Outage,
}

impl RecordPolicy {
    /// Reads what a camera's `record` key says.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "continuous" => Some(Self::Continuous),
            "motion" => Some(Self::Motion),
            "outage" => Some(Self::Outage),
            _ => None,
        }
    }
}

/// Where recordings are and what they may take.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingSettings {
    /// The folder; each camera has one in it.
    pub dir: PathBuf,
    /// What one camera may keep.
    pub bounds: Bounds,
    /// With fewer bytes free on the disk nothing is recorded.
    pub min_free_bytes: u64,
    /// Most bytes written in a second, all cameras together.
    pub max_write_bytes_per_s: u64,
    /// Between two syncs: what a power cut may cost.
    pub sync_every: Duration,
    /// Most memory of frames that wait for the disk, all cameras together.
    pub queue_bytes: usize,
    /// Most frames recorded in a second, for each camera.
    pub fps: f32,
    /// What is recorded around motion.
    pub around: Around,
    /// How frames of an outage are sent after it; `None`: they are not.
    pub late: Option<LateSettings>,
}

/// How frames that were kept during an outage are sent after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LateSettings {
    /// Older ones are not sent.
    pub max_age: Duration,
    /// Most sent in a second, for each camera.
    pub fps: f32,
}

/// Says how many bytes of the file system of a folder are free.
pub type FreeBytes = Arc<dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync>;

/// What the recording asks of its surroundings: a test answers for them.
#[derive(Clone)]
pub struct Surroundings {
    /// Free bytes of the file system of a folder.
    pub free_bytes: FreeBytes,
    /// Monotonic time.
    pub now: Arc<dyn Fn() -> Instant + Send + Sync>,
    /// Wall clock, microseconds; `None`: not set. Decides about age alone.
    pub now_unix_us: Arc<dyn Fn() -> Option<i64> + Send + Sync>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            free_bytes: Arc::new(disk::free_bytes),
            now: Arc::new(clock::now),
            now_unix_us: Arc::new(|| Some(clock::unix_us()).filter(|unix_us| *unix_us >= CLOCK_IS_SET_UNIX_US)),
        }
    }
}

/// A clock before this (2020-01-01) was never set.
const CLOCK_IS_SET_UNIX_US: i64 = 1_577_836_800_000_000;

/// What recorders, readers of metrics and the writer share.
#[derive(Debug)]
struct Shared {
    settings: RecordingSettings,
    queue: Queue,
    cameras: Vec<RecordedCamera>,
    seen: Seen,
}

#[derive(Debug)]
struct RecordedCamera {
    id: CameraId,
    tally: CameraTally,
}

/// A handle on the running recording; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recording {
    shared: Arc<Shared>,
}

/// The thread that writes, to be closed at the end.
#[derive(Debug)]
pub struct RecordingWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Recording {
    /// Starts the thread that records those of `plans` that are to be. The
    /// disk is touched by that thread alone: one that is slow, full or not
    /// there holds up nothing.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(settings: RecordingSettings, plans: &[CameraPlan]) -> std::io::Result<(Self, RecordingWriter)> {
        let (shared, writer) = Self::parts(settings, plans, Surroundings::default());
        let thread = std::thread::Builder::new().name("recording".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || writer.run())?;
        let handle = Self { shared: Arc::clone(&shared) };
        Ok((handle, RecordingWriter { shared, thread: Some(thread) }))
    }

    fn parts(settings: RecordingSettings, plans: &[CameraPlan], surroundings: Surroundings) -> (Arc<Shared>, Writer) {
        let (run, began) = (fastrand::u64(..), (surroundings.now)());
        let recorded = || plans.iter().filter(|plan| plan.record != RecordPolicy::Off);
        let cameras: Vec<Writing> = recorded()
            .map(|plan| Writing { camera: plan.id.clone(), rotation_degrees: plan.rotation.degrees(), run, began })
            .collect();
        let shared = Arc::new(Shared {
            queue: Queue::new(settings.queue_bytes),
            settings,
            cameras: recorded()
                .map(|plan| RecordedCamera { id: plan.id.clone(), tally: CameraTally::default() })
                .collect(),
            seen: Seen::default(),
        });
        (Arc::clone(&shared), Writer::new(shared, surroundings, cameras))
    }

    /// What takes the frames of a camera; `None`: it is not recorded.
    pub fn recorder(&self, plan: &CameraPlan) -> Option<Recorder> {
        let camera = self.shared.cameras.iter().position(|camera| camera.id == plan.id)?;
        let events = match plan.record {
            RecordPolicy::Motion => Some(Events::new(self.shared.settings.around)),
            RecordPolicy::Off | RecordPolicy::Continuous | RecordPolicy::Outage => None,
        };
        let only_in_outages = plan.record == RecordPolicy::Outage;
        Some(Recorder { shared: Arc::clone(&self.shared), camera, only_in_outages, events })
    }

    /// The recorded cameras.
    pub fn cameras(&self) -> impl Iterator<Item = (&CameraId, CameraRecording)> {
        self.shared.cameras.iter().map(|camera| (&camera.id, camera.tally.read()))
    }

    /// Says how many frames of a camera were written that are to be sent late;
    /// `None`: it is not recorded.
    pub fn written_late(&self, camera: &CameraId) -> Option<impl Fn() -> u64 + Send + Sync + use<>> {
        let number = self.shared.cameras.iter().position(|recorded| recorded.id == *camera)?;
        let shared = Arc::clone(&self.shared);
        Some(move || shared.cameras[number].tally.late())
    }

    /// Where it is and what it may take.
    pub fn settings(&self) -> &RecordingSettings {
        &self.shared.settings
    }

    /// Free bytes of the disk; `None` when they cannot be read.
    pub fn free_bytes(&self) -> Option<u64> {
        self.shared.seen.free_bytes()
    }

    /// Why nothing is recorded; `None`: all is well.
    pub fn paused(&self) -> Option<Pause> {
        self.shared.seen.paused()
    }

    /// Where frames can wait or are kept, with what is held and may be.
    pub fn places(&self) -> Vec<Place> {
        let settings = &self.shared.settings;
        let shared = Arc::clone(&self.shared);
        let mut places = vec![Place::new("recording/queue_bytes", settings.queue_bytes as u64, move || {
            shared.queue.held_bytes() as u64
        })];
        for (number, camera) in self.shared.cameras.iter().enumerate() {
            for (name, cap, live) in [
                ("disk_bytes", settings.bounds.max_bytes, (|of| of.disk_bytes) as fn(CameraRecording) -> u64),
                ("before_bytes", settings.around.before_bytes as u64, |of| of.before_bytes),
            ] {
                let shared = Arc::clone(&self.shared);
                let live = move || live(shared.cameras[number].tally.read());
                places.push(Place::new(format!("recording/{}/{name}", camera.id), cap, live));
            }
        }
        places
    }
}

/// Takes the frames of one camera; belongs to its prepare thread.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    camera: usize,
    only_in_outages: bool,
    /// `None`: every frame is recorded.
    events: Option<Events<Frame>>,
}

impl Recorder {
    /// Which pictures it wants.
    pub fn wants(&self) -> RecordedAt {
        RecordedAt { fps: self.shared.settings.fps, only_in_outages: self.only_in_outages }
    }

    /// Takes a prepared frame, one `of an outage` if no server took frames.
    /// Never waits.
    pub fn take(&mut self, prepared: &PreparedFrame, motion: Motion, is_of_outage: bool) {
        let unix_us = prepared.birth.captured_unix_us;
        self.record(
            Frame {
                camera: self.camera,
                number: prepared.birth.number.0,
                captured: prepared.birth.captured,
                captured_unix_us: (unix_us != 0).then_some(unix_us),
                size: prepared.size,
                is_late: is_of_outage && self.shared.settings.late.is_some(),
                jpeg: prepared.jpeg.clone(),
            },
            motion,
        );
    }

    fn record(&mut self, frame: Frame, motion: Motion) {
        let Some(events) = &mut self.events else { return offer(&self.shared, frame) };
        let (bytes, at) = (frame.held_bytes(), frame.captured);
        events.take(frame, bytes, at, motion, |frame| offer(&self.shared, frame));
        self.shared.cameras[self.camera].tally.before_bytes.store(events.before_bytes() as u64, Relaxed);
    }
}

fn offer(shared: &Shared, frame: Frame) {
    let tally = &shared.cameras[frame.camera].tally;
    match shared.queue.offer(frame) {
        Ok(()) => {}
        Err(NotTaken::Full) => tally.add_not_recorded(NotRecorded::QueueFull),
        Err(NotTaken::Closed) => tally.add_not_recorded(NotRecorded::Closed),
    }
}

impl RecordingWriter {
    /// Takes nothing more, writes what waits, and ends the thread. False when
    /// that takes longer than `patience`: what was not written then is lost.
    pub fn close(mut self, patience: Duration) -> bool {
        self.shared.queue.close();
        let finished = self.shared.queue.wait_finished(patience);
        let thread = self.thread.take();
        if let Some(thread) = thread.filter(|_| finished) {
            // It has nothing more to do; a panic has ended the process before.
            let _ = thread.join();
        }
        finished
    }
}

impl Drop for RecordingWriter {
    fn drop(&mut self) {
        // Only reached with a thread when a start failed, or a test did.
        self.shared.queue.close();
    }
}
