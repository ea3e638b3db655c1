//! The result bus on a real NATS server: what is published, kept once, caught
//! up after an absence and left after a crash; replicas that answer for each
//! other's cameras; and a camera that moves without anybody being counted
//! twice.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::media::textured_jpeg;
use e2e::metrics::Metrics;
use e2e::nats::{Nats, PROGRAM, Terms};
use e2e::pair::{Inference, stub_config};
use e2e::program::{Program, are_installed, connect, free_address};
use e2e::secured::Secrets;
use e2e::wait::{answered, until};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::result_service_client::ResultServiceClient;
use flatframe_shared::r#gen::v1::{self, watch_response};
use inference_service::config::Config;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

const SIZE: PictureSize = PictureSize::new(160, 120);

/// A service that shares the bus of `nats` under the name `replica`.
fn config(nats: &Nats, replica: &str) -> Config {
    let mut config = stub_config(500, true);
    config.bus.nats = nats.url();
    config.bus.replica = replica.to_owned();
    config
}

async fn start(nats: &Nats, replica: &str) -> Inference {
    let service = Inference::start(config(nats, replica)).await.expect("starts");
    is_on_the_bus(&service).await;
    service
}

async fn is_on_the_bus(service: &Inference) {
    let replicas = service.sources.archive.replicas.clone().expect("has a bus");
    until("it is on the bus", PATIENCE, || replicas.away().is_none()).await;
}

async fn client(service: &Inference) -> ResultServiceClient<Channel> {
    ResultServiceClient::new(service.connect().await.expect("connects"))
}

async fn open(service: &Inference, camera: &str, session: u64) -> RawCamera {
    let channel = service.connect().await.expect("connects");
    RawCamera::open(channel, hello(camera, session)).await.expect("is welcome").0
}

async fn send(camera: &mut RawCamera, frames: u32) {
    for seed in 0..frames {
        camera.send_frame(textured_jpeg(SIZE, seed), SIZE, PATIENCE).await.expect("sends");
        assert_eq!(camera.outcome().await.expect("answered").outcome(), v1::Outcome::Analyzed);
    }
}

/// Half-closes and waits for the end of the stream.
async fn close(mut camera: RawCamera) {
    camera.outbox = None;
    while let Ok(Some(_)) = camera.next().await {}
}

fn published(service: &Inference) -> u64 {
    let replicas = service.sources.archive.replicas.as_ref().expect("has a bus");
    replicas.counts.published.load(Relaxed)
}

/// Frame numbers of a camera of the last hour, as this replica answers.
async fn numbers(client: &mut ResultServiceClient<Channel>, camera: &str) -> Vec<u64> {
    query(client, camera).await.expect("an answer").iter().map(|result| result.frame_number).collect()
}

async fn query(client: &mut ResultServiceClient<Channel>, camera: &str) -> Result<Vec<v1::FrameResult>, tonic::Status> {
    Ok(query_since(client, camera, now_ms() - 3_600_000).await?.0)
}

fn now_ms() -> i64 {
    flatframe_shared::clock::unix_us() / 1000
}

/// All results since then, and what is said of those that may be missing.
async fn query_since(
    client: &mut ResultServiceClient<Channel>,
    camera: &str,
    from_unix_ms: i64,
) -> Result<(Vec<v1::FrameResult>, String), tonic::Status> {
    let request = v1::QueryResultsRequest {
        camera_id: camera.into(),
        from_unix_ms,
        to_unix_ms: now_ms() + 60_000,
        max_results: 100_000,
        page_token: String::new(),
    };
    let mut pages = client.query_results(request).await?.into_inner();
    let (mut results, mut incomplete) = (Vec::new(), String::new());
    while let Some(page) = pages.message().await? {
        results.extend(page.results);
        incomplete = page.incomplete;
    }
    Ok((results, incomplete))
}

async fn next(watch: &mut Streaming<v1::WatchResponse>) -> watch_response::Message {
    let message = tokio::time::timeout(PATIENCE, watch.message()).await.expect("in time");
    message.expect("lives").expect("goes on").message.expect("is known")
}

