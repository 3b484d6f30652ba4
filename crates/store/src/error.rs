//! What can go wrong with a store.

use std::io;
use std::path::PathBuf;

use crate::record::Revision;
use crate::txn::VALUE_BYTES_MAX;

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file or its folder could not be made or opened.
    #[error("Cannot open the store {}", path.display())]
    Open {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a store of Weft", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was a store once.
    #[error("The store {} is damaged: {detail}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// The file was written by a newer Weft.
    #[error("The store {} has schema version {found}; this program knows versions up to {known}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: i64,
        /// The newest version that is known here.
        known: i64,
    },
    /// Another process holds the store, longer than we are willing to wait.
    #[error("The store {} is in use by another process", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full; nothing was written.
    #[error("No space left to write the store {}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file may not be written.
    #[error("The store {} cannot be written: it is read-only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Anything else that SQLite reports.
    #[error("The store {} failed", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The history that was asked for has been forgotten.
    #[error("The history from revision {requested} on is gone; the oldest that can be told is {oldest}")]
    Compacted {
        /// The revision that was asked for.
        requested: Revision,
        /// The oldest revision from which a watch can start.
        oldest: Revision,
    },
    /// A revision that does not exist yet was named.
    #[error("Revision {requested} does not exist yet; the newest is {current}")]
    FutureRevision {
        /// The revision that was asked for.
        requested: Revision,
        /// The newest one.
        current: Revision,
    },
    /// One transaction touches a key twice.
    #[error("One transaction touches the key `{key}` twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// Keys have at least one byte.
    #[error("A key may not be empty")]
    EmptyKey,
    /// A value is too long.
    #[error("The value of `{key}` has {bytes} bytes; the limit is {VALUE_BYTES_MAX}")]
    TooLarge {
        /// The key.
        key: String,
        /// The value's length.
        bytes: usize,
    },
    /// The store to which a watch belongs has been closed.
    #[error("The store has been closed")]
    Closed,
}

impl StoreError {
    /// What the user can do about it; empty where it is a mistake of the program.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Open { .. } => "check that the folder exists, belongs to you and can be written",
            Self::Foreign { .. } => "set WEFT_HOME to another folder, or move the file away",
            Self::Corrupt { .. } => "move the file (and its -wal) away to start afresh, or restore a copy; VMs run on",
            Self::Schema { .. } => "run the newer Weft that wrote it, or choose another WEFT_HOME",
            Self::Busy { .. } => "end the other program that has the file open, then try again",
            Self::Full { .. } => "make room on that file system, then run the same command again",
            Self::ReadOnly { .. } => {
                "make the file and its folder writable for you, or set WEFT_HOME to another folder"
            }
            Self::Sqlite { .. } => "check the disk for errors, then run the same command again",
            Self::Compacted { .. } => "read the current state and watch from there",
            Self::FutureRevision { .. } | Self::DuplicateKey { .. } | Self::EmptyKey | Self::Closed => "",
            Self::TooLarge { .. } => "make the object smaller, or refer to a file instead",
        }
    }

    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "store-open",
            Self::Foreign { .. } => "store-foreign",
            Self::Corrupt { .. } => "store-corrupt",
            Self::Schema { .. } => "store-schema",
            Self::Busy { .. } => "store-busy",
            Self::Full { .. } => "store-full",
            Self::ReadOnly { .. } => "store-read-only",
            Self::Sqlite { .. } => "store-failed",
            Self::Compacted { .. } => "store-compacted",
            Self::FutureRevision { .. } => "store-future-revision",
            Self::DuplicateKey { .. } => "store-duplicate-key",
            Self::EmptyKey => "store-empty-key",
            Self::TooLarge { .. } => "store-too-large",
            Self::Closed => "store-closed",
        }
    }
}
