//! The record of a machine's process, `process.json`: written before the process is started and again after, so that a
//! kill in between leaves nothing that cannot be found.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_model::EngineKind;

use super::{Accelerator, ENGINES, Running, files};
use crate::whole::write_whole;
use crate::{MachineError, Process};

/// The most that is read of a record, in bytes.
const MAX_BYTES: u64 = 4096;

/// What is known of a machine's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Which boot of the host it belongs to: process ids and start times mean nothing in another.
    boot_id: String,
    /// The engine.
    #[serde(default = "first_engine")]
    engine: EngineKind,
    /// How the engine runs the guest's instructions.
    accelerator: Accelerator,
    /// The process; `None` says that one was about to be started.
    process: Option<Process>,
}

/// The engine of records that name none: there was one.
fn first_engine() -> EngineKind {
    EngineKind::Qemu
}

impl Record {
    pub(super) fn new(engine: EngineKind, accelerator: Accelerator, process: Option<Process>) -> Self {
        Self { boot_id: boot_id(), engine, accelerator, process }
    }

    /// Reads a record's bytes; what is no record is `None`, as if it had never been written.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Writes the record such that a reader finds all of it or none.
    pub(super) fn write(&self, run_dir: &Path) -> Result<(), MachineError> {
        let path = run_dir.join(files::PROCESS);
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        write_whole(&path, &bytes).map_err(MachineError::io("write", &path))
    }
}

/// What the run folder's record holds; `None` if there is none.
fn read(run_dir: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(run_dir.join(files::PROCESS)).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Finds the process that runs the machine of this run folder, if one does.
pub(super) fn find(run_dir: &Path) -> Option<Running> {
    match Record::decode(&read(run_dir)?) {
        Some(Record { boot_id: then, .. }) if then != boot_id() => None,
        Some(Record { engine, accelerator, process: Some(process), .. }) => {
            process.stays().then_some(Running { process, engine, accelerator })
        }
        // Whoever was about to start it did not live to write down how that went.
        Some(Record { accelerator, process: None, .. }) => {
            scan(run_dir).map(|running| Running { accelerator, ..running })
        }
        None => scan(run_dir),
    }
}

/// Reaps what is left of the recorded process, if it has ended and was a child of this one.
pub(super) fn bury(run_dir: &Path) {
    let record = read(run_dir).and_then(|bytes| Record::decode(&bytes));
    if let Some(process) = record.and_then(|record| record.process) {
        let _ = process.wait_exit(Duration::ZERO);
    }
}

/// Looks through all processes for one that an engine was started as for this run folder.
fn scan(run_dir: &Path) -> Option<Running> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let process = Process::of_pid(pid)?;
        let command_line = fs::read(entry.path().join("cmdline")).ok()?;
        let engine = ENGINES.iter().find(|engine| engine.is_process_of(&command_line, run_dir))?;
        process.stays().then_some(Running { process, engine: engine.kind(), accelerator: Accelerator::Tcg })
    })
}

/// The name of the host's present boot; empty where the kernel does not tell.
pub(super) fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Reads a hostile record.
pub fn fuzz(bytes: &[u8]) {
    let _ = Record::decode(bytes);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `find` says in a run folder where the record holds `bytes`.
    fn found(bytes: &[u8]) -> Option<Running> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(files::PROCESS), bytes).unwrap();
        find(dir.path())
    }

    #[test]
    fn a_process_is_taken_for_itself_only() {
        let me = Process::of_pid(std::process::id()).unwrap();
        let record = |process| Record::new(EngineKind::Qemu, Accelerator::Tcg, Some(process));
        let bytes = |record: &Record| serde_json::to_vec(record).unwrap();
        assert_eq!(found(&bytes(&record(me))).map(|running| running.process), Some(me));
        let recycled = Process { start_ticks: me.start_ticks + 1, ..me };
        assert_eq!(found(&bytes(&record(recycled))), None);
        let before_reboot = Record { boot_id: "another".into(), ..record(me) };
        assert_eq!(found(&bytes(&before_reboot)), None);
    }

    #[test]
    fn what_is_no_record_finds_nothing() {
        for bytes in [&b""[..], b"{}", b"null", b"\xff\xff", br#"{"boot_id":"","accelerator":"tcg","process":7}"#] {
            assert_eq!(found(bytes), None);
        }
        assert_eq!(find(Path::new("/nonexistent")), None);
    }

    #[test]
    fn an_orphan_is_found_by_its_command_line() {
        let dir = tempfile::tempdir().unwrap();
        Record::new(EngineKind::Qemu, Accelerator::Tcg, None).write(dir.path()).unwrap();
        assert_eq!(find(dir.path()), None);
        let mut child = Command::new("sh")
            .args(["-c", "read nothing", "sh", "-pidfile"]) // it waits by itself: nothing outlives it
            .arg(dir.path().join("qemu.pid"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let orphan = (0..200).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            find(dir.path())
        });
        assert_eq!(orphan.map(|running| running.process.pid), Some(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(find(dir.path()), None);
    }
}
