//! What both Flatframe services use. Knows neither cameras nor models.
//!
//! In reading order: the words ([`frame`], [`outcome`], [`ledger`]), how they
//! travel ([`convert`], [`gen`], [`error`]), how a service runs ([`cli`],
//! [`config`], [`shutdown`], [`supervisor`], [`serve`], [`tls`],
//! [`refusals`], [`renewal`], [`admin`], [`telemetry`]), what it may hold and holds ([`budget`],
//! [`process`], [`allocator`], [`restarts`], [`memory_watch`], [`resources`], [`metrics`]), and the small parts
//! ([`clock`], [`disk`], [`jpeg`], [`resize`], [`histogram`], [`trend`], [`backoff`],
//! [`rate_log`]).

pub mod frame;
pub mod ledger;
pub mod outcome;

pub mod convert;
pub mod error;
#[allow(missing_docs, clippy::all, clippy::unwrap_used)]
pub mod r#gen;

pub mod admin;
pub mod cli;
pub mod config;
pub mod refusals;
pub mod renewal;
pub mod serve;
pub mod shutdown;
pub mod supervisor;
pub mod telemetry;
pub mod tls;

pub mod allocator;
pub mod budget;
pub mod memory_watch;
pub mod metrics;
pub mod process;
pub mod resources;
pub mod restarts;

pub mod backoff;
pub mod clock;
pub mod disk;
pub mod histogram;
pub mod jpeg;
pub mod rate_log;
pub mod resize;
pub mod trend;

/// Name and version of this build, as sent to peers.
pub const SOFTWARE: &str = concat!("flatframe/", env!("CARGO_PKG_VERSION"));
