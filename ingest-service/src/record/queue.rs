//! Where frames wait for the writer: bounded in bytes. Never makes anybody
//! wait who offers one.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;

/// Memory that a waiting frame takes beside its JPEG, bytes: itself, and the
/// slack of the buffer that a source filled.
pub const BESIDE_JPEG_BYTES: usize = 4096 + 128;

/// A prepared picture on its way to the disk.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Which of the recorded cameras.
    pub camera: usize,
    /// Number within the run.
    pub number: u64,
    /// Monotonic time of capture.
    pub captured: Instant,
    /// Wall clock at capture, microseconds; `None`: it was not set.
    pub captured_unix_us: Option<i64>,
    /// Size of the picture.
    pub size: PictureSize,
    /// Whether it is to be sent late.
    pub is_late: bool,
    /// The picture as it travels.
    pub jpeg: Bytes,
}

impl Frame {
    /// Memory that it holds, bytes.
    pub fn held_bytes(&self) -> usize {
        self.jpeg.len() + BESIDE_JPEG_BYTES
    }
}

/// The queue. What the writer has taken and not settled still counts as held.
#[derive(Debug)]
pub struct Queue {
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    held_bytes: usize,
    /// The writer should not wait for more.
    hurry: bool,
    /// Ends the writer.
    closed: bool,
    /// The writer is at its end.
    finished: bool,
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// No room.
    Full,
    /// The recording is closed.
    Closed,
}

impl Queue {
    /// Holds at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, waiting: Mutex::default(), changed: Condvar::new() }
    }

    /// Takes a frame unless it is full.
    pub fn offer(&self, frame: Frame) -> Result<(), NotTaken> {
        let bytes = frame.held_bytes();
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(NotTaken::Closed);
        }
        if waiting.held_bytes + bytes > self.max_bytes {
            return Err(NotTaken::Full);
        }
        waiting.held_bytes += bytes;
        waiting.frames.push_back(frame);
        // Half full is early enough to write before anything is lost.
        if waiting.held_bytes * 2 >= self.max_bytes && !waiting.hurry {
            waiting.hurry = true;
            self.changed.notify_all();
        }
        Ok(())
    }

    /// For the writer: waits until `until`, or until there is a hurry, and
    /// appends what is there to `batch`. False when this is the end.
    pub fn take(&self, batch: &mut VecDeque<Frame>, until: Instant) -> bool {
        let mut waiting = self.waiting();
        while !waiting.closed && !waiting.hurry {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.hurry = false;
        batch.append(&mut waiting.frames);
        !waiting.closed
    }

    /// For the writer: so many of the bytes it has taken are written, or
    /// counted as not recorded.
    pub fn settle(&self, bytes: usize) {
        let mut waiting = self.waiting();
        waiting.held_bytes = waiting.held_bytes.saturating_sub(bytes);
    }

    /// For the writer: there will be nothing more.
    pub fn finish(&self) {
        let mut waiting = self.waiting();
        (waiting.closed, waiting.finished) = (true, true);
        self.changed.notify_all();
    }

    /// Takes nothing more; the writer writes what waits and ends.
    pub fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_all();
    }

    /// Waits for the end of the writer; false when that takes longer than
    /// `patience`.
    pub fn wait_finished(&self, patience: Duration) -> bool {
        let waiting = self.waiting();
        let waited = self.changed.wait_timeout_while(waiting, patience, |waiting| !waiting.finished);
        waited.unwrap_or_else(PoisonError::into_inner).0.finished
    }

    /// Memory of what waits, the frames in the writer's hands included, bytes.
    pub fn held_bytes(&self) -> usize {
        self.waiting().held_bytes
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Every change is one assignment or one push.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(jpeg_bytes: usize) -> Frame {
        Frame {
            camera: 0,
            number: 1,
            captured: Instant::now(),
            captured_unix_us: None,
            size: PictureSize::new(1, 1),
            is_late: false,
            jpeg: Bytes::from(vec![0; jpeg_bytes]),
        }
    }

    #[test]
    fn bounded_in_bytes_with_what_the_writer_holds() {
        let each = frame(1000).held_bytes();
        let queue = Queue::new(3 * each);
        assert!((0..3).all(|_| queue.offer(frame(1000)).is_ok()));
        assert_eq!(queue.offer(frame(1000)), Err(NotTaken::Full));
        let mut batch = VecDeque::new();
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(queue.take(&mut batch, far), "more than half full: no waiting");
        assert_eq!((batch.len(), queue.held_bytes()), (3, 3 * each));
        assert_eq!(queue.offer(frame(1)), Err(NotTaken::Full), "what the writer holds is held");
        queue.settle(each);
        assert_eq!(queue.offer(frame(1000)), Ok(()));
    }

    #[test]
    fn closed_takes_nothing_and_gives_the_rest() {
        let queue = Queue::new(1 << 20);
        queue.offer(frame(10)).expect("room");
        queue.close();
        assert_eq!(queue.offer(frame(10)), Err(NotTaken::Closed));
        let mut batch = VecDeque::new();
        assert!(!queue.take(&mut batch, Instant::now() + Duration::from_secs(3600)));
        assert_eq!(batch.len(), 1);
        assert!(!queue.wait_finished(Duration::ZERO));
        queue.finish();
        assert!(queue.wait_finished(Duration::ZERO));
    }
}
