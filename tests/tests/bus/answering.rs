//! What every replica answers: live results, the list, the newest result and
//! the history, of its own cameras and of those of the others.

use std::collections::BTreeSet;

use e2e::nats::{Nats, PROGRAM};
use e2e::program::are_installed;
use e2e::wait::{answered, until};
use flatframe_shared::r#gen::v1;
use tonic::{Code, Streaming};

use crate::replica::{
    BUS_PATIENCE, PROBE, bus_of, client, config, has_all, in_time, is_late, latest, list, next_result, now_ms, numbers,
    query, results, start, wait_to_hear, watch,
};
use crate::sender::Sender;

/// Place in the sequence, camera, frame number and replica of a result.
type Place = (u64, String, u64, String);

/// The next result that is not the probe's, of which some may come late.
async fn next_place(watch: &mut Streaming<v1::WatchResponse>) -> Place {
    loop {
        let result = next_result(watch).await;
        if result.camera_id != PROBE {
            return (result.position, result.camera_id, result.frame_number, result.replica);
        }
    }
}

/// Each result comes live with the name of who analysed it, and a client that
/// comes back goes on where it was, over all replicas.
#[tokio::test(flavor = "multi_thread")]
async fn results_of_all_replicas_come_in_one_sequence() {
    if !are_installed("results_of_all_replicas_come_in_one_sequence", &[PROGRAM]) {
        return;
    }
    let nats = Nats::start().await.expect("a server");
    let (a, b) = (start(config(&nats, "a")).await, start(config(&nats, "b")).await);
    wait_to_hear(&b, &a).await;
    let asked = client(&b).await;
    let mut live = watch(&asked).await;
    let (mut first, mut second) = (Sender::open(&a, "bus.7", 1).await, Sender::open(&b, "door", 2).await);
    first.send(4).await;
    second.send(2).await;
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.push(next_place(&mut live).await);
    }
    assert!(seen.is_sorted_by(|one, next| one.0 < next.0), "{seen:?}");
    let found: BTreeSet<_> =
        seen.iter().map(|(_, camera, number, by)| (camera.as_str(), *number, by.as_str())).collect();
    let of_a = (1..=4).map(|number| ("bus.7", number, "a"));
    let expected: BTreeSet<_> = of_a.chain((1..=2).map(|number| ("door", number, ""))).collect();
    assert_eq!(found, expected);

    let request = v1::WatchRequest {
        after_position: Some(seen[0].0),
        after_server_epoch: Some(b.sources.archive.wire.server_epoch),
        ..Default::default()
    };
    let mut resumed = asked.clone().watch(request).await.expect("watches").into_inner();
    for missed in &seen[1..] {
        assert_eq!(next_place(&mut resumed).await, *missed);
    }
    first.close().await;
    second.close().await;
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
    let a = start(config(&nats, "a")).await;
    // One with a history of its own, which knows nothing of the other's camera.
    let mut with_history = config(&nats, "b");
    with_history.history.file = nats.folder().join("history.sqlite");
    let b = start(with_history).await;
    let since_ms = now_ms();
    let (asked_a, asked_b) = (client(&a).await, client(&b).await);
    let unknown = answered("it is known who is there", BUS_PATIENCE, async || {
        let status = latest(&asked_b, "bus.7").await.expect_err("nobody knows it");
        (!is_late(&status)).then_some(status)
    });
    assert_eq!(unknown.await.code(), Code::NotFound);
    let (mut first, mut second) = (Sender::open(&a, "bus.7", 1).await, Sender::open(&b, "door", 2).await);
    first.send(4).await;
    second.send(2).await;
    for service in [&a, &b] {
        let bus = bus_of(service);
        until("the bus has them", BUS_PATIENCE, || has_all(&bus)).await;
    }

    // The list, the newest result and the history of the other's camera.
    let listed = answered("b knows a's camera", BUS_PATIENCE, async || {
        let list = list(&asked_b).await;
        let is_there = |camera: &&v1::CameraInfo| camera.camera_id == "bus.7" && camera.counts.is_some();
        let camera = list.cameras.iter().find(is_there)?;
        list.incomplete.is_empty().then(|| camera.replica.clone())
    });
    assert_eq!(listed.await, "a");
    let newest = answered("the bus answers", BUS_PATIENCE, async || in_time(latest(&asked_b, "bus.7").await)).await;
    let result = newest.result.expect("was analysed");
    assert_eq!((result.frame_number, result.replica.as_str(), result.faces.len()), (4, "a", 1));
    assert!(newest.age_ms.expect("with it") < 600_000);
    assert_eq!(numbers(&asked_b, "bus.7").await, [1, 2, 3, 4]);
    assert_eq!(numbers(&asked_a, "door").await, [1, 2]);
    let (found, incomplete) = results(&asked_b, "bus.7", since_ms).await;
    assert_eq!((found.len(), incomplete.as_str()), (4, ""), "the bus has all since then");
    let (found, incomplete) = results(&asked_b, "bus.7", begun_ms - 60_000).await;
    assert!(found.len() == 4 && incomplete.contains("since"), "the bus was not there yet: {incomplete:?}");

    // Pictures stay where they are.
    let request = v1::GetSnapshotRequest { camera_id: "bus.7".into(), ..Default::default() };
    let refused = asked_b.clone().get_snapshot(request).await.expect_err("is not here");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("replica a"), "{refused}");
    first.close().await;
    second.close().await;

    // Its history knows no such camera: that says nothing while the bus is away.
    nats.kill().await.expect("is killed");
    let bus = bus_of(&b);
    until("the absence is noticed", BUS_PATIENCE, || bus.away().is_some()).await;
    let refused = query(&asked_b, "bus.7", since_ms).await.expect_err("the bus is away");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    a.stop().await.expect("stops");
    b.stop().await.expect("stops");
}
