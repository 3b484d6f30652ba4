//! A revisioned key-value store with compare-and-swap and watch, in etcd's semantics.
//!
//! One counter, the *revision*, orders everything: each [`Txn`] that changes something takes the next revision and is
//! atomic and durable before it is acknowledged. A reader takes a [`Snapshot`], which says at which revision it is
//! true, and continues from there with a [`Watch`]; between the two nothing is lost and nothing comes twice:
//!
//! ```
//! use weft_store::{MemoryStore, Store};
//!
//! let store = MemoryStore::new();
//! store.put("/vm/web", "running")?;
//!
//! let seen = store.range("/vm/")?;
//! let mut watch = store.watch("/vm/", seen.revision + 1)?;
//!
//! store.put("/vm/db", "running")?;
//! assert_eq!(watch.recv()?.events[0].key(), "/vm/db");
//! # Ok::<(), weft_store::StoreError>(())
//! ```
//!
//! Two stores stand behind the one trait: [`SqliteStore`] for a host, [`MemoryStore`] for tests. The trait asks nothing
//! that etcd's v3 API does not offer, so that a cluster's store fits behind it too.

mod error;
mod memory;
mod record;
mod sqlite;
mod txn;
mod watch;

pub use error::StoreError;
pub use memory::MemoryStore;
pub use record::{Change, Entry, Event, Revision, Snapshot};
pub use sqlite::SqliteStore;
pub use txn::{Compare, Op, Txn, TxnOutcome};
pub use watch::Watch;

/// What the store's functions return.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A revisioned key-value store. Every function may be called from any thread; writers wait for each other.
pub trait Store: Send + Sync {
    /// The newest revision; 0 where nothing has ever been written.
    fn revision(&self) -> Result<Revision>;

    /// The entry at `key`, if there is one.
    fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// All entries whose key starts with `prefix`, in key order, as they were at one revision.
    fn range(&self, prefix: &str) -> Result<Snapshot>;

    /// Carries out `txn.then` if every comparison of `txn.when` holds, all of it in one new revision, or nothing.
    ///
    /// A comparison that fails is no error: see [`TxnOutcome::succeeded`]. When this returns `Ok`, what was written
    /// survives a crash of the process and of the machine.
    fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// Every change at or after `from_revision` to keys that start with `prefix`, past and future.
    ///
    /// [`StoreError::Compacted`] where the history no longer reaches back that far: take a new [`Store::range`].
    fn watch(&self, prefix: &str, from_revision: Revision) -> Result<Watch>;

    /// Forgets the changes before `revision`. The entries themselves stay; doing it again does no harm.
    fn compact(&self, revision: Revision) -> Result<()>;

    /// Writes one entry, whatever was there, and returns the new revision.
    fn put(&self, key: &str, value: &str) -> Result<Revision> {
        self.txn(Txn::new().then(Op::put(key, value))).map(|outcome| outcome.revision)
    }

    /// Removes one entry, if it is there, and returns the revision after that.
    fn delete(&self, key: &str) -> Result<Revision> {
        self.txn(Txn::new().then(Op::delete(key))).map(|outcome| outcome.revision)
    }
}
