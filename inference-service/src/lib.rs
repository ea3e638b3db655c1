//! The inference-service: takes frames from cameras, finds faces in them and
//! answers clients.
//!
//! The folders follow the frame: [`intake`] (stream, credits, schedule),
//! [`vision`] (decode, detect, gender), [`people`] (tracks, counts, incidents),
//! [`results`] (latest, bus, the client API), [`history`], [`replicas`] (what
//! several of these services tell each other). Beside the service:
//! [`models_command`], [`history_command`],
//! [`certs_command`], [`tokens_command`] and [`eval`], which a person
//! runs.

pub mod access;
pub mod budget;
pub mod cameras;
pub mod certs;
pub mod certs_command;
pub mod client_command;
pub mod config;
pub mod dashboard;
pub mod eval;
pub mod history;
pub mod history_command;
pub mod intake;
pub mod metrics;
pub mod models_command;
pub mod models_fetch;
pub mod mqtt;
pub mod people;
pub mod pulse;
pub mod replicas;
pub mod results;
pub mod secret_file;
pub mod server;
pub mod table;
pub mod tokens_command;
pub mod vision;
pub mod words;
