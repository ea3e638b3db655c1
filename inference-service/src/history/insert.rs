//! Writes one record into the tables, counts rolled up to minutes and hours at
//! once. Keeps the numbers of cameras and counters; neither makes room nor
//! commits.

use std::collections::{BTreeSet, HashMap};

use flatframe_shared::frame::CameraId;
use rusqlite::{Connection, OptionalExtension, params};

use super::key::{CameraNumber, Key, MAX_CAMERAS, MAX_LAST};
use super::prune::Ages;
use super::record::{Change, Incident, Record};
use super::schema::Table;
use super::state::DropReason;

/// What the writer knows of the store's content, so as not to ask for it.
/// After a rollback it is made anew.
#[derive(Debug, Default)]
pub struct Known {
    cameras: HashMap<CameraId, CameraNumber>,
    numbers: BTreeSet<CameraNumber>,
    counters: HashMap<String, u16>,
    /// Last result of a camera.
    newest: HashMap<CameraNumber, Key>,
    /// Capture of the newest late result of a camera, us.
    late: HashMap<CameraNumber, i64>,
    /// Oldest rows.
    pub ages: Ages,
    /// Rows of incidents.
    pub incidents: usize,
}

/// Whether a record is in the store now.
type Written = Result<(), DropReason>;

impl Known {
    /// Reads the numbers.
    pub fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut known = Self::default();
        let mut statement = connection.prepare("SELECT id, name FROM cameras")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (number, name): (CameraNumber, String) = (row.get(0)?, row.get(1)?);
            known.numbers.insert(number);
            // An id that is none holds its number until its rows are gone.
            if let Ok(camera) = CameraId::parse(&name) {
                known.cameras.insert(camera, number);
            }
        }
        let mut statement = connection.prepare("SELECT id, name FROM counters")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            known.counters.insert(row.get(1)?, row.get(0)?);
        }
        let mut statement = connection.prepare("SELECT id, newest_us FROM late")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            known.late.insert(row.get(0)?, row.get(1)?);
        }
        known.ages = Ages::unknown(known.numbers.iter().copied());
        let incidents: u32 = connection.query_row("SELECT count(*) FROM incidents", [], |row| row.get(0))?;
        known.incidents = incidents as usize;
        Ok(known)
    }

    /// Time of the newest result written since the start, ms.
    pub fn newest_result_ms(&self) -> Option<i64> {
        self.newest.values().map(|key| key.at_ms()).max()
    }

    /// Counters that have a number, and one more that may get one.
    pub fn counters(&self) -> u64 {
        self.counters.len() as u64 + 1
    }

    /// Whether a result of this time is later than all of its camera.
    pub fn appends(&self, camera: &CameraId, at_ms: i64) -> bool {
        let newest = self.cameras.get(camera).and_then(|number| self.newest.get(number));
        newest.is_some_and(|newest| at_ms > newest.at_ms())
    }

    /// Forgets a camera of which nothing is left; false when there is none.
    pub fn forget_one(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        let Some(&number) = self.numbers.iter().find(|&&number| !self.ages.knows(number)) else { return Ok(false) };
        connection.prepare_cached("DELETE FROM cameras WHERE id = ?")?.execute([number])?;
        connection.prepare_cached("DELETE FROM late WHERE id = ?")?.execute([number])?;
        self.late.remove(&number);
        self.numbers.remove(&number);
        self.cameras.retain(|_, other| *other != number);
        self.newest.remove(&number);
        Ok(true)
    }

    fn camera(&mut self, connection: &Connection, camera: &CameraId) -> rusqlite::Result<Option<CameraNumber>> {
        if let Some(&number) = self.cameras.get(camera) {
            return Ok(Some(number));
        }
        let free = (0..MAX_CAMERAS as CameraNumber).find(|number| !self.numbers.contains(number));
        let Some(number) = free else { return Ok(None) };
        connection
            .prepare_cached("INSERT INTO cameras(id, name) VALUES(?, ?)")?
            .execute(params![number, camera.as_str()])?;
        self.numbers.insert(number);
        self.cameras.insert(camera.clone(), number);
        Ok(Some(number))
    }

    fn counter(&mut self, connection: &Connection, name: &str) -> rusqlite::Result<Option<u16>> {
        if let Some(&number) = self.counters.get(name) {
            return Ok(Some(number));
        }
        let number = self.counters.len() as u16;
        if number >= MAX_LAST {
            return Ok(None);
        }
        // Numbers are handed out in order; a repaired store may have gaps below.
        let number = (0..MAX_LAST).find(|number| !self.counters.values().any(|other| other == number));
        let Some(number) = number else { return Ok(None) };
        connection.prepare_cached("INSERT INTO counters(id, name) VALUES(?, ?)")?.execute(params![number, name])?;
        self.counters.insert(name.into(), number);
        Ok(Some(number))
    }

    /// Writes a record of which [`Record::checked`] approves.
    pub fn insert(&mut self, connection: &Connection, record: &Record) -> rusqlite::Result<Written> {
        let camera = match record {
            Record::Result { camera, .. } | Record::Count { camera, .. } | Record::Covered { camera, .. } => camera,
            Record::Incident(incident) => return self.insert_incident(connection, incident).map(Ok),
        };
        let Some(number) = self.camera(connection, camera)? else { return Ok(Err(DropReason::NoRoom)) };
        match record {
            Record::Result { at_unix_ms, position, late_us, body, .. } => {
                if late_us.is_some_and(|late_us| self.late.get(&number).is_some_and(|newest| late_us <= *newest)) {
                    return Ok(Err(DropReason::Known));
                }
                let written = self.insert_result(connection, number, *at_unix_ms, *position, body)?;
                if let (Some(late_us), Ok(())) = (late_us, written) {
                    self.insert_late(connection, number, *late_us)?;
                }
                Ok(written)
            }
            Record::Count { at_unix_s, counter, change, .. } => {
                let Some(counter) = self.counter(connection, counter)? else { return Ok(Err(DropReason::NoRoom)) };
                self.insert_count(connection, number, at_unix_s * 1000, counter, *change).map(Ok)
            }
            Record::Covered { from_unix_s, to_unix_s, .. } => {
                self.insert_covered(connection, number, *from_unix_s, *to_unix_s).map(Ok)
            }
            Record::Incident(_) => Ok(Ok(())),
        }
    }

    fn insert_result(
        &mut self,
        connection: &Connection,
        camera: CameraNumber,
        at_ms: i64,
        position: u64,
        body: &[u8],
    ) -> rusqlite::Result<Written> {
        let newest = match self.newest.get(&camera) {
            Some(&newest) => Some(newest),
            None => last_key(connection, camera, 0, super::key::END_MS)?,
        };
        // Several results of one millisecond stay in the order of their arrival.
        let same = match newest {
            Some(newest) if newest.at_ms() < at_ms => None,
            Some(newest) if newest.at_ms() == at_ms => Some(newest),
            Some(_) => last_key(connection, camera, at_ms, at_ms + 1)?,
            None => None,
        };
        let last = same.map_or(0, |same| same.last() + 1);
        if last >= MAX_LAST {
            return Ok(Err(DropReason::NoRoom));
        }
        let key = Key::new(camera, at_ms, last);
        connection.prepare_cached("INSERT INTO results(key, position, body) VALUES(?, ?, ?)")?.execute(params![
            key.0,
            position as i64,
            body
        ])?;
        self.newest.insert(camera, newest.map_or(key, |newest| newest.max(key)));
        self.ages.note(Table::Results, camera, at_ms);
        Ok(Ok(()))
    }

    /// In the transaction of the result: either both are there or none.
    fn insert_late(&mut self, connection: &Connection, camera: CameraNumber, late_us: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO late(id, newest_us) VALUES(?, ?)
                 ON CONFLICT(id) DO UPDATE SET newest_us = excluded.newest_us",
            )?
            .execute(params![camera, late_us])?;
        self.late.insert(camera, late_us);
        Ok(())
    }

    fn insert_count(
        &mut self,
        connection: &Connection,
        camera: CameraNumber,
        at_ms: i64,
        counter: u16,
        change: Change,
    ) -> rusqlite::Result<()> {
        for table in [Table::CountsSecond, Table::CountsMinute, Table::CountsHour] {
            let start_ms = at_ms - at_ms % table.unit_ms();
            let name = table.name();
            connection
                .prepare_cached(&format!(
                    "INSERT INTO {name}(key, female, male, unknown) VALUES(?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET
                     female = female + excluded.female, male = male + excluded.male,
                     unknown = unknown + excluded.unknown"
                ))?
                .execute(params![Key::new(camera, start_ms, counter).0, change.female, change.male, change.unknown])?;
            self.ages.note(table, camera, start_ms);
        }
        Ok(())
    }

    fn insert_covered(
        &mut self,
        connection: &Connection,
        camera: CameraNumber,
        from_s: i64,
        to_s: i64,
    ) -> rusqlite::Result<()> {
        let mut minute = from_s / 60;
        while minute * 60 < to_s {
            let (first, end) = ((from_s - minute * 60).max(0), (to_s - minute * 60).min(60));
            let bits = ((1_i64 << (end - first)) - 1) << first;
            let key = Key::new(camera, minute * 60_000, 0);
            let old: Option<i64> = connection
                .prepare_cached("SELECT seconds FROM coverage_minute WHERE key = ?")?
                .query_row([key.0], |row| row.get(0))
                .optional()?;
            let new = (bits & !old.unwrap_or_default()).count_ones();
            if new > 0 {
                connection
                    .prepare_cached(
                        "INSERT INTO coverage_minute(key, seconds) VALUES(?, ?)
                         ON CONFLICT(key) DO UPDATE SET seconds = seconds | excluded.seconds",
                    )?
                    .execute(params![key.0, bits])?;
                let hour_ms = minute / 60 * 3_600_000;
                // A minute that was pruned and comes again must not make an
                // hour longer than it is.
                connection
                    .prepare_cached(
                        "INSERT INTO coverage_hour(key, seconds) VALUES(?, ?)
                         ON CONFLICT(key) DO UPDATE SET seconds = min(3600, seconds + excluded.seconds)",
                    )?
                    .execute(params![Key::new(camera, hour_ms, 0).0, new])?;
                self.ages.note(Table::CoverageMinute, camera, minute * 60_000);
                self.ages.note(Table::CoverageHour, camera, hour_ms);
            }
            minute += 1;
        }
        Ok(())
    }

    fn insert_incident(&mut self, connection: &Connection, incident: &Incident) -> rusqlite::Result<()> {
        let known = connection
            .prepare_cached("UPDATE incidents SET detail = ?, resolved_ms = ? WHERE id = ?")?
            .execute(params![incident.detail, incident.resolved_unix_ms, incident.id as i64])?;
        if known == 0 {
            connection
                .prepare_cached(
                    "INSERT INTO incidents(id, camera, kind, detail, opened_ms, resolved_ms) VALUES(?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    incident.id as i64,
                    incident.camera.as_ref().map_or("", CameraId::as_str),
                    incident.kind,
                    incident.detail,
                    incident.opened_unix_ms,
                    incident.resolved_unix_ms
                ])?;
            self.incidents += 1;
        }
        Ok(())
    }
}

/// The last result of a camera within a span of time.
fn last_key(connection: &Connection, camera: CameraNumber, from_ms: i64, to_ms: i64) -> rusqlite::Result<Option<Key>> {
    let range = Key::between(camera, from_ms, to_ms);
    connection
        .prepare_cached("SELECT key FROM results WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1")?
        .query_row(params![range.start(), range.end()], |row| row.get(0).map(Key))
        .optional()
}
