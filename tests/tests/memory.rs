//! The memory contract as an operator sees it, and what happens when memory
//! gets short.

use std::time::{Duration, Instant};

use e2e::camera::{RawCamera, hello};
use e2e::cgroup::Cgroup;
use e2e::media::{skipped, textured_jpeg};
use e2e::metrics::metric;
use e2e::pair::{Inference, Running, ingest_config, stub_config};
use e2e::program::{Program, binary, connect, free_address};
use e2e::wait::{answered, until};
use flatframe_shared::frame::PictureSize;
use flatframe_shared::r#gen::v1::admin_service_client::AdminServiceClient;
use flatframe_shared::r#gen::v1::{GetResourcesRequest, GetResourcesResponse, Outcome};
use ingest_service::CameraConfig;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

const SIZE: PictureSize = PictureSize::new(160, 120);
const PATIENCE: Duration = Duration::from_secs(60);

async fn resources(channel: Channel) -> GetResourcesResponse {
    let answer = AdminServiceClient::new(channel).get_resources(GetResourcesRequest {}).await;
    answer.expect("is answered").into_inner()
}

/// Everything that an operator was promised is told by both services.
#[tokio::test]
async fn both_services_show_the_contract() {
    let service = Inference::start(stub_config(1_000, true)).await.expect("starts");
    let mut config =
        ingest_config(&service.url(), vec![CameraConfig { fps: 50.0, ..CameraConfig::new("cam", "pattern") }]);
    config.admin.grpc_listen = "127.0.0.1:0".into();
    let ingest = Running::start(config).await.expect("starts");
    let admin = connect(&ingest.admin_grpc.expect("bound").to_string(), PATIENCE).await.expect("connects");
    for (channel, places, stages) in [
        (
            service.connect().await.expect("connects"),
            vec!["schedule", "streams", "openings", "detect_calls", "client_calls", "connections", "result_ring"],
            vec!["queued", "decode", "detect"],
        ),
        (admin, vec!["cam/raw_slot", "cam/mailbox_frames", "cam/in_flight"], vec!["capture_to_answer"]),
    ] {
        let told = answered("frames pass and memory is sampled", PATIENCE, async || {
            let told = resources(channel.clone()).await;
            let sampled = told.trend.as_ref().is_some_and(|trend| trend.samples.len() >= 3);
            (sampled && told.stages.len() >= stages.len()).then_some(told)
        })
        .await;
        let place = |name: &str| told.places.iter().find(|place| place.name == name);
        for name in places {
            assert!(place(name).is_some_and(|place| place.live <= place.cap), "{name} in {:?}", told.places);
        }
        for stage in stages {
            let time = told.stages.iter().find(|time| time.name == stage).expect(stage);
            assert!(time.frames > 0 && time.p50_us <= time.p99_us, "{time:?}");
        }
        let trend = told.trend.expect("told");
        assert!(trend.samples.iter().all(|sample| sample.rss_bytes > 100_000), "{trend:?}");
        let allocator = told.allocator.expect("glibc says");
        assert!(allocator.in_use_bytes > 0 && allocator.held_bytes >= Some(allocator.in_use_bytes), "{allocator:?}");
        let pressure = told.pressure.expect("told");
        assert!(pressure.lasts_ms.is_none() && pressure.times == 0 && pressure.soft_limit_bytes > 0, "{pressure:?}");
        assert!(
            told.rss_bytes.is_some()
                && told.threads.is_some()
                && told.open_files.is_some()
                && told.swap_bytes.is_some()
        );
        assert_eq!(told.restarts, None, "nobody counts them here");
    }
    for name in ["rss_bytes", "uptime_seconds", "memory_short", "memory_soft_limit_bytes", "allocator_held_bytes"] {
        let name = format!("flatframe_inference_{name}");
        assert!(metric(service.admin, &name).await.is_some(), "{name}");
    }
    assert_eq!(ingest.stop().await.expect("stops").balance(), 0);
    assert_eq!(service.stop().await.expect("stops").balance(), 0);
}

