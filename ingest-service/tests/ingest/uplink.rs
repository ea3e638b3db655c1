//! The uplink when all is well: credits, windows, time, pace and status. The
//! ledger balances after each test.

use std::time::Duration;

use flatframe_shared::frame::{CameraState, PictureSize};
use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::publish_response::Message as Down;
use flatframe_shared::outcome::{DropReason, Outcome};
use ingest_service::send::uplink::Deadlines;

use crate::support::{FAR, until};
use crate::uplink_rig::{Rig, pass, quick};

/// Age and remaining time add up to the time to live, each cut to microseconds.
fn is_ttl(frame: &v1::Frame) {
    assert!((19_999_998..=20_000_000).contains(&(frame.age_us + frame.remaining_us)), "{frame:?}");
}

#[tokio::test]
async fn sends_with_a_credit_only_and_the_newest_first() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    assert_eq!((stream.hello.camera_id.as_str(), stream.hello.session_id), ("cam", 7));
    assert_eq!((stream.hello.rotation_degrees, stream.hello.ttl_ms), (180, 20_000));
    stream.welcome(4).await;
    stream.status().await;
    rig.connected().await;
    for _ in 0..5 {
        rig.put();
    }
    // The uplink sends frames before a status: had it sent one, it came first.
    rig.status.picture(std::time::Instant::now());
    while stream.status().await.state != v1::CameraState::Live as i32 {}
    assert_eq!(rig.counts().sent, 0);

    stream.credit(1).await;
    let frame = stream.frame().await;
    assert_eq!((frame.number, frame.jpeg[0], frame.width_px, frame.height_px), (5, 5, 64, 48));
    assert_eq!(frame.captured_unix_us, 99);
    is_ttl(&frame);
    rig.put();
    rig.put();
    stream.credit(2).await;
    assert_eq!((stream.frame().await.number, stream.frame().await.number), (6, 7), "two credits, two frames, in order");
    for number in 5..=7 {
        stream.answer(number, v1::Outcome::Analyzed).await;
    }
    let ledger = rig.ledger.clone();
    until("answered", || ledger.counts().answered(Outcome::Analyzed) == 3).await;
    assert_eq!(rig.latency.count(), 3);
    assert_eq!(rig.counts().dropped(DropReason::Superseded), 4);
    rig.finish().await;
}

#[tokio::test]
async fn no_more_in_flight_than_configured_whatever_the_server_grants() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    stream.welcome(64).await;
    stream.credit(64).await;
    rig.connected().await;
    for expected in 1..=4 {
        rig.put();
        assert_eq!(stream.frame().await.number, expected);
    }
    let fifth = rig.put();
    rig.status.picture(std::time::Instant::now());
    while stream.status().await.state != v1::CameraState::Live as i32 {}
    assert_eq!(rig.counts().in_flight, 4);
    stream.answer(2, v1::Outcome::Failed).await;
    assert_eq!(stream.frame().await.number, fifth);
    let counts = rig.finish().await;
    assert_eq!((counts.answered(Outcome::Failed), counts.lost), (1, 4));
}

#[tokio::test]
async fn what_is_worthless_is_not_sent() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    stream.welcome(4).await;
    rig.connected().await;
    rig.put_aged(rig.ttl);
    stream.credit(2).await;
    let fresh = rig.put();
    assert_eq!(stream.frame().await.number, fresh);
    assert_eq!(rig.counts().dropped(DropReason::Expired), 1);
    rig.finish().await;
}

#[tokio::test]
async fn the_measured_transit_ages_a_frame() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    stream.welcome(8).await;
    stream.credit(8).await;
    rig.connected().await;
    rig.put();
    stream.frame().await;
    // A slow wire, both ways together.
    pass(Duration::from_millis(60)).await;
    stream.answer(1, v1::Outcome::Analyzed).await;
    let ledger = rig.ledger.clone();
    until("answered", || ledger.counts().answered(Outcome::Analyzed) == 1).await;
    rig.put();
    let frame = stream.frame().await;
    assert!(frame.age_us >= 30_000, "half of the round trip: {}", frame.age_us);
    is_ttl(&frame);
    // A frame whose time ends on the way is dropped here.
    rig.put_aged(rig.ttl - Duration::from_millis(20));
    let last = rig.put();
    assert_eq!(stream.frame().await.number, last);
    assert_eq!(rig.counts().dropped(DropReason::Expired), 1);
    rig.finish().await;
}

/// Only an answer corrects the estimate: were nothing sent because of it, it
/// would stand for ever.
#[tokio::test]
async fn a_wire_that_was_slow_is_tried_again() {
    let mut rig = Rig::with(Deadlines { answer_slack: FAR, ..quick() }).await;
    let mut stream = rig.server.stream().await;
    stream.welcome(8).await;
    stream.credit(8).await;
    rig.connected().await;
    let ledger = rig.ledger.clone();
    rig.put();
    stream.frame().await;
    // Half of this is more than a frame lives.
    pass(3 * rig.ttl).await;
    stream.answer(1, v1::Outcome::Analyzed).await;
    until("answered", || ledger.counts().answered(Outcome::Analyzed) == 1).await;
    let second = rig.put();
    let frame = stream.frame().await;
    assert_eq!((frame.number, frame.remaining_us), (second, 0), "it goes, and does not pretend to be in time");
    stream.answer(second, v1::Outcome::Expired).await;
    until("answered", || ledger.counts().answered(Outcome::Expired) == 1).await;
    rig.put();
    assert!(stream.frame().await.remaining_us > 0, "the wire is fast again");
    rig.finish().await;
}

#[tokio::test]
async fn pace_and_status_travel() {
    let mut rig = Rig::new().await;
    let mut stream = rig.server.stream().await;
    stream.welcome(4).await;
    rig.connected().await;
    assert_eq!(rig.terms.get().expect("connected").max_size, PictureSize::new(640, 480));
    let pace = v1::Pace { max_fps: 2.5, max_width_px: 4000, max_height_px: 240 };
    stream.tell(Down::Pace(pace)).await;
    let terms = rig.terms.clone();
    until("the new pace", || terms.get().is_some_and(|terms| terms.max_fps == Some(2.5))).await;
    assert_eq!(
        terms.get().expect("connected").max_size,
        PictureSize::new(1920, 240),
        "never above the welcome's limit"
    );

    rig.ledger.capture().drop_as(DropReason::Paced);
    rig.status.not_live(CameraState::Stalled, "no whole picture".into());
    let status = loop {
        let status = stream.status().await;
        if status.state == v1::CameraState::Stalled as i32 {
            break status;
        }
    };
    assert_eq!(status.detail, "no whole picture");
    let ledger = status.ledger.expect("always there");
    assert_eq!((ledger.captured, ledger.dropped[0].frames), (1, 1));
    rig.finish().await;
}
