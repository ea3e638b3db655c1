//! Tests of the bus: who gets what, gaps, cuts, and going on.

use flatframe_shared::frame::{FrameNumber, PictureSize, SessionId};

use super::*;
use crate::vision::Analysis;

fn bus(queue: usize, ring: usize) -> Arc<Bus> {
    Arc::new(Bus::new(BusLimits { max_subscribers: 2, queue, ring, stall: Duration::ZERO }))
}

fn patient_bus(queue: usize, ring: usize) -> Arc<Bus> {
    Arc::new(Bus::new(BusLimits { max_subscribers: 2, queue, ring, stall: Duration::from_secs(3600) }))
}

fn id(name: &str) -> CameraId {
    CameraId::parse(name).expect("valid id")
}

fn record(camera: &str, number: u64) -> ResultRecord {
    ResultRecord {
        position: Position(0),
        camera: id(camera),
        session: SessionId(1),
        number: FrameNumber(number),
        captured_unix_us: 0,
        captured: Instant::now(),
        latency: Duration::ZERO,
        analysis: Analysis {
            size: PictureSize::new(4, 3),
            faces: Vec::new(),
            truncated: false,
            timings: Default::default(),
            look: None,
        },
        observed_unix_us: 0,
        tracks: Vec::new(),
        counts: Default::default(),
        detector: "test".into(),
        gender_model: None,
    }
}

fn subscribe(bus: &Arc<Bus>, cameras: &[&str], after: Option<u64>) -> Subscriber {
    let cameras = (!cameras.is_empty()).then(|| cameras.iter().map(|name| id(name)).collect());
    bus.subscribe(cameras, after.map(Position), CancellationToken::new()).expect("room")
}

/// What waits, as frame numbers, and gaps as negative counts.
fn drain(subscriber: &mut Subscriber) -> Vec<i64> {
    std::iter::from_fn(|| subscriber.take())
        .map(|taken| match taken {
            Taken::Result(record) => record.number.0 as i64,
            Taken::Elsewhere(result) => panic!("{result:?}"),
            Taken::Gap { missed, .. } => -(missed as i64),
        })
        .collect()
}

#[test]
fn only_the_watched_cameras() {
    let bus = patient_bus(8, 0);
    let (mut all, mut one) = (subscribe(&bus, &[], None), subscribe(&bus, &["b"], None));
    for (camera, number) in [("a", 1), ("b", 2), ("a", 3)] {
        bus.publish(record(camera, number));
    }
    assert_eq!((drain(&mut all), drain(&mut one)), (vec![1, 2, 3], vec![2]));
}

#[test]
fn a_slow_one_gets_a_gap_and_the_newest() {
    let bus = patient_bus(2, 0);
    let mut slow = subscribe(&bus, &[], None);
    (1..=5).for_each(|number| drop(bus.publish(record("a", number))));
    assert_eq!(drain(&mut slow), [-3, 4, 5]);
    assert_eq!(bus.missed(), 3);
}

#[test]
fn a_stalled_one_is_cut_and_frees_its_queue() {
    let bus = bus(2, 0);
    let cut = CancellationToken::new();
    let _stalled = bus.subscribe(None, None, cut.clone()).expect("room");
    (1..=2).for_each(|number| drop(bus.publish(record("a", number))));
    assert!(!cut.is_cancelled());
    bus.publish(record("a", 3));
    assert!(cut.is_cancelled());
    assert_eq!((bus.subscribers(), bus.waiting(), bus.cut()), (0, 0, 1));
}

#[test]
fn resumes_with_a_gap_for_what_is_gone() {
    let bus = patient_bus(8, 3);
    (1..=5).for_each(|number| drop(bus.publish(record("a", number))));
    assert_eq!(drain(&mut subscribe(&bus, &[], Some(1))), [-1, 3, 4, 5]);
    assert_eq!(drain(&mut subscribe(&bus, &[], Some(3))), [4, 5]);
    assert_eq!(drain(&mut subscribe(&bus, &[], Some(5))), [0i64; 0]);
    assert_eq!(drain(&mut subscribe(&bus, &[], Some(900))), [0i64; 0], "a position of the future");
    assert_eq!(drain(&mut subscribe(&bus, &[], None)), [0i64; 0]);
}

#[test]
fn full_and_freed_by_drop() {
    let bus = patient_bus(2, 0);
    let first = subscribe(&bus, &[], None);
    let _second = subscribe(&bus, &[], None);
    let refused = bus.subscribe(None, None, CancellationToken::new()).map(drop);
    assert_eq!(refused, Err(Full { max_subscribers: 2 }));
    drop(first);
    assert!(bus.subscribe(None, None, CancellationToken::new()).is_ok());
}

fn elsewhere(camera: &str) -> ElsewhereResult {
    ElsewhereResult { position: Position(0), camera: id(camera), replica: "b".into(), body: Default::default() }
}

/// One sequence for what was analysed here, for what others tell and for what
/// of it was missed: a client that comes back learns all of it, in order.
#[test]
fn what_others_tell_has_its_place() {
    let bus = patient_bus(8, 8);
    let (mut all, mut one) = (subscribe(&bus, &[], None), subscribe(&bus, &["b"], None));
    bus.publish(record("a", 1));
    bus.publish_elsewhere(elsewhere("b"));
    bus.publish_missed(7);
    bus.publish(record("a", 2));
    let seen = |subscriber: &mut Subscriber| -> Vec<(char, u64)> {
        std::iter::from_fn(|| subscriber.take())
            .map(|taken| match taken {
                Taken::Result(record) => ('h', record.position.0),
                Taken::Elsewhere(result) => ('e', result.position.0),
                Taken::Gap { missed, last_missed } => {
                    assert_eq!(missed, 7);
                    ('g', last_missed.0)
                }
            })
            .collect()
    };
    assert_eq!(seen(&mut all), [('h', 1), ('e', 2), ('g', 9), ('h', 10)]);
    assert_eq!(seen(&mut one), [('e', 2), ('g', 9)]);
    drop(one);
    assert_eq!(seen(&mut subscribe(&bus, &[], Some(2))), [('g', 9), ('h', 10)]);
}

/// A gap that gives way takes its count along.
#[test]
fn a_gap_that_gives_way_is_still_told() {
    let bus = patient_bus(1, 0);
    let mut slow = subscribe(&bus, &[], None);
    bus.publish_missed(5);
    bus.publish(record("a", 1));
    assert_eq!(drain(&mut slow), [-5, 1]);
}
