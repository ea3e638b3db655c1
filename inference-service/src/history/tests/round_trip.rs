//! What goes in comes out: in order, page by page, after a restart, whatever
//! the callers do.

use super::*;

#[test]
fn results_in_order_of_time_whatever_order_they_came_in() {
    let mut stage = Stage::new(MIN_BYTES);
    for (at, position, body) in [(50, 1, "b"), (10, 2, ""), (50, 3, "c"), (70, 4, "d"), (50, 5, "e"), (10, 6, "a")] {
        stage.offer(result("a", DAY_MS + at, position, body.as_bytes()));
    }
    stage.offer(result("b", DAY_MS, 9, b"other"));
    let state = stage.turn();
    assert_eq!((state.written, state.acknowledged, state.waiting_bytes), ([7, 0, 0, 0], 7, 0));

    let found = |stage: &Stage| -> Vec<_> {
        stage.results("a").iter().map(|result| (result.at_unix_ms - DAY_MS, result.position)).collect()
    };
    let wanted = [(10, 2), (10, 6), (50, 1), (50, 3), (50, 5), (70, 4)];
    assert_eq!(found(&stage), wanted);
    assert_eq!(stage.results("a")[0].body, Bytes::new());
    assert_eq!(stage.page("a", DAY_MS + 50, DAY_MS + 70, None, 9).results.len(), 3);
    assert!(stage.results("never-seen").is_empty());

    let (mut after, mut paged) = (None, Vec::new());
    loop {
        let page = stage.page("a", 0, i64::MAX, after, 2);
        assert!(page.results.len() <= 2);
        paged.extend(page.results.iter().map(|result| result.position));
        let Some(next) = page.next else { break };
        after = Some(Cursor::from_u64(next.to_u64()));
    }
    assert_eq!(paged, wanted.map(|(_, position)| position));

    let stage = Stage::in_folder(stage.close(), MIN_BYTES).expect("opens again");
    assert_eq!(found(&stage), wanted);
    assert_eq!(stage.history.cameras(soon()).expect("answered"), ["a", "b"]);
}

#[test]
fn a_page_is_bounded_in_bytes_and_never_empty() {
    let mut stage = Stage::new(MIN_BYTES);
    for at in 0..10 {
        stage.offer(result("a", DAY_MS + at, 0, &[7; 1000]));
    }
    stage.turn();
    let camera = camera("a");
    let query =
        ResultQuery { camera: &camera, from_unix_ms: 0, to_unix_ms: i64::MAX, after: None, limit: 10, max_bytes: 2500 };
    let page = stage.history.query_results(&query, soon()).expect("answered");
    assert_eq!((page.results.len(), page.next.is_some()), (3, true));
    let page = stage.history.query_results(&ResultQuery { max_bytes: 0, ..query }, soon()).expect("answered");
    assert_eq!(page.results.len(), 1);
}

#[test]
fn what_was_committed_survives_a_kill() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(result("a", DAY_MS, 1, b"kept")).offer(count("a", DAY_S, "visits", [1, 0, 0]));
    stage.turn();
    stage.offer(result("a", DAY_MS + 1, 2, b"lost"));
    let stage = Stage::in_folder(stage.kill(), MIN_BYTES).expect("opens");
    assert_eq!(stage.results("a").len(), 1);
    assert_eq!(stage.counts(&["a"], DAY_S, DAY_S + 60, 60).buckets[0].counts[0].1.female, 1);
}

#[test]
fn incidents_open_resolve_and_outlive_a_crash() {
    let mut stage = Stage::new(MIN_BYTES);
    assert_eq!(stage.history.next_incident_id(), 1);
    let incident = |id, opened, resolved: Option<i64>, name: Option<&str>| Incident {
        id,
        camera: name.map(camera),
        kind: "stalled".into(),
        detail: "ä".repeat(400),
        opened_unix_ms: DAY_MS + opened,
        resolved_unix_ms: resolved.map(|at| DAY_MS + at),
    };
    for one in [
        incident(1, 0, None, Some("a")),
        incident(2, 10, None, None),
        incident(3, 20, Some(30), Some("b")),
        incident(1, 0, Some(15), Some("a")),
    ] {
        stage.offer(Record::Incident(one));
    }
    stage.turn();
    let stage = Stage::in_folder(stage.kill(), MIN_BYTES).expect("opens");
    assert_eq!(stage.history.next_incident_id(), 4);
    let all =
        IncidentQuery { camera: None, from_unix_ms: 0, to_unix_ms: i64::MAX, only_open: false, after: None, limit: 10 };
    let ids = |query: IncidentQuery<'_>| -> Vec<_> {
        let found = stage.history.query_incidents(&query, soon()).expect("answered");
        found.iter().map(|incident| incident.id).collect()
    };
    assert_eq!(ids(all), [1, 2, 3]);
    assert_eq!(ids(IncidentQuery { only_open: true, ..all }), [2]);
    assert_eq!(ids(IncidentQuery { camera: Some(&camera("b")), ..all }), [3]);
    assert_eq!(ids(IncidentQuery { from_unix_ms: DAY_MS + 16, ..all }), [2, 3]);
    assert_eq!(ids(IncidentQuery { to_unix_ms: DAY_MS + 10, ..all }), [1]);
    assert_eq!(ids(IncidentQuery { after: Some((DAY_MS, 1)), limit: 1, ..all }), [2]);
    let found = stage.history.query_incidents(&all, soon()).expect("answered");
    assert_eq!(found[0].resolved_unix_ms, Some(DAY_MS + 15));
    assert_eq!(found[0].detail.len(), record::MAX_DETAIL_BYTES);
    assert_eq!((found[0].camera.clone(), found[1].camera.clone()), (Some(camera("a")), None));
}

