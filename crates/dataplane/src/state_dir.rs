//! What the switch keeps on disk: the configuration in force, and the leases ([`crate::lease_log`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use weft_dataplane_protocol::DataplaneConfig;

use crate::DataplaneError;

const LOCK: &str = "dataplane.lock";
const SNAPSHOT: &str = "dataplane.json";
const DAMAGED: &str = "dataplane.damaged";
const LEASES: &str = "leases.jsonl";
const ADDRESSES: &str = "addresses.json";

/// What [`StateDir::load`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Snapshot {
    /// Nothing: this world is new.
    None,
    /// What the last switch was.
    Config(DataplaneConfig),
    /// Something that is none, and was put aside: the daemon knows what we should be. What was wrong.
    Damaged(String),
}

/// The folder of one switch process, locked while this lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder if need be and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataplaneError> {
        let failed = |source| DataplaneError::State { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock = private().create(true).truncate(false).open(path.join(LOCK)).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataplaneError::AlreadyRunning { path: path.to_owned() }),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The lease log's file.
    pub(crate) fn leases(&self) -> PathBuf {
        self.path.join(LEASES)
    }

    /// The file of what ports were seen to get ([`crate::address_book`]).
    pub(crate) fn addresses(&self) -> PathBuf {
        self.path.join(ADDRESSES)
    }

    /// The configuration that was in force when the last switch ended, or was killed.
    pub(crate) fn load(&self) -> Result<Snapshot, DataplaneError> {
        let path = self.path.join(SNAPSHOT);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Snapshot::None),
            Err(source) => return Err(DataplaneError::State { path, source }),
        };
        Ok(serde_json::from_slice(&bytes).map_or_else(
            |error| {
                let aside = self.path.join(DAMAGED);
                let _ = fs::rename(&path, &aside);
                let why = format!("the last configuration was damaged ({error}) and lies in `{}`", aside.display());
                Snapshot::Damaged(why)
            },
            Snapshot::Config,
        ))
    }

    /// Makes `config` what the next switch starts with; a kill at any point leaves the old one or the new one.
    pub(crate) fn save(&self, config: &DataplaneConfig) -> io::Result<()> {
        replace(&self.path.join(SNAPSHOT), &serde_json::to_vec(config)?)
    }

    /// Forgets everything.
    pub(crate) fn forget(&self) -> io::Result<()> {
        for name in [SNAPSHOT, DAMAGED, LEASES, ADDRESSES] {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sync_folder_of(&self.path.join(SNAPSHOT))
    }
}

/// Opens for writing what is nobody else's business.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Gives `path` new contents, durably, or leaves the old ones.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = private().create(true).truncate(true).open(&new)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_folder_of(path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&new); // on a full disk, its room is needed
    })
}

/// Makes what the folder of `path` lists durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_switch_per_folder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(DataplaneError::AlreadyRunning { .. })));
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn the_snapshot_is_whole_or_old() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        assert_eq!(state.load().unwrap(), Snapshot::None);
        let config = |revision| DataplaneConfig { revision, ..DataplaneConfig::default() };
        state.save(&config(1)).unwrap();
        fs::write(directory.path().join("dataplane.new"), "{ torn").unwrap(); // killed while it wrote
        assert_eq!(state.load().unwrap(), Snapshot::Config(config(1)));
        state.save(&config(2)).unwrap();
        assert_eq!(state.load().unwrap(), Snapshot::Config(config(2)));
        fs::write(directory.path().join(SNAPSHOT), "{ damaged").unwrap();
        assert!(matches!(state.load(), Ok(Snapshot::Damaged(_))));
        assert_eq!(state.load().unwrap(), Snapshot::None, "it was put aside");
        state.forget().unwrap();
        assert_eq!(state.load().unwrap(), Snapshot::None);
    }
}
