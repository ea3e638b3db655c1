//! Where frames come in: one [`stream`] for each camera, its [`link`] back with
//! the [`credits`] that bound what it may send, a [`schedule`] that is fair to
//! all, [`dispatch`] between it and the [`worker`] threads with the
//! [`service_time`] that a frame is expected to cost, the [`reply`] to
//! each frame in its [`order`], and [`pacing`] that tells cameras what is worth
//! sending. [`admission`] does for single calls what credits do for streams, and
//! [`late`] takes frames of an outage with what live cameras leave over,
//! [`lifetime`] ends those that read for ever; [`openings`] are streams that do
//! not belong to a camera yet.

pub mod admission;
pub mod credits;
pub mod dispatch;
pub mod job;
pub mod late;
pub mod lifetime;
pub mod link;
pub mod openings;
pub mod order;
pub mod pacing;
pub mod reply;
pub mod schedule;
pub mod service_time;
pub mod stream;
pub mod worker;