/// TLS, and a user with a password; what was analysed while the bus was away comes
/// later, once, and in order; what did not fit is counted.
#[tokio::test(flavor = "multi_thread")]
async fn an_absence_of_the_bus_is_caught_up() {
    if !are_installed("an_absence_of_the_bus_is_caught_up", &[PROGRAM]) {
        return;
    }
    let secrets = Secrets::new().expect("certificates");
    let login = Some(("box".to_owned(), "not in any log".to_owned()));
    let tls = Some((secrets.server.cert.clone(), secrets.server.key.clone()));
    let mut nats = Nats::start_with(&Terms { login, tls, ..Terms::default() }).await.expect("a server");
    let file = nats.folder().join("credentials");
    std::fs::write(&file, "box:not in any log\n").expect("writes");
    let mut config = config(&nats, "a");
    (config.bus.credentials, config.bus.ca) = (file, secrets.ca());
    let service = Inference::start(config).await.expect("starts");
    is_on_the_bus(&service).await;
    let mut camera = open(&service, "door", 1).await;
    send(&mut camera, 20).await;
    until("all are acknowledged", PATIENCE, || published(&service) == 20).await;

    nats.kill().await.expect("is killed");
    let replicas = service.sources.archive.replicas.clone().expect("has a bus");
    until("the absence is noticed", PATIENCE, || replicas.away().is_some()).await;
    let mut client = client(&service).await;
    let refused = query(&mut client, "door").await.expect_err("the bus is away");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // The camera does not notice.
    send(&mut camera, 30).await;
    assert!(replicas.outbox.bytes() > 0);
    nats.resume().await.expect("a server");
    until("all are acknowledged", PATIENCE, || published(&service) == 50).await;
    assert_eq!(numbers(&mut client, "door").await, (1..=50).collect::<Vec<_>>());
    let lost = [&replicas.outbox.counts.full, &replicas.outbox.counts.late, &replicas.outbox.counts.left];
    assert!(lost.iter().all(|count| count.load(Relaxed) == 0));
    close(camera).await;
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

/// While the bus is away for good, a small queue keeps the newest and counts
/// the rest; every result has one fate.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_counted() {
    if !are_installed("what_does_not_fit_is_counted", &[PROGRAM]) {
        return;
    }
    let mut nats = Nats::start().await.expect("a server");
    let mut config = config(&nats, "a");
    config.bus.queue_bytes = 64 << 10;
    let service = Inference::start(config).await.expect("starts");
    is_on_the_bus(&service).await;
    nats.kill().await.expect("is killed");
    let mut camera = open(&service, "door", 1).await;
    send(&mut camera, 400).await;
    let replicas = service.sources.archive.replicas.clone().expect("has a bus");
    let full = replicas.outbox.counts.full.load(Relaxed);
    assert!(full > 0 && replicas.outbox.bytes() <= 64 << 10, "{full} gave way");
    close(camera).await;
    service.stop().await.expect("stops");
    let counts = &replicas.outbox.counts;
    let fates = counts.full.load(Relaxed) + counts.late.load(Relaxed) + counts.left.load(Relaxed);
    assert_eq!(fates + replicas.counts.published.load(Relaxed), counts.offered.load(Relaxed));
    assert_eq!(counts.offered.load(Relaxed), 400);
}

