//! `inference-service incidents`: what is wrong now, and the latest that was.

use std::io::Write;
use std::time::Duration;

use flatframe_shared::clock;
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::watch_incidents_response::Message;
use serde_json::json;

use super::{Failure, ServerArgs, asking, time, write_incomplete};
use crate::table::write_table;
use crate::words;

/// Which incidents.
#[derive(Debug, clap::Args)]
pub struct IncidentsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only this camera; may be repeated.
    #[arg(long, value_name = "ID")]
    camera: Vec<String>,
}

pub(super) async fn run(args: &IncidentsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let mut client = ResultServiceClient::new(args.server.connect().await?);
    let request = v1::WatchIncidentsRequest { camera_ids: args.camera.clone(), only_known: true };
    let mut stream = client.watch_incidents(asking(request)).await?.into_inner();
    let mut rows = vec![["BEGAN", "LASTED", "CAMERA", "KIND", "DETAIL"].map(String::from)];
    let mut incomplete = String::new();
    while let Some(response) = stream.message().await? {
        let incident = match response.message {
            Some(Message::Incident(incident)) => incident,
            Some(Message::Elsewhere(elsewhere)) => {
                incomplete = elsewhere.detail;
                continue;
            }
            _ => continue,
        };
        if args.server.json {
            writeln!(out, "{}", as_json(&incident))?;
        } else {
            rows.push(row(&incident));
        }
    }
    match (args.server.json, rows.len()) {
        (true, _) => {}
        (false, 1) => writeln!(out, "nothing is wrong, and nothing was of late")?,
        (false, _) => write_table(&rows, out)?,
    }
    write_incomplete(&incomplete, args.server.json, out)?;
    Ok(())
}

fn row(incident: &v1::Incident) -> [String; 5] {
    let end = incident.ended_unix_ms.unwrap_or_else(|| clock::unix_us() / 1000);
    let lasted = u64::try_from(end.saturating_sub(incident.started_unix_ms)).unwrap_or(0);
    let lasted = humantime::format_duration(Duration::from_secs(lasted / 1000));
    let still = if incident.ended_unix_ms.is_none() { ", still" } else { "" };
    let camera = if incident.camera_id.is_empty() { "(server)" } else { &incident.camera_id };
    let place = if incident.replica.is_empty() { String::new() } else { format!(" at {}", incident.replica) };
    [
        time(incident.started_unix_ms),
        format!("{lasted}{still}"),
        format!("{camera}{place}"),
        words::incident(incident.kind()).to_owned(),
        incident.detail.clone(),
    ]
}

fn as_json(incident: &v1::Incident) -> serde_json::Value {
    json!({
        "id": incident.incident_id,
        "camera": (!incident.camera_id.is_empty()).then_some(&incident.camera_id),
        "kind": words::incident(incident.kind()),
        "detail": incident.detail,
        "began": time(incident.started_unix_ms),
        "ended": incident.ended_unix_ms.map(time),
        "replica": (!incident.replica.is_empty()).then_some(&incident.replica),
    })
}
