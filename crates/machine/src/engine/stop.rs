//! Ending a machine.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{Qmp, files, record};
use crate::{MachineError, Process};

/// How long the monitor may take to answer, and QEMU to quit.
const MONITOR_PATIENCE: Duration = Duration::from_millis(500);
/// How long the kernel may take to end a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// It did not run.
    NotRunning,
    /// The guest shut itself down when asked.
    Shutdown,
    /// The guest did not within the grace, and QEMU was told to quit.
    Quit,
    /// QEMU did not answer and was killed.
    Killed,
}

/// Ends the machine and removes what its run folder held.
///
/// The guest is asked first, by its power button, and has `grace` to shut itself down; none at all if that is zero.
#[tracing::instrument(target = "weft::machine", skip_all, err, fields(run_dir = %run_dir.display()))]
pub fn stop(run_dir: &Path, grace: Duration) -> Result<StopOutcome, MachineError> {
    let outcome = match record::find(run_dir) {
        None => {
            record::bury(run_dir);
            StopOutcome::NotRunning
        }
        Some(running) => end(run_dir, running.process, grace)?,
    };
    clear(run_dir);
    Ok(outcome)
}

fn end(run_dir: &Path, process: Process, grace: Duration) -> Result<StopOutcome, MachineError> {
    let qmp = Qmp::connect(&run_dir.join(files::QMP), MONITOR_PATIENCE);
    if let Ok(mut qmp) = qmp {
        let mut asked = |command| qmp.execute(command, json!({}), MONITOR_PATIENCE).is_ok();
        if !grace.is_zero() && asked("system_powerdown") && process.wait_exit(grace).is_some() {
            return Ok(StopOutcome::Shutdown);
        }
        // It may be gone before it has answered: what counts is that it goes.
        asked("quit");
        if process.wait_exit(MONITOR_PATIENCE).is_some() {
            return Ok(StopOutcome::Quit);
        }
    }
    process.kill().map_err(MachineError::io("kill the process of", run_dir))?;
    match process.wait_exit(KILL_PATIENCE) {
        Some(_) => Ok(StopOutcome::Killed),
        None => Err(MachineError::DoesNotEnd { pid: process.pid }),
    }
}

/// Removes a machine for good: its process if it still runs, and both its folders with all that is in them.
pub fn remove(state_dir: &Path, run_dir: &Path) -> Result<(), MachineError> {
    stop(run_dir, Duration::ZERO)?;
    for dir in [run_dir, state_dir] {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(MachineError::io("remove", dir)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the files of a process that is no more; the folder too, if nothing else is in it.
pub(super) fn clear(run_dir: &Path) {
    for name in [files::QMP, files::CONSOLE, files::AGENT, files::QGA, files::PID, files::PROCESS] {
        let _ = fs::remove_file(run_dir.join(name)); // what stays is replaced by the next start
    }
    let _ = fs::remove_dir(run_dir);
}