/// The same frame of the same session is on the bus once, whoever analysed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_comes_twice_is_kept_once() {
    if !are_installed("a_frame_that_comes_twice_is_kept_once", &[PROGRAM]) {
        return;
    }
    let nats = Nats::start().await.expect("a server");
    let (a, b) = (start(&nats, "a").await, start(&nats, "b").await);
    for service in [&a, &b] {
        let mut camera = open(service, "door", 7).await;
        send(&mut camera, 3).await;
        close(camera).await;
    }
    let duplicates = || b.sources.archive.replicas.as_ref().map(|bus| bus.counts.duplicates.load(Relaxed));
    until("the bus knows them", PATIENCE, || duplicates() == Some(3)).await;
    assert_eq!(numbers(&mut client(&b).await, "door").await, [1, 2, 3]);
    a.stop().await.expect("stops");
    b.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_replica_answers_for_any_camera() {
    if !are_installed("any_replica_answers_for_any_camera", &[PROGRAM]) {
        return;
    }
    let begun_ms = now_ms();
    let mut nats = Nats::start().await.expect("a server");
    let a = start(&nats, "a").await;
    // One with a history of its own, which knows nothing of the other's camera.
    let mut with_history = config(&nats, "b");
    with_history.history.file = nats.folder().join("history.sqlite");
    let b = Inference::start(with_history).await.expect("starts");
    is_on_the_bus(&b).await;
    let since_ms = now_ms();
    let (mut asked_a, mut asked_b) = (client(&a).await, client(&b).await);
    let unknown = asked_b.get_latest(v1::GetLatestRequest { camera_id: "bus.7".into() }).await;
    assert_eq!(unknown.expect_err("nobody knows it").code(), Code::NotFound);
    let mut watch = asked_b.watch(v1::WatchRequest::default()).await.expect("watches").into_inner();
    let (mut first, mut second) = (open(&a, "bus.7", 1).await, open(&b, "door", 2).await);
    send(&mut first, 4).await;
    send(&mut second, 2).await;

    // Live, in one sequence, each with the name of who analysed it.
    let (mut seen, mut last) = (BTreeSet::new(), 0);
    while seen.len() < 6 {
        let watch_response::Message::Result(result) = next(&mut watch).await else { panic!("not a result") };
        assert!(result.position > last);
        last = result.position;
        seen.insert((result.camera_id, result.frame_number, result.replica));
    }
    let of = |camera: &str, number, replica: &str| (camera.to_owned(), number, replica.to_owned());
    let expected = [of("bus.7", 1, "a"), of("bus.7", 4, "a"), of("door", 1, ""), of("door", 2, "")];
    assert!(expected.iter().all(|one| seen.contains(one)), "{seen:?}");
    // A client that comes back goes on where it was, over both.
    let epoch = b.sources.archive.wire.server_epoch;
    let request =
        v1::WatchRequest { after_position: Some(last - 5), after_server_epoch: Some(epoch), ..Default::default() };
    let mut resumed = asked_b.watch(request).await.expect("watches").into_inner();
    for _ in 0..5 {
        assert!(matches!(next(&mut resumed).await, watch_response::Message::Result(_)));
    }

    // The list, the newest result and the history of the other's camera.
    let listed = answered("b knows a's camera", PATIENCE, async || {
        let list = asked_b.list_cameras(v1::ListCamerasRequest {}).await.expect("an answer").into_inner();
        assert_eq!(list.incomplete, "");
        let is_there = |camera: &&v1::CameraInfo| camera.camera_id == "bus.7" && camera.counts.is_some();
        list.cameras.iter().find(is_there).map(|camera| (camera.replica.clone(), camera.state()))
    });
    assert_eq!(listed.await.0, "a");
    let latest = asked_b.get_latest(v1::GetLatestRequest { camera_id: "bus.7".into() }).await.expect("an answer");
    let latest = latest.into_inner();
    let result = latest.result.expect("was analysed");
    assert_eq!((result.frame_number, result.replica.as_str(), result.faces.len()), (4, "a", 1));
    assert!(latest.age_ms.expect("with it") < 60_000);
    assert_eq!(numbers(&mut asked_b, "bus.7").await, [1, 2, 3, 4]);
    assert_eq!(numbers(&mut asked_a, "door").await, [1, 2]);
    let (results, incomplete) = query_since(&mut asked_b, "bus.7", since_ms).await.expect("an answer");
    assert_eq!((results.len(), incomplete.as_str()), (4, ""), "the bus has all since then");
    let (results, incomplete) = query_since(&mut asked_b, "bus.7", begun_ms - 60_000).await.expect("an answer");
    assert!(results.len() == 4 && incomplete.contains("since"), "the bus was not there yet: {incomplete:?}");

    // Pictures stay where they are.
    let snapshot = asked_b.get_snapshot(v1::GetSnapshotRequest { camera_id: "bus.7".into(), ..Default::default() });
    let refused = snapshot.await.expect_err("is not here");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("replica a"), "{refused}");

    // Without the bus nothing looks as if there were nobody else.
    close(first).await;
    close(second).await;
    nats.kill().await.expect("is killed");
    let lost = loop {
        if let watch_response::Message::Elsewhere(elsewhere) = next(&mut watch).await {
            break elsewhere;
        }
    };
    assert!(!lost.is_heard && lost.detail.contains("away"), "{lost:?}");
    let list = asked_b.list_cameras(v1::ListCamerasRequest {}).await.expect("an answer").into_inner();
    assert!(list.incomplete.contains("away") && list.cameras.len() == 2, "{list:?}");
    let newest = asked_b.get_latest(v1::GetLatestRequest { camera_id: "bus.7".into() }).await;
    assert_eq!(newest.expect_err("is not here").code(), Code::Unavailable);
    let unknown = asked_b.get_latest(v1::GetLatestRequest { camera_id: "nobody".into() }).await;
    assert_eq!(unknown.expect_err("cannot be known").code(), Code::Unavailable);
    // Its own camera is served all the same.
    let mut second = open(&b, "door", 3).await;
    send(&mut second, 1).await;
    assert!(matches!(next(&mut watch).await, watch_response::Message::Result(result) if result.camera_id == "door"));
    nats.resume().await.expect("a server");
    is_on_the_bus(&a).await;
    let mut first = open(&a, "bus.7", 4).await;
    send(&mut first, 1).await;
    loop {
        match next(&mut watch).await {
            watch_response::Message::Elsewhere(elsewhere) => assert!(elsewhere.is_heard),
            watch_response::Message::Result(result) if result.session_id == 4 => break,
            // The server came back with all that it had; what came meanwhile may be told as missed.
            _ => {}
        }
    }
    a.stop().await.expect("stops");
    b.stop().await.expect("stops");
}

