//! The result bus on a real NATS server, with replicas that run in this process
//! or as programs of their own: what is published, kept once, caught up after an
//! absence and left after a crash; replicas that answer for each other's cameras;
//! and a camera that moves without anybody being counted twice.
//!
//! A question to the bus has 2 s, a camera that moves half a second. After a
//! machine that stood still for longer it is asked again, and moved again.

#[path = "bus/answering.rs"]
mod answering;
#[path = "bus/crash.rs"]
mod crash;
#[path = "bus/handing_over.rs"]
mod handing_over;
#[path = "bus/incidents.rs"]
mod incidents;
#[path = "bus/moving.rs"]
mod moving;
#[path = "bus/publishing.rs"]
mod publishing;
#[path = "bus/replica.rs"]
mod replica;
#[path = "bus/sender.rs"]
mod sender;
#[path = "bus/unheard.rs"]
mod unheard;
