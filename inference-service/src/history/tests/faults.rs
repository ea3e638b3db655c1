//! What may go wrong: full disks, failing commits, damaged and foreign files.

use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;

/// A closed store with some thousand rows of everything.
fn filled() -> (Arc<tempfile::TempDir>, PathBuf) {
    let mut stage = Stage::new(MIN_BYTES);
    for number in 0..6_000_i64 {
        stage.offer(result("a", DAY_MS + number * 200, number as u64, &[1; 200]));
        if number % 10 == 0 {
            stage.offer(count("a", DAY_S + number / 5, "visits", [1, 0, 0]));
            stage.offer(covered("a", DAY_S + number / 5, DAY_S + number / 5 + 2));
        }
    }
    stage.turn();
    let file = stage.file();
    (stage.close(), file)
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(file).expect("opens").write_all_at(bytes, at).expect("written");
}

fn refusal(folder: &Arc<tempfile::TempDir>) -> OpenError {
    match Stage::in_folder(Arc::clone(folder), MIN_BYTES) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

fn saved(repaired: &repair::Repaired, name: &str) -> u64 {
    repaired.tables.iter().find(|table| table.name == name).expect("a table").saved
}

#[test]
fn a_nearly_full_disk_stops_and_goes_on() {
    let mut stage = Stage::new(MIN_BYTES);
    let limit = 1 << 30;
    let step = |stage: &mut Stage, free: u64| {
        stage.free_bytes.store(free, Relaxed);
        let at_ms = DAY_MS + stage.history.state().accepted as i64;
        stage.offer(result("a", at_ms, 0, b"x")).turn()
    };
    assert_eq!(step(&mut stage, limit).written[0], 1);
    let state = step(&mut stage, limit - 1);
    assert_eq!(state.paused, Some(Pause::DiskLow { free_bytes: limit - 1, min_free_bytes: limit }));
    assert_eq!((state.written[0], state.dropped[0][DropReason::Paused as usize]), (1, 1));
    assert_eq!((state.waiting_records, state.acknowledged), (0, 2));
    assert!(step(&mut stage, limit + 1).paused.is_some(), "a little more is not enough");
    let state = step(&mut stage, limit + limit / 10);
    assert_eq!((state.paused, state.written[0], state.dropped[0][DropReason::Paused as usize]), (None, 2, 2));
    assert_eq!(stage.results("a").len(), 2, "questions are answered all the time");
}

#[test]
fn a_failed_commit_is_tried_again_and_then_counted() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(count("a", DAY_S, "visits", [1, 0, 0]));
    stage.turn();
    stage.writer.store.fail_commits(true);
    stage.offer(count("a", DAY_S, "visits", [2, 0, 0])).offer(result("new", DAY_MS, 0, b"x"));
    let state = stage.turn();
    assert!(matches!(state.paused, Some(Pause::Failing(_))), "{state:?}");
    assert_eq!((state.failed_commits, state.waiting_records, state.acknowledged), (1, 2, 1));
    let state = stage.turn();
    assert_eq!((state.failed_commits, state.waiting_records), (2, 2), "kept");

    stage.writer.store.fail_commits(false);
    let state = stage.turn();
    assert_eq!((state.paused, state.waiting_records, state.written), (None, 0, [1, 2, 0, 0]));
    assert_eq!(stage.counts(&["a"], DAY_S, DAY_S + 1, 1).buckets[0].counts[0].1.female, 3, "once each");

    stage.writer.store.fail_commits(true);
    stage.offer(result("a", DAY_MS, 0, b"x"));
    for _ in 0..9 {
        assert_eq!(stage.turn().dropped[0][DropReason::Failed as usize], 0);
    }
    let state = stage.turn();
    assert_eq!((state.dropped[0][DropReason::Failed as usize], state.waiting_records), (1, 0));
    stage.writer.store.fail_commits(false);
    stage.offer(result("a", DAY_MS, 0, b"x"));
    assert_eq!(stage.turn().paused, None);
}

#[test]
fn one_process_at_a_time() {
    let stage = Stage::new(MIN_BYTES);
    let (folder, file) = (Arc::clone(&stage.folder), stage.file());
    for text in [
        refusal(&folder).to_string(),
        repair::check(&file).expect_err("in use").to_string(),
        repair::repair(&file).expect_err("in use").to_string(),
    ] {
        assert!(text.contains("in use by process") && text.contains("stop that first"), "{text}");
    }
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    Stage::in_folder(stage.close(), MIN_BYTES).expect("free again");
}

#[test]
fn a_foreign_or_newer_file_is_not_touched() {
    for (sql, wanted) in [
        ("CREATE TABLE t(a); PRAGMA application_id=7", "not a history of Flatframe"),
        ("CREATE TABLE t(a)", "not a history of Flatframe"),
        ("CREATE TABLE t(a); PRAGMA application_id=0x466C6174; PRAGMA user_version=3", "newer Flatframe"),
        ("CREATE TABLE t(a); PRAGMA application_id=0x466C6174; PRAGMA user_version=1", "cameras is missing"),
    ] {
        let folder = Arc::new(tempfile::tempdir().expect("folder"));
        let file = store_file(&folder);
        rusqlite::Connection::open(&file).and_then(|other| other.execute_batch(sql)).expect("made");
        let before = std::fs::read(&file).expect("read");
        let text = refusal(&folder).to_string();
        assert!(text.contains(wanted), "{text}");
        assert_eq!(std::fs::read(&file).expect("read"), before);
    }
    let folder = Arc::new(tempfile::tempdir().expect("folder"));
    std::fs::write(store_file(&folder), "some other text").expect("written");
    assert!(matches!(refusal(&folder), OpenError::Foreign { .. }));
    assert!(repair::repair(&store_file(&folder)).is_err(), "nothing to make a store of");
}

