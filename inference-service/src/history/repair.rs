//! For people, while no service runs: looks through a whole store, and copies
//! what can be read of a damaged one into a new one. Never changes a row of
//! the file that it is given; that one is kept under another name.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

mod copy;
mod salvage;

use copy::{copy_table, salvage_results};

use super::key::Key;
use super::lock::beside;
use super::open::{OpenError, lock, missing_object, sync_folder};
use super::schema::{APPLICATION_ID, PAGE_BYTES, VERSION, connect, create, pragma};

/// Most findings that are listed.
const MAX_FINDINGS: usize = 100;
/// Tables with their columns, key first.
const TABLES: [(&str, &str); 11] = [
    ("cameras", "id, name"),
    ("counters", "id, name"),
    ("horizons", "id, from_ms"),
    ("incidents", "id, camera, kind, detail, opened_ms, resolved_ms"),
    ("results", "key, position, body"),
    ("counts_second", "key, female, male, unknown"),
    ("counts_minute", "key, female, male, unknown"),
    ("counts_hour", "key, female, male, unknown"),
    ("coverage_minute", "key, seconds"),
    ("coverage_hour", "key, seconds"),
    ("late", "id, newest_us"),
];

/// What a look through a store found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// What is wrong, at most 100 lines; none: it is whole.
    pub findings: Vec<String>,
    /// Rows by table, as far as they can be counted.
    pub rows: Vec<(&'static str, Option<u64>)>,
}

/// What became of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedTable {
    /// Its name.
    pub name: &'static str,
    /// Rows that are in the new file.
    pub saved: u64,
    /// Rows that could be read and make no sense.
    pub refused: u64,
    /// Stretches that could not be read in order, as the keys around them; at
    /// most 100. Results of them that were found all the same are in `saved`.
    pub gaps: Vec<Gap>,
}

/// A stretch of a table that could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last key before it; `None`: it is at the begin.
    pub after: Option<i64>,
    /// The first key behind it; `None`: it reaches to the end.
    pub before: Option<i64>,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Table by table.
    pub tables: Vec<RepairedTable>,
    /// Where the damaged file is now.
    pub damaged: PathBuf,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            write!(f, "{:<16} {:>10} rows saved", table.name, table.saved)?;
            if table.refused > 0 {
                write!(f, ", {} without sense left out", table.refused)?;
            }
            writeln!(f, "{}", if table.gaps.is_empty() { "" } else { ", not all of these stretches:" })?;
            for gap in &table.gaps {
                let show = |key: Option<i64>, open: &str| match key.map(Key) {
                    None => open.to_owned(),
                    Some(key) if table.name.contains('_') || table.name == "results" => {
                        format!("camera number {} at {} ms", key.camera(), key.at_ms())
                    }
                    Some(key) => format!("row {}", key.0),
                };
                writeln!(f, "    from {} to {}", show(gap.after, "the begin"), show(gap.before, "the end"))?;
            }
        }
        write!(f, "the damaged file is kept as {}", self.damaged.display())
    }
}

fn other(text: String) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(text.into())
}

fn disk(file: &Path, error: impl fmt::Display) -> OpenError {
    OpenError::Disk { file: file.into(), found: error.to_string() }
}

/// Reads all of a store. Changes nothing.
///
/// # Errors
/// [`OpenError`] when it is in use or cannot be opened at all; what is wrong
/// within it is in the answer.
pub fn check(file: &Path) -> Result<Checked, OpenError> {
    if !file.exists() {
        return Err(disk(file, "there is no such file"));
    }
    let _lock = lock(file)?;
    let mut checked = Checked::default();
    let found = connect(file).and_then(|connection| look_through(&connection, &mut checked));
    checked.findings.extend(found.err().map(|error| error.to_string()));
    Ok(checked)
}

fn look_through(connection: &Connection, checked: &mut Checked) -> rusqlite::Result<()> {
    for (name, wanted) in [("application_id", APPLICATION_ID), ("user_version", VERSION)] {
        let found = pragma(connection, name)?;
        if found != i64::from(wanted) {
            checked.findings.push(format!("{name} is {found}, it should be {wanted}"));
        }
    }
    if let Some(name) = missing_object(connection)? {
        checked.findings.push(format!("{name} is missing or not as it should be"));
    }
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({MAX_FINDINGS})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            checked.findings.push(text);
        }
    }
    for (name, _) in TABLES {
        let rows = connection.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0)).ok();
        checked.rows.push((name, rows.map(|rows: i64| rows as u64)));
    }
    Ok(())
}

