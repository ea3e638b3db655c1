//! The store stays within its bytes and ages, after every commit, whatever is
//! written.

use super::*;

fn file_bytes(stage: &Stage) -> u64 {
    let bytes = |suffix| std::fs::metadata(lock::beside(&stage.file(), suffix)).map_or(0, |found| found.len());
    bytes("") + bytes("-wal") + bytes("-shm")
}

fn rows(stage: &Stage, table: &str) -> i64 {
    let connection = rusqlite::Connection::open(stage.file()).expect("opens");
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("counted")
}

/// Five cameras, several times the cap, sizes looked at after every turn.
#[test]
fn several_times_the_cap() {
    let mut stage = Stage::new(MIN_BYTES);
    let body = [7; 400];
    let (mut at_ms, mut largest) = (DAY_MS, 0);
    for turn in 0..150 {
        for number in 0..800 {
            at_ms += 20;
            let name = format!("cam-{}", number % 5);
            stage.offer(result(&name, at_ms, number, &body[..(number as usize * 37) % 400]));
            if number % 40 == 0 {
                stage.offer(count(&name, at_ms / 1000, "visits", [1, 0, 0]));
                stage.offer(covered(&name, at_ms / 1000, at_ms / 1000 + 1));
            }
            // Now and then a large one, or one of long ago.
            if number % 400 == 0 {
                stage.offer(result(&name, at_ms - 50_000, number, &[9; 60_000]));
            }
        }
        let state = stage.turn();
        largest = largest.max(file_bytes(&stage));
        assert!(file_bytes(&stage) <= MIN_BYTES, "turn {turn}: {} bytes", file_bytes(&stage));
        assert_eq!((state.bytes, state.failed_commits, state.paused), (file_bytes(&stage), 0, None));
        assert_eq!(state.dropped, [[0; 8]; 4]);
    }
    assert!(largest > MIN_BYTES / 2, "the cap was put to use: {largest}");
    let state = stage.history.state();
    assert!(state.pruned_rows > 30_000, "{state:?}");
    // Results give way first; counts and coverage are all there.
    let sums = stage.counts(&["cam-0", "cam-1", "cam-2", "cam-3", "cam-4"], DAY_S, DAY_S + 7200, 1);
    let visits: i64 = sums.buckets.iter().flat_map(|bucket| &bucket.counts).map(|(_, count)| count.female).sum();
    assert_eq!((visits, sums.complete_from_unix_s), (150 * 20, 0));
    // What is left is the newest of every camera, without a hole.
    let kept = stage.results("cam-3");
    assert_eq!(kept.last().map(|last| last.at_unix_ms), Some(at_ms - 20));
    let oldest = state.oldest_result_unix_ms.expect("known");
    assert!(kept[0].at_unix_ms - oldest < 70_000, "cameras lose rows at the same age");
    let file = stage.file();
    let _folder = stage.close();
    assert_eq!(repair::check(&file).expect("checked").findings, Vec::<String>::new());
}

/// With nothing else left, seconds go before minutes and minutes before hours.
#[test]
fn seconds_before_minutes_before_hours() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.writer.store.set_main_pages(500);
    let turns = 40;
    for turn in 0..turns {
        for number in 0..1_500 {
            let name = format!("cam-{}", number % 10);
            stage.offer(count(&name, DAY_S + turn * 150 + number / 10, &format!("c{}", number % 3), [1, 1, 0]));
            stage.offer(count(&name, DAY_S + turn * 150 + number / 10, "d", [1, 1, 0]));
        }
        stage.offer(result("cam-1", DAY_MS + turn * 150_000, 0, &[1; 1000]));
        stage.turn();
        assert!(file_bytes(&stage) <= MIN_BYTES, "turn {turn}: {} bytes", file_bytes(&stage));
    }
    let state = stage.history.state();
    assert_eq!((state.failed_commits, state.dropped), (0, [[0; 8]; 4]));
    assert!(rows(&stage, "results") < 5, "results went first");
    let seconds = stage.counts(&["cam-1"], DAY_S, DAY_S + 3600, 1);
    assert!(seconds.complete_from_unix_s > DAY_S, "then the oldest seconds");
    assert_eq!(stage.counts(&["cam-1"], DAY_S, DAY_S + 3600, 60).complete_from_unix_s, 0);
    let hours = stage.counts(&["cam-1"], DAY_S, DAY_S + 6 * 3600, 3600);
    let total: i64 = hours.buckets.iter().flat_map(|bucket| &bucket.counts).map(|(_, count)| count.female).sum();
    assert_eq!((hours.complete_from_unix_s, total), (0, turns * 300));
}

/// A thousand cameras change a thousand places in one turn.
#[test]
fn many_cameras_at_once() {
    let mut stage = Stage::new(MIN_BYTES);
    for turn in 0..10 {
        for number in 0..1_000 {
            let name = format!("cam-{number}");
            stage.offer(result(&name, DAY_MS + turn * 61_000, 0, &[3; 300]));
            stage.offer(covered(&name, DAY_S + turn * 61, DAY_S + turn * 61 + 2));
        }
        let state = stage.turn();
        assert!(file_bytes(&stage) <= MIN_BYTES, "turn {turn}: {} bytes", file_bytes(&stage));
        assert_eq!((state.failed_commits, state.dropped), (0, [[0; 8]; 4]));
    }
}

