//! The connections of queries: a few, each for one query at a time, ended at
//! its deadline. The writer can bar them for the moment in which it empties
//! the log.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::schema::connect_reader;

/// The longest a query may take, whatever its caller says.
pub const MAX_QUERY: Duration = Duration::from_secs(30);
/// Steps of SQLite's machine between two looks at the deadline: some 50 us.
const STEPS: i32 = 2_000;
/// How long an interrupted query may take to end.
const INTERRUPTED: Duration = Duration::from_secs(2);

/// All connections for queries.
#[derive(Debug)]
pub struct Readers {
    slots: Mutex<Slots>,
    changed: Condvar,
    /// The writer does not wait any longer.
    interrupt: Arc<AtomicBool>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Slots {
    idle: Vec<Reader>,
    out: usize,
    barred: bool,
    closed: bool,
}

#[derive(Debug)]
struct Reader {
    connection: Connection,
    /// When its query must end, us since [`Readers::start`].
    deadline_us: Arc<AtomicU64>,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReader {
    /// All are in use until the deadline.
    Busy,
    /// The store is closed.
    Closed,
}

impl Readers {
    /// Opens `count` connections to a store that the writer has open.
    pub fn open(file: &Path, count: usize) -> rusqlite::Result<Self> {
        let (interrupt, start) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let reader = || {
            let mut connection = connect_reader(file)?;
            let deadline_us = Arc::new(AtomicU64::new(u64::MAX));
            let (until, barred) = (Arc::clone(&deadline_us), Arc::clone(&interrupt));
            let late = move || barred.load(Relaxed) || start.elapsed().as_micros() as u64 >= until.load(Relaxed);
            connection.progress_handler(STEPS, Some(late))?;
            Ok(Reader { connection, deadline_us })
        };
        let idle = (0..count).map(|_| reader()).collect::<rusqlite::Result<Vec<_>>>()?;
        let slots = Mutex::new(Slots { idle, ..Slots::default() });
        Ok(Self { slots, changed: Condvar::new(), interrupt, start })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for one query that ends at `deadline`; waits for one until then.
    pub fn borrow(&self, deadline: Instant) -> Result<Borrowed<'_>, NoReader> {
        let mut slots = self.slots();
        loop {
            if slots.closed {
                return Err(NoReader::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoReader::Busy);
            }
            if !slots.barred
                && let Some(reader) = slots.idle.pop()
            {
                slots.out += 1;
                reader.deadline_us.store(deadline.saturating_duration_since(self.start).as_micros() as u64, Relaxed);
                return Ok(Borrowed { readers: self, reader: Some(reader) });
            }
            slots = self.changed.wait_timeout(slots, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// For the writer: keeps queries out until the answer is dropped. Waits so
    /// long for those that run; then ends them if it `must`, else `None`.
    pub fn bar(&self, patience: Duration, must: bool) -> Option<Barred<'_>> {
        let mut slots = self.slots();
        slots.barred = true;
        let barred = Barred(self);
        slots = self.wait_idle(slots, patience);
        if slots.out > 0 && must {
            self.interrupt.store(true, Relaxed);
            slots = self.wait_idle(slots, INTERRUPTED);
        }
        let alone = slots.out == 0;
        // The guard's end takes the lock.
        drop(slots);
        alone.then_some(barred)
    }

    fn wait_idle<'a>(&'a self, slots: MutexGuard<'a, Slots>, patience: Duration) -> MutexGuard<'a, Slots> {
        let waited = self.changed.wait_timeout_while(slots, patience, |slots| slots.out > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Ends all queries and closes all connections.
    pub fn close(&self) {
        self.slots().closed = true;
        self.changed.notify_all();
        let _barred = self.bar(Duration::ZERO, true);
        self.slots().idle.clear();
    }
}

/// No query runs while this is held.
#[derive(Debug)]
pub struct Barred<'a>(&'a Readers);

impl Drop for Barred<'_> {
    fn drop(&mut self) {
        self.0.interrupt.store(false, Relaxed);
        self.0.slots().barred = false;
        self.0.changed.notify_all();
    }
}

/// A connection for one query.
#[derive(Debug)]
pub struct Borrowed<'a> {
    readers: &'a Readers,
    reader: Option<Reader>,
}

impl Borrowed<'_> {
    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.reader.as_mut().expect("only drop takes it").connection
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut slots = self.readers.slots();
        slots.out -= 1;
        if let Some(reader) = self.reader.take()
            && !slots.closed
        {
            slots.idle.push(reader);
        }
        self.readers.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn two_at_once_and_none_while_barred() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("h");
        std::fs::write(&file, b"").expect("file");
        let mut writer = schema::connect(&file).expect("opens");
        schema::create(&mut writer).expect("made");
        let readers = Readers::open(&file, 2).expect("opens");

        let (one, two) = (readers.borrow(soon()).expect("idle"), readers.borrow(soon()).expect("idle"));
        assert_eq!(readers.borrow(Instant::now()).err(), Some(NoReader::Busy));
        assert!(readers.bar(Duration::ZERO, false).is_none(), "two are out");
        drop(one);
        let again = readers.borrow(soon()).expect("the bar was lifted");
        drop((again, two));
        let barred = readers.bar(Duration::ZERO, false).expect("nobody reads");
        assert_eq!(readers.borrow(Instant::now() + Duration::from_millis(1)).err(), Some(NoReader::Busy));
        drop(barred);

        // A query without end does not keep the writer.
        std::thread::scope(|scope| {
            let (begun, wait) = std::sync::mpsc::sync_channel(1);
            let readers = &readers;
            scope.spawn(move || {
                let mut reader = readers.borrow(soon()).expect("idle");
                begun.send(()).expect("heard");
                endless(reader.connection()).expect_err("interrupted");
            });
            wait.recv().expect("begun");
            // A reader that gets no processor ends at a later attempt.
            let limit = soon();
            while readers.bar(Duration::ZERO, true).is_none() {
                assert!(Instant::now() < limit, "it goes on");
            }
        });

        let mut reader = readers.borrow(Instant::now() + Duration::from_secs(1)).expect("idle");
        endless(reader.connection()).expect_err("ended at its deadline");
        drop(reader);
        readers.close();
        assert_eq!(readers.borrow(soon()).err(), Some(NoReader::Closed));
    }

    fn endless(connection: &Connection) -> rusqlite::Result<i64> {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        connection.query_row(sql, [], |row| row.get(0))
    }
}
