//! The service as it runs: real sockets, real child processes, a scripted
//! server. One module per behaviour.

#[path = "ingest/support.rs"]
mod support;
#[path = "ingest/uplink_rig.rs"]
mod uplink_rig;

#[path = "ingest/binary.rs"]
mod binary;
#[path = "ingest/children.rs"]
mod children;
#[path = "ingest/commands.rs"]
mod commands;
#[path = "ingest/http_cameras.rs"]
mod http_cameras;
#[path = "ingest/late.rs"]
mod late;
#[path = "ingest/memory.rs"]
mod memory;
#[path = "ingest/recording.rs"]
mod recording;
#[path = "ingest/recovery.rs"]
mod recovery;
#[path = "ingest/uplink.rs"]
mod uplink;
#[path = "ingest/uplink_faults.rs"]
mod uplink_faults;
#[path = "ingest/view.rs"]
mod view;
#[path = "ingest/whole_service.rs"]
mod whole_service;
