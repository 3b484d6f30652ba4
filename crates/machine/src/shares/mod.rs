//! What a machine may take of the host: by a control group of its own where this user has them, by niceness where not.

mod cgroup;
mod threads;

use std::path::Path;

use weft_types::Shares;

use self::cgroup::Group;
pub use self::cgroup::{GroupState, state};
use crate::{Process, Uuid};

/// The machine's group, in its run folder.
pub(crate) const FILE: &str = "cgroup";

/// Gives a machine that runs these shares. What of them cannot be had is said, a sentence each.
pub fn share(run_dir: &Path, uuid: Uuid, process: Process, shares: &Shares) -> Vec<String> {
    let mut lacking = Vec::new();
    let group = match cgroup::state() {
        GroupState::Usable(base) => match Group::make(&base, &uuid.to_string()).and_then(|group| {
            // Known before it is used, so that it is found when it is to go.
            crate::whole::write_whole(&run_dir.join(FILE), group.path().as_os_str().as_encoded_bytes())?;
            group.add(process.pid)?;
            Ok(group)
        }) {
            Ok(group) => Some(group),
            Err(error) => {
                lacking.push(format!("it has no control group of its own: {error}"));
                None
            }
        },
        GroupState::Absent(why) => {
            if *shares != Shares::default() {
                lacking.push(format!("it has no control group of its own, as {why}"));
            }
            None
        }
    };
    match &group {
        Some(group) => lacking.extend(group.set(shares)),
        None => {
            lacking.extend(threads::set_niceness(process.pid, shares.cpu_weight));
            let by_group_only = [
                ("cpu_limit", shares.cpu_limit.is_some()),
                ("io_weight", shares.io_weight != Shares::default().io_weight),
                ("memory_limit", shares.memory_limit.is_some()),
            ];
            let keys: Vec<_> = by_group_only.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
            if !keys.is_empty() {
                lacking.push(format!("{} cannot be kept without one", keys.join(", ")));
            }
        }
    }
    lacking.extend(threads::pin(process.pid, shares.cpu_pin.as_ref()));
    lacking
}

/// Removes the group of a machine that has ended.
pub(crate) fn clear(run_dir: &Path) {
    let path = run_dir.join(FILE);
    if let Ok(group) = std::fs::read_to_string(&path) {
        cgroup::remove(Path::new(group.trim()));
        let _ = std::fs::remove_file(path);
    }
}
