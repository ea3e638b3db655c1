//! The uplink when something is wrong: shed, drain, breaks, late answers,
//! refusals, a server that lies, shutdown. The ledger balances after each test.

use std::time::Duration;

use flatframe_shared::error::ErrorKind;
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use flatframe_shared::outcome::{DropReason, Outcome};
use ingest_service::send::uplink::Deadlines;
use tokio::time::Instant;
use tonic::Status;

use crate::support::{soon, until, welcome};
use crate::uplink_rig::{Rig, pass, quick};

#[tokio::test]
async fn shed_pauses_sending() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    stream.welcome(4).await;
    stream.credit(4).await;
    rig.connected().await;
    rig.put();
    stream.frame().await;
    let shed =
        v1::FrameOutcome { number: 1, outcome: v1::Outcome::Shed as i32, retry_after_ms: 300, ..Default::default() };
    let told = Instant::now();
    stream.tell(Down::Outcome(shed)).await;
    let ledger = rig.ledger.clone();
    until("shed", || ledger.counts().answered(Outcome::Shed) == 1).await;
    rig.put();
    let newest = [rig.put(), rig.put()];
    assert_eq!(stream.frame().await.number, newest[0]);
    assert!(told.elapsed() >= Duration::from_millis(300), "paused for {:?}", told.elapsed());
    assert_eq!(stream.frame().await.number, newest[1]);
    rig.finish().await;
}

#[tokio::test]
async fn a_drain_is_honoured_and_a_new_stream_opened() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    stream.welcome(4).await;
    stream.credit(4).await;
    rig.connected().await;
    rig.put();
    stream.frame().await;
    stream.tell(Down::Drain(v1::Drain { deadline_ms: 20_000, reason: "test".into() })).await;
    let terms = rig.terms.clone();
    until("not taking frames", || terms.get().is_none()).await;
    rig.put();
    stream.answer(1, v1::Outcome::Draining).await;
    stream.half_closed().await;
    assert_eq!(rig.counts().answered(Outcome::Draining), 1);
    drop(stream);

    let mut again = rig.server.stream().await;
    assert_eq!(again.hello.session_id, 7, "the session goes on");
    again.welcome(4).await;
    again.credit(1).await;
    rig.connected().await;
    let newest = rig.put();
    assert_eq!(again.frame().await.number, newest);
    let counts = rig.counts();
    assert_eq!((counts.lost, counts.dropped(DropReason::Offline)), (0, 1));
    rig.finish().await;
}

#[tokio::test]
async fn a_broken_stream_loses_what_was_on_its_way_and_is_opened_again() {
    let mut rig = Rig::new().await;
    for round in 1..=3 {
        let mut stream = rig.server.stream().await;
        stream.welcome(4).await;
        stream.credit(4).await;
        rig.connected().await;
        for _ in 0..2 {
            rig.put();
            stream.frame().await;
        }
        match round {
            1 => drop(stream),
            2 => stream.fail(Status::internal("test")).await,
            _ => stream.fail(Status::unavailable("test")).await,
        }
        let ledger = rig.ledger.clone();
        until("lost", || ledger.counts().lost == 2 * round).await;
        assert_eq!(rig.counts().in_flight, 0);
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_frame_that_is_never_answered_breaks_the_stream() {
    let slack = Duration::from_millis(100);
    let mut rig = Rig::with(Deadlines { answer_slack: slack, ..quick() }).await;
    let mut stream = rig.server.stream().await;
    stream.welcome(4).await;
    stream.credit(4).await;
    rig.connected().await;
    let put = Instant::now();
    rig.put();
    stream.frame().await;
    pass(rig.ttl).await;
    let _again = rig.server.stream().await;
    assert!(put.elapsed() >= rig.ttl + slack, "not before ttl and slack: {:?}", put.elapsed());
    assert_eq!(rig.counts().lost, 1);
    rig.finish().await;
}

#[tokio::test]
async fn refusals_are_tried_again_and_retry_delays_kept() {
    let mut rig = Rig::new().await;
    let delay = Duration::from_millis(400);
    rig.server.refuse(vec![
        ErrorKind::Exhausted { retry_after: delay }.status("full"),
        Status::failed_precondition("another version"),
        ErrorKind::AlreadyExists.status("camera cam is streaming from elsewhere"),
    ]);
    let start = Instant::now();
    // The first stream was refused already if the uplink was quicker than the
    // test; then a new one comes after the refusals.
    let first = rig.server.stream().await;
    drop(first);
    let stream = rig.server.stream().await;
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
    stream.welcome(4).await;
    rig.connected().await;
    rig.finish().await;
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_left() {
    // No welcome in time.
    let mut rig = Rig::with(Deadlines { welcome: Duration::from_millis(200), ..quick() }).await;
    let _silent = rig.server.stream().await;
    let _again = rig.server.stream().await;
    rig.finish().await;

    let mut rig = Rig::new().await;
    // Something else than a welcome.
    let hasty = rig.server.stream().await;
    hasty.credit(1).await;
    for wrong in [
        v1::Welcome { protocol_version: 2, ..welcome(4) },
        v1::Welcome { window: 0, ..welcome(4) },
        v1::Welcome { pace: None, ..welcome(4) },
    ] {
        rig.server.stream().await.tell(Down::Welcome(wrong)).await;
    }
    let unknown = v1::FrameOutcome { number: 77, outcome: v1::Outcome::Analyzed as i32, ..Default::default() };
    let no_outcome = v1::FrameOutcome { number: 1, outcome: 0, ..Default::default() };
    let bad_pace = v1::Pace { max_fps: f32::NAN, max_width_px: 1, max_height_px: 1 };
    for wrong in [Down::Welcome(welcome(4)), Down::Outcome(unknown), Down::Outcome(no_outcome), Down::Pace(bad_pace)] {
        let mut stream = rig.server.stream().await;
        stream.welcome(4).await;
        stream.credit(1).await;
        rig.connected().await;
        rig.put();
        stream.frame().await;
        stream.tell(wrong).await;
        stream.half_closed().await;
    }
    let ledger = rig.ledger.clone();
    until("lost", || ledger.counts().lost == 4).await;
    rig.finish().await;
}

#[tokio::test]
async fn the_last_answers_count_and_what_has_none_is_lost() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    stream.welcome(4).await;
    stream.credit(2).await;
    rig.connected().await;
    for _ in 0..2 {
        rig.put();
        stream.frame().await;
    }
    let answering = tokio::spawn(async move {
        stream.answer(1, v1::Outcome::Analyzed).await;
        stream.half_closed().await;
    });
    let (start, ttl) = (Instant::now(), rig.ttl);
    let counts = rig.finish().await;
    assert!(start.elapsed() < ttl, "waited for an answer as if nothing ended: {:?}", start.elapsed());
    assert_eq!((counts.answered(Outcome::Analyzed), counts.lost), (1, 1));
    soon("half closed", answering).await.expect("no panic");
}

#[tokio::test]
async fn stops_at_once_while_no_server_is_there() {
    let rig = Rig::new().await;
    let Rig { server, finish, running, .. } = rig;
    drop(server);
    finish.cancel();
    soon("the uplink ends", running).await.expect("no panic");
}