/// Copies all readable rows of a store into a new one that takes its place.
///
/// # Errors
/// [`OpenError`] when it is in use, is no store, or the disk has no room.
pub fn repair(file: &Path) -> Result<Repaired, OpenError> {
    let failed = |error: std::io::Error| disk(file, error);
    if !file.exists() {
        return Err(disk(file, "there is no such file"));
    }
    let _lock = lock(file)?;
    let new_file = beside(file, ".repaired");
    for leftover in [new_file.clone(), beside(&new_file, "-wal"), beside(&new_file, "-shm")] {
        match std::fs::remove_file(leftover) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => (),
        }
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new_file).map_err(failed)?;
    let mut new = connect(&new_file).map_err(|error| disk(&new_file, error))?;
    new.execute_batch("PRAGMA synchronous=OFF").map_err(|error| disk(&new_file, error))?;
    create(&mut new).and_then(|()| checkpoint(&new)).map_err(|error| disk(&new_file, error))?;

    // The damaged file is moved first and read there: where its header must be
    // mended, that happens to a copy.
    let damaged = numbered(file).map_err(failed)?;
    rename(file, &damaged).map_err(failed)?;
    let tables = copy(&damaged, &new_file, new);
    let saved = tables.iter().flatten().map(|table| table.saved).sum::<u64>();
    let tables = match tables {
        Ok(tables) if saved > 0 => tables,
        other => {
            rename(&damaged, file).and_then(|()| std::fs::remove_file(&new_file)).map_err(failed)?;
            let reason = other.map_or_else(|error| error.to_string(), |_| "it has no rows".into());
            return Err(disk(file, format!("nothing of a history can be read in it ({reason}); it was left as it is")));
        }
    };
    std::fs::File::open(&new_file).and_then(|new| new.sync_all()).map_err(failed)?;
    std::fs::rename(&new_file, file).map_err(failed)?;
    sync_folder(file).map_err(failed)?;
    Ok(Repaired { tables, damaged })
}

/// The first free `.damaged-N`.
fn numbered(file: &Path) -> std::io::Result<PathBuf> {
    let mut names = (1_u32..10_000).map(|number| beside(file, &format!(".damaged-{number}")));
    names.find(|path| !path.exists()).ok_or_else(|| std::io::ErrorKind::AlreadyExists.into())
}

/// Renames a store and its log: SQLite would apply a log that stays behind to
/// whatever has the name.
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    let log = beside(from, "-wal");
    if log.exists() {
        std::fs::rename(log, beside(to, "-wal"))?;
    }
    let _ = std::fs::remove_file(beside(from, "-shm"));
    std::fs::rename(from, to)
}

/// Copies all readable rows of `damaged` into the new store.
fn copy(damaged: &Path, new_file: &Path, mut new: Connection) -> rusqlite::Result<Vec<RepairedTable>> {
    let (old, mended) = read_damaged(damaged, new_file)?;
    let tables = TABLES.map(|(name, columns)| copy_table(&old, &mut new, name, columns));
    drop(old);
    if let Some(mended) = mended {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&mended, suffix));
        }
    }
    let mut tables = tables.into_iter().collect::<rusqlite::Result<Vec<_>>>()?;
    for table in tables.iter_mut().filter(|table| table.name == "results" && !table.gaps.is_empty()) {
        table.saved += salvage_results(damaged, &mut new, &table.gaps)?;
    }
    name_lost(&new)?;
    finish(new)?;
    Ok(tables)
}

/// Opens the damaged file; a copy with the first page of `new_file` where its
/// own is no good.
fn read_damaged(damaged: &Path, new_file: &Path) -> rusqlite::Result<(Connection, Option<PathBuf>)> {
    let open = |path: &Path| -> rusqlite::Result<Connection> {
        let old = connect(path)?;
        // Reads a file that is shorter than its header says.
        old.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
        old.execute_batch("PRAGMA cell_size_check=OFF")?;
        match missing_object(&old)? {
            None => Ok(old),
            Some(name) => Err(other(format!("{name} is missing"))),
        }
    };
    if let Ok(old) = open(damaged) {
        return Ok((old, None));
    }
    let copy = beside(damaged, ".copy");
    let mended = std::fs::copy(damaged, &copy)
        .and_then(|bytes| {
            let mut page = vec![0; PAGE_BYTES as usize];
            std::fs::File::open(new_file)?.read_exact_at(&mut page, 0)?;
            // Size in pages, then no free pages: only reading follows.
            page[28..32].copy_from_slice(&((bytes / PAGE_BYTES) as u32).to_be_bytes());
            page[32..40].fill(0);
            OpenOptions::new().write(true).open(&copy)?.write_all_at(&page, 0)
        })
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()));
    match mended.and_then(|()| open(&copy)) {
        Ok(old) => Ok((old, Some(copy))),
        Err(error) => {
            let _ = std::fs::remove_file(&copy);
            Err(error)
        }
    }
}

/// Gives cameras and counters whose names are lost new ones.
fn name_lost(new: &Connection) -> rusqlite::Result<()> {
    for (name, table, shift, mask) in [
        ("cameras", "results", 51, 0xFFF),
        ("cameras", "coverage_hour", 51, 0xFFF),
        ("cameras", "counts_hour", 51, 0xFFF),
        ("counters", "counts_hour", 0, 0x1FF),
    ] {
        new.execute(
            &format!(
                "INSERT OR IGNORE INTO {name}(id, name)
                 SELECT DISTINCT (key >> {shift}) & {mask}, 'lost-' || ((key >> {shift}) & {mask}) FROM {table}"
            ),
            [],
        )?;
    }
    Ok(())
}

fn checkpoint(new: &Connection) -> rusqlite::Result<()> {
    new.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Looks whether the new file is whole, and leaves it without a log.
fn finish(new: Connection) -> rusqlite::Result<()> {
    checkpoint(&new)?;
    let text: String = new.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if text != "ok" {
        return Err(other(text));
    }
    new.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    new.close().map_err(|(_, error)| error)
}
