//! What the history acknowledged is there after `kill -9`, twenty times in a
//! row on the same file. The test starts itself again as the process to kill.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flatframe_shared::frame::CameraId;
use inference_service::history::{
    Change, CountQuery, Cursor, History, HistorySettings, Record, ResultQuery, Surroundings,
};

const KILLS: u64 = 20;
/// Set in the process to kill: the file, and the number of the first record.
const FILE: &str = "FLATFRAME_KILL_FILE";
const FIRST: &str = "FLATFRAME_KILL_FIRST";
/// A day in 2026.
const START_MS: i64 = 1_789_948_800_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(file: &Path) -> HistorySettings {
    let century = Duration::from_secs(36_500 * 86_400);
    HistorySettings {
        max_age_results: century,
        max_age_counts: century,
        min_free_bytes: 0,
        commit_every: Duration::from_millis(1),
        ..HistorySettings::new(file)
    }
}

fn camera() -> CameraId {
    CameraId::parse("door").expect("valid")
}

/// Writes record after record, and says after each commit how many are
/// acknowledged, until it is killed.
fn write_until_killed(file: &Path, first: u64) {
    let (history, _writer) = History::open_in(settings(file), Surroundings::default()).expect("opens");
    let mut said = 0;
    for number in first.. {
        let at_unix_ms = START_MS + number as i64;
        let result = Record::Result {
            camera: camera(),
            at_unix_ms,
            position: number,
            late_us: None,
            body: Bytes::from(vec![number as u8; number as usize % 300]),
        };
        let change = Change { female: 1, ..Change::default() };
        let count = Record::Count { camera: camera(), at_unix_s: at_unix_ms / 1000, counter: "visits".into(), change };
        for record in [result, count] {
            while !history.offer(record.clone()) {
                assert!(history.flush(PATIENCE), "the writer stands still");
            }
        }
        // Two records each; what is acknowledged is a begin of what was accepted.
        let acknowledged = first + history.state().acknowledged / 2;
        if acknowledged > said {
            said = acknowledged;
            println!("acknowledged {said}");
        }
    }
}

#[test]
fn acknowledged_survives_kill_9() {
    if let (Ok(file), Ok(first)) = (std::env::var(FILE), std::env::var(FIRST)) {
        return write_until_killed(Path::new(&file), first.parse().expect("a number"));
    }
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("history.sqlite");
    let (mut stored, mut opened) = (0, Vec::new());
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "acknowledged_survives_kill_9", "--nocapture", "--test-threads=1"])
            .env(FILE, &file)
            .env(FIRST, stored.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Not always at the same place of a commit.
        let (mut acknowledged, enough) = (stored, stored + 200 + kill * 97);
        while acknowledged < enough {
            let line = lines.next().expect("it writes until it is killed").expect("a line");
            if let Some(number) = line.strip_prefix("acknowledged ") {
                acknowledged = number.parse().expect("a number");
            }
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        // What it said between the last look and its end counts too.
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("acknowledged ").and_then(|number| number.parse().ok()) {
                acknowledged = acknowledged.max(number);
            }
        }

        let start = Instant::now();
        let (history, writer) = History::open(settings(&file)).expect("opens after a kill");
        opened.push(start.elapsed());
        stored = whole_results(&history);
        assert!(stored >= acknowledged, "kill {kill}: {acknowledged} were acknowledged, {stored} are there");
        let counted = visits(&history);
        // A commit may end between the result and the count of one number.
        assert!((acknowledged..=stored).contains(&counted), "kill {kill}: {counted} of {stored} counted");
        if counted < stored {
            let at_unix_s = (START_MS + stored as i64 - 1) / 1000;
            let change = Change { female: 1, ..Change::default() };
            assert!(history.offer(Record::Count { camera: camera(), at_unix_s, counter: "visits".into(), change }));
        }
        assert!(writer.close(PATIENCE));
    }
    opened.sort();
    println!("{KILLS} kills, {stored} results, open after a kill: median {:?}, slowest {:?}", opened[10], opened[19]);
}

/// Number of results, which are checked to be 0, 1, 2, ... without a gap.
fn whole_results(history: &History) -> u64 {
    let camera = camera();
    let (mut next, mut after): (u64, Option<Cursor>) = (0, None);
    loop {
        let query = ResultQuery {
            camera: &camera,
            from_unix_ms: 0,
            to_unix_ms: i64::MAX,
            after,
            limit: usize::MAX,
            max_bytes: usize::MAX,
        };
        let page = history.query_results(&query, Instant::now() + PATIENCE).expect("answered");
        for result in &page.results {
            assert_eq!((result.position, result.at_unix_ms), (next, START_MS + next as i64));
            assert_eq!(result.body, vec![next as u8; next as usize % 300]);
            next += 1;
        }
        match page.next {
            Some(cursor) => after = Some(cursor),
            None => return next,
        }
    }
}

fn visits(history: &History) -> u64 {
    let start_s = START_MS / 1000;
    let query = CountQuery {
        cameras: &[camera()],
        counters: &[],
        from_unix_s: start_s,
        to_unix_s: start_s + 10 * 86_400,
        bucket_s: 10 * 86_400,
    };
    let answer = history.query_counts(&query, Instant::now() + PATIENCE).expect("answered");
    answer.buckets[0].counts.first().map_or(0, |(_, count)| count.female as u64)
}
