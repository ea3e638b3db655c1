//! What is on the wire in words, for terminals, JSON and brokers: the same
//! everywhere.

use flatframe_shared::r#gen::v1;
use serde_json::{Value, json};

/// The state of a camera.
pub fn state(state: v1::CameraState) -> &'static str {
    match state {
        v1::CameraState::Unspecified => "unknown",
        v1::CameraState::Connecting => "connecting",
        v1::CameraState::Live => "live",
        v1::CameraState::Stalled => "stalled",
        v1::CameraState::Down => "down",
        v1::CameraState::Offline => "offline",
    }
}

/// The kind of an incident.
pub fn incident(kind: v1::IncidentKind) -> &'static str {
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

/// An apparent gender; `-`: not estimated.
pub fn gender(gender: v1::Gender) -> &'static str {
    match gender {
        v1::Gender::Unspecified => "-",
        v1::Gender::Unknown => "unknown",
        v1::Gender::Female => "female",
        v1::Gender::Male => "male",
    }
}

/// People by gender; `null`: not known, or kept back.
pub fn people(counts: Option<&v1::FaceCounts>) -> Value {
    counts.map_or(Value::Null, |counts| {
        json!({ "people": counts.faces, "female": counts.female, "male": counts.male, "unknown": counts.unknown })
    })
}
