//! `inference-service status`: one line for each camera, and how the server is.

use std::io::Write;

use flatframe_shared::budget::Bytes;
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use serde_json::json;

use super::{Failure, ServerArgs, asking, people, write_incomplete};
use crate::table::{printable, write_table};
use crate::words;

/// Longest list of cameras that is read, in bytes: tens of thousands.
const MAX_LIST_BYTES: usize = 64 << 20;

/// Which service.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let channel = args.server.connect().await?;
    let asked = asking(v1::ListCamerasRequest {});
    let mut client = ResultServiceClient::new(channel.clone()).max_decoding_message_size(MAX_LIST_BYTES);
    let v1::ListCamerasResponse { cameras, incomplete } = client.list_cameras(asked).await?.into_inner();
    let asked = asking(v1::GetResourcesRequest {});
    let resources = AdminServiceClient::new(channel).get_resources(asked).await?.into_inner();
    if args.server.json {
        for camera in &cameras {
            writeln!(out, "{}", camera_json(camera))?;
        }
        let server = json!({
            "software": resources.software,
            "uptime_s": resources.uptime_s,
            "rss_bytes": resources.rss_bytes,
            "budget_bytes": resources.budget_bytes,
            "ledger_balance": resources.ledger_balance,
        });
        writeln!(out, "{server}")?;
        write_incomplete(&incomplete, true, out)?;
        return Ok(());
    }
    let head = ["CAMERA", "STATE", "FRAMES/S", "LAST FRAME", "NOW", "VISITS", "NOT ANALYSED", "WHAT IS WRONG"];
    let mut rows = vec![head.map(String::from)];
    rows.extend(cameras.iter().map(row));
    if cameras.is_empty() {
        writeln!(out, "no camera has connected since the service started")?;
    } else {
        write_table(&rows, out)?;
    }
    write_incomplete(&incomplete, false, out)?;
    let rss = resources.rss_bytes.map_or("?".to_owned(), |bytes| Bytes(bytes).to_string());
    let hours = resources.uptime_s as f64 / 3600.0;
    writeln!(
        out,
        "{}, up {hours:.1} h, memory {rss} of {}, ledger balance {} (0: every frame has one outcome)",
        printable(&resources.software),
        Bytes(resources.budget_bytes),
        resources.ledger_balance
    )?;
    Ok(())
}

/// What the person in front of the table needs to know first.
fn trouble(camera: &v1::CameraInfo) -> String {
    let incidents = camera.incidents.iter().map(|incident| incident.detail.as_str());
    let all: Vec<_> =
        std::iter::once(camera.detail.as_str()).chain(incidents).filter(|text| !text.is_empty()).collect();
    all.join("; ")
}

fn row(camera: &v1::CameraInfo) -> [String; 8] {
    let (now, visits) = counted(camera);
    let age = camera.last_frame_age_ms.map_or("-".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1000.0));
    [
        camera.camera_id.clone(),
        words::state(camera.state()).to_owned(),
        format!("{:.1} of {:.1}", camera.analyzed_fps, camera.wanted_fps),
        age,
        people(now),
        people(visits),
        missed(camera).map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share)),
        trouble(camera),
    ]
}

fn counted(camera: &v1::CameraInfo) -> (Option<&v1::FaceCounts>, Option<&v1::FaceCounts>) {
    let counts = camera.counts.as_ref();
    (counts.and_then(|counts| counts.now.as_ref()), counts.and_then(|counts| counts.visits.as_ref()))
}

/// Share of the frames that arrived and were answered otherwise than by a
/// result; `None` before the first.
fn missed(camera: &v1::CameraInfo) -> Option<f64> {
    let answered = &camera.ledger.as_ref()?.answered;
    let all: u64 = answered.iter().map(|one| one.frames).sum();
    let analyzed: u64 =
        answered.iter().filter(|one| one.outcome() == v1::Outcome::Analyzed).map(|one| one.frames).sum();
    (all > 0).then(|| (all - analyzed) as f64 / all as f64)
}

fn camera_json(camera: &v1::CameraInfo) -> serde_json::Value {
    let (now, visits) = counted(camera);
    json!({
        "camera": camera.camera_id,
        "name": camera.display_name,
        "state": words::state(camera.state()),
        "analyzed_fps": camera.analyzed_fps,
        "wanted_fps": camera.wanted_fps,
        "last_frame_age_ms": camera.last_frame_age_ms,
        "now": words::people(now),
        "visits": words::people(visits),
        "not_analyzed_share": missed(camera),
        "detail": trouble(camera),
    })
}
