//! Incidents of this replica and of others, and what watchers see of them.

use super::*;

const START_MS: i64 = 1_700_000_000_000;

struct Clock {
    incidents: Arc<Incidents>,
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { incidents: Arc::new(Incidents::new(IncidentConfig::default(), 1)), start: Instant::now() }
    }

    /// `s` seconds after the start these are dark.
    fn dark(&self, s: u64, cameras: &[&str]) -> Vec<Arc<Incident>> {
        let condition = |id: &&str| Condition {
            camera: Some(CameraId::parse(id).expect("an id")),
            kind: IncidentKind::Dark,
            since: Duration::ZERO,
            detail: format!("seen at {s}"),
        };
        let conditions = cameras.iter().map(condition).collect();
        self.incidents.look(conditions, self.start + Duration::from_secs(s), START_MS + 1000 * s as i64)
    }
}

/// Another replica tells of an incident of `camera`.
fn told(incidents: &Incidents, id: u64, camera: &str, ended_unix_ms: Option<i64>) {
    incidents.heard(Incident {
        id,
        camera: Some(CameraId::parse(camera).expect("an id")),
        kind: IncidentKind::Dark,
        detail: String::new(),
        started_unix_ms: START_MS + 1,
        ended_unix_ms,
        replica: Some("other".into()),
    });
}

fn texts(watch: &mut IncidentWatch) -> Vec<String> {
    std::iter::from_fn(|| watch.take())
        .map(|change| match change {
            Change::Gap(missed) => format!("gap {missed}"),
            Change::Incident(one) => {
                let camera = one.camera.as_ref().map_or("server", CameraId::as_str);
                let end = if one.ended_unix_ms.is_some() { "over" } else { "open" };
                format!("{camera} {end}")
            }
        })
        .collect()
}

#[test]
fn opens_after_its_time_and_ends_at_once() {
    let clock = Clock::new();
    assert!(clock.dark(0, &["a"]).is_empty() && clock.dark(29, &["a"]).is_empty());
    let opened = clock.dark(30, &["a"]);
    assert_eq!((opened.len(), opened[0].started_unix_ms, opened[0].ended_unix_ms), (1, START_MS, None));
    assert!(clock.dark(31, &["a"]).is_empty(), "told once");
    assert_eq!(clock.incidents.live(), 1);
    let ended = clock.dark(32, &[]);
    assert_eq!((ended.len(), ended[0].id, ended[0].ended_unix_ms), (1, opened[0].id, Some(START_MS + 32_000)));
    assert_eq!(clock.incidents.live(), 0);
}

#[test]
fn a_state_that_flickers_is_no_incident() {
    let clock = Clock::new();
    for s in 0..200 {
        let cameras: &[&str] = if s % 20 == 19 { &[] } else { &["a"] };
        assert!(clock.dark(s, cameras).is_empty(), "{s}");
    }
}

#[test]
fn those_of_other_replicas_are_as_last_told() {
    let clock = Clock::new();
    clock.dark(0, &["a"]);
    clock.dark(30, &["a"]);
    // The same number as the one here: they are of another replica.
    told(&clock.incidents, 1, "b", None);
    told(&clock.incidents, 2, "c", None);
    told(&clock.incidents, 1, "b", Some(START_MS + 5));
    // Of a run that broke off: the next one tells of the same state anew.
    told(&clock.incidents, 3, "d", None);
    told(&clock.incidents, 1, "d", None);
    let mut watch = clock.incidents.watch();
    assert_eq!(texts(&mut watch), ["a open", "b over", "d open", "c open"]);
    assert_eq!(clock.incidents.live(), 1, "here");
    told(&clock.incidents, 2, "c", Some(START_MS + 6));
    assert_eq!(texts(&mut watch), ["c over"]);
    clock.incidents.missed(3);
    assert_eq!(texts(&mut watch), ["gap 3", "a open"]);
    clock.dark(31, &[]);
    assert_eq!(texts(&mut watch), ["a over"]);
    assert_eq!(texts(&mut clock.incidents.watch()), ["a over"]);
    clock.incidents.not_understood();
    assert_eq!(texts(&mut watch), ["gap 1", "a open", "a over"]);
}

#[test]
fn a_watcher_gets_open_ones_then_changes_then_a_gap() {
    let clock = Clock::new();
    clock.dark(0, &["a", "b"]);
    clock.dark(30, &["a", "b"]);
    clock.dark(31, &["b"]);
    let mut watch = clock.incidents.watch();
    assert_eq!(texts(&mut watch), ["a over", "b open"]);
    clock.dark(32, &[]);
    assert_eq!(texts(&mut watch), ["b over"]);
    for round in 0..200 {
        clock.dark(100 * round, &["c"]);
        clock.dark(100 * round + 30, &["c"]);
        clock.dark(100 * round + 31, &[]);
    }
    let late = texts(&mut watch);
    assert_eq!((late[0].as_str(), late.len()), ("gap 144", 1 + RING));
}
