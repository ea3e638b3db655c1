//! Incidents of every replica at each of them: as they happen, and what a
//! newcomer is told of those before it.

use e2e::nats::{Nats, PROGRAM};
use e2e::pair::Inference;
use e2e::program::are_installed;
use e2e::wait::{answered, until};
use flatframe_shared::r#gen::v1::watch_incidents_response::Message;
use flatframe_shared::r#gen::v1::{
    Incident, IncidentKind, ListCamerasRequest, WatchIncidentsRequest, WatchIncidentsResponse,
};
use tonic::Streaming;

use crate::replica::{BUS_PATIENCE, Client, bus_of, client, config, start};
use crate::sender::Sender;

async fn replica(nats: &Nats, name: &str) -> Inference {
    let mut config = config(nats, name);
    config.incidents.offline_s = 1;
    start(config).await
}

async fn watch(client: &Client, only_known: bool) -> Streaming<WatchIncidentsResponse> {
    let request = WatchIncidentsRequest { camera_ids: vec!["door".into()], only_known };
    client.clone().watch_incidents(request).await.expect("watches").into_inner()
}

async fn next(watch: &mut Streaming<WatchIncidentsResponse>) -> Option<Message> {
    let message = tokio::time::timeout(BUS_PATIENCE, watch.message()).await.expect("in time");
    message.expect("lives").map(|response| response.message.expect("is known"))
}

/// The next incident. Whether others are heard may be told at any time.
async fn next_incident(watch: &mut Streaming<WatchIncidentsResponse>) -> Incident {
    loop {
        match next(watch).await.expect("goes on") {
            Message::Incident(incident) => return incident,
            Message::Elsewhere(_) => {}
            Message::Gap(gap) => panic!("not an incident: {gap:?}"),
        }
    }
}

/// All that are known, and whether others are heard.
async fn known(client: &Client) -> (Vec<Incident>, bool) {
    let (mut incidents, mut is_heard) = (Vec::new(), true);
    let mut watch = watch(client, true).await;
    while let Some(message) = next(&mut watch).await {
        match message {
            Message::Incident(incident) => incidents.push(incident),
            Message::Elsewhere(elsewhere) => is_heard = elsewhere.is_heard,
            Message::Gap(gap) => panic!("not an incident: {gap:?}"),
        }
    }
    (incidents, is_heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_replica_tells_incidents_of_all() {
    if !are_installed("any_replica_tells_incidents_of_all", &[PROGRAM]) {
        return;
    }
    let mut nats = Nats::start().await.expect("a server");
    let (a, b) = (replica(&nats, "a").await, replica(&nats, "b").await);
    let asked = client(&b).await;
    let mut live = watch(&asked, false).await;
    Sender::open(&a, "door", 1).await.close().await;
    let opened = next_incident(&mut live).await;
    assert_eq!((opened.kind(), opened.camera_id.as_str()), (IncidentKind::Offline, "door"));
    assert_eq!((opened.replica.as_str(), opened.ended_unix_ms), ("a", None));
    // Where it was seen it is told once, without a name.
    let (at_a, _) = known(&client(&a).await).await;
    assert_eq!(at_a, [Incident { replica: String::new(), ..opened.clone() }]);

    // One that starts now knows of it too.
    let c = replica(&nats, "c").await;
    let asked_c = client(&c).await;
    let is_known = async || (known(&asked_c).await.0 == [opened.clone()]).then_some(());
    answered("a newcomer knows of it", BUS_PATIENCE, is_known).await;

    let camera = Sender::open(&a, "door", 2).await;
    let ended = next_incident(&mut live).await;
    assert!(ended.ended_unix_ms.is_some_and(|end| end >= opened.started_unix_ms), "{ended:?}");
    assert_eq!(Incident { ended_unix_ms: None, ..ended.clone() }, opened);
    let is_over = async || (known(&asked_c).await.0 == [ended.clone()]).then_some(());
    answered("it is over everywhere", BUS_PATIENCE, is_over).await;

    nats.kill().await.expect("is killed");
    let bus = bus_of(&b);
    until("the absence is noticed", BUS_PATIENCE, || bus.away().is_some()).await;
    let (still, is_heard) = known(&asked).await;
    assert_eq!((still, is_heard), (vec![ended], false), "what is known, and that it may not be all");
    camera.close().await;
    for service in [a, b, c] {
        service.stop().await.expect("stops");
    }
}

/// A camera that went to another replica is not offline at the one that it left.
#[tokio::test(flavor = "multi_thread")]
async fn who_moved_is_not_offline() {
    if !are_installed("who_moved_is_not_offline", &[PROGRAM]) {
        return;
    }
    let nats = Nats::start().await.expect("a server");
    let (a, b) = (replica(&nats, "a").await, replica(&nats, "b").await);
    let asked = client(&a).await;
    Sender::open(&a, "door", 1).await.close().await;
    let mut moved = Sender::open(&b, "door", 2).await;
    Sender::open(&a, "yard", 1).await.close().await;
    let is_so = async || {
        moved.send(1).await;
        let open = asked.clone().list_cameras(ListCamerasRequest {}).await.expect("an answer").into_inner().cameras;
        let offline: Vec<_> = a.sources.incidents.open_by_camera().into_keys().map(|id| id.to_string()).collect();
        (open.len() == 2 && offline == ["yard"]).then_some(())
    };
    answered("only who is gone is offline", BUS_PATIENCE, is_so).await;
    moved.close().await;
    a.stop().await.expect("stops");
    b.stop().await.expect("stops");
}
