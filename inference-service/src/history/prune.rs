//! What is removed, and in which order: by age, and the oldest of the least
//! valuable table when there is no room. Always in small steps within the
//! transaction that writes; a step says how many pages it may have changed.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::key::{CameraNumber, END_MS, Key};
use super::schema::{PAGE_BYTES, Table};

/// Most rows of one step.
const STEP_ROWS: i64 = 2_048;
/// Most bytes of one step.
const STEP_BYTES: u64 = 256 * 1024;
/// Pages that one step may change: its rows in half-full pages, and what
/// leads to them.
pub const STEP_PAGES: u64 = 2 * STEP_BYTES / PAGE_BYTES + 32;
/// How far the oldest camera may get ahead of the next oldest in one step, ms.
const STEP_AHEAD_MS: i64 = 60_000;
/// What a row costs besides its body, bytes.
pub const ROW_BYTES: u64 = 40;
/// Incidents removed in one step.
const STEP_INCIDENTS: usize = 256;

/// A lower bound of the oldest row's time for each table and camera. Starts
/// with 0, which is always one, and learns as it looks: a start must not read
/// every camera's first page.
#[derive(Debug, Default)]
pub struct Ages {
    oldest: [BTreeMap<CameraNumber, i64>; Table::ALL.len()],
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Rows that are gone.
    pub rows: u64,
    /// Pages that may have changed.
    pub pages: u64,
}

impl Ages {
    /// For these cameras, of which nothing is known.
    pub fn unknown(cameras: impl Iterator<Item = CameraNumber>) -> Self {
        let bounds: BTreeMap<_, _> = cameras.map(|camera| (camera, 0)).collect();
        Self { oldest: std::array::from_fn(|_| bounds.clone()) }
    }

    /// A row was written.
    pub fn note(&mut self, table: Table, camera: CameraNumber, at_ms: i64) {
        let bound = self.oldest[table as usize].entry(camera).or_insert(at_ms);
        *bound = at_ms.min(*bound);
    }

    /// Whether a camera may have rows.
    pub fn knows(&self, camera: CameraNumber) -> bool {
        self.oldest.iter().any(|bounds| bounds.contains_key(&camera))
    }

    /// Lower bound of the oldest row of a table, ms; `None` when it is empty.
    pub fn oldest_ms(&self, table: Table) -> Option<i64> {
        self.oldest[table as usize].values().min().copied()
    }

    /// The camera with the oldest row of a table and that row's time, found
    /// with at most `looks` looks into the file; `None` when the table is
    /// empty or the looks are used up.
    fn find_oldest(
        &mut self,
        connection: &Connection,
        table: Table,
        looks: &mut usize,
    ) -> rusqlite::Result<Option<(CameraNumber, i64)>> {
        let sql = format!("SELECT key FROM {} WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1", table.name());
        let mut statement = connection.prepare_cached(&sql)?;
        let bounds = &mut self.oldest[table as usize];
        while *looks > 0 {
            let Some((&camera, &bound)) = bounds.iter().min_by_key(|(_, bound)| **bound) else { return Ok(None) };
            *looks -= 1;
            let range = Key::between(camera, bound, END_MS);
            let first =
                statement.query_row(params![range.start(), range.end()], |row| row.get(0).map(Key)).optional()?;
            match first {
                None => {
                    bounds.remove(&camera);
                }
                Some(key) if key.at_ms() > bound => {
                    bounds.insert(camera, key.at_ms());
                }
                Some(_) => return Ok(Some((camera, bound))),
            }
        }
        Ok(None)
    }

    /// Removes some rows of a table that are older than `cut_ms`; `None` when
    /// there are none, as far as `looks` looks show.
    pub fn prune_age(
        &mut self,
        connection: &Connection,
        table: Table,
        cut_ms: i64,
        looks: &mut usize,
    ) -> rusqlite::Result<Option<Step>> {
        if self.oldest_ms(table).is_none_or(|bound| bound >= cut_ms) {
            return Ok(None);
        }
        match self.find_oldest(connection, table, looks)? {
            Some((camera, at_ms)) if at_ms < cut_ms => self.remove(connection, table, camera, cut_ms).map(Some),
            _ => Ok(None),
        }
    }

