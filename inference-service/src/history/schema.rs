//! The tables, and how a connection is set up. Reads and writes no rows.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

/// "Flat" in the header of the file: it is ours.
pub const APPLICATION_ID: i32 = 0x466C_6174;
/// Layout of the tables; a newer one is refused.
pub const VERSION: i32 = 2;
/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Page cache of the writer, KiB.
pub const WRITER_CACHE_KIB: u64 = 4096;
/// Page cache of each reader, KiB.
pub const READER_CACHE_KIB: u64 = 1024;
/// Largest row that is read or written, bytes: a damaged file must not ask for more.
const MAX_ROW_BYTES: i32 = 1 << 20;
/// Another program with the file open (sqlite3, a backup) is waited for so long.
const BUSY: Duration = Duration::from_millis(100);

/// Tables whose rows have a [`Key`](super::key::Key), in the order in which
/// they give room when the store is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// One row for each analysed frame.
    Results,
    /// Counts by second.
    CountsSecond,
    /// Counts by minute.
    CountsMinute,
    /// One bit for each covered second of a minute.
    CoverageMinute,
    /// Counts by hour.
    CountsHour,
    /// Number of covered seconds of an hour.
    CoverageHour,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Results,
        Self::CountsSecond,
        Self::CountsMinute,
        Self::CoverageMinute,
        Self::CountsHour,
        Self::CoverageHour,
    ];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::CountsSecond => "counts_second",
            Self::CountsMinute => "counts_minute",
            Self::CoverageMinute => "coverage_minute",
            Self::CountsHour => "counts_hour",
            Self::CoverageHour => "coverage_hour",
        }
    }

    /// Time that one row stands for, ms.
    pub fn unit_ms(self) -> i64 {
        match self {
            Self::Results => 1,
            Self::CountsSecond => 1_000,
            Self::CountsMinute | Self::CoverageMinute => 60_000,
            Self::CountsHour | Self::CoverageHour => 3_600_000,
        }
    }

    /// What gives room first has the lowest.
    pub fn rank(self) -> u8 {
        match self {
            Self::Results => 0,
            Self::CountsSecond => 1,
            Self::CountsMinute | Self::CoverageMinute => 2,
            Self::CountsHour | Self::CoverageHour => 3,
        }
    }
}

/// Every object of the file, by name, in the order of creation: `repair` relies
/// on the same order giving the same root pages.
pub const OBJECTS: [(&str, &str); 12] = [
    ("cameras", "CREATE TABLE cameras(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"),
    ("counters", "CREATE TABLE counters(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"),
    ("horizons", "CREATE TABLE horizons(id INTEGER PRIMARY KEY, from_ms INTEGER NOT NULL) STRICT"),
    (
        "incidents",
        "CREATE TABLE incidents(id INTEGER PRIMARY KEY, camera TEXT NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL, \
         opened_ms INTEGER NOT NULL, resolved_ms INTEGER) STRICT",
    ),
    ("incidents_by_time", "CREATE INDEX incidents_by_time ON incidents(opened_ms)"),
    ("results", "CREATE TABLE results(key INTEGER PRIMARY KEY, position INTEGER NOT NULL, body BLOB NOT NULL) STRICT"),
    (
        "counts_second",
        "CREATE TABLE counts_second(key INTEGER PRIMARY KEY, female INTEGER NOT NULL, male INTEGER NOT NULL, \
         unknown INTEGER NOT NULL) STRICT",
    ),
    (
        "counts_minute",
        "CREATE TABLE counts_minute(key INTEGER PRIMARY KEY, female INTEGER NOT NULL, male INTEGER NOT NULL, \
         unknown INTEGER NOT NULL) STRICT",
    ),
    (
        "counts_hour",
        "CREATE TABLE counts_hour(key INTEGER PRIMARY KEY, female INTEGER NOT NULL, male INTEGER NOT NULL, \
         unknown INTEGER NOT NULL) STRICT",
    ),
    ("coverage_minute", "CREATE TABLE coverage_minute(key INTEGER PRIMARY KEY, seconds INTEGER NOT NULL) STRICT"),
    ("coverage_hour", "CREATE TABLE coverage_hour(key INTEGER PRIMARY KEY, seconds INTEGER NOT NULL) STRICT"),
    // The newest late result of a camera, which may be pruned already. A row
    // that a repair reads from a wrong page is no row: it fails the check.
    (
        "late",
        "CREATE TABLE late(id INTEGER PRIMARY KEY CHECK(id < 4096), \
         newest_us INTEGER NOT NULL CHECK(newest_us > 1500000000000000)) STRICT",
    ),
];
/// Objects of the first layout: the others are made when a file of it is opened.
const FIRST_OBJECTS: usize = 11;

/// Opens a file without changing it: closing it leaves the log alone too.
pub fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    limit(&connection, WRITER_CACHE_KIB)?;
    Ok(connection)
}

/// Opens a file that the writer has open, for queries.
pub fn connect_reader(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    limit(&connection, READER_CACHE_KIB)?;
    Ok(connection)
}

fn limit(connection: &Connection, cache_kib: u64) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)?;
    connection.set_prepared_statement_cache_capacity(64);
    // What the schema says runs no code of ours, and a cell that does not fit
    // its page is found when the page is read.
    connection.execute_batch(&format!(
        "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY;
         PRAGMA cache_size=-{cache_kib}"
    ))
}

/// Sets a connection up for writing. The writer empties the log itself.
pub fn prepare_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=0",
    )
}

/// Makes the tables in an empty file.
pub fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    // Both only work before the first table, and the first before the log.
    connection.execute_batch(&format!("PRAGMA page_size={PAGE_BYTES}; PRAGMA auto_vacuum=INCREMENTAL"))?;
    prepare_writer(connection)?;
    let transaction = connection.transaction()?;
    for (_, sql) in OBJECTS {
        transaction.execute_batch(sql)?;
    }
    transaction.execute_batch(&format!("PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION}"))?;
    transaction.commit()
}

/// Brings a whole file of the first layout to this one.
pub fn update(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (_, sql) in &OBJECTS[FIRST_OBJECTS..] {
        transaction.execute_batch(sql)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version={VERSION}"))?;
    transaction.commit()
}

/// The number that a pragma answers, also one that is set: "name=1".
pub fn pragma(connection: &Connection, text: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA {text}"), [], |row| row.get(0))
}