/// The bus takes results and answers, but lets nobody listen: clients learn that
/// others are not heard, and no camera of theirs looks as if it were not there.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_listen_says_so() {
    if !are_installed("who_may_not_listen_says_so", &[PROGRAM]) {
        return;
    }
    let login = Some(("box".to_owned(), "secret".to_owned()));
    let denied = vec!["$JS.API.CONSUMER.>".to_owned()];
    let nats = Nats::start_with(&Terms { login, denied, tls: None }).await.expect("a server");
    let mut config = config(&nats, "a");
    config.bus.credentials = nats.folder().join("credentials");
    std::fs::write(&config.bus.credentials, "box:secret\n").expect("writes");
    let a = Inference::start(config).await.expect("starts");
    is_on_the_bus(&a).await;
    let mut camera = open(&a, "door", 1).await;
    send(&mut camera, 3).await;
    until("it publishes", PATIENCE, || published(&a) == 3).await;
    let mut asked = client(&a).await;
    let said = answered("the list says so", PATIENCE, async || {
        let list = asked.list_cameras(v1::ListCamerasRequest {}).await.expect("an answer").into_inner();
        Some(list.incomplete).filter(|incomplete| !incomplete.is_empty())
    });
    assert!(said.await.contains("not heard"));
    let mut watch = asked.watch(v1::WatchRequest::default()).await.expect("watches").into_inner();
    let watch_response::Message::Elsewhere(told) = next(&mut watch).await else { panic!("not what is missing") };
    assert!(!told.is_heard && told.detail.contains("not heard"), "{told:?}");
    let unknown = asked.get_latest(v1::GetLatestRequest { camera_id: "bus.7".into() }).await;
    assert_eq!(unknown.expect_err("cannot be known").code(), Code::Unavailable);
    close(camera).await;
    a.stop().await.expect("stops");
}

fn visits(latest: &v1::GetLatestResponse) -> (u32, bool) {
    let counts = latest.result.as_ref().and_then(|result| result.counts.as_ref()).expect("is counted");
    (counts.visits.as_ref().expect("visits").faces, counts.uncertain)
}

async fn latest(service: &Inference, camera: &str) -> v1::GetLatestResponse {
    let asked = client(service).await.get_latest(v1::GetLatestRequest { camera_id: camera.into() }).await;
    asked.expect("an answer").into_inner()
}

