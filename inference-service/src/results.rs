//! Where results go: a [`record`] for each analysed frame, the [`bus`] that
//! hands it to subscribers, the [`archive`] that keeps it, and the calls of
//! clients: [`service`] (latest, live by [`watch`]), [`pages`] and [`query`]
//! (what was), [`viewer`] (live pictures, drawn by [`snapshot`] in the
//! [`studio`]), [`incident_pictures`] (how it looked then) and [`detect`] (single
//! pictures). With several replicas: [`telling`] the others, and answering for
//! what is [`elsewhere`].

pub mod archive;
pub mod bus;
pub mod detect;
pub mod elsewhere;
pub mod hearing;
pub mod incident_pictures;
pub mod incident_stream;
pub mod pages;
pub mod query;
pub mod record;
pub mod service;
pub mod snapshot;
pub mod studio;
pub mod telling;
pub mod viewer;
pub mod watch;
pub mod wire;
