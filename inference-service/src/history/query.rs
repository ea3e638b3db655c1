//! Questions to the store: results and incidents, page by page, and the names
//! it knows. Bounded in rows, bytes and time; blocks, and so belongs on a
//! thread that may. Never writes.

use std::time::Instant;

use bytes::Bytes;
use flatframe_shared::frame::CameraId;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::key::{CameraNumber, Key, MAX_LAST};
use super::open::is_damage;
use super::readers::{MAX_QUERY, NoReader, Readers};
use super::record::Incident;
use super::state::{Pause, Tally};

/// Most results or incidents of one page.
pub const MAX_PAGE_ROWS: usize = 10_000;
/// Most bytes of bodies of one page; its last body may exceed it.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Too many queries at once.
    #[error("other queries are being answered; try again later")]
    Busy,
    /// It takes too long.
    #[error("the answer took too long; ask for a shorter time or larger buckets")]
    Deadline,
    /// It asks for what is never answered.
    #[error("{0}")]
    Invalid(String),
    /// It would be too large.
    #[error("the answer would be too large: {0}")]
    TooLarge(String),
    /// The file cannot be read.
    #[error("the history is damaged: {0}; stop the service and run inference-service history repair")]
    Damaged(String),
    /// The system or SQLite.
    #[error("the history cannot be read: {0}")]
    Failed(String),
    /// The store is closed.
    #[error("the history is closed")]
    Closed,
}

/// A stored result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// When its frame was taken, ms since the Unix epoch.
    pub at_unix_ms: i64,
    /// Its position in the live stream.
    pub position: u64,
    /// What was stored.
    pub body: Bytes,
}

/// Where a page ended. Good for the same camera only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    at_ms: i64,
    last: u16,
}

impl Cursor {
    /// As a number, for a token of the API.
    pub fn to_u64(self) -> u64 {
        Key::new(0, self.at_ms, self.last).0 as u64
    }

    /// Back from a number; any number is a cursor.
    pub fn from_u64(number: u64) -> Self {
        let key = Key(number as i64);
        Self { at_ms: key.at_ms(), last: key.last() }
    }
}

/// Some results of one camera, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultPage {
    /// In order of time.
    pub results: Vec<StoredResult>,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<Cursor>,
}

/// Which results are wanted.
#[derive(Debug, Clone, Copy)]
pub struct ResultQuery<'a> {
    /// Of this camera.
    pub camera: &'a CameraId,
    /// From here, ms since the Unix epoch.
    pub from_unix_ms: i64,
    /// To before here.
    pub to_unix_ms: i64,
    /// After the page that ended here.
    pub after: Option<Cursor>,
    /// At most so many, up to [`MAX_PAGE_ROWS`].
    pub limit: usize,
    /// At most so many bytes of bodies, up to [`MAX_PAGE_BYTES`]; one result is always there.
    pub max_bytes: usize,
}

/// Which incidents are wanted.
#[derive(Debug, Clone, Copy)]
pub struct IncidentQuery<'a> {
    /// Of this camera; `None`: of all, and the server's.
    pub camera: Option<&'a CameraId>,
    /// That lasted in the time from here, ms since the Unix epoch,
    pub from_unix_ms: i64,
    /// to before here.
    pub to_unix_ms: i64,
    /// Only those without an end.
    pub only_open: bool,
    /// After the incident that opened then and has this id: the last one of the page before.
    pub after: Option<(i64, u64)>,
    /// At most so many, up to [`MAX_PAGE_ROWS`].
    pub limit: usize,
}

/// Runs a query on a connection until `deadline`, once more if the writer
/// needed it out of the way, and reports damage.
pub(super) fn ask<T>(
    readers: &Readers,
    tally: &Tally,
    deadline: Instant,
    query: impl Fn(&Connection) -> Result<T, Failure>,
) -> Result<T, QueryError> {
    let deadline = deadline.min(Instant::now() + MAX_QUERY);
    let mut interrupted_before = false;
    loop {
        let mut reader = readers.borrow(deadline).map_err(|error| match error {
            NoReader::Busy => QueryError::Busy,
            NoReader::Closed => QueryError::Closed,
        })?;
        // One snapshot for all statements of the query.
        let answer = reader.connection().transaction().map_err(Failure::from).and_then(|snapshot| query(&snapshot));
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Sqlite(error)) => error,
        };
        let interrupted = error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
        let late = Instant::now() >= deadline;
        match interrupted {
            true if late => return Err(QueryError::Deadline),
            true if interrupted_before => return Err(QueryError::Busy),
            true => interrupted_before = true,
            false if is_damage(&error) => {
                tally.seen().paused = Some(Pause::Damaged(error.to_string()));
                return Err(QueryError::Damaged(error.to_string()));
            }
            false => return Err(QueryError::Failed(error.to_string())),
        }
    }
}

