//! From capture to the mailbox: the raw slot, where the newest picture waits
//! for its turn, and the thread of one camera that prepares it. Decoding and
//! encoding run here and nowhere else, so that a slow picture of one camera
//! holds up no task of another. Does not send.

pub mod byte_cap;
pub mod downsample;
pub mod look;
pub mod pace;
pub mod preparer;
pub mod raw;
pub mod view;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use flatframe_shared::clock;
use flatframe_shared::outcome::DropReason;

use crate::frame::{CapturedFrame, PreparedFrame, Purpose};
use crate::prepare::look::ConditionCell;
use crate::prepare::look::Motion;
use crate::prepare::preparer::{PrepareLimits, Prepared, Preparer};
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

/// A prepared frame on its way to those who want it.
#[derive(Debug)]
pub struct Delivery {
    /// The frame.
    pub frame: PreparedFrame,
    /// What it is wanted for.
    pub purpose: Purpose,
    /// Whether something moves in it.
    pub motion: Motion,
}

/// Starts the thread that takes frames from `slot`, prepares them and hands
/// them to `deliver`; `condition` is told what the pictures look like. It ends
/// when the slot is closed.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(
    camera: &str,
    slot: Arc<RawSlot>,
    terms: TermsCell,
    limits: PrepareLimits,
    condition: ConditionCell,
    mut deliver: impl FnMut(Delivery) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    // Linux shows 15 characters of a thread's name.
    let name: String = format!("prep-{camera}").chars().take(15).collect();
    let span = tracing::info_span!("camera", id = camera);
    std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
        let _span = span.entered();
        let mut preparer = Preparer::new(limits, condition);
        while let Some(frame) = slot.take() {
            let CapturedFrame { birth, ticket, picture, mut purpose } = frame;
            let (now, known) = (clock::now(), terms.known());
            let terms = terms.get();
            purpose.is_of_outage |= terms.is_none();
            let is_offline = || terms.is_none().then_some(DropReason::Offline);
            let is_expired = || birth.expired(now).then_some(DropReason::Expired);
            purpose.unsent = purpose.unsent.or_else(is_offline).or_else(is_expired);
            if let Some(reason) = purpose.unsent
                && !purpose.is_recorded
            {
                ticket.drop_as(reason);
                continue;
            }
            match preparer.prepare(now, picture, terms.or(known), purpose) {
                Ok(Prepared { fitted, motion, is_still }) => {
                    purpose.unsent = purpose.unsent.or(is_still.then_some(DropReason::Still));
                    let frame = PreparedFrame { birth, ticket, jpeg: fitted.jpeg, size: fitted.size };
                    deliver(Delivery { frame, purpose, motion });
                }
                Err(reason) => ticket.drop_as(reason),
            }
        }
    })
}
