//! Where frames come in: one [`stream`] for each camera, its [`link`] back with
//! the [`credits`] that bound what it may send, a [`schedule`] that is fair to
//! all, [`dispatch`] between it and the [`worker`] threads, the [`reply`] to
//! each frame in its [`order`], and [`pacing`] that tells cameras what is worth
//! sending. [`admission`] does for single calls what credits do for streams, and
//! [`lifetime`] ends those that read for ever; [`openings`] are streams that do
//! not belong to a camera yet.

pub mod admission;
pub mod credits;
pub mod dispatch;
pub mod job;
pub mod lifetime;
pub mod link;
pub mod openings;
pub mod order;
pub mod pacing;
pub mod reply;
pub mod schedule;
pub mod stream;
pub mod worker;
