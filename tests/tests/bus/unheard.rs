//! What a replica says when it does not hear the others: without the bus, and
//! where it may not listen, no camera of theirs looks as if it were not there.

use e2e::nats::{Nats, PROGRAM, Terms};
use e2e::program::are_installed;
use e2e::wait::{answered, until};
use flatframe_shared::r#gen::v1::watch_response::Message;
use tonic::Code;

use crate::replica::{
    BUS_PATIENCE, PROBE, bus_of, client, config, has_all, latest, list, next, next_result, start, wait_for_bus,
    wait_to_hear, watch,
};
use crate::sender::Sender;

/// Sessions of the senders that come while the bus is away, and after that.
const MEANWHILE: u64 = 3;
const AFTERWARDS: u64 = 4;

/// Its own cameras are served all the same, and the others are heard again when
/// the bus is back.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_bus_nothing_looks_as_if_there_were_nobody_else() {
    if !are_installed("without_the_bus_nothing_looks_as_if_there_were_nobody_else", &[PROGRAM]) {
        return;
    }
    let mut nats = Nats::start().await.expect("a server");
    let (a, b) = (start(config(&nats, "a")).await, start(config(&nats, "b")).await);
    wait_to_hear(&b, &a).await;
    let asked = client(&b).await;
    let mut live = watch(&asked).await;
    let (mut first, mut second) = (Sender::open(&a, "bus.7", 1).await, Sender::open(&b, "door", 2).await);
    first.send(1).await;
    second.send(1).await;
    answered("b knows a's camera", BUS_PATIENCE, async || {
        list(&asked).await.cameras.iter().any(|camera| camera.camera_id == "bus.7").then_some(())
    })
    .await;
    first.close().await;
    second.close().await;
    nats.kill().await.expect("is killed");
    let bus = bus_of(&b);
    until("the absence is noticed", BUS_PATIENCE, || bus.away().is_some()).await;
    let lost = loop {
        if let Message::Elsewhere(elsewhere) = next(&mut live).await
            && !elsewhere.is_heard
        {
            break elsewhere;
        }
    };
    // Who was not heard just before the bus went is told so once.
    assert!(lost.detail.contains("away") || lost.detail.contains("not heard"), "{lost:?}");
    let Message::Elsewhere(told) = next(&mut watch(&asked).await).await else { panic!("not what is missing") };
    assert!(!told.is_heard && told.detail.contains("away"), "{told:?}");
    let known = list(&asked).await;
    assert!(known.incomplete.contains("away"), "{known:?}");
    let ids = known.cameras.iter().map(|camera| camera.camera_id.as_str()).filter(|id| *id != PROBE);
    assert_eq!(ids.collect::<Vec<_>>(), ["bus.7", "door"]);
    for (camera, why) in [("bus.7", "is not here"), ("nobody", "cannot be known")] {
        assert_eq!(latest(&asked, camera).await.expect_err(why).code(), Code::Unavailable, "{camera}");
    }

    let mut second = Sender::open(&b, "door", MEANWHILE).await;
    second.send(1).await;
    let own = loop {
        let result = next_result(&mut live).await;
        if result.session_id == MEANWHILE {
            break result;
        }
    };
    assert_eq!(own.camera_id, "door");
    nats.resume().await.expect("a server");
    wait_for_bus(&a).await;
    let mut first = Sender::open(&a, "bus.7", AFTERWARDS).await;
    first.send(1).await;
    let (mut is_heard, mut has_come) = (false, false);
    while !(is_heard && has_come) {
        match next(&mut live).await {
            Message::Elsewhere(elsewhere) => is_heard = elsewhere.is_heard,
            Message::Result(result) => has_come |= result.session_id == AFTERWARDS,
            // The server came back with all that it had; what came meanwhile may be told as missed.
            Message::Gap(_) => {}
        }
    }
    first.close().await;
    second.close().await;
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
    let a = start(config).await;
    let bus = bus_of(&a);
    let mut camera = Sender::open(&a, "door", 1).await;
    camera.send(3).await;
    camera.wait_until("it publishes", async || has_all(&bus)).await;
    let asked = client(&a).await;
    // A bus that takes too long is away for a moment: then that is said instead.
    let is_said = async || list(&asked).await.incomplete.contains("not heard").then_some(());
    answered("the list says so", BUS_PATIENCE, is_said).await;
    let is_told = async || {
        let Message::Elsewhere(told) = next(&mut watch(&asked).await).await else { panic!("not what is missing") };
        assert!(!told.is_heard, "{told:?}");
        told.detail.contains("not heard").then_some(())
    };
    answered("a watch says so", BUS_PATIENCE, is_told).await;
    let unknown = latest(&asked, "bus.7").await.expect_err("cannot be known");
    assert_eq!(unknown.code(), Code::Unavailable);
    camera.close().await;
    a.stop().await.expect("stops");
}