    /// Removes some of the oldest rows of the first table in [`Table::rank`]
    /// that has any; `None` when all are empty.
    pub fn prune_oldest(&mut self, connection: &Connection) -> rusqlite::Result<Option<Step>> {
        let mut found: Option<(Table, CameraNumber, i64)> = None;
        for table in Table::ALL {
            if found.is_some_and(|(best, ..)| best.rank() < table.rank()) {
                break;
            }
            let mut looks = usize::MAX;
            let oldest = self.find_oldest(connection, table, &mut looks)?;
            if let Some((camera, at_ms)) = oldest
                && found.is_none_or(|(.., best_ms)| at_ms < best_ms)
            {
                found = Some((table, camera, at_ms));
            }
        }
        let Some((table, camera, at_ms)) = found else { return Ok(None) };
        let others = self.oldest[table as usize].iter().filter(|(other, _)| **other != camera);
        let next_ms = others.map(|(_, &bound)| bound).min().unwrap_or(END_MS);
        let until_ms = next_ms.max(at_ms).saturating_add(STEP_AHEAD_MS);
        self.remove(connection, table, camera, until_ms).map(Some)
    }

    fn remove(
        &mut self,
        connection: &Connection,
        table: Table,
        camera: CameraNumber,
        until_ms: i64,
    ) -> rusqlite::Result<Step> {
        let (name, range) = (table.name(), Key::between(camera, 0, until_ms));
        let size = if table == Table::Results { "length(body)" } else { "0" };
        let sql = format!("SELECT key, {size} FROM {name} WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![range.start(), range.end(), STEP_ROWS])?;
        let (mut bytes, mut last) = (0, Key(*range.start()));
        while bytes < STEP_BYTES
            && let Some(row) = rows.next()?
        {
            last = Key(row.get(0)?);
            bytes += ROW_BYTES + u64::from(row.get::<_, u32>(1)?);
        }
        drop(rows);
        let sql = format!("DELETE FROM {name} WHERE key BETWEEN ? AND ?");
        let rows = connection.prepare_cached(&sql)?.execute(params![range.start(), last.0])?;
        // What was removed is no longer zero but unknown, from the begin of
        // time to the end of the row's unit.
        connection
            .prepare_cached(
                "INSERT INTO horizons(id, from_ms) VALUES(?, ?)
                 ON CONFLICT(id) DO UPDATE SET from_ms = max(from_ms, excluded.from_ms)",
            )?
            .execute(params![table as i64, last.at_ms() + table.unit_ms()])?;
        self.oldest[table as usize].insert(camera, last.at_ms());
        Ok(Step { rows: rows as u64, pages: 2 * bytes / PAGE_BYTES + 32 })
    }
}

/// Removes the oldest incidents: those opened before `cut_ms`, and so many
/// that at most `max_rows` of `rows` stay.
pub fn prune_incidents(connection: &Connection, cut_ms: i64, rows: usize, max_rows: usize) -> rusqlite::Result<usize> {
    let over = rows.saturating_sub(max_rows).min(STEP_INCIDENTS);
    let mut gone = connection
        .prepare_cached(
            "DELETE FROM incidents WHERE id IN
             (SELECT id FROM incidents WHERE opened_ms < ? ORDER BY opened_ms LIMIT ?)",
        )?
        .execute(params![cut_ms, STEP_INCIDENTS as i64])?;
    if gone < over {
        gone += connection
            .prepare_cached("DELETE FROM incidents WHERE id IN (SELECT id FROM incidents ORDER BY opened_ms LIMIT ?)")?
            .execute([(over - gone) as i64])?;
    }
    Ok(gone)
}
