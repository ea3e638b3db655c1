//! The state of a camera as a broker keeps it. It changes when something
//! changed, not with every frame: no rates, no ages.

use flatframe_shared::r#gen::v1;
use serde_json::{Value, json};

/// Longest message of one camera that is reckoned with, in bytes: its lines and
/// zones, incidents and names are bounded.
pub const MAX_BYTES: usize = 8 << 10;

/// The state of `camera`, as JSON.
pub fn state(camera: &v1::CameraInfo) -> String {
    let counts = camera.counts.as_ref();
    let crossings: serde_json::Map<_, _> = counts
        .iter()
        .flat_map(|counts| &counts.crossings)
        .map(|crossing| (crossing.name.clone(), self::crossing(crossing)))
        .collect();
    let incidents: Vec<_> = camera.incidents.iter().map(|incident| kind(incident.kind())).collect();
    json!({
        "state": state_name(camera.state()),
        "now": people(counts.and_then(|counts| counts.now.as_ref())),
        "visits": people(counts.and_then(|counts| counts.visits.as_ref())),
        "crossings": crossings,
        "incidents": incidents,
    })
    .to_string()
}

fn crossing(crossing: &v1::CrossingCounts) -> Value {
    json!({
        "entered": people(crossing.entered.as_ref()),
        "left": people(crossing.left.as_ref()),
        "occupancy": crossing.occupancy,
    })
}

/// `null`: not known, or not told.
fn people(counts: Option<&v1::FaceCounts>) -> Value {
    counts.map_or(Value::Null, |counts| {
        json!({ "people": counts.faces, "female": counts.female, "male": counts.male, "unknown": counts.unknown })
    })
}

fn state_name(state: v1::CameraState) -> &'static str {
    match state {
        v1::CameraState::Unspecified => "unknown",
        v1::CameraState::Connecting => "connecting",
        v1::CameraState::Live => "live",
        v1::CameraState::Stalled => "stalled",
        v1::CameraState::Down => "down",
        v1::CameraState::Offline => "offline",
    }
}

fn kind(kind: v1::IncidentKind) -> &'static str {
    match kind {
        v1::IncidentKind::Unspecified => "unknown",
        v1::IncidentKind::Offline => "offline",
        v1::IncidentKind::Stalled => "stalled",
        v1::IncidentKind::Frozen => "frozen",
        v1::IncidentKind::Dark => "dark",
        v1::IncidentKind::Overloaded => "overloaded",
        v1::IncidentKind::Disk => "disk",
        v1::IncidentKind::Memory => "memory",
    }
}
