//! The computed bound of this service's memory. Every term is a value of the
//! configuration, a bound computed from the models, or a constant here.

use std::mem::size_of;

use flatframe_shared::admin;
use flatframe_shared::budget::{Budget, Bytes};
use flatframe_shared::serve::ConnectionLimits;
use flatframe_shared::tls::TLS_CONNECTION_BYTES;

use crate::access::identities::{IDENTITY_BYTES, MAX_IDENTITIES};
use crate::config::{Config, PrivacyMode};
use crate::history;
use crate::intake::link::MAX_OPENINGS;
use crate::mqtt;
use crate::people::People;
use crate::people::incidents::Incidents;
use crate::people::track::FaceTrack;
use crate::replicas;
use crate::results::query::QUERY_BYTES;
use crate::results::record::ResultRecord;
use crate::results::snapshot::Painter;
use crate::results::viewer;
use crate::server::slots::{
    MAX_HEALTH_CHECKS, MAX_HEALTH_REQUEST_BYTES, MAX_HEALTH_WATCHES, MAX_INCIDENT_WATCHES, MAX_PAGE_CONNECTIONS,
    MAX_QUERIES, MAX_REQUEST_BYTES, MAX_SMALL_CALLS, MAX_SNAPSHOTS, MAX_VIEWERS,
};
use crate::vision::{Face, Look, VisionMemory};

/// Code, runtime, threads' stacks, telemetry and the allocator's own tables;
/// measured with no camera and the stub engine, with room to spare:
/// docs/performance.md, "Memory of an idle service".
const BASELINE_BYTES: u64 = 26 << 20;
/// What one worker thread needs besides vision's own: touched stack and the
/// allocator's arena.
const THREAD_BYTES: u64 = 1 << 20;
/// State of one HTTP/2 connection with its tasks, besides its windows.
const CONNECTION_BYTES: u64 = 48 << 10;
/// What HTTP/2 keeps of a call that is refused or over until the client has
/// taken the word of it; all else of a call is counted by its slot.
const CALL_BYTES: u64 = 2 << 10;
/// A call keeps its address and copies of a few headers
/// (`intake/admission.rs`).
const HEADER_FACTOR: u64 = 2;
/// State of one camera besides its results.
const CAMERA_BYTES: u64 = 4 << 10;
/// State of one subscriber besides its queue: mostly the ids it watches.
const SUBSCRIBER_BYTES: u64 = 32 << 10;
/// One camera in the answer to `ListCameras`, or in the metrics, with its
/// lines, zones and open incidents.
const CAMERA_INFO_BYTES: u64 = 3 << 10;
/// An admin connection with the metrics that are of no camera.
const ADMIN_CONNECTION_BYTES: u64 = 64 << 10;
/// A frame may keep the whole buffer that it was read into alive, and that
/// grows by doubling.
const READ_BUFFER_FACTOR: u64 = 2;

/// Limits of the gRPC connections, as the configuration gives them.
pub fn connection_limits(config: &Config) -> ConnectionLimits {
    let limits = &config.limits;
    // A safety net that must not bind before the credits do.
    let frames = u64::from(limits.window) * limits.max_message_bytes() as u64;
    let window_bytes = u32::try_from(frames).unwrap_or(i32::MAX as u32).clamp(64 << 10, i32::MAX as u32);
    ConnectionLimits { max_connections: limits.max_connections, window_bytes, ..ConnectionLimits::default() }
}

/// Limits of the page's connections.
pub fn page_limits() -> ConnectionLimits {
    ConnectionLimits { max_connections: MAX_PAGE_CONNECTIONS, ..ConnectionLimits::default() }
}