/// How a query fails.
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Refused(QueryError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::Refused(error)
    }
}

/// The number of a camera; `None` when the store has nothing of it.
pub(super) fn camera_number(connection: &Connection, camera: &CameraId) -> rusqlite::Result<Option<CameraNumber>> {
    connection
        .prepare_cached("SELECT id FROM cameras WHERE name = ?")?
        .query_row([camera.as_str()], |row| row.get(0))
        .optional()
}

pub(super) fn results(connection: &Connection, query: &ResultQuery<'_>) -> Result<ResultPage, Failure> {
    let mut page = ResultPage::default();
    let limit = query.limit.min(MAX_PAGE_ROWS);
    let max_bytes = query.max_bytes.min(MAX_PAGE_BYTES);
    let Some(camera) = camera_number(connection, query.camera)? else { return Ok(page) };
    let range = Key::between(camera, query.from_unix_ms, query.to_unix_ms);
    let first = match query.after {
        Some(after) if after.last + 1 < MAX_LAST => Key::new(camera, after.at_ms, after.last + 1).0,
        Some(after) => Key::new(camera, after.at_ms + 1, 0).0,
        None => *range.start(),
    };
    let mut statement =
        connection.prepare_cached("SELECT key, position, body FROM results WHERE key BETWEEN ? AND ? ORDER BY key")?;
    let mut rows = statement.query(params![first.max(*range.start()), range.end()])?;
    let (mut bytes, mut last) = (0, None);
    while let Some(row) = rows.next()? {
        // One more than the page holds: it only says that there is more.
        if page.results.len() >= limit || (bytes >= max_bytes && last.is_some()) {
            page.next = last;
            break;
        }
        let key = Key(row.get(0)?);
        let body = Bytes::copy_from_slice(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?);
        bytes += body.len();
        last = Some(Cursor { at_ms: key.at_ms(), last: key.last() });
        page.results.push(StoredResult { at_unix_ms: key.at_ms(), position: row.get::<_, i64>(1)? as u64, body });
    }
    Ok(page)
}

/// Capture of the newest late result of a camera, us since the Unix epoch,
/// whether it is still kept or not.
pub(super) fn newest_late(connection: &Connection, camera: &CameraId) -> Result<Option<i64>, Failure> {
    let Some(camera) = camera_number(connection, camera)? else { return Ok(None) };
    let newest = connection
        .prepare_cached("SELECT newest_us FROM late WHERE id = ?")?
        .query_row([camera], |row| row.get(0))
        .optional()?;
    Ok(newest)
}

pub(super) fn incidents(connection: &Connection, query: &IncidentQuery<'_>) -> Result<Vec<Incident>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id, camera, kind, detail, opened_ms, resolved_ms FROM incidents
         WHERE opened_ms < ?1 AND (opened_ms, id) > (?2, ?3) AND (resolved_ms IS NULL OR resolved_ms >= ?4)
         AND (resolved_ms IS NULL OR NOT ?5) AND (?6 IS NULL OR camera = ?6)
         ORDER BY opened_ms, id LIMIT ?7",
    )?;
    let (after_ms, after_id) = query.after.unwrap_or((-1, 0));
    let found = statement.query_map(
        params![
            query.to_unix_ms,
            after_ms,
            i64::try_from(after_id).unwrap_or(i64::MAX),
            query.from_unix_ms,
            query.only_open,
            query.camera.map(CameraId::as_str),
            query.limit.min(MAX_PAGE_ROWS) as i64
        ],
        |row| {
            Ok(Incident {
                id: row.get::<_, i64>(0)? as u64,
                camera: CameraId::parse(&row.get::<_, String>(1)?).ok(),
                kind: row.get(2)?,
                detail: row.get(3)?,
                opened_unix_ms: row.get(4)?,
                resolved_unix_ms: row.get(5)?,
            })
        },
    )?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Names in `cameras` or `counters`, in order.
pub(super) fn names(connection: &Connection, table: &'static str) -> Result<Vec<String>, Failure> {
    let mut statement = connection.prepare_cached(&format!("SELECT name FROM {table} ORDER BY name"))?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names)
}