/// A soft limit that is reached already: new streams are told when to come back.
#[tokio::test]
async fn short_memory_refuses_new_streams() {
    let mut config = stub_config(1_000, false);
    config.limits.soft_memory_bytes = 1 << 20;
    let service = Inference::start(config).await.expect("starts");
    let memory = service.sources.resources.memory.clone();
    until("memory is short", PATIENCE, || memory.is_pressed()).await;
    let refused = RawCamera::open(service.connect().await.expect("connects"), hello("cam", 1)).await;
    let status = refused.err().expect("is refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("limits.soft_memory_bytes"), "{status}");
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    assert_eq!(metric(service.admin, "flatframe_inference_memory_short").await, Some(1.0));
    assert_eq!(metric(service.admin, "flatframe_inference_memory_shortages_total").await, Some(1.0));
    service.stop().await.expect("stops");
}

/// A camera box that is short of memory takes a frame a second and no more.
#[tokio::test]
async fn short_memory_slows_capture_down() {
    let service = Inference::start(stub_config(1_000, false)).await.expect("starts");
    let mut config =
        ingest_config(&service.url(), vec![CameraConfig { fps: 50.0, ..CameraConfig::new("cam", "pattern") }]);
    config.limits.soft_memory_bytes = 1 << 20;
    let ingest = Running::start(config).await.expect("starts");
    let camera = ingest.cameras[0].clone();
    until("memory is short", PATIENCE, || ingest.shown.resources.memory.is_pressed()).await;
    until("a frame is sent", PATIENCE, || camera.counts().sent >= 1).await;
    let (start, before) = (Instant::now(), camera.counts());
    until("pictures come", PATIENCE, || camera.counts().captured >= before.captured + 150).await;
    let sent = camera.counts().sent - before.sent;
    let took = start.elapsed();
    // One that was taken before and is sent now, and one that came half a second early.
    assert!(sent <= took.as_secs() + 3, "{sent} of 150 pictures were sent in {took:?}");
    ingest.stop().await.expect("stops");
    service.stop().await.expect("stops");
}

/// A neighbour in the same cgroup takes most of its memory and ends: cameras
/// are asked for half meanwhile, new streams are refused, and after it all is
/// as before.
#[tokio::test]
async fn a_neighbour_takes_the_memory_for_a_while() {
    const LIMIT_MIB: u64 = 512;
    let name = "a_neighbour_takes_the_memory_for_a_while";
    let group = match Cgroup::new("flatframe-memory", LIMIT_MIB << 20) {
        Ok(group) => group,
        Err(why) => return skipped(name, &format!("{why:#}")),
    };
    let (grpc, admin) = (free_address().expect("a port"), free_address().expect("a port"));
    let config = format!(
        "[listen]\ngrpc = '{grpc}'\nadmin = '{admin}'\npage = ''\n[vision.stub_engine]\ntime_us = 1000\nwait = 'sleep'\n"
    );
    let starter = group.starter();
    let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
    let mut server = Program::start_by(&starter, "inference-service", &config).expect("starts");
    let channel = connect(&grpc.to_string(), PATIENCE).await.expect("connects");
    let (mut camera, _) = RawCamera::open(channel.clone(), hello("cam", 1)).await.expect("is welcome");
    let before = resources(channel.clone()).await;
    assert_eq!(before.cgroup_limit_bytes, Some(LIMIT_MIB << 20));
    assert!(before.cgroup_used_bytes.is_some_and(|used| used < LIMIT_MIB << 20), "{before:?}");

    // 90 % is where it gets short; the neighbour takes what is missing and a little more.
    let used = before.cgroup_used_bytes.unwrap_or_default() >> 20;
    let take = LIMIT_MIB * 94 / 100 - used;
    // `tail` keeps all that it may have to write until it ends, and `sleep` reads nothing.
    let hold = format!("head -c {take}M /dev/zero | tail -c {take}M | sleep 1000");
    let mut neighbour = tokio::process::Command::new(starter[0])
        .args(&starter[1..])
        .args(["sh", "-c", &hold])
        .process_group(0)
        .spawn()
        .expect("starts");
    let neighbours = -i32::try_from(neighbour.id().expect("it runs")).expect("an id");
    answered("memory is short", PATIENCE, async || {
        camera.says_live().await.expect("its stream stands");
        resources(channel.clone()).await.pressure.filter(|pressure| pressure.lasts_ms.is_some())
    })
    .await;
    let refused = RawCamera::open(channel.clone(), hello("other", 1)).await;
    assert_eq!(refused.err().expect("is refused").code(), Code::ResourceExhausted);
    // The camera that is there goes on.
    camera.send_frame(textured_jpeg(SIZE, 1), SIZE, PATIENCE).await.expect("sends");
    assert_eq!(camera.outcome().await.expect("answered").outcome(), Outcome::Analyzed);

    // SAFETY: kill takes two integers; the group is our child's, which is not reaped yet.
    assert_eq!(unsafe { libc::kill(neighbours, libc::SIGKILL) }, 0);
    neighbour.wait().await.expect("ends");
    let after = answered("memory is enough again", PATIENCE, async || {
        resources(channel.clone()).await.pressure.filter(|pressure| pressure.lasts_ms.is_none())
    })
    .await;
    assert_eq!(after.times, 1, "one incident, opened and resolved");
    RawCamera::open(channel.clone(), hello("other", 1)).await.expect("is welcome again");
    assert_eq!(group.kills().expect("counted"), 0);
    drop((camera, channel));
    server.signal(libc::SIGTERM).expect("told");
    assert!(server.wait(PATIENCE).await.expect("ends").success());
}

/// A limit of the kernel below the computed bound: refused before anything is
/// bound, with the key to lower.
#[test]
fn a_cgroup_that_is_too_small_is_refused() {
    let name = "a_cgroup_that_is_too_small_is_refused";
    let group = match Cgroup::new("flatframe-small", 48 << 20) {
        Ok(group) => group,
        Err(why) => return skipped(name, &format!("{why:#}")),
    };
    let camera = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(camera.path(), "[[camera]]\nid = 'a'\nsource = 'pattern'\n").expect("written");
    for (service, key) in
        [("inference-service", "limits.max_connections"), ("ingest-service", "limits.max_source_width_px")]
    {
        let starter = group.starter();
        let mut command = std::process::Command::new(&starter[0]);
        command.args(&starter[1..]).arg(binary(service).expect("built"));
        if service == "ingest-service" {
            // In so small a group the profile is one that fits.
            command.arg("--config").arg(camera.path()).args(["--set", "runtime.profile=2gb"]);
        }
        // Where it fits after all, it ends too.
        command.arg("--check");
        let output = command.output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{service}: {text}");
        for word in ["48.0 MiB", key, "lower"] {
            assert!(text.contains(word), "{service}: {word:?} is missing in: {text}");
        }
    }
    assert_eq!(group.kills().expect("counted"), 0);
}
