//! Reads a damaged table stretch by stretch into a new one: where it cannot
//! be read on, the next key that can be read is looked for. Writes into the
//! new store alone.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::{Gap, MAX_FINDINGS, RepairedTable, other, salvage};

/// Rows copied in one transaction.
const COPY_ROWS: u64 = 50_000;

/// Copies what can be read of one table, in order of its keys.
pub fn copy_table(
    old: &Connection,
    new: &mut Connection,
    name: &'static str,
    columns: &str,
) -> rusqlite::Result<RepairedTable> {
    let mut table = RepairedTable { name, saved: 0, refused: 0, gaps: Vec::new() };
    let count = columns.split(',').count();
    let places = vec!["?"; count].join(", ");
    let insert = format!("INSERT INTO {name}({columns}) VALUES({places})");
    // By the rows themselves: an index may be damaged too.
    let select = format!("SELECT {columns} FROM {name} NOT INDEXED WHERE rowid >= ? ORDER BY rowid");
    // Keys and ids are never negative.
    let mut next = Some(0);
    let mut last = None;
    while let Some(from) = next {
        let transaction = new.transaction()?;
        let (read, copied) = {
            let mut statement = transaction.prepare_cached(&insert)?;
            let mut copied = 0;
            let read = read_from(old, &select, from, count, |values| {
                let Some(Value::Integer(key)) = values.first() else { return Ok(false) };
                last = Some(*key);
                // STRICT and NOT NULL refuse what is not what it should be.
                match statement.execute(params_from_iter(values)) {
                    Ok(_) => table.saved += 1,
                    Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                        table.refused += 1;
                    }
                    Err(error) => return Err(error),
                }
                copied += 1;
                Ok(copied < COPY_ROWS)
            });
            (read, copied)
        };
        transaction.commit()?;
        let behind = last.map_or(Some(from), |last| last.checked_add(1));
        next = match read {
            Read::Failed(error) => return Err(error),
            Read::Stopped => behind,
            Read::End => None,
            Read::Damaged => {
                let found = behind.and_then(|behind| readable_from(old, name, behind));
                if table.gaps.len() < MAX_FINDINGS {
                    table.gaps.push(Gap { after: last, before: found });
                }
                found
            }
        };
        // What is read twice at one place would be read for ever.
        if copied == 0 && next == Some(from) {
            break;
        }
    }
    Ok(table)
}

/// Finds results of the gaps in pages that no readable page leads to.
pub fn salvage_results(damaged: &Path, new: &mut Connection, gaps: &[Gap]) -> rusqlite::Result<u64> {
    let transaction = new.transaction()?;
    let mut saved = 0;
    {
        let mut statement =
            transaction.prepare("INSERT OR IGNORE INTO results(key, position, body) VALUES(?, ?, ?)")?;
        salvage::results(damaged, |row| {
            let lost = |gap: &Gap| {
                gap.after.is_none_or(|after| row.key > after) && gap.before.is_none_or(|before| row.key < before)
            };
            if gaps.iter().any(lost) {
                saved += statement.execute(rusqlite::params![row.key, row.position, row.body])? as u64;
            }
            Ok::<(), SalvageError>(())
        })
        .map_err(|error| error.0)?;
    }
    transaction.commit()?;
    Ok(saved)
}

struct SalvageError(rusqlite::Error);

impl From<rusqlite::Error> for SalvageError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error)
    }
}

impl From<std::io::Error> for SalvageError {
    fn from(error: std::io::Error) -> Self {
        Self(other(error.to_string()))
    }
}

enum Read {
    /// No more rows.
    End,
    /// The rows were enough.
    Stopped,
    /// The next row cannot be read.
    Damaged,
    /// The new file cannot be written.
    Failed(rusqlite::Error),
}

fn read_from(
    old: &Connection,
    select: &str,
    from: i64,
    count: usize,
    mut row: impl FnMut(Vec<Value>) -> rusqlite::Result<bool>,
) -> Read {
    let Ok(mut statement) = old.prepare_cached(select) else { return Read::Damaged };
    let Ok(mut rows) = statement.query([from]) else { return Read::Damaged };
    loop {
        let values = match rows.next() {
            Ok(Some(found)) => (0..count).map(|column| found.get(column)).collect::<rusqlite::Result<Vec<Value>>>(),
            Ok(None) => return Read::End,
            Err(_) => return Read::Damaged,
        };
        match values.map(&mut row) {
            Ok(Ok(true)) => (),
            Ok(Ok(false)) => return Read::Stopped,
            Ok(Err(error)) => return Read::Failed(error),
            Err(_) => return Read::Damaged,
        }
    }
}

/// The first key from `from` on behind a damaged stretch: steps that double
/// until something can be read, then halves back.
fn readable_from(old: &Connection, name: &str, from: i64) -> Option<i64> {
    let sql = format!("SELECT rowid FROM {name} NOT INDEXED WHERE rowid >= ? ORDER BY rowid LIMIT 1");
    let first = |from: i64| -> Option<i64> { old.prepare_cached(&sql).ok()?.query_row([from], |row| row.get(0)).ok() };
    let (mut bad, mut step) = (from, 1_i64);
    let mut good = loop {
        let at = bad.checked_add(step)?;
        if first(at).is_some() {
            break at;
        }
        (bad, step) = (at, step.checked_mul(2)?);
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if first(middle).is_some() { good = middle } else { bad = middle }
    }
    first(good)
}
