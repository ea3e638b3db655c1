//! A replica as these tests see it: how it is started on a bus, and what its
//! clients are told. A client that is told to ask again does so.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use e2e::nats::Nats;
use e2e::pair::{Inference, stub_config};
use e2e::wait::{answered, until};
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::{self, watch_response};
use inference_service::config::Config;
use inference_service::replicas::Replicas;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::sender::Sender;

/// Longest wait for what comes by way of the bus: a replica tries again after
/// up to 5 s, to connect and then to speak and to listen.
pub const BUS_PATIENCE: Duration = Duration::from_secs(60);
/// The camera by which it is found that another replica is heard.
pub const PROBE: &str = "probe";

/// A client of one replica.
pub type Client = ResultServiceClient<Channel>;

/// A service that shares the bus of `nats` under the name `replica`.
pub fn config(nats: &Nats, replica: &str) -> Config {
    let mut config = stub_config(500, true);
    // Several services are in one process: what is resident is not one's alone.
    config.limits.soft_memory_bytes = 1 << 40;
    config.bus.nats = nats.url();
    config.bus.replica = replica.to_owned();
    config
}

/// Starts it, and waits until it is on the bus.
pub async fn start(config: Config) -> Inference {
    let service = Inference::start(config).await.expect("starts");
    wait_for_bus(&service).await;
    service
}

/// Waits until it can publish on the bus; it may not listen yet.
pub async fn wait_for_bus(service: &Inference) {
    let bus = bus_of(service);
    until("it is on the bus", BUS_PATIENCE, || bus.away().is_none()).await;
}

/// Waits until `listener` hears results of `speaker` as they come: it begins
/// with those that come after it has come itself.
pub async fn wait_to_hear(listener: &Inference, speaker: &Inference) {
    let mut camera = Sender::open(speaker, PROBE, 1).await;
    let is_heard = async || {
        camera.send(1).await;
        (listener.sources.bus.elsewhere() > 0).then_some(())
    };
    answered("the other is heard", BUS_PATIENCE, is_heard).await;
    camera.close().await;
}

/// What it knows of the bus.
pub fn bus_of(service: &Inference) -> Arc<Replicas> {
    service.sources.archive.replicas.clone().expect("has a bus")
}

/// What the bus has, each counted once: of a message that was sent again the
/// first may be there already.
pub fn acknowledged(bus: &Replicas) -> u64 {
    bus.counts.published.load(Relaxed) + bus.counts.duplicates.load(Relaxed)
}

/// Whether the bus has all that was analysed, and told of it, until now.
pub fn has_all(bus: &Replicas) -> bool {
    acknowledged(bus) == bus.outbox.counts.offered.load(Relaxed)
}

/// A client of it.
pub async fn client(service: &Inference) -> Client {
    Client::new(service.connect().await.expect("connects"))
}

/// All cameras, as it lists them.
pub async fn list(client: &Client) -> v1::ListCamerasResponse {
    client.clone().list_cameras(v1::ListCamerasRequest {}).await.expect("an answer").into_inner()
}

/// The newest result of a camera.
pub async fn latest(client: &Client, camera: &str) -> Result<v1::GetLatestResponse, Status> {
    let request = v1::GetLatestRequest { camera_id: camera.into() };
    Ok(client.clone().get_latest(request).await?.into_inner())
}

/// All results of a camera since then, and what is said of those that may be
/// missing.
pub async fn query(client: &Client, camera: &str, from_unix_ms: i64) -> Result<(Vec<v1::FrameResult>, String), Status> {
    let request = v1::QueryResultsRequest {
        camera_id: camera.into(),
        from_unix_ms,
        to_unix_ms: now_ms() + 60_000,
        max_results: 100_000,
        page_token: String::new(),
    };
    let mut pages = client.clone().query_results(request).await?.into_inner();
    let (mut results, mut incomplete) = (Vec::new(), String::new());
    while let Some(page) = pages.message().await? {
        results.extend(page.results);
        incomplete = page.incomplete;
    }
    Ok((results, incomplete))
}

/// As [`query`], asked again while the bus takes too long.
pub async fn results(client: &Client, camera: &str, from_unix_ms: i64) -> (Vec<v1::FrameResult>, String) {
    let asked = async || match query(client, camera, from_unix_ms).await {
        Ok((_, incomplete)) if incomplete.starts_with("results of this replica alone") => None,
        answer => in_time(answer),
    };
    answered("the bus answers", BUS_PATIENCE, asked).await
}

/// Frame numbers of a camera of the last hour, in the order of the answer.
pub async fn numbers(client: &Client, camera: &str) -> Vec<u64> {
    let (results, _) = results(client, camera, hour_ago_ms()).await;
    results.iter().map(|result| result.frame_number).collect()
}

/// An answer that may depend on the bus; `None`: the bus took too long, which
/// a machine that stands still is enough for.
pub fn in_time<T>(answer: Result<T, Status>) -> Option<T> {
    match answer {
        Err(status) if is_late(&status) => None,
        answer => Some(answer.expect("an answer")),
    }
}

/// Whether a client is told to ask again.
pub fn is_late(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Watches all cameras from now on.
pub async fn watch(client: &Client) -> Streaming<v1::WatchResponse> {
    client.clone().watch(v1::WatchRequest::default()).await.expect("watches").into_inner()
}

/// The next message of a watch.
pub async fn next(watch: &mut Streaming<v1::WatchResponse>) -> watch_response::Message {
    let message = tokio::time::timeout(BUS_PATIENCE, watch.message()).await.expect("in time");
    message.expect("lives").expect("goes on").message.expect("is known")
}

/// The next result of a watch. Whether others are heard may be told at any
/// time; nothing may be missing.
pub async fn next_result(watch: &mut Streaming<v1::WatchResponse>) -> v1::FrameResult {
    loop {
        match next(watch).await {
            watch_response::Message::Result(result) => return result,
            watch_response::Message::Elsewhere(_) => {}
            watch_response::Message::Gap(gap) => panic!("not a result: {gap:?}"),
        }
    }
}

/// The wall clock, in milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    flatframe_shared::clock::unix_us() / 1000
}

/// It an hour ago.
pub fn hour_ago_ms() -> i64 {
    now_ms() - 3_600_000
}
