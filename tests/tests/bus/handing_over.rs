//! A camera that moves in good order: the next replica goes on with its counts,
//! or says that they are uncertain.

use e2e::nats::{Nats, PROGRAM};
use e2e::pair::Inference;
use e2e::program::are_installed;
use e2e::wait::{answered, until};

use crate::moving::{MOVES_PATIENCE, People, Steps, hold_on_the_bus, people};
use crate::replica::{BUS_PATIENCE, bus_of, client, config, start, wait_for_bus};
use crate::sender::Sender;

/// Moves the camera `id` from a replica that is drained to `b`: who is there
/// before, with the first frame after it, and later. `None`: the machine stood
/// still.
async fn drained(nats: &Nats, b: &Inference, id: &str) -> Option<[People; 3]> {
    let a = start(config(nats, "a")).await;
    wait_for_bus(b).await;
    let (asked_a, asked_b) = (client(&a).await, client(b).await);
    let held = [hold_on_the_bus(&a), hold_on_the_bus(b)];
    let mut steps = Steps::begin();
    let mut camera = Sender::open(&a, id, 1).await;
    // Two visits, so that neither totals nor tracks that begin anew look the same.
    steps.send(&mut camera, 10).await;
    camera.wait_until("the first one has left", async || a.sources.cameras.tracks() == 0).await;
    steps.skip();
    steps.send(&mut camera, 10).await;
    let before = people(&asked_a, id).await;
    // As ingest-service does it: half-close at the drain, go elsewhere when the stream has ended.
    a.begin_stop();
    camera.wait_for_drain().await;
    camera.close().await;
    let mut camera = Sender::open(b, id, 1).await;
    steps.send(&mut camera, 1).await;
    let at_first = people(&asked_b, id).await;
    steps.send(&mut camera, 10).await;
    let later = people(&asked_b, id).await;
    let is_valid = steps.were_quick() && held == [hold_on_the_bus(&a), hold_on_the_bus(b)];
    camera.close().await;
    a.stop().await.expect("stops");
    is_valid.then_some([before, at_first, later])
}

/// The replica is drained: the person in the picture is the same visit at the
/// next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_moves_counts_nobody_twice() {
    if !are_installed("a_camera_that_moves_counts_nobody_twice", &[PROGRAM]) {
        return;
    }
    let nats = Nats::start().await.expect("a server");
    let b = start(config(&nats, "b")).await;
    let mut moves = 0;
    let moved = async || {
        moves += 1;
        drained(&nats, &b, &format!("door-{moves}")).await
    };
    let [before, at_first, later] = answered("a move without a pause", MOVES_PATIENCE, moved).await;
    assert_eq!(before, People { visits: 2, is_uncertain: false, track_id: 2, is_visit: true });
    assert_eq!([at_first, later], [before; 2], "the same visit");
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
    let b = start(config(&nats, "b")).await;
    nats.kill().await.expect("is killed");
    let bus = bus_of(&b);
    until("the absence is noticed", BUS_PATIENCE, || bus.away().is_some()).await;
    let asked = client(&b).await;
    let mut cameras = 0;
    let counted = async || {
        cameras += 1;
        let id = format!("door-{cameras}");
        let mut camera = Sender::open(&b, &id, 1).await;
        let mut steps = Steps::begin();
        steps.send(&mut camera, 10).await;
        let counted = people(&asked, &id).await;
        camera.close().await;
        steps.were_quick().then_some((counted.visits, counted.is_uncertain))
    };
    assert_eq!(answered("frames without a pause", MOVES_PATIENCE, counted).await, (1, true));
    b.stop().await.expect("stops");
}