/// A client that reads all the time does not let the log grow without bound.
#[test]
fn readers_do_not_hold_the_log() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(result("a", DAY_MS, 0, b"x"));
    stage.turn();
    let shared = Arc::clone(&stage.history.shared);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let mut reader = shared.readers.borrow(soon()).expect("idle");
                    let snapshot = reader.connection().transaction().expect("begins");
                    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                                   SELECT count(*) FROM n, (SELECT count(*) FROM results) WHERE i < 3000000";
                    let _ = snapshot.query_row(endless, [], |_| Ok(()));
                }
            });
        }
        for turn in 0..30_i64 {
            for number in 0..1_000 {
                stage.offer(result("a", DAY_MS + turn * 1000 + number + 1, 0, &[3; 500]));
            }
            // A reader that gets no processor for seconds costs an attempt, and no record.
            let limit = soon();
            while stage.turn().waiting_records > 0 {
                assert!(Instant::now() < limit, "turn {turn}: {:?}", stage.history.state());
            }
            assert!(file_bytes(&stage) <= MIN_BYTES, "turn {turn}: {} bytes", file_bytes(&stage));
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(stage.history.state().dropped, [[0; 8]; 4]);
}

#[test]
fn a_lowered_cap_shrinks_the_file() {
    let mut stage = Stage::new(4 * MIN_BYTES);
    let mut at_ms = DAY_MS;
    while file_bytes(&stage) < 2 * MIN_BYTES {
        for number in 0..2_000 {
            at_ms += 100;
            stage.offer(result("a", at_ms, number, &[1; 500]));
        }
        stage.turn();
    }
    let mut stage = Stage::in_folder(stage.close(), MIN_BYTES).expect("opens");
    let mut turns = 0;
    while file_bytes(&stage) > MIN_BYTES {
        at_ms += 100;
        let before = file_bytes(&stage);
        stage.offer(result("a", at_ms, 0, &[1; 500]));
        let state = stage.turn();
        assert_eq!((state.failed_commits, state.waiting_records), (0, 0));
        // In steps that the log of one transaction can hold.
        assert!(file_bytes(&stage) <= before + store::Bounds::new(MIN_BYTES).transaction * 4200);
        turns += 1;
        assert!(turns < 1_000, "{} bytes", file_bytes(&stage));
    }
    assert_eq!(stage.page("a", at_ms - 100_000, i64::MAX, None, 9_999).results.len(), 1_001, "the newest are kept");
}

#[test]
fn ages_end() {
    let mut stage = Stage::new(MIN_BYTES);
    let day = 86_400;
    for number in 0..100 {
        stage.offer(result("a", DAY_MS + number * 1000, 0, b"old"));
        stage.offer(count("a", DAY_S + number, "visits", [1, 0, 0]));
    }
    stage.offer(covered("a", DAY_S, DAY_S + 100));
    stage.turn();
    assert_eq!(rows(&stage, "results"), 100);

    stage.now_ms.store(DAY_MS + 30 * day * 1000 + 50_000, Relaxed);
    let state = stage.turn();
    assert_eq!((rows(&stage, "results"), state.pruned_rows), (50, 50));
    assert_eq!(state.oldest_result_unix_ms, Some(DAY_MS + 50_000));
    stage.offer(result("a", DAY_MS + 49_999, 0, b"too old")).offer(result("a", DAY_MS + 50_000, 0, b"just right"));
    assert_eq!(stage.turn().dropped[0][DropReason::TooOld as usize], 1);
    assert_eq!((rows(&stage, "results"), rows(&stage, "counts_second")), (51, 100));

    stage.now_ms.store(DAY_MS + 400 * day * 1000 + 60_000, Relaxed);
    stage.turn();
    assert_eq!((rows(&stage, "results"), rows(&stage, "counts_second")), (0, 40));
    stage.now_ms.store(DAY_MS + 402 * day * 1000, Relaxed);
    stage.turn();
    stage.turn();
    for table in ["counts_second", "counts_minute", "counts_hour", "coverage_minute", "coverage_hour", "cameras"] {
        assert_eq!(rows(&stage, table), 0, "{table}");
    }
}

/// A clock that goes back stores what it is told, and removes nothing.
#[test]
fn a_clock_that_goes_back() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(result("a", DAY_MS + 5_000, 1, b"x"));
    stage.turn();
    stage.now_ms.store(0, Relaxed);
    stage.offer(result("a", 3_000, 2, b"y")).offer(result("a", DAY_MS, 3, b"z"));
    let state = stage.turn();
    assert_eq!((state.written[0], state.pruned_rows), (3, 0));
    let positions: Vec<_> = stage.results("a").iter().map(|result| result.position).collect();
    assert_eq!(positions, [2, 3, 1]);
}

#[test]
fn too_many_incidents_lose_the_oldest() {
    let mut stage = Stage::new(MIN_BYTES);
    let most = 1_024_i64;
    for id in 0..most + 300 {
        let incident = Incident {
            id: id as u64,
            camera: None,
            kind: "k".into(),
            detail: String::new(),
            opened_unix_ms: DAY_MS + id,
            resolved_unix_ms: None,
        };
        stage.offer(Record::Incident(incident));
    }
    stage.turn();
    for _ in 0..3 {
        stage.turn();
    }
    assert_eq!(rows(&stage, "incidents"), most);
}
