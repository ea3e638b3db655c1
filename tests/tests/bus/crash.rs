//! A replica that is killed, as a program of its own: what it leaves behind.

use e2e::metrics::{Metrics, metric};
use e2e::nats::{Nats, PROGRAM};
use e2e::pair::Inference;
use e2e::program::{Program, are_installed, connect, free_address};
use e2e::wait::answered;

use crate::moving::{MOVES_PATIENCE, People, Steps, hold_on_the_bus, people};
use crate::replica::{BUS_PATIENCE, Client, client, config, hour_ago_ms, list, results, start, wait_for_bus};
use crate::sender::Sender;

const BUS_AWAY: &str = "flatframe_inference_bus_away";
const TRACKS: &str = r#"flatframe_inference_place_live{place="tracks"}"#;
/// What was offered to the bus, and what that acknowledged: a message that was
/// sent again may be there already.
const OFFERED: &str = "flatframe_inference_bus_offered_total";
const ACKNOWLEDGED: [&str; 2] = ["flatframe_inference_bus_published_total", "flatframe_inference_bus_duplicates_total"];

/// Moves the camera `id` from a replica that is killed to `b`, and checks that
/// `b` has all its results: who is there with the first frame, and later.
/// `None`: the machine stood still.
async fn killed(nats: &Nats, b: &Inference, id: &str) -> Option<[People; 2]> {
    let mut config = config(nats, "a");
    let (grpc, admin) = (free_address().expect("a free port"), free_address().expect("a free port"));
    (config.listen.grpc, config.listen.admin, config.listen.page) = (grpc, admin, None);
    let toml = toml::to_string(&config).expect("a configuration is TOML");
    let mut a = Program::start("inference-service", &toml).expect("starts");
    let channel = connect(&grpc.to_string(), BUS_PATIENCE).await.expect("listens");
    let is_there = async || metric(admin, BUS_AWAY).await.filter(|away| *away == 0.0);
    answered("a is on the bus", BUS_PATIENCE, is_there).await;
    wait_for_bus(b).await;
    let (asked, held) = (client(b).await, hold_on_the_bus(b));
    let mut camera = Sender::open_on(channel, id, 1).await;
    let mut steps = Steps::begin();
    // Two visits, so that neither totals nor tracks that begin anew look the same.
    steps.send(&mut camera, 25).await;
    camera.wait_until("the first one has left", async || metric(admin, TRACKS).await == Some(0.0)).await;
    steps.skip();
    steps.send(&mut camera, 25).await;
    let mut sent = 50;
    // What it told of the camera since, which sends on: who is there stays there.
    let told = async || {
        steps.send(&mut camera, 1).await;
        sent += 1;
        visits(&asked, id).await.filter(|visits| *visits >= 2)
    };
    answered("a told of the camera", BUS_PATIENCE, told).await;
    // And what it says that the bus acknowledged.
    let are_acknowledged = async || {
        let metrics = Metrics::read(admin).await.ok()?;
        let [published, duplicates] = ACKNOWLEDGED.map(|series| metrics.count(series));
        let (acknowledged, offered) = (published.ok()? + duplicates.ok()?, metrics.count(OFFERED).ok()?);
        (offered >= sent && acknowledged == offered).then_some(())
    };
    answered("the bus has them", BUS_PATIENCE, are_acknowledged).await;
    a.signal(libc::SIGKILL).expect("is killed");
    steps.step();
    a.wait(BUS_PATIENCE).await.expect("has ended");
    steps.step();

    let mut camera = Sender::open(b, id, 2).await;
    steps.send(&mut camera, 1).await;
    let at_first = people(&asked, id).await;
    steps.send(&mut camera, 10).await;
    let later = people(&asked, id).await;
    let is_valid = steps.were_quick() && held == hold_on_the_bus(b);
    camera.close().await;
    let (found, _) = results(&asked, id, hour_ago_ms()).await;
    let numbers = found.iter().filter(|result| result.session_id == 1).map(|result| result.frame_number as i64);
    assert_eq!(numbers.collect::<Vec<_>>(), (1..=sent).collect::<Vec<_>>(), "every acknowledged result");
    is_valid.then_some([at_first, later])
}

/// Visits of a camera in the list of all.
async fn visits(client: &Client, id: &str) -> Option<u32> {
    let camera = list(client).await.cameras.into_iter().find(|camera| camera.camera_id == id)?;
    camera.counts?.visits.map(|visits| visits.faces)
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
    let b = start(config(&nats, "b")).await;
    let mut moves = 0;
    let moved = async || {
        moves += 1;
        killed(&nats, &b, &format!("door-{moves}")).await
    };
    let seen = answered("a move without a pause", MOVES_PATIENCE, moved).await;
    assert_eq!(seen, [People { visits: 2, is_uncertain: true, track_id: 2, is_visit: true }; 2]);
    b.stop().await.expect("stops");
}
