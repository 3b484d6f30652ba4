//! The QEMU engine: any guest, on hardware virtualization or translated. All talk with it is QMP.

mod argv;
mod board;
mod firmware;
mod qmp;
mod replug;
mod rx_filter;
mod screen;
mod start;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use weft_model::EngineKind;

pub(crate) use board::Board;
pub(crate) use firmware::uefi;
pub use qmp::{Qmp, QmpError, QmpEvent, fuzz as fuzz_qmp};
pub use rx_filter::{RxFilter, RxFilters, RxWish, fuzz as fuzz_rx_filter};
pub use screen::{screen_socket, screenshot};

use super::{Engine, Running};
use crate::{LaunchSpec, MachineError, Process};

/// The monitor, in the run folder.
const QMP: &str = "qmp.sock";
/// The second monitor, which tells what adapters listen to, in the run folder.
const FILTER: &str = "filter.sock";
/// Where a machine's screen is seen, in the run folder.
const VNC: &str = "vnc.sock";
/// What UEFI firmware keeps, in the state folder.
const VARIABLES: &str = "uefi.vars";
/// The file that QEMU locks, in the run folder.
const PID: &str = "qemu.pid";

/// How long the monitor may take to answer.
const MONITOR_PATIENCE: Duration = Duration::from_millis(500);

/// The engine.
pub(super) struct Qemu;

impl Engine for Qemu {
    fn kind(&self) -> EngineKind {
        EngineKind::Qemu
    }

    fn title(&self) -> &'static str {
        "QEMU"
    }

    fn files(&self) -> &'static [&'static str] {
        &[QMP, FILTER, PID, VNC, screen::PICTURE]
    }

    fn is_process_of(&self, command_line: &[u8], run_dir: &Path) -> bool {
        locks(command_line, run_dir.join(PID).as_os_str())
    }

    fn start(&self, spec: &LaunchSpec) -> Result<Running, MachineError> {
        start::start(spec)
    }

    fn await_ready(&self, spec: &LaunchSpec, process: Process) -> Result<(), MachineError> {
        start::await_monitor(spec, process, start::PATIENCE)
    }

    fn press_power_button(&self, run_dir: &Path) -> bool {
        let asked = Qmp::connect(&run_dir.join(QMP), MONITOR_PATIENCE)
            .and_then(|mut qmp| qmp.execute("system_powerdown", json!({}), MONITOR_PATIENCE));
        asked.is_ok()
    }

    fn quit(&self, run_dir: &Path) -> bool {
        let Ok(mut qmp) = Qmp::connect(&run_dir.join(QMP), MONITOR_PATIENCE) else { return false };
        // It may be gone before it has answered: what counts is that it goes.
        let _ = qmp.execute("quit", json!({}), MONITOR_PATIENCE);
        true
    }

    fn resume_writes(&self, run_dir: &Path) -> Result<bool, MachineError> {
        let mut qmp = Qmp::connect(&run_dir.join(QMP), MONITOR_PATIENCE)?;
        let status = qmp.execute("query-status", json!({}), MONITOR_PATIENCE)?;
        let paused = status["status"] == "io-error";
        if paused {
            qmp.execute("cont", json!({}), MONITOR_PATIENCE)?;
        }
        Ok(paused)
    }

    fn replug(&self, run_dir: &Path, nics: &[usize]) -> Result<(), MachineError> {
        Ok(replug::replug(run_dir, nics)?)
    }

    fn filter_socket(&self, run_dir: &Path) -> Option<PathBuf> {
        Some(run_dir.join(FILTER))
    }
}

/// The name of a machine's adapter, by its number.
pub fn adapter_name(index: usize) -> String {
    format!("nic{index}")
}

/// The socket of a machine's monitor, for [`Qmp`].
pub fn monitor_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(QMP)
}

/// Whether a command line, its words ended by zeros, says `-pidfile LOCK`.
fn locks(command_line: &[u8], lock: &OsStr) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    words.any(|word| word == b"-pidfile") && words.next() == Some(lock.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let lock = OsStr::new("/r/qemu.pid");
        assert!(locks(b"qemu\0-pidfile\0/r/qemu.pid\0-x\0", lock));
        assert!(!locks(b"qemu\0-pidfile\0/r/qemu.pid2\0", lock));
        assert!(!locks(b"vi\0/r/qemu.pid\0", lock));
        assert!(!locks(b"", lock));
    }
}
