//! Counts and coverage in buckets against sums made the plain way.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    Count(u8, i64, u8, [i32; 3]),
    Covered(u8, i64, i64),
}

/// Within three hours, across their borders.
const SPAN_S: i64 = 3 * 3600;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3_u8, 0..SPAN_S, 0..3_u8, prop::array::uniform3(-3..4_i32))
            .prop_map(|(camera, at, counter, change)| Event::Count(camera, at, counter, change)),
        (0..3_u8, 0..SPAN_S, 1..400_i64).prop_map(|(camera, from, length)| Event::Covered(camera, from, from + length)),
    ]
}

/// What [`CountAnswer::buckets`] must be, second by second.
fn brute_force(events: &[Event], from_s: i64, to_s: i64, bucket_s: i64) -> Vec<(i64, u64, BTreeMap<String, [i64; 3]>)> {
    let mut seconds = BTreeSet::new();
    for event in events {
        if let Event::Covered(camera @ 0..2, from, to) = event {
            seconds.extend((*from..*to).map(|second| (*camera, second)));
        }
    }
    let mut buckets = Vec::new();
    for start in (from_s..to_s).step_by(bucket_s as usize) {
        let span = start..(start + bucket_s).min(to_s);
        let mut sums: BTreeMap<String, [i64; 3]> = BTreeMap::new();
        for event in events {
            if let Event::Count(0..2, at, counter, change) = event
                && span.contains(at)
            {
                let sum = sums.entry(format!("c{counter}")).or_default();
                for (sum, change) in sum.iter_mut().zip(change) {
                    *sum += i64::from(*change);
                }
            }
        }
        let covered = seconds.iter().filter(|(_, second)| span.contains(second)).count();
        buckets.push((start, covered as u64, sums));
    }
    buckets
}

fn answered(answer: &CountAnswer) -> Vec<(i64, u64, BTreeMap<String, [i64; 3]>)> {
    let count = |(name, count): &(Arc<str>, Count)| (name.to_string(), [count.female, count.male, count.unknown]);
    let bucket = |bucket: &Bucket| {
        (bucket.start_unix_s - DAY_S, bucket.covered_s, bucket.counts.iter().map(count).collect::<BTreeMap<_, _>>())
    };
    answer.buckets.iter().map(bucket).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn equal_brute_force(
        events in prop::collection::vec(event(), 1..120),
        turns in 1..4_usize,
        odd_from in 0..4000_i64,
        odd_length in 1..9000_i64,
        odd_bucket in 7..5000_i64,
    ) {
        let mut stage = Stage::new(MIN_BYTES);
        for part in events.chunks(events.len().div_ceil(turns)) {
            for event in part {
                stage.offer(match event {
                    Event::Count(camera, at, counter, change) => {
                        count(&format!("cam{camera}"), DAY_S + at, &format!("c{counter}"), *change)
                    }
                    Event::Covered(camera, from, to) => covered(&format!("cam{camera}"), DAY_S + from, DAY_S + to),
                });
            }
            stage.turn();
        }
        let questions = [
            (0, SPAN_S + 3600, 3600),
            (0, SPAN_S + 3600, 60),
            (3600, 2 * 3600 + 75, 3600),
            (120, 7265, 300),
            (59, 3700, 61),
            (odd_from, odd_from + odd_length, odd_bucket),
            (odd_from / 60 * 60, odd_from / 60 * 60 + odd_length, odd_bucket / 60 * 60 + 60),
        ];
        for (from, to, bucket) in questions {
            let answer = stage.counts(&["cam0", "cam1", "cam0", "never"], DAY_S + from, DAY_S + to, bucket);
            prop_assert_eq!(answered(&answer), brute_force(&events, from, to, bucket), "{} {} {}", from, to, bucket);
        }
    }
}

#[test]
fn moved_within_its_second() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(count("a", DAY_S + 7, "visits", [0, 0, 1]));
    stage.turn();
    stage.offer(count("a", DAY_S + 7, "visits", [1, 0, -1]));
    stage.turn();
    for bucket_s in [1, 60, 3600] {
        let answer = stage.counts(&["a"], DAY_S, DAY_S + 3600, bucket_s);
        let bucket = &answer.buckets[(7 / bucket_s) as usize];
        assert_eq!(bucket.counts[0].1, Count { female: 1, male: 0, unknown: 0 });
    }
}

#[test]
fn nobody_seen_is_not_nothing_known() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(covered("a", DAY_S, DAY_S + 60)).offer(covered("b", DAY_S + 30, DAY_S + 90));
    stage.turn();
    let covered: Vec<_> =
        stage.counts(&["a", "b"], DAY_S, DAY_S + 180, 60).buckets.iter().map(|b| b.covered_s).collect();
    assert_eq!(covered, [90, 30, 0]);
}

#[test]
fn removed_is_not_covered() {
    let mut stage = Stage::new(MIN_BYTES);
    for minute in 0..120 {
        stage.offer(covered("a", DAY_S + minute * 60, DAY_S + minute * 60 + 60));
        stage.offer(count("a", DAY_S + minute * 60, "visits", [1, 0, 0]));
    }
    stage.turn();
    // All of the first hour and a half is too old, but the hour that it ends in stays.
    stage.now_ms.store(DAY_MS + 400 * 86_400_000 + 90 * 60_000, Relaxed);
    stage.turn();
    let answer = stage.counts(&["a"], DAY_S, DAY_S + 7200, 60);
    assert_eq!(answer.complete_from_unix_s, DAY_S + 90 * 60);
    let known = answer.buckets.iter().map(|bucket| (bucket.covered_s, bucket.counts.len())).collect::<Vec<_>>();
    assert_eq!((known[89], known[90]), ((0, 0), (60, 1)));
    // Hours of which a part is too old go as a whole.
    let hours = stage.counts(&["a"], DAY_S, DAY_S + 7200, 3600);
    assert_eq!(hours.buckets.iter().map(|bucket| bucket.covered_s).sum::<u64>() % 3600, 0);
}

#[test]
fn questions_are_bounded() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(count("a", DAY_S, "visits", [1, 0, 0]));
    stage.turn();
    let cameras = [camera("a")];
    let ask = |from_s, to_s, bucket_s| {
        let query = CountQuery { cameras: &cameras, counters: &[], from_unix_s: from_s, to_unix_s: to_s, bucket_s };
        stage.history.query_counts(&query, soon())
    };
    for (from_s, to_s, bucket_s) in [(0, 0, 1), (-1, 5, 1), (5, 1, 1), (0, 1, 0), (0, 1, -5), (0, i64::MAX, 60)] {
        assert!(matches!(ask(from_s, to_s, bucket_s), Err(QueryError::Invalid(_))), "{from_s} {to_s} {bucket_s}");
    }
    assert!(matches!(ask(0, 10_001, 1), Err(QueryError::TooLarge(_))));
    assert_eq!(ask(0, 10_000, 1).expect("answered").buckets.len(), 10_000);
    assert_eq!(ask(0, 1_000_000, i64::MAX).expect("answered").buckets.len(), 1);
    let wanted = ["visits".to_owned(), "no such".to_owned()];
    let query =
        CountQuery { cameras: &cameras, counters: &wanted, from_unix_s: DAY_S, to_unix_s: DAY_S + 1, bucket_s: 1 };
    assert_eq!(stage.history.query_counts(&query, soon()).expect("answered").buckets[0].counts.len(), 1);
    assert_eq!(stage.history.query_counts(&query, Instant::now()), Err(QueryError::Busy));
}
