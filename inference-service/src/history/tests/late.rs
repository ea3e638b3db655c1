//! Late results: each at most once, whatever ended the run before.

use super::*;

/// A late result captured `ms` into the day.
fn late(ms: i64) -> Record {
    let at_unix_ms = DAY_MS + ms;
    let body = Bytes::from(ms.to_string());
    Record::Result { camera: camera("a"), at_unix_ms, position: 0, late_us: Some(at_unix_ms * 1000 + 7), body }
}

fn newest(stage: &Stage) -> Option<i64> {
    stage.history.newest_late_us(&camera("a"), soon()).expect("answered")
}

#[test]
fn only_what_is_newer_is_taken_also_after_a_kill() {
    let mut stage = Stage::new(MIN_BYTES);
    assert_eq!(newest(&stage), None);
    // Live results are of any time beside them.
    stage.offer(result("a", DAY_MS + 50_000, 9, b"live")).offer(late(1000)).offer(late(1000)).offer(late(999)).turn();
    let known = stage.offer(late(2000)).offer(late(1500)).turn().dropped[RecordKind::Result as usize];
    assert_eq!(known[DropReason::Known as usize], 3);
    assert_eq!(newest(&stage), Some((DAY_MS + 2000) * 1000 + 7));

    // What was not committed is gone with its mark.
    stage.offer(late(3000));
    let folder = stage.kill();
    let mut stage = Stage::in_folder(folder, MIN_BYTES).expect("opens");
    assert_eq!(newest(&stage), Some((DAY_MS + 2000) * 1000 + 7));
    stage.offer(late(2000)).offer(late(3000)).turn();
    let bodies: Vec<_> = stage.results("a").into_iter().map(|stored| stored.body).collect();
    assert_eq!(bodies, ["1000", "2000", "3000", "live"]);
}

#[test]
fn the_mark_outlives_the_results_and_goes_with_the_last_row_of_its_camera() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(late(1000)).offer(result("a", DAY_MS + 40 * 86_400_000, 1, b"live")).turn();
    stage.now_ms.store(DAY_MS + 41 * 86_400_000, Relaxed);
    stage.turn();
    assert_eq!(stage.results("a").len(), 1, "the late one is too old");
    assert_eq!(newest(&stage), Some((DAY_MS + 1000) * 1000 + 7));
    stage.now_ms.store(DAY_MS + 80 * 86_400_000, Relaxed);
    while !stage.history.cameras(soon()).expect("answered").is_empty() {
        stage.turn();
    }
    assert_eq!(newest(&stage), None);
}

#[test]
fn a_file_of_the_first_layout_is_brought_to_this_one() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(result("a", DAY_MS, 1, b"live")).turn();
    let folder = stage.close();
    let file = rusqlite::Connection::open(store_file(&folder)).expect("opens");
    file.execute_batch("DROP TABLE late; PRAGMA user_version=1").expect("as it was");
    drop(file);
    let mut stage = Stage::in_folder(folder, MIN_BYTES).expect("opens");
    stage.offer(late(1000)).turn();
    assert_eq!((stage.results("a").len(), newest(&stage)), (2, Some((DAY_MS + 1000) * 1000 + 7)));
    let folder = stage.close();
    assert_eq!(repair::check(&store_file(&folder)).expect("can be read").findings, Vec::<String>::new());
}
