//! What Home Assistant needs to show a camera as a device (its documentation,
//! "MQTT", "Device discovery").

use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use serde_json::{Map, Value, json};

use super::config::{Broker, object_id};

/// The announcement of `camera`, as JSON; empty when there is to be none.
pub fn message(broker: &Broker, id: &CameraId, camera: &v1::CameraInfo) -> String {
    if broker.discovery_topic(id).is_empty() {
        return String::new();
    }
    let object = object_id(id);
    let name = if camera.display_name.is_empty() { id.as_str() } else { &camera.display_name };
    let mut parts = Map::new();
    let mut add = |key: &str, mut part: Value| {
        part["unique_id"] = format!("{object}-{key}").into();
        parts.insert(key.to_owned(), part);
    };
    add(
        "state",
        json!({ "platform": "sensor", "name": "State", "value_template": "{{ value_json.state }}", "icon": "mdi:cctv" }),
    );
    add(
        "problem",
        json!({
            "platform": "binary_sensor", "name": "Problem", "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.incidents else 'OFF' }}",
        }),
    );
    // Without counts, which the privacy mode keeps back, there is nothing to count.
    if let Some(counts) = &camera.counts {
        for (key, name, of, field) in [
            ("people", "People now", "now", "people"),
            ("women", "Women now (apparent)", "now", "female"),
            ("men", "Men now (apparent)", "now", "male"),
        ] {
            add(key, sensor(name, &format!("value_json.{of}"), field, "measurement"));
        }
        add("visits", sensor("Visits", "value_json.visits", "people", "total_increasing"));
        for (number, crossing) in counts.crossings.iter().enumerate() {
            let of = format!("value_json.crossings[{}]", Value::from(crossing.name.as_str()));
            let name = format!("{} occupancy", crossing.name);
            add(&format!("occupancy-{number}"), sensor(&name, &of, "occupancy", "measurement"));
        }
    }
    json!({
        "device": {
            "identifiers": [object], "name": name, "manufacturer": "Flatframe", "model": "Camera",
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "origin": { "name": "Flatframe", "sw_version": env!("CARGO_PKG_VERSION") },
        "components": parts,
        "state_topic": broker.state_topic(id),
        "availability_topic": broker.status_topic(),
        "qos": 1,
    })
    .to_string()
}

/// A number; what is not known is told as `None`, which is shown as unknown.
fn sensor(name: &str, of: &str, field: &str, class: &str) -> Value {
    json!({
        "platform": "sensor", "name": name, "state_class": class, "icon": "mdi:account-multiple",
        "value_template": format!("{{{{ {of}.{field} if {of} else 'None' }}}}"),
    })
}
