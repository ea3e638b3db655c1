//! Where results go: a [`record`] for each analysed frame, the [`bus`] that
//! hands it to subscribers, and the calls of clients: [`service`] (live and
//! latest) and [`detect`] (single pictures). History, counts and snapshots
//! will stand beside them.

pub mod bus;
pub mod detect;
pub mod record;
pub mod service;
pub mod wire;
