//! What the end-to-end tests, the demo and the benchmarks share: real services
//! on real sockets, a camera that can misbehave, a wire that can be cut, a
//! memory limit, and the pictures.

pub mod arguments;
pub mod camera;
pub mod cgroup;
pub mod http2;
pub mod link;
pub mod media;
pub mod metrics;
pub mod nats;
pub mod outage;
pub mod pair;
pub mod peers;
pub mod program;
pub mod secured;
pub mod siege;
pub mod tracking;
pub mod wait;
