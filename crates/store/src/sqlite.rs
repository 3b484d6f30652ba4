//! The store of one host: a SQLite file.
//!
//! `entries` is the present, `changes` the past since the last compaction, `clock` the one row that counts revisions.
//! The file is in WAL mode with `synchronous=FULL`: a commit has reached the disk before it is acknowledged, and
//! `sqlite3` can look inside at any time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::record::{Change, Entry, Event, Revision, Snapshot, prefix_end};
use crate::txn::{Compare, Op, Txn, TxnOutcome};
use crate::watch::{Bell, History, Page, Watch};
use crate::{Result, Store, StoreError};

/// Marks the file as ours (SQLite's `application_id`): "Weft" in ASCII.
const APPLICATION_ID: i64 = 0x5765_6674;

/// What `schema` makes; counted up with every change to it.
const SCHEMA_VERSION: i64 = 1;

/// How long another process may hold the file before we give up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys are BLOBs because those compare byte by byte, whatever the bytes.
const SCHEMA: &str = "
    CREATE TABLE entries (
        key             BLOB PRIMARY KEY,
        value           BLOB NOT NULL,
        create_revision INTEGER NOT NULL,
        mod_revision    INTEGER NOT NULL,
        version         INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE changes (
        revision        INTEGER NOT NULL,
        number          INTEGER NOT NULL, -- the event's place in its transaction
        key             BLOB NOT NULL,
        value           BLOB,             -- NULL: the key was deleted
        create_revision INTEGER NOT NULL,
        version         INTEGER NOT NULL,
        PRIMARY KEY (revision, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE clock (
        only     INTEGER PRIMARY KEY CHECK (only = 0),
        revision INTEGER NOT NULL,
        oldest   INTEGER NOT NULL         -- changes before this revision are forgotten
    ) STRICT;
    INSERT INTO clock VALUES (0, 0, 0);
";

/// A [`Store`] in one SQLite file.
pub struct SqliteStore {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
}

struct Shared {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the store at `path`; makes it, readable for its owner only, if it is not there. The folder must exist.
    ///
    /// A file that is not a store, or is damaged, or is newer than this program, is left as it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        create(path).map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        let connection = connect(path)?;
        let shared = Shared { path: path.to_owned(), connection: Mutex::new(connection) };
        Ok(Self { shared: Arc::new(shared), bell: Arc::default() })
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.bell.close();
    }
}

/// Makes the file and its name durable. SQLite gives its side files the same mode.
fn create(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn connect(path: &Path) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
        Ok(connection)
    };
    let mut connection = open().map_err(|error| failure(path, error))?;
    // Nothing may be written, not even WAL mode, before the file is known to be ours.
    migrate(path, &mut connection)?;
    let check = |connection: &Connection| -> rusqlite::Result<String> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    };
    match check(&connection).map_err(|error| failure(path, error))?.as_str() {
        "ok" => Ok(connection),
        found => Err(StoreError::Corrupt { path: path.to_owned(), detail: found.to_owned() }),
    }
}

