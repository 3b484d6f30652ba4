//! Whether a home needs a daemon at all, found out without one.

use std::fs;

use weft_store::{SqliteStore, Store as _};

use crate::desired::Records;
use crate::{ControlError, Paths, objects};

/// Whether there is nothing in this home that a daemon would look after: no object, no unfinished operation, nothing
/// left of a machine, a switch or a killed daemon. Starts and changes nothing. What cannot be read is left to the daemon
/// to complain about.
pub fn is_dormant(paths: &Paths) -> bool {
    let has_remains = || {
        let vms = fs::read_dir(paths.vm_states()).is_ok_and(|mut folders| folders.next().is_some());
        let left = [paths.switch_process(), paths.switch_socket(), paths.daemon_socket()];
        vms || left.iter().any(|path| path.exists())
    };
    let is_idle = || -> Result<bool, ControlError> {
        let records = Records::read(&SqliteStore::open(paths.store())?.range(objects::ROOT)?)?;
        Ok(records.desired.is_empty() && records.operations.values().all(|operation| operation.ended()))
    };
    !has_remains() && (!paths.store().exists() || is_idle().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Controller;

    #[test]
    fn a_home_sleeps_until_there_is_something_to_look_after() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::of_home(dir.path()).unwrap();
        assert!(is_dormant(&paths));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "looking makes nothing");
        let controller = Controller::open(paths.clone(), "/nonexistent".into()).unwrap();
        assert!(is_dormant(&paths), "an empty store");
        controller.shutdown();
        drop(controller);
        let store = SqliteStore::open(paths.store()).unwrap();
        let image = r#"{"owner":"/lab.toml","spec":{"source":{"kind":"disk","path":"/d","format":"raw"},"provenance":{"source":"/lab.toml"}}}"#;
        store.put(&format!("{}d", objects::IMAGES), image).unwrap();
        assert!(!is_dormant(&paths), "an object");
        store.delete(&format!("{}d", objects::IMAGES)).unwrap();
        assert!(is_dormant(&paths));
        fs::create_dir_all(paths.vm_state(&"web".parse().unwrap())).unwrap();
        assert!(!is_dormant(&paths), "what is left of a machine");
    }
}
