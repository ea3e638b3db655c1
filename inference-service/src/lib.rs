//! The inference-service: takes frames from cameras, finds faces in them and
//! answers clients.
//!
//! The folders follow the frame: [`intake`] (stream, credits, schedule),
//! [`vision`] (decode, detect, gender), [`results`] (latest, bus, the client
//! API). Tracking and counting will stand between the last two. Beside the
//! service: [`models_command`] and [`eval`], which a person runs.

pub mod budget;
pub mod cameras;
pub mod config;
pub mod eval;
pub mod intake;
pub mod metrics;
pub mod models_command;
pub mod models_fetch;
pub mod pulse;
pub mod results;
pub mod server;
pub mod vision;
