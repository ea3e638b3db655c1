//! What the end-to-end tests, the demo and the benchmarks share: real services
//! on real sockets, a camera that can misbehave, a wire that can be cut, and
//! the pictures.

pub mod camera;
pub mod http2;
pub mod link;
pub mod media;
pub mod pair;
pub mod program;
pub mod siege;
pub mod wait;