#[test]
fn settings_out_of_range_name_the_key() {
    let folder = tempfile::tempdir().expect("folder");
    let good = HistorySettings::new(store_file(&folder));
    let error = History::open(HistorySettings { max_bytes: MIN_BYTES - 1, ..good.clone() }).expect_err("too small");
    assert_eq!(error.to_string(), "max_bytes is 16777215, allowed is 16777216 and more");
    assert!(History::open(HistorySettings { readers: 0, ..good.clone() }).is_err());
    let error = History::open(HistorySettings { file: "/no/such/folder/h".into(), ..good }).expect_err("no folder");
    assert!(matches!(error, OpenError::Disk { .. }), "{error}");
}

#[test]
fn left_while_it_was_made_is_made_again() {
    let folder = Arc::new(tempfile::tempdir().expect("folder"));
    for begun in ["", "PRAGMA journal_mode=WAL"] {
        let file = store_file(&folder);
        rusqlite::Connection::open(&file).and_then(|new| new.execute_batch(begun)).expect("made");
        let stage = Stage::in_folder(Arc::clone(&folder), MIN_BYTES).expect("opens");
        drop(stage.close());
        std::fs::remove_file(file).expect("removed");
    }
}

#[test]
fn truncated() {
    let (folder, file) = filled();
    let bytes = std::fs::metadata(&file).expect("there").len();
    std::fs::OpenOptions::new().write(true).open(&file).expect("opens").set_len(bytes * 3 / 4).expect("cut");
    let text = refusal(&folder).to_string();
    assert!(text.contains("is damaged") && text.contains("history repair"), "{text}");
    assert!(!repair::check(&file).expect("looked").findings.is_empty());

    let repaired = repair::repair(&file).expect("repaired");
    let kept = saved(&repaired, "results");
    assert!((3_000..6_000).contains(&kept), "{repaired}");
    assert!(repaired.to_string().contains(".damaged-1"), "{repaired}");
    assert_eq!(repair::check(&file).expect("looked").findings, Vec::<String>::new());
    let stage = Stage::in_folder(folder, MIN_BYTES).expect("opens");
    assert_eq!(stage.results("a").len() as u64, kept);
    assert_eq!(stage.history.cameras(soon()).expect("answered"), ["a"]);
}

#[test]
fn first_page_overwritten() {
    let (folder, file) = filled();
    overwrite(&file, 0, &[0xA5; 4096]);
    let text = refusal(&folder).to_string();
    assert!(text.contains("history repair"), "{text}");
    let repaired = repair::repair(&file).expect("repaired");
    assert_eq!((saved(&repaired, "results"), saved(&repaired, "counts_second")), (6_000, 600), "{repaired}");
    let mut stage = Stage::in_folder(folder, MIN_BYTES).expect("opens");
    assert_eq!(stage.results("a").len(), 6_000);
    stage.offer(result("a", DAY_MS + 9_000_000, 0, b"goes on"));
    assert_eq!(stage.turn().paused, None);
}

/// Not found at the start; what meets it says so, and the rest goes on.
#[test]
fn page_in_the_middle_overwritten() {
    let (folder, file) = filled();
    let pages = std::fs::metadata(&file).expect("there").len() / 4096;
    overwrite(&file, pages / 2 * 4096, &[0xA5; 4096]);
    assert!(!repair::check(&file).expect("looked").findings.is_empty());

    let mut stage = Stage::in_folder(Arc::clone(&folder), MIN_BYTES).expect("opens");
    let camera = camera("a");
    let query = ResultQuery {
        camera: &camera,
        from_unix_ms: 0,
        to_unix_ms: i64::MAX,
        after: None,
        limit: usize::MAX,
        max_bytes: usize::MAX,
    };
    assert!(matches!(stage.history.query_results(&query, soon()), Err(QueryError::Damaged(_))));
    let state = stage.offer(result("a", DAY_MS + 9_000_000, 0, b"x")).turn();
    assert!(matches!(state.paused, Some(Pause::Damaged(_))));
    assert_eq!((state.written[0], state.dropped[0][DropReason::Paused as usize]), (0, 1));
    stage.close();

    let repaired = repair::repair(&file).expect("repaired");
    let table = repaired.tables.iter().find(|table| table.name == "results").expect("there");
    assert!((5_900..6_000).contains(&table.saved) && table.gaps.len() == 1, "{repaired}");
    assert_eq!(saved(&repaired, "counts_second"), 600);
    let stage = Stage::in_folder(folder, MIN_BYTES).expect("opens");
    assert_eq!(stage.results("a").len() as u64, table.saved);
}

#[test]
fn a_whole_store_survives_repairs() {
    let (folder, file) = filled();
    for number in 1..3 {
        let repaired = repair::repair(&file).expect("repaired");
        assert_eq!(saved(&repaired, "results"), 6_000);
        assert!(repaired.tables.iter().all(|table| table.gaps.is_empty() && table.refused == 0), "{repaired}");
        assert_eq!(repaired.damaged, lock::beside(&file, &format!(".damaged-{number}")));
    }
    let checked = repair::check(&file).expect("looked");
    assert_eq!(checked.findings, Vec::<String>::new());
    assert!(checked.rows.contains(&("results", Some(6_000))));
    Stage::in_folder(folder, MIN_BYTES).expect("opens");
    assert!(repair::repair(Path::new("/no/such/file")).is_err());
}