/// The budget of `config` with models that need `vision`.
pub fn budget(config: &Config, vision: &VisionMemory) -> Budget {
    let limits = &config.limits;
    let mut budget = Budget::default();
    budget.add("baseline", BASELINE_BYTES, None, "code, runtime, telemetry (measured)".into());
    budget.add("model", vision.model_bytes, Some("vision.detector"), "weights and plans, shared by all workers".into());

    let workers = config.workers.threads() as u64;
    let per_worker = vision.state_bytes_per_worker + vision.scratch_bytes_per_worker + THREAD_BYTES;
    budget.add(
        "workers",
        workers * per_worker,
        Some("workers.count or vision.max_picture"),
        format!(
            "{workers} workers x ({} tensors + {} scratch + {} thread)",
            Bytes(vision.state_bytes_per_worker),
            Bytes(vision.scratch_bytes_per_worker),
            Bytes(THREAD_BYTES)
        ),
    );

    let streams = limits.max_streams as u64;
    let message = limits.max_message_bytes() as u64 * READ_BUFFER_FACTOR;
    let frames = u64::from(limits.window) + 1;
    let connection = connection_limits(config);
    let send = connection.send_buffer_bytes as u64;
    budget.add(
        "streams",
        streams * (frames * message + send),
        Some("limits.max_streams or limits.max_frame_bytes"),
        format!(
            "{streams} streams x ((window {} + 1 being read) x {} + {} to send)",
            limits.window,
            Bytes(message),
            Bytes(send)
        ),
    );

    // One frame in work and one being read.
    let late = config.late_streams() as u64;
    if late > 0 {
        budget.add(
            "late streams",
            late * (2 * message + send + result_bytes(config) as u64),
            Some("limits.max_late_streams or limits.max_frame_bytes"),
            format!("{late} streams x ((1 frame + 1 being read) x {} + {} to send)", Bytes(message), Bytes(send)),
        );
    }

    // Any client may open a stream and never finish its hello.
    let headers = u64::from(connection.max_header_bytes) * HEADER_FACTOR;
    let openings = MAX_OPENINGS as u64;
    budget.add(
        "openings",
        openings * (message + headers),
        Some("limits.max_frame_bytes"),
        format!("{openings} streams that open x ({} + headers {})", Bytes(message), Bytes(headers)),
    );

    let tls = if config.tls.files().is_some() { TLS_CONNECTION_BYTES } else { 0 };
    let tls_words = if tls > 0 { format!(" + TLS {}", Bytes(tls)) } else { String::new() };
    let connections = limits.max_connections as u64;
    let calls = u64::from(connection.max_calls_per_connection);
    let per_connection = u64::from(connection.window_bytes) + CONNECTION_BYTES + calls * CALL_BYTES + tls;
    budget.add(
        "connections",
        connections * per_connection,
        Some("limits.max_connections"),
        format!(
            "{connections} connections x (window {} + {} + {calls} calls x {}{tls_words})",
            Bytes(u64::from(connection.window_bytes)),
            Bytes(CONNECTION_BYTES),
            Bytes(CALL_BYTES)
        ),
    );

    let result = result_bytes(config) as u64;
    let cameras = limits.max_cameras as u64;
    let in_order = streams * u64::from(limits.window);
    budget.add(
        "cameras",
        cameras * (CAMERA_BYTES + result) + in_order * result,
        Some("limits.max_cameras"),
        format!(
            "{cameras} cameras x ({} + latest result {}) + {in_order} results on their way",
            Bytes(CAMERA_BYTES),
            Bytes(result)
        ),
    );
    let people = People::max_bytes(config.people.tracking(&config.vision));
    budget.add(
        "people",
        cameras * people + Incidents::max_bytes(limits.max_cameras),
        Some("limits.max_cameras or people.max_tracks"),
        format!("{cameras} cameras x {} for {} tracks + incidents", Bytes(people), config.people.max_tracks),
    );
    if config.privacy.mode != PrivacyMode::CountsOnly {
        let (picture, painter) = (u64::from(limits.max_frame_bytes), Painter::max_bytes(config.vision.max_picture.0));
        // A picture, and the message with it in a buffer that grows by doubling.
        let calls = MAX_SNAPSHOTS as u64;
        budget.add(
            "snapshots",
            (cameras + 3 * calls) * picture + painter,
            Some("limits.max_cameras, vision.max_picture or privacy.mode"),
            format!("({cameras} cameras + {calls} calls x 3) x {} + painter {}", Bytes(picture), Bytes(painter)),
        );
        let kept = config.incidents.picture_bytes as u64;
        budget.add("incident pictures", kept, Some("incidents.picture_bytes"), format!("at most {}", Bytes(kept)));
        // As a call, the message before, which its last piece holds, and a camera that made room
        // meanwhile.
        let viewers = MAX_VIEWERS as u64;
        let per_viewer = 6 * picture + people + viewer::max_bytes(limits.max_cameras);
        budget.add(
            "viewers",
            viewers * per_viewer,
            Some("limits.max_frame_bytes or privacy.mode"),
            format!("{viewers} viewers x {}", Bytes(per_viewer)),
        );
    }
    if let Some(settings) = config.history.settings() {
        let (store, queries) = (history::max_memory_bytes(&settings), MAX_QUERIES as u64);
        budget.add(
            "history",
            store + queries * QUERY_BYTES,
            Some("history.file"),
            format!("queue and caches {} + {queries} queries x {}", Bytes(store), Bytes(QUERY_BYTES)),
        );
    }
    let ring = limits.result_ring as u64;
    budget.add("results", ring * result, Some("limits.result_ring"), format!("{ring} results x {}", Bytes(result)));

    // A result in a queue may be in no ring any more: it is counted in full,
    // once, since subscribers share it.
    let subscribers = limits.max_subscribers as u64;
    let queue = limits.subscriber_queue as u64;
    budget.add(
        "subscribers",
        subscribers * (SUBSCRIBER_BYTES + send + queue * size_of::<usize>() as u64) + queue * result,
        Some("limits.max_subscribers"),
        format!("{subscribers} subscribers x ({} to send + queue of {queue}) + {queue} results", Bytes(send)),
    );

    // Reading a request, and an answer that nobody reads; the largest answer
    // is the list of all cameras.
    let own_slots = MAX_INCIDENT_WATCHES + MAX_VIEWERS + MAX_SNAPSHOTS;
    let small_calls = (limits.max_subscribers + MAX_SMALL_CALLS + own_slots) as u64;
    let elsewhere = if config.bus.nats.is_empty() { 0 } else { config.bus.max_cameras as u64 };
    let listed = (cameras + elsewhere) * CAMERA_INFO_BYTES;
    let per_small_call = MAX_REQUEST_BYTES as u64 * READ_BUFFER_FACTOR + headers + listed;
    budget.add(
        "client calls",
        small_calls * per_small_call,
        Some("limits.max_subscribers or limits.max_cameras"),
        format!("{small_calls} calls x {}", Bytes(per_small_call)),
    );

    let health_calls = (MAX_HEALTH_CHECKS + MAX_HEALTH_WATCHES) as u64;
    let per_health_call = MAX_HEALTH_REQUEST_BYTES as u64 * READ_BUFFER_FACTOR + headers;
    budget.add(
        "health calls",
        health_calls * per_health_call,
        None,
        format!("{health_calls} calls x {}", Bytes(per_health_call)),
    );

    let calls = limits.max_detect_calls as u64;
    let per_call = u64::from(limits.max_detect_bytes) * READ_BUFFER_FACTOR + headers + result;
    budget.add(
        "detect calls",
        calls * per_call,
        Some("limits.max_detect_calls or limits.max_detect_bytes"),
        format!("{calls} calls x {}", Bytes(per_call)),
    );

    if config.listen.page.is_some() {
        let (page, limits) = (MAX_PAGE_CONNECTIONS as u64, page_limits());
        // Read and written through buffers of at most this.
        let per_page = 2 * limits.send_buffer_bytes as u64 + CONNECTION_BYTES + tls;
        let formula = format!("{page} connections x {}; its calls count above", Bytes(per_page));
        budget.add("page", page * per_page, Some("listen.page"), formula);
    }

    if config.auth.is_on() || config.tls.knows_cameras() {
        let identities = MAX_IDENTITIES as u64;
        let formula = format!("{identities} identities of callers x {}", Bytes(IDENTITY_BYTES));
        budget.add("access", identities * IDENTITY_BYTES, None, formula);
    }
    if !config.bus.nats.is_empty() {
        let bytes = replicas::max_bytes(&config.bus, result, cameras);
        let formula = format!(
            "queue {} + {} cameras of others + {cameras} of its own + messages on their way",
            Bytes(config.bus.queue_bytes),
            config.bus.max_cameras
        );
        budget.add("bus", bytes, Some("bus.queue_bytes, bus.max_cameras or limits.max_cameras"), formula);
    }

    if !config.mqtt.broker.is_empty() {
        let told = mqtt::max_bytes(limits.max_cameras);
        budget.add("mqtt", told, Some("limits.max_cameras"), "queue, and what was told of each camera".into());
    }

    let admin = admin::MAX_CONNECTIONS as u64;
    let per_admin = ADMIN_CONNECTION_BYTES + cameras * CAMERA_INFO_BYTES;
    budget.add(
        "admin",
        admin * per_admin,
        Some("limits.max_cameras"),
        format!("{admin} connections x {} of metrics", Bytes(per_admin)),
    );
    budget
}

