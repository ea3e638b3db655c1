//! Late frames beside a scripted server: what is owed at the end, where they go
//! when a server takes none, and their numbers.

use std::path::Path;

use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use ingest_service::{CameraConfig, Config, Ingest};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::support::{FakeServer, FakeStream, soon, until, welcome};

/// Keeps its frames in `dir` while none of `servers` takes them.
fn config(servers: &[&FakeServer], dir: &Path) -> Config {
    let camera = CameraConfig { fps: 20.0, record: "outage".into(), ..CameraConfig::new("a", "pattern") };
    let mut config = Config { camera: vec![camera], ..Config::default() };
    config.server.addresses = servers.iter().map(|server| server.url()).collect();
    // A test that is held up is no dead server.
    config.server.dead_after_ms = 60_000;
    config.admin.listen = String::new();
    config.recording.dir = dir.display().to_string();
    config.recording.fps = 20.0;
    config.recording.min_free_bytes = 0;
    config.recording.max_write_bytes_per_s = 1 << 30;
    config.recording.store_and_forward = true;
    config
}

/// A sender with frames of an outage on its disk.
struct Sender {
    ingest: Ingest,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Sender {
    async fn after_an_outage(servers: &[&FakeServer]) -> Self {
        for server in servers {
            // More often than it can be asked meanwhile.
            server.refuse(vec![Status::resource_exhausted("full"); 10_000]);
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let shutdown = CancellationToken::new();
        let config = config(servers, &folder.path().join("recordings"));
        let ingest = Ingest::start(config, shutdown.clone()).await.expect("starts");
        let sources = ingest.sources().clone();
        until("frames are kept", || sources.late_totals().waiting >= 5).await;
        servers.iter().for_each(|server| server.refuse(Vec::new()));
        Self { ingest, shutdown, _folder: folder }
    }
}

/// The live stream, welcome and without a credit: no live frame is ever on its
/// way.
async fn live(server: &mut FakeServer) -> FakeStream {
    let live = server.stream().await;
    assert!(!live.hello.late);
    live.welcome(4).await;
    live
}

async fn late(server: &mut FakeServer) -> FakeStream {
    let late = server.stream().await;
    assert!(late.hello.late);
    late.tell(Down::Welcome(v1::Welcome { late_after_unix_us: Some(0), ..welcome(1) })).await;
    late.credit(1).await;
    late
}

#[tokio::test]
async fn at_the_end_the_last_answer_is_waited_for_and_the_frame_has_a_fate() {
    let mut server = FakeServer::start().await;
    let Sender { ingest, shutdown, _folder } = Sender::after_an_outage(&[&server]).await;
    let mut live = live(&mut server).await;
    let mut late = late(&mut server).await;
    late.frame().await;
    shutdown.cancel();
    let sources = ingest.sources().clone();
    // The live stream ends at once; the late frame is never answered.
    let ends = async {
        live.half_closed().await;
        drop(live);
    };
    let (counts, ()) = soon("the service stops", async { tokio::join!(ingest.join(), ends) }).await;
    assert_eq!((counts.balance(), counts.in_flight), (0, 0), "{counts:?}");
    let counts = sources.late_totals();
    assert_eq!((counts.balance(), counts.sent, counts.lost, counts.in_flight), (0, 1, 1, 0), "{counts:?}");
}

/// It keeps no history, or is too old: the next one is asked, and not this one
/// for ever.
#[tokio::test]
async fn a_server_that_takes_none_is_left_for_another() {
    let [mut one, mut other] = [FakeServer::start().await, FakeServer::start().await];
    let Sender { ingest, shutdown, _folder } = Sender::after_an_outage(&[&one, &other]).await;
    let stream = tokio::select! {
        stream = live(&mut one) => stream,
        stream = live(&mut other) => stream,
    };
    let (refused, next) = tokio::select! {
        stream = one.stream() => (stream, &mut other),
        stream = other.stream() => (stream, &mut one),
    };
    assert!(refused.hello.late);
    refused.fail(Status::failed_precondition("no history is kept")).await;
    let mut taken = late(next).await;
    let frame = taken.frame().await;
    taken.answer(frame.number, v1::Outcome::Analyzed).await;
    let sources = ingest.sources().clone();
    until("answered", || sources.late_totals().in_flight == 0).await;
    shutdown.cancel();
    drop((stream, taken));
    assert_eq!(soon("the service stops", ingest.join()).await.balance(), 0);
    assert_eq!(sources.late_totals().balance(), 0);
}

#[tokio::test]
async fn numbers_grow_from_stream_to_stream_of_a_session() {
    let mut server = FakeServer::start().await;
    let Sender { ingest, shutdown, _folder } = Sender::after_an_outage(&[&server]).await;
    let stream = live(&mut server).await;
    let mut before = late(&mut server).await;
    let (session, frame) = (before.hello.session_id, before.frame().await);
    before.fail(Status::unavailable("test")).await;
    let mut after = late(&mut server).await;
    let again = after.frame().await;
    assert_eq!((after.hello.session_id, again.captured_unix_us), (session, frame.captured_unix_us), "sent again");
    assert!(again.number > frame.number, "{} after {}", again.number, frame.number);
    shutdown.cancel();
    drop((stream, after));
    let sources = ingest.sources().clone();
    assert_eq!(soon("the service stops", ingest.join()).await.balance(), 0);
    let counts = sources.late_totals();
    assert_eq!((counts.balance(), counts.sent, counts.lost), (0, 2, 2), "{counts:?}");
}