/// Brings an empty file to the current schema; refuses every other that is not at it.
fn migrate(path: &Path, connection: &mut Connection) -> Result<()> {
    let fail = |error| failure(path, error);
    let begin = Transaction::new(connection, TransactionBehavior::Immediate).map_err(fail)?;
    let (application, version) = identity(&begin).map_err(fail)?;
    let tables: i64 = begin.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fail)?;
    match (application, version, tables) {
        (0, 0, 0) => {
            begin.execute_batch(SCHEMA).map_err(fail)?;
            begin.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
            begin.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(fail)?;
            begin.commit().map_err(fail)
        }
        (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(()),
        (APPLICATION_ID, found, _) => Err(StoreError::Schema { path: path.to_owned(), found, known: SCHEMA_VERSION }),
        _ => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

fn identity(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((read("application_id")?, read("user_version")?))
}

/// Says what an error of SQLite means for the user.
fn failure(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { path },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Corrupt { path, detail: error.to_string() },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path },
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { path },
        Some(ErrorCode::CannotOpen) => StoreError::Open { path, source: io::Error::other(error) },
        _ => StoreError::Sqlite { path, source: error },
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` on one consistent state of the store, without writing.
    fn read<T>(&self, body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(|error| failure(&self.path, error))?;
        body(&transaction).map_err(|error| failure(&self.path, error))
    }

    /// Runs `body` alone and makes what it wrote durable; on any error nothing is written.
    fn write<T>(&self, body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = self.lock();
        let run = || -> rusqlite::Result<T> {
            let transaction = Transaction::new(&mut connection, TransactionBehavior::Immediate)?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|error| failure(&self.path, error))
    }
}

/// The newest revision, and the oldest whose changes are still told.
struct Clock {
    revision: Revision,
    oldest: Revision,
}

fn clock(transaction: &Transaction<'_>) -> rusqlite::Result<Clock> {
    transaction
        .prepare_cached("SELECT revision, oldest FROM clock")?
        .query_row([], |row| Ok(Clock { revision: row.get(0)?, oldest: row.get(1)? }))
}

/// A key as it lies in the file.
fn key(row: &Row<'_>, column: &str) -> rusqlite::Result<String> {
    let index = row.as_ref().column_index(column)?;
    String::from_utf8(row.get(index)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Blob, error.into()))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: key(row, "key")?,
        value: row.get("value")?,
        create_revision: row.get("create_revision")?,
        mod_revision: row.get("mod_revision")?,
        version: row.get("version")?,
    })
}

fn find(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<Entry>> {
    transaction.prepare_cached("SELECT * FROM entries WHERE key = ?1")?.query_row([key.as_bytes()], entry).optional()
}

fn under(transaction: &Transaction<'_>, prefix: &str) -> rusqlite::Result<Vec<Entry>> {
    transaction
        .prepare_cached("SELECT * FROM entries WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key")?
        .query_map(params![prefix.as_bytes(), prefix_end(prefix)], entry)?
        .collect()
}

fn holds(transaction: &Transaction<'_>, compare: &Compare) -> rusqlite::Result<bool> {
    Ok(match compare {
        Compare::ModRevision(key, revision) => {
            find(transaction, key)?.map_or(0, |entry| entry.mod_revision) == *revision
        }
        Compare::Value(key, value) => find(transaction, key)?.is_some_and(|entry| entry.value == *value),
    })
}

/// Writes one transaction's events under one revision.
struct Writer<'t> {
    transaction: &'t Transaction<'t>,
    revision: Revision,
    events: u64,
}

impl Writer<'_> {
    fn carry_out(&mut self, op: &Op) -> rusqlite::Result<()> {
        match op {
            Op::Put(key, value) => self.put(key, value),
            Op::Delete(key) => find(self.transaction, key)?.map_or(Ok(()), |entry| self.delete(&entry)),
            Op::DeletePrefix(prefix) => {
                under(self.transaction, prefix)?.iter().try_for_each(|entry| self.delete(entry))
            }
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) -> rusqlite::Result<()> {
        let (create_revision, version) =
            find(self.transaction, key)?.map_or((self.revision, 1), |entry| (entry.create_revision, entry.version + 1));
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![key.as_bytes(), value, create_revision, self.revision, version])?;
        self.record(key, Some(value), create_revision, version)
    }

    fn delete(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        self.transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([entry.key.as_bytes()])?;
        self.record(&entry.key, None, entry.create_revision, 0)
    }

    fn record(&mut self, key: &str, value: Option<&[u8]>, created: Revision, version: u64) -> rusqlite::Result<()> {
        self.transaction.prepare_cached("INSERT INTO changes VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            self.revision,
            self.events,
            key.as_bytes(),
            value,
            created,
            version
        ])?;
        self.events += 1;
        Ok(())
    }
}

impl Store for SqliteStore {
    fn revision(&self) -> Result<Revision> {
        self.shared.read(|transaction| Ok(clock(transaction)?.revision))
    }

    fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.shared.read(|transaction| find(transaction, key))
    }

    fn range(&self, prefix: &str) -> Result<Snapshot> {
        self.shared.read(|transaction| {
            Ok(Snapshot { revision: clock(transaction)?.revision, entries: under(transaction, prefix)? })
        })
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.validate()?;
        let outcome = self.shared.write(|transaction| {
            let revision = clock(transaction)?.revision;
            for compare in &txn.compares {
                if !holds(transaction, compare)? {
                    return Ok(TxnOutcome { succeeded: false, revision });
                }
            }
            let mut writer = Writer { transaction, revision: revision + 1, events: 0 };
            for op in &txn.then {
                writer.carry_out(op)?;
            }
            if writer.events == 0 {
                return Ok(TxnOutcome { succeeded: true, revision });
            }
            transaction.prepare_cached("UPDATE clock SET revision = ?1")?.execute([writer.revision])?;
            Ok(TxnOutcome { succeeded: true, revision: writer.revision })
        })?;
        self.bell.ring(outcome.revision);
        Ok(outcome)
    }

    fn watch(&self, prefix: &str, from_revision: Revision) -> Result<Watch> {
        let shared: Arc<dyn History> = self.shared.clone();
        Watch::new(Arc::downgrade(&shared), self.bell.clone(), prefix, from_revision)
    }

    fn compact(&self, revision: Revision) -> Result<()> {
        let current = self.shared.write(|transaction| {
            let current = clock(transaction)?.revision;
            if revision <= current {
                transaction.execute("DELETE FROM changes WHERE revision < ?1", [revision])?;
                transaction.execute("UPDATE clock SET oldest = max(oldest, ?1)", [revision])?;
            }
            Ok(current)
        })?;
        if revision > current {
            return Err(StoreError::FutureRevision { requested: revision, current });
        }
        Ok(())
    }
}

impl History for Shared {
    fn changes(&self, prefix: &str, from: Revision, limit: usize) -> Result<Page> {
        let (oldest, page) = self.read(|transaction| {
            let clock = clock(transaction)?;
            let mut page = Page { changes: Vec::new(), next: from.max(clock.revision + 1) };
            if from <= clock.revision {
                fill(&mut page, transaction, prefix, from, limit)?;
            }
            Ok((clock.oldest, page))
        })?;
        // History begins with revision 1, so 0 asks for no more than 1 does.
        if from.max(1) < oldest {
            return Err(StoreError::Compacted { requested: from, oldest });
        }
        Ok(page)
    }
}

fn fill(page: &mut Page, from: &Transaction<'_>, prefix: &str, first: Revision, limit: usize) -> rusqlite::Result<()> {
    let mut statement = from.prepare_cached(
        "SELECT *, revision AS mod_revision FROM changes
         WHERE revision >= ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) ORDER BY revision, number",
    )?;
    let mut rows = statement.query(params![first, prefix.as_bytes(), prefix_end(prefix)])?;
    let mut found = 0;
    while let Some(row) = rows.next()? {
        let revision: Revision = row.get("revision")?;
        let event = match row.get_ref("value")? {
            ValueRef::Null => Event::Delete { key: key(row, "key")? },
            _ => Event::Put(entry(row)?),
        };
        match page.changes.last_mut() {
            Some(change) if change.revision == revision => change.events.push(event),
            _ if found >= limit => {
                page.next = revision;
                return Ok(());
            }
            _ => page.changes.push(Change { revision, events: vec![event] }),
        }
        found += 1;
    }
    Ok(())
}
