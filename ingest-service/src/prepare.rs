//! From capture to the mailbox: the raw slot, where the newest picture waits
//! for its turn, and the thread of one camera that prepares it. Decoding and
//! encoding run here and nowhere else, so that a slow picture of one camera
//! holds up no task of another. Does not send.

pub mod downsample;
pub mod pace;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use flatframe_shared::clock;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::outcome::DropReason;

use crate::frame::{CapturedFrame, Picture, PreparedFrame, Purpose};
use crate::prepare::downsample::{Downsampler, Wanted};
use crate::terms::TermsCell;

/// Stack of a prepare thread: the decoder keeps its tables on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// Room for one captured frame; the newest wins.
#[derive(Debug, Default)]
pub struct RawSlot {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    waiting: Option<CapturedFrame>,
    closed: bool,
}

impl RawSlot {
    /// Puts a frame in; the one that waited is superseded, unless it is to be
    /// sent and the newer one is for the recording alone: recording costs no
    /// frame that could be sent.
    pub fn put(&self, frame: CapturedFrame) {
        let mut state = self.lock();
        if state.closed {
            frame.ticket.drop_as(DropReason::Shutdown);
            return;
        }
        let is_to_be_sent = |waiting: &CapturedFrame| waiting.purpose.unsent.is_none();
        if let Some(reason) = frame.purpose.unsent
            && state.waiting.as_ref().is_some_and(is_to_be_sent)
        {
            frame.ticket.drop_as(reason);
            return;
        }
        if let Some(older) = state.waiting.replace(frame) {
            older.ticket.drop_as(DropReason::Superseded);
        }
        self.changed.notify_one();
    }

    /// Waits for a frame; `None` when the slot is closed.
    pub fn take(&self) -> Option<CapturedFrame> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(frame) = state.waiting.take() {
                return Some(frame);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more frames: what waits is counted as `shutdown`.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(frame) = state.waiting.take() {
            frame.ticket.drop_as(DropReason::Shutdown);
        }
        self.changed.notify_all();
    }

    /// Frames that wait: 0 or 1.
    pub fn live(&self) -> u64 {
        u64::from(self.lock().waiting.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        // Every change is one assignment: there is no half-written state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits of one camera's preparation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrepareLimits {
    /// Largest picture decoded.
    pub source_size: PictureSize,
    /// Largest picture sent, whatever the server takes.
    pub sent_size: PictureSize,
    /// Largest JPEG sent, whatever the server takes, in bytes.
    pub sent_bytes: usize,
    /// JPEG quality when a picture must be encoded anew, 1 to 100.
    pub quality: u8,
}

impl PrepareLimits {
    /// These limits and, where there is a server, its own: the lower of each.
    fn wanted(&self, terms: Option<crate::terms::Terms>) -> Wanted {
        let (max_size, max_bytes) =
            terms.map_or((self.sent_size, self.sent_bytes), |terms| (terms.max_size, terms.max_frame_bytes));
        Wanted {
            max_size: PictureSize::new(
                self.sent_size.width_px.min(max_size.width_px),
                self.sent_size.height_px.min(max_size.height_px),
            ),
            max_bytes: self.sent_bytes.min(max_bytes),
            quality: self.quality,
        }
    }
}

/// Starts the thread that takes frames from `slot`, prepares them and hands
/// them to `deliver`, with what each is wanted for. It ends when the slot is
/// closed.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(
    camera: &str,
    slot: Arc<RawSlot>,
    terms: TermsCell,
    limits: PrepareLimits,
    mut deliver: impl FnMut(PreparedFrame, Purpose) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    // Linux shows 15 characters of a thread's name.
    let name: String = format!("prep-{camera}").chars().take(15).collect();
    std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
        let mut downsampler = Downsampler::new(limits.source_size);
        while let Some(frame) = slot.take() {
            let CapturedFrame { birth, ticket, picture, mut purpose } = frame;
            let terms = terms.get();
            let is_offline = || terms.is_none().then_some(DropReason::Offline);
            let is_expired = || birth.expired(clock::now()).then_some(DropReason::Expired);
            purpose.unsent = purpose.unsent.or_else(is_offline).or_else(is_expired);
            if let Some(reason) = purpose.unsent
                && !purpose.is_recorded
            {
                ticket.drop_as(reason);
                continue;
            }
            let Picture::Jpeg(jpeg) = picture else {
                ticket.drop_as(DropReason::Corrupt);
                continue;
            };
            match downsampler.fit(jpeg, &limits.wanted(terms)) {
                Ok(fitted) => {
                    deliver(PreparedFrame { birth, ticket, jpeg: fitted.jpeg, size: fitted.size }, purpose);
                }
                Err(reason) => ticket.drop_as(reason),
            }
        }
    })
}