/// A result with as many faces as may be reported.
/// Bound of the memory of one result.
pub fn result_bytes(config: &Config) -> usize {
    let face = size_of::<Face>() + size_of::<Option<FaceTrack>>();
    size_of::<ResultRecord>() + config.vision.max_faces * face + size_of::<Look>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_every_limit() {
        let vision =
            VisionMemory { model_bytes: 1 << 20, state_bytes_per_worker: 1 << 20, scratch_bytes_per_worker: 1 << 20 };
        let mut base = Config::default();
        base.listen.page = None;
        let total = |config: &Config| budget(config, &vision).total_bytes();
        let changes: [fn(&mut Config); 17] = [
            |c| c.limits.max_streams += 1,
            |c| c.limits.max_cameras += 1,
            |c| c.limits.window += 1,
            |c| c.limits.max_frame_bytes += 1,
            |c| c.limits.max_connections += 1,
            |c| c.limits.max_subscribers += 1,
            |c| c.limits.subscriber_queue += 1,
            |c| c.limits.result_ring += 1,
            |c| c.limits.max_detect_calls += 1,
            |c| c.people.max_tracks += 1,
            |c| c.history.file = "history.sqlite".into(),
            |c| (c.history.file, c.limits.max_late_streams) = ("history.sqlite".into(), 5),
            |c| c.mqtt.broker = "mqtt://box".into(),
            |c| c.tls.cert = "cert.pem".into(),
            |c| c.auth.tokens = "tokens.toml".into(),
            |c| c.bus.nats = "nats://box".into(),
            |c| c.listen.page = Some(([127, 0, 0, 1], 1).into()),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut config = base.clone();
            change(&mut config);
            assert!(total(&config) > total(&base), "change {number} is not in the budget");
        }
    }
}
