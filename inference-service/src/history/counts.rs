//! Counts in buckets of time: read from hours where a bucket is made of whole
//! hours, from minutes where it is made of whole minutes, else from seconds.
//! Never writes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use flatframe_shared::frame::CameraId;
use rusqlite::{Connection, OptionalExtension, params};

use super::key::{CameraNumber, END_MS, Key, MAX_CAMERAS};
use super::query::{Failure, QueryError, camera_number};
use super::schema::Table;

/// Most buckets of one answer.
pub const MAX_BUCKETS: i64 = 10_000;
/// Most counts of one answer: buckets times counters, where there are any.
pub const MAX_CELLS: usize = 100_000;

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Women.
    pub female: i64,
    /// Men.
    pub male: i64,
    /// Whose gender is not known.
    pub unknown: i64,
}

/// One span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its first second, since the Unix epoch.
    pub start_unix_s: i64,
    /// Seconds in which cameras were analysed, added up over them. 0: nothing
    /// is known of this time, which is not the same as nobody seen.
    pub covered_s: u64,
    /// Counters with a row in this time, by name; others are 0.
    pub counts: Vec<(Arc<str>, Count)>,
}

/// Which counts are wanted.
#[derive(Debug, Clone, Copy)]
pub struct CountQuery<'a> {
    /// Of these cameras, added up.
    pub cameras: &'a [CameraId],
    /// Of these counters; none: all.
    pub counters: &'a [String],
    /// From this second, since the Unix epoch; here the first bucket begins.
    pub from_unix_s: i64,
    /// To before this one, which may cut the last bucket short.
    pub to_unix_s: i64,
    /// Length of a bucket, seconds, at least 1.
    pub bucket_s: i64,
}

/// Counts, bucket by bucket without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountAnswer {
    /// All buckets of the time asked for.
    pub buckets: Vec<Bucket>,
    /// Before this second something was removed for age or room: nothing
    /// before is reported, and its seconds are not covered.
    pub complete_from_unix_s: i64,
}

/// Counts and coverage of one level of time.
struct Level {
    unit_s: i64,
    counts: Table,
    coverage: Table,
}

const LEVELS: [Level; 3] = [
    Level { unit_s: 3600, counts: Table::CountsHour, coverage: Table::CoverageHour },
    Level { unit_s: 60, counts: Table::CountsMinute, coverage: Table::CoverageMinute },
    Level { unit_s: 1, counts: Table::CountsSecond, coverage: Table::CoverageMinute },
];

pub(super) fn counts(connection: &Connection, query: &CountQuery<'_>) -> Result<CountAnswer, Failure> {
    let CountQuery { from_unix_s: from_s, to_unix_s: to_s, bucket_s, .. } = *query;
    let end_s = END_MS / 1000;
    if bucket_s < 1 || from_s < 0 || to_s <= from_s || to_s > end_s {
        let text = format!("a count needs 0 <= from < to <= {end_s} and a bucket of 1 s at least");
        return Err(QueryError::Invalid(text).into());
    }
    if (to_s - from_s - 1) / bucket_s >= MAX_BUCKETS || query.cameras.len() > MAX_CAMERAS {
        let text = format!("at most {MAX_BUCKETS} buckets and {MAX_CAMERAS} cameras are allowed");
        return Err(QueryError::TooLarge(text).into());
    }
    let mut sums = Sums::new(connection, query)?;
    let cameras: HashSet<&CameraId> = query.cameras.iter().collect();
    let numbers: Vec<_> = cameras
        .into_iter()
        .filter_map(|camera| camera_number(connection, camera).transpose())
        .collect::<Result<_, _>>()?;
    let mut complete_s = 0;
    let mut at_s = from_s;
    // The whole units of the coarsest level that fits all buckets, then what
    // the end cuts off, at finer ones.
    for level in &LEVELS {
        let fits = from_s % level.unit_s == 0 && bucket_s % level.unit_s == 0;
        let until_s = to_s - to_s % level.unit_s;
        if !fits || until_s <= at_s {
            continue;
        }
        let horizon_s = level.horizon_s(connection)?;
        let first_s = horizon_s.max(at_s);
        if at_s < horizon_s {
            complete_s = complete_s.max(horizon_s);
        }
        for &camera in &numbers {
            sums.add_counts(connection, level, camera, first_s, until_s)?;
            sums.add_coverage(connection, level, camera, first_s, until_s)?;
        }
        at_s = until_s;
    }
    Ok(CountAnswer { buckets: sums.buckets, complete_from_unix_s: complete_s })
}

