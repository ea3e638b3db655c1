//! From the mailbox to the server and back to the ledger. In reading order:
//! what waits ([`mailbox`]), what is on its way ([`flight`], [`transit`]), the
//! stream itself ([`uplink`]), and to which server it goes ([`dial`], [`route`],
//! [`servers`], [`connection`]).

pub mod connection;
pub mod dial;
pub mod flight;
pub mod mailbox;
pub mod route;
pub mod servers;
pub mod transit;
pub mod uplink;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use flatframe_shared::outcome::DropReason;
use tokio::sync::Notify;

use crate::frame::PreparedFrame;
use crate::send::mailbox::Mailbox;

/// The mailbox between the prepare thread and the uplink; a cheap handle.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    mailbox: Mutex<State>,
    filled: Notify,
}

#[derive(Debug)]
struct State {
    mailbox: Mailbox,
    closed: bool,
}

impl Outbox {
    /// Around an empty mailbox.
    pub fn new(mailbox: Mailbox) -> Self {
        Self(Arc::new(Shared { mailbox: Mutex::new(State { mailbox, closed: false }), filled: Notify::new() }))
    }

    /// Puts a frame in and wakes the uplink.
    pub fn put(&self, frame: PreparedFrame, now: Instant) {
        let mut state = self.lock();
        if state.closed {
            frame.ticket.drop_as(DropReason::Shutdown);
            return;
        }
        state.mailbox.put(frame, now);
        drop(state);
        self.0.filled.notify_one();
    }

    /// The next frame for a sender that may send `credits` of them.
    pub fn take(&self, credits: usize, now: Instant) -> Option<PreparedFrame> {
        self.lock().mailbox.take(credits, now)
    }

    /// Waits until a frame was put in.
    pub async fn filled(&self) {
        self.0.filled.notified().await;
    }

    /// Drops all that wait.
    pub fn clear(&self, reason: DropReason) {
        self.lock().mailbox.clear(reason);
    }

    /// No more frames: what waits, and what may still come, counts as
    /// `shutdown`.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.mailbox.clear(DropReason::Shutdown);
    }

    /// Frames that wait.
    pub fn frames(&self) -> usize {
        self.lock().mailbox.frames()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.lock().mailbox.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The mailbox does not panic half-way; if it did, what it still holds
        // is the best there is.
        self.0.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