#[test]
fn what_can_never_be_stored_is_refused_at_once() {
    let stage = Stage::new(MIN_BYTES);
    let incident = |kind: &str, id| {
        Record::Incident(Incident {
            id,
            camera: None,
            kind: kind.into(),
            detail: String::new(),
            opened_unix_ms: 0,
            resolved_unix_ms: None,
        })
    };
    let refused = [
        result("a", -1, 0, b""),
        result("a", i64::MAX, 0, b""),
        result("a", DAY_MS, u64::MAX, b""),
        result("a", DAY_MS, 0, &vec![0; record::MAX_BODY_BYTES + 1]),
        count("a", i64::MAX, "visits", [1, 0, 0]),
        count("a", DAY_S, "", [1, 0, 0]),
        count("a", DAY_S, "a\u{7}b", [1, 0, 0]),
        count("a", DAY_S, &"x".repeat(record::MAX_COUNTER_BYTES + 1), [1, 0, 0]),
        covered("a", DAY_S, DAY_S),
        covered("a", DAY_S + 1, DAY_S),
        covered("a", i64::MIN, i64::MAX),
        covered("a", DAY_S, DAY_S + record::MAX_COVERED_S + 1),
        incident("", 1),
        incident("disk", u64::MAX),
    ];
    for record in refused.clone() {
        assert!(!stage.history.offer(record.clone()), "{record:?}");
    }
    let state = stage.history.state();
    assert_eq!(state.dropped.iter().flatten().sum::<u64>(), refused.len() as u64);
    assert_eq!((state.accepted, state.dropped[0][DropReason::Invalid as usize]), (0, 4));
}

#[test]
fn hostile_names_are_only_names_and_their_number_is_bounded() {
    let mut stage = Stage::new(MIN_BYTES);
    stage.offer(count("a", DAY_S, "'; DROP TABLE results; --", [1, 2, 3]));
    for number in 0..600 {
        stage.offer(count("a", DAY_S, &format!("c{number}"), [1, 0, 0]));
    }
    let state = stage.turn();
    assert_eq!(state.dropped[RecordKind::Count as usize][DropReason::NoRoom as usize], 601 - 512);
    let names = stage.history.counter_names(soon()).expect("answered");
    assert_eq!((names.len(), names[0].as_str()), (512, "'; DROP TABLE results; --"));
    assert_eq!(stage.counts(&["a"], DAY_S, DAY_S + 3600, 3600).buckets[0].counts.len(), 512);

    // More results in one millisecond than there are numbers for.
    for position in 0..600 {
        stage.offer(result("a", DAY_MS, position, b""));
    }
    let state = stage.turn();
    assert_eq!(state.dropped[0][DropReason::NoRoom as usize], 600 - 512);
}

#[test]
fn thousands_of_cameras_and_their_numbers_come_back() {
    let mut stage = Stage::new(MIN_BYTES);
    for number in 0..4_100 {
        stage.offer(result(&format!("cam-{number}"), DAY_MS + number, 0, b"x"));
    }
    let state = stage.turn();
    assert_eq!((state.written[0], state.dropped[0][DropReason::NoRoom as usize]), (4096, 4));
    assert!(state.bytes <= MIN_BYTES, "{}", state.bytes);
    // When everything of them is too old, there is room for others.
    stage.now_ms.fetch_add(40 * 86_400_000, Relaxed);
    while !stage.history.cameras(soon()).expect("answered").is_empty() {
        stage.turn();
    }
    stage.offer(result("new", stage.now_ms.load(Relaxed), 0, b"x"));
    assert_eq!(stage.turn().written[0], 4097);
}

#[test]
fn the_real_thread_flushes_and_closes() {
    let folder = tempfile::tempdir().expect("folder");
    let settings = HistorySettings {
        min_free_bytes: 0,
        // Only the flush lets it write.
        commit_every: Duration::from_secs(60),
        ..HistorySettings::new(store_file(&folder))
    };
    let (history, writer) = History::open(settings.clone()).expect("opens");
    let now_ms = (Surroundings::default().now_unix_ms)();
    assert!(history.offer(result("a", now_ms, 1, b"x")));
    assert!(history.flush(Duration::from_secs(60)));
    assert_eq!((history.state().acknowledged, history.state().commits), (1, 1));
    assert!(history.offer(result("a", now_ms, 2, b"y")));
    assert!(writer.close(Duration::from_secs(60)));
    assert!(!history.offer(result("a", now_ms, 3, b"z")), "closed");
    assert!(!lock::beside(&settings.file, "-wal").exists(), "the log is emptied and gone");
    let camera = camera("a");
    let query =
        ResultQuery { camera: &camera, from_unix_ms: 0, to_unix_ms: i64::MAX, after: None, limit: 9, max_bytes: 99 };
    assert_eq!(history.query_results(&query, soon()), Err(QueryError::Closed));

    let (history, _writer) = History::open(settings).expect("opens again");
    assert_eq!(history.query_results(&query, soon()).expect("answered").results.len(), 2);
}

#[test]
fn memory_has_a_bound_that_follows_the_settings() {
    let settings = HistorySettings::new("h");
    let bound = max_memory_bytes(&settings);
    assert!((20 << 20..60 << 20).contains(&bound), "{bound}");
    let more = HistorySettings { max_waiting_bytes: settings.max_waiting_bytes + 1000, ..settings };
    assert_eq!(max_memory_bytes(&more), bound + 1000);
}
