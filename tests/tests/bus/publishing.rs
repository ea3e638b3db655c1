//! What reaches the bus: every result once, later after an absence of the bus,
//! or counted as dropped.

use std::sync::atomic::Ordering::Relaxed;

use e2e::nats::{Nats, PROGRAM, Terms};
use e2e::program::are_installed;
use e2e::secured::Secrets;
use e2e::wait::until;
use tonic::Code;

use crate::replica::{BUS_PATIENCE, acknowledged, bus_of, client, config, has_all, hour_ago_ms, numbers, query, start};
use crate::sender::Sender;

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
    let service = start(config).await;
    let bus = bus_of(&service);
    let mut camera = Sender::open(&service, "door", 1).await;
    camera.send(20).await;
    camera.wait_until("all are acknowledged", async || has_all(&bus)).await;

    nats.kill().await.expect("is killed");
    camera.wait_until("the absence is noticed", async || bus.away().is_some()).await;
    let client = client(&service).await;
    let refused = query(&client, "door", hour_ago_ms()).await.expect_err("the bus is away");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // The camera does not notice.
    let before = acknowledged(&bus);
    camera.send(30).await;
    let counts = &bus.outbox.counts;
    assert!(acknowledged(&bus) == before && counts.offered.load(Relaxed) >= before + 30, "what is new waits");
    nats.resume().await.expect("a server");
    camera.wait_until("all are acknowledged", async || has_all(&bus)).await;
    assert_eq!(numbers(&client, "door").await, (1..=50).collect::<Vec<_>>());
    let lost = [&counts.full, &counts.late, &counts.left];
    assert!(lost.iter().all(|count| count.load(Relaxed) == 0));
    camera.close().await;
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
    let service = start(config).await;
    nats.kill().await.expect("is killed");
    let mut camera = Sender::open(&service, "door", 1).await;
    camera.send(400).await;
    let bus = bus_of(&service);
    let full = bus.outbox.counts.full.load(Relaxed);
    assert!(full > 0 && bus.outbox.bytes() <= 64 << 10, "{full} gave way");
    camera.close().await;
    service.stop().await.expect("stops");
    let counts = &bus.outbox.counts;
    let fates = counts.full.load(Relaxed) + counts.late.load(Relaxed) + counts.left.load(Relaxed);
    assert_eq!(fates + bus.counts.published.load(Relaxed), counts.offered.load(Relaxed));
    assert!(counts.offered.load(Relaxed) >= 400);
}

/// The same frame of the same session is on the bus once, whoever analysed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_comes_twice_is_kept_once() {
    if !are_installed("a_frame_that_comes_twice_is_kept_once", &[PROGRAM]) {
        return;
    }
    let nats = Nats::start().await.expect("a server");
    let (a, b) = (start(config(&nats, "a")).await, start(config(&nats, "b")).await);
    for service in [&a, &b] {
        let mut camera = Sender::open(service, "door", 7).await;
        camera.send(3).await;
        camera.close().await;
        let bus = bus_of(service);
        until("the bus has them", BUS_PATIENCE, || has_all(&bus)).await;
    }
    assert_eq!(bus_of(&b).counts.duplicates.load(Relaxed), 3, "the bus knew them");
    assert_eq!(numbers(&client(&b).await, "door").await, [1, 2, 3]);
    a.stop().await.expect("stops");
    b.stop().await.expect("stops");
}
