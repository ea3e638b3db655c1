//! Where results go: a [`record`] for each analysed frame, the [`bus`] that
//! hands it to subscribers, the [`archive`] that keeps it, and the calls of
//! clients: [`service`] (live, latest), [`query`] (what was), [`viewer`] (live
//! pictures, drawn by [`snapshot`] in the [`studio`]), [`incident_pictures`] (how
//! it looked then) and [`detect`] (single pictures).

pub mod archive;
pub mod bus;
pub mod detect;
pub mod incident_pictures;
pub mod incident_stream;
pub mod query;
pub mod record;
pub mod service;
pub mod snapshot;
pub mod studio;
pub mod viewer;
pub mod wire;