/// The replica is drained: the person in the picture is the same visit at the
/// next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_moves_counts_nobody_twice() {
    if !are_installed("a_camera_that_moves_counts_nobody_twice", &[PROGRAM]) {
        return;
    }
    let nats = Nats::start().await.expect("a server");
    let (a, b) = (start(&nats, "a").await, start(&nats, "b").await);
    let mut camera = open(&a, "door", 1).await;
    // Two visits, so that neither totals nor tracks that begin anew look the same.
    send(&mut camera, 10).await;
    until("the first one has left", PATIENCE, || a.sources.cameras.tracks() == 0).await;
    send(&mut camera, 10).await;
    assert_eq!(visits(&latest(&a, "door").await), (2, false));
    // As ingest-service does it: half-close at the drain, go elsewhere when the stream has ended.
    a.begin_stop();
    while !matches!(camera.next().await, Ok(Some(v1::publish_response::Message::Drain(_)))) {}
    close(camera).await;
    let mut camera = open(&b, "door", 1).await;
    send(&mut camera, 10).await;
    assert_eq!(visits(&latest(&b, "door").await), (2, false), "the same visit");
    let face = latest(&b, "door").await.result.expect("is there").faces[0].track.expect("is followed");
    assert!(face.is_visit && face.track_id == 2, "{face:?}");
    close(camera).await;
    a.stop().await.expect("stops");
    assert_eq!(b.stop().await.expect("stops").balance(), 0);
}

/// A camera that nobody handed over is counted, and the count says that it is
/// uncertain.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_bus_counts_say_that_they_are_uncertain() {
    if !are_installed("without_the_bus_counts_say_that_they_are_uncertain", &[PROGRAM]) {
        return;
    }
    let mut nats = Nats::start().await.expect("a server");
    let b = start(&nats, "b").await;
    nats.kill().await.expect("is killed");
    let replicas = b.sources.archive.replicas.clone().expect("has a bus");
    until("the absence is noticed", PATIENCE, || replicas.away().is_some()).await;
    let mut camera = open(&b, "door", 1).await;
    send(&mut camera, 10).await;
    assert_eq!(visits(&latest(&b, "door").await), (1, true));
    close(camera).await;
    b.stop().await.expect("stops");
}

/// One replica is killed: every result that the bus acknowledged is there, the
/// other one goes on with its camera, counts nobody twice and says that it had
/// no last word.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_takes_nothing_along() {
    if !are_installed("a_replica_that_is_killed_takes_nothing_along", &[PROGRAM]) {
        return;
    }
    let nats = Nats::start().await.expect("a server");
    let mut killed = config(&nats, "a");
    let (grpc, admin) = (free_address().expect("a free port"), free_address().expect("a free port"));
    (killed.listen.grpc, killed.listen.admin, killed.listen.page) = (grpc, admin, None);
    let toml = toml::to_string(&killed).expect("a configuration is TOML");
    let mut a = Program::start("inference-service", &toml).expect("starts");
    let b = start(&nats, "b").await;
    let channel = connect(&grpc.to_string(), PATIENCE).await.expect("listens");
    let metric = async |name: &str| Metrics::read(admin).await.ok()?.value(name);
    let on_the_bus = async || metric("flatframe_inference_bus_away").await.filter(|away| *away == 0.0);
    answered("a is on the bus", PATIENCE, on_the_bus).await;
    let mut camera = RawCamera::open(channel, hello("door", 1)).await.expect("is welcome").0;
    // Two visits, so that neither totals nor tracks that begin anew look the same.
    send(&mut camera, 25).await;
    let has_left =
        async || metric(r#"flatframe_inference_place_live{place="tracks"}"#).await.filter(|live| *live == 0.0);
    answered("the first one has left", PATIENCE, has_left).await;
    send(&mut camera, 25).await;
    // What it says that the bus acknowledged, and what it told of the camera since.
    let all_published = async || metric("flatframe_inference_bus_published_total").await.filter(|count| *count == 50.0);
    answered("the bus has them", PATIENCE, all_published).await;
    let mut asked = client(&b).await;
    let told = async || {
        let list = asked.list_cameras(v1::ListCamerasRequest {}).await.ok()?.into_inner();
        let counts = list.cameras.into_iter().find(|camera| camera.camera_id == "door")?.counts?;
        counts.visits.filter(|visits| visits.faces == 2)
    };
    answered("a told of the camera", PATIENCE, told).await;
    a.signal(libc::SIGKILL).expect("is killed");
    a.wait(PATIENCE).await.expect("has ended");

    let numbers = numbers(&mut client(&b).await, "door").await;
    assert_eq!(numbers, (1..=50).collect::<Vec<_>>(), "every acknowledged result");
    let mut camera = open(&b, "door", 2).await;
    send(&mut camera, 10).await;
    assert_eq!(visits(&latest(&b, "door").await), (2, true), "counted once, and no last word was heard");
    close(camera).await;
    b.stop().await.expect("stops");
}
