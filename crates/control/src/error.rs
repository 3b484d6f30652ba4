//! Why a controller cannot work at all.

use std::io;
use std::path::PathBuf;

use weft_store::StoreError;

use crate::PathsError;

/// Why a controller could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon serves this home.
    #[error("another daemon{} serves `{}` already", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), home.display())]
    AlreadyRunning {
        /// The state folder.
        home: PathBuf,
        /// Its process, if it wrote it down.
        pid: Option<u32>,
    },
    /// A folder is not usable.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// The store could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be opened, locked or read.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, like `lock`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store holds something that this program does not understand.
    #[error("the store's entry `{key}` is not understood")]
    Record {
        /// The entry's key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl ControlError {
    /// How to fix it; empty where nothing better than the message is known.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AlreadyRunning { .. } => "use that one, or set WEFT_HOME to another folder for a world of its own",
            Self::Paths(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Io { .. } => "check that the folder exists, belongs to you and has room",
            Self::Record { .. } => "run the Weft version that wrote it, or set WEFT_HOME to another folder",
        }
    }

    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyRunning { .. } => "daemon-runs-already",
            Self::Paths(_) => "bad-folder",
            Self::Store(error) => error.code(),
            Self::Io { .. } => "io",
            Self::Record { .. } => "store-record",
        }
    }
}
