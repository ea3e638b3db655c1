//! Opens the store: takes the lock, makes the file or looks whether it is
//! ours, new enough and whole. Cheap whatever its size: pages in the middle
//! are looked at by `check`, not here.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::lock::{Lock, LockError};
use super::schema::{
    APPLICATION_ID, OBJECTS, PAGE_BYTES, Table, VERSION, connect, create, pragma, prepare_writer, update,
};

/// Why the store cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting outside of what is allowed.
    #[error("{key} is {value}, allowed is {allowed}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// Another process writes it.
    #[error("{} is in use by {holder}; stop that first, or give this service a file of its own", file.display())]
    InUse {
        /// The store.
        file: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// Something else is in the file.
    #[error("{} is not a history of Flatframe ({found}); it was not touched: choose another file, or move it away", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What it is.
        found: String,
    },
    /// It was written by a later version.
    #[error(
        "{} was written by a newer Flatframe (layout {found}, this one knows {VERSION}); use that version, or move the file away to start a new history",
        file.display()
    )]
    Newer {
        /// The store.
        file: PathBuf,
        /// Its layout.
        found: i64,
    },
    /// It cannot be read as it should.
    #[error(
        "{} is damaged: {found}; run inference-service history repair, which keeps the damaged file, or move it away to start a new history",
        file.display()
    )]
    Damaged {
        /// The store.
        file: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// The system does not let us.
    #[error("{} cannot be opened: {found}; check the folder, who may write there, and that the disk has room", file.display())]
    Disk {
        /// The store.
        file: PathBuf,
        /// What it said.
        found: String,
    },
}

/// Whether an error says that the file, not the disk, is at fault.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        // A row with another type than its table: STRICT would not have let it in.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        other => matches!(
            other.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig)
        ),
    }
}

/// Opens or makes the store `file` for writing.
///
/// # Errors
/// [`OpenError`], saying what to do.
pub fn open_for_writing(file: &Path) -> Result<(Connection, Lock), OpenError> {
    let lock = lock(file)?;
    look_at_header(file)?;
    let disk = |found: std::io::Error| OpenError::Disk { file: file.into(), found: found.to_string() };
    // Made by us, so that only its owner may read it; the log inherits that.
    let made = !file.exists();
    OpenOptions::new().append(true).create(true).mode(0o600).open(file).map_err(disk)?;
    if made {
        sync_folder(file).map_err(disk)?;
    }
    let connection = open_checked(file).map_err(|error| match error {
        Fault::Sqlite(error) if is_damage(&error) => OpenError::Damaged { file: file.into(), found: error.to_string() },
        Fault::Sqlite(error) => OpenError::Disk { file: file.into(), found: error.to_string() },
        Fault::Refused(error) => error,
    })?;
    Ok((connection, lock))
}

/// Makes the name of `file` durable.
pub fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// Takes the lock of `file`.
///
/// # Errors
/// [`OpenError::InUse`] or [`OpenError::Disk`].
pub fn lock(file: &Path) -> Result<Lock, OpenError> {
    Lock::take(file).map_err(|error| match error {
        LockError::Held(holder) => OpenError::InUse { file: file.into(), holder },
        LockError::Disk(error) => OpenError::Disk { file: file.into(), found: error.to_string() },
    })
}

/// Looks at the first bytes before SQLite does: it would take an empty file
/// for a new one, and write into what only looks like one of its own.
fn look_at_header(file: &Path) -> Result<(), OpenError> {
    let mut header = Vec::new();
    match std::fs::File::open(file) {
        Ok(opened) => {
            let read = opened.take(100).read_to_end(&mut header);
            read.map_err(|error| OpenError::Disk { file: file.into(), found: error.to_string() })?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OpenError::Disk { file: file.into(), found: error.to_string() }),
    }
    if header.is_empty() || header.starts_with(b"SQLite format 3\0") {
        return Ok(());
    }
    // No telling whether it ever was ours.
    let found = "it does not begin as one; if it was one, run inference-service history repair".into();
    Err(OpenError::Foreign { file: file.into(), found })
}

enum Fault {
    Sqlite(rusqlite::Error),
    Refused(OpenError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn open_checked(file: &Path) -> Result<Connection, Fault> {
    let mut connection = connect(file)?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let (id, version) = (pragma(&connection, "application_id")?, pragma(&connection, "user_version")?);
    if objects == 0 && id == 0 && version == 0 {
        // New, or left by a process that was killed before it had made the tables.
        create(&mut connection)?;
    } else if id != i64::from(APPLICATION_ID) {
        let found = format!("an SQLite file with application id {id:#x}");
        return Err(Fault::Refused(OpenError::Foreign { file: file.into(), found }));
    } else if version > i64::from(VERSION) {
        return Err(Fault::Refused(OpenError::Newer { file: file.into(), found: version }));
    }
    let damaged = |found: String| Err(Fault::Refused(OpenError::Damaged { file: file.into(), found }));
    let mut missing = missing_object(&connection)?;
    if version == 1 && missing == Some("late") {
        // A file of the first layout, with all that belongs to it.
        update(&mut connection)?;
        missing = missing_object(&connection)?;
    }
    if let Some(name) = missing {
        return damaged(format!("{name} is missing or not as it should be"));
    }
    prepare_writer(&connection)?;
    // The log is small (bounded), and without it sizes can be compared.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let pages = pragma(&connection, "page_count")? as u64;
    let bytes = std::fs::metadata(file).map_or(0, |found| found.len());
    if bytes < pages * PAGE_BYTES {
        return damaged(format!("it has {bytes} bytes, its header says {}", pages * PAGE_BYTES));
    }
    read_ends(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection)
}

/// The first table or index that is not as `OBJECTS` has it.
pub fn missing_object(connection: &Connection) -> rusqlite::Result<Option<&'static str>> {
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema WHERE name = ?")?;
    for (name, sql) in OBJECTS {
        let found: Option<Option<String>> = statement.query_row([name], |row| row.get(0)).optional()?;
        if found.flatten().as_deref() != Some(sql) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Reads the first and the last row of every table.
fn read_ends(connection: &Connection) -> rusqlite::Result<()> {
    let keyed = Table::ALL.map(|table| (table.name(), "key"));
    for (table, key) in
        keyed.into_iter().chain(["cameras", "counters", "horizons", "incidents", "late"].map(|table| (table, "id")))
    {
        for order in ["ASC", "DESC"] {
            let sql = format!("SELECT * FROM {table} ORDER BY {key} {order} LIMIT 1");
            connection.query_row(&sql, [], |_| Ok(())).optional()?;
        }
    }
    Ok(())
}
