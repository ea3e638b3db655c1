//! The state of a camera as a broker keeps it. It changes when something
//! changed, not with every frame: no rates, no ages.

use flatframe_shared::r#gen::v1;
use serde_json::{Value, json};

use crate::words;

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
    let incidents: Vec<_> = camera.incidents.iter().map(|incident| words::incident(incident.kind())).collect();
    json!({
        "state": words::state(camera.state()),
        "now": words::people(counts.and_then(|counts| counts.now.as_ref())),
        "visits": words::people(counts.and_then(|counts| counts.visits.as_ref())),
        "crossings": crossings,
        "incidents": incidents,
    })
    .to_string()
}

/// The state of a camera that this run of the service has not seen: whatever a
/// run before told is not known any more.
pub fn unseen() -> String {
    state(&v1::CameraInfo { state: v1::CameraState::Offline as i32, ..Default::default() })
}

fn crossing(crossing: &v1::CrossingCounts) -> Value {
    json!({
        "entered": words::people(crossing.entered.as_ref()),
        "left": words::people(crossing.left.as_ref()),
        "occupancy": crossing.occupancy,
    })
}