impl Level {
    /// The first second, at a begin of a unit, of which all rows are there.
    fn horizon_s(&self, connection: &Connection) -> rusqlite::Result<i64> {
        let mut statement = connection.prepare_cached("SELECT from_ms FROM horizons WHERE id = ?")?;
        let mut horizon_ms = 0;
        for table in [self.counts, self.coverage] {
            let found: Option<i64> = statement.query_row([table as i64], |row| row.get(0)).optional()?;
            horizon_ms = horizon_ms.max(found.unwrap_or_default());
        }
        let unit_ms = self.unit_s * 1000;
        Ok((horizon_ms + unit_ms - 1) / unit_ms * self.unit_s)
    }
}

/// The buckets while they fill.
struct Sums<'a> {
    query: &'a CountQuery<'a>,
    /// Names of the wanted counters by number.
    counters: BTreeMap<u16, Arc<str>>,
    buckets: Vec<Bucket>,
    cells: usize,
}

impl<'a> Sums<'a> {
    fn new(connection: &Connection, query: &'a CountQuery<'a>) -> Result<Self, Failure> {
        let starts = (query.from_unix_s..query.to_unix_s).step_by(query.bucket_s as usize);
        let bucket = |start_unix_s| Bucket { start_unix_s, covered_s: 0, counts: Vec::new() };
        let mut counters = BTreeMap::new();
        let mut statement = connection.prepare_cached("SELECT id, name FROM counters")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            if query.counters.is_empty() || query.counters.contains(&name) {
                counters.insert(row.get(0)?, name.into());
            }
        }
        Ok(Self { query, counters, buckets: starts.map(bucket).collect(), cells: 0 })
    }

    /// The bucket of a second within the time asked for.
    fn bucket(&mut self, at_s: i64) -> Option<&mut Bucket> {
        let place = (at_s - self.query.from_unix_s) / self.query.bucket_s;
        self.buckets.get_mut(usize::try_from(place).ok()?)
    }

    fn add_counts(
        &mut self,
        connection: &Connection,
        level: &Level,
        camera: CameraNumber,
        from_s: i64,
        to_s: i64,
    ) -> Result<(), Failure> {
        let name = level.counts.name();
        let sql = format!("SELECT key, female, male, unknown FROM {name} WHERE key BETWEEN ? AND ? ORDER BY key");
        let mut statement = connection.prepare_cached(&sql)?;
        let range = Key::between(camera, from_s * 1000, to_s * 1000);
        let mut rows = statement.query(params![range.start(), range.end()])?;
        while let Some(row) = rows.next()? {
            let key = Key(row.get(0)?);
            let Some(counter) = self.counters.get(&key.last()).cloned() else { continue };
            let row = Count { female: row.get(1)?, male: row.get(2)?, unknown: row.get(3)? };
            let Some(bucket) = self.bucket(key.at_ms() / 1000) else { continue };
            match bucket.counts.iter_mut().find(|(name, _)| *name == counter) {
                Some((_, sum)) => sum.add(row),
                None => {
                    bucket.counts.push((counter, row));
                    bucket.counts.sort_by(|(one, _), (other, _)| one.cmp(other));
                    self.cells += 1;
                }
            }
            if self.cells > MAX_CELLS {
                let text = format!("more than {MAX_CELLS} counts; ask for fewer counters or larger buckets");
                return Err(QueryError::TooLarge(text).into());
            }
        }
        Ok(())
    }

    fn add_coverage(
        &mut self,
        connection: &Connection,
        level: &Level,
        camera: CameraNumber,
        from_s: i64,
        to_s: i64,
    ) -> Result<(), Failure> {
        let name = level.coverage.name();
        let sql = format!("SELECT key, seconds FROM {name} WHERE key BETWEEN ? AND ? ORDER BY key");
        let mut statement = connection.prepare_cached(&sql)?;
        // A row of minutes may begin before the first second.
        let unit_s = level.coverage.unit_ms() / 1000;
        let range = Key::between(camera, (from_s - from_s % unit_s) * 1000, to_s * 1000);
        let mut rows = statement.query(params![range.start(), range.end()])?;
        while let Some(row) = rows.next()? {
            let (start_s, seconds): (i64, i64) = (Key(row.get(0)?).at_ms() / 1000, row.get(1)?);
            match level.unit_s {
                3600 => self.cover(start_s, seconds.clamp(0, 3600) as u64),
                60 => self.cover(start_s, u64::from(seconds.count_ones())),
                _ => {
                    for second in (0..60).filter(|second| seconds >> second & 1 == 1) {
                        let at_s = start_s + second;
                        if (from_s..to_s).contains(&at_s) {
                            self.cover(at_s, 1);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn cover(&mut self, at_s: i64, seconds: u64) {
        if let Some(bucket) = self.bucket(at_s) {
            bucket.covered_s += seconds;
        }
    }
}

impl Count {
    /// A sum that a damaged row must not overflow.
    fn add(&mut self, other: Count) {
        self.female = self.female.saturating_add(other.female);
        self.male = self.male.saturating_add(other.male);
        self.unknown = self.unknown.saturating_add(other.unknown);
    }
}
