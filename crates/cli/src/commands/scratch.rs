//! A controller for looking only, in a throw-away home: so a world that has no objects can be asked what would be, and
//! nothing is started or written for it.

use tempfile::TempDir;
use weft_control::{Controller, Paths};

use crate::failure::{Failure, Result};

/// A controller over an empty store, which sees this home's images.
pub(crate) struct Scratch {
    pub(crate) controller: Controller,
    _home: TempDir,
}

impl Scratch {
    pub(crate) fn open(paths: &Paths) -> Result<Self> {
        let home = TempDir::with_prefix("weft-look-");
        let home =
            home.map_err(|error| Failure::of("no-room", &error, "set TMPDIR to a folder that can be written"))?;
        let mut scratch = Paths::of_home(home.path())?;
        if paths.cache.exists() {
            scratch.cache.clone_from(&paths.cache);
        }
        // What must last is not in the throw-away home: the catalogue is looked at where it is.
        if paths.images().exists() {
            scratch.create()?;
            let linked = std::os::unix::fs::symlink(paths.images(), scratch.images());
            linked.map_err(|error| Failure::of("no-room", &error, "set TMPDIR to a folder that can be written"))?;
        }
        let exe = std::env::current_exe().unwrap_or_default();
        Ok(Self { controller: Controller::open(scratch, exe)?, _home: home })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.controller.shutdown();
    }
}
