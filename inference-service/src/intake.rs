//! Where frames come in: one [`stream`] for each camera, its [`link`] back with
//! the [`credits`] that bound what it may send, a [`schedule`] that is fair to
//! all, [`dispatch`] between it and the [`worker`] threads, the [`reply`] to
//! each frame in its [`order`], and [`pacing`] that tells cameras what is worth
//! sending. [`admission`] does for single calls what credits do for streams.

pub mod admission;
pub mod credits;
pub mod dispatch;
pub mod job;
pub mod link;
pub mod order;
pub mod pacing;
pub mod reply;
pub mod schedule;
pub mod stream;
pub mod worker;
