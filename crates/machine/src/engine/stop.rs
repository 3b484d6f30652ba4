//! Ending a machine.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{ENGINES, Running, engine, files, record};
use crate::{MachineError, Process, shares};

/// How long an engine may take to end after it was told to.
const QUIT_PATIENCE: Duration = Duration::from_millis(500);
/// How long the kernel may take to end a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked whether the guest is still to be waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often the button is pressed: a guest that was still booting has not heard it.
const PRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// It did not run.
    NotRunning,
    /// The guest shut itself down when asked.
    Shutdown,
    /// The guest did not while it was waited for, and its engine was told to quit.
    Quit,
    /// The engine did not answer and was killed.
    Killed,
}

/// Ends the machine and removes what its run folder held.
///
/// The guest is asked first, by its power button, and has `grace` to shut itself down; none at all if that is zero, and
/// less when `patient` says no.
#[tracing::instrument(target = "weft::machine", skip_all, err, fields(run_dir = %run_dir.display()))]
pub fn stop(run_dir: &Path, grace: Duration, patient: &dyn Fn() -> bool) -> Result<StopOutcome, MachineError> {
    let outcome = match record::find(run_dir) {
        None => {
            record::bury(run_dir);
            StopOutcome::NotRunning
        }
        Some(running) => end(run_dir, running, grace, patient)?,
    };
    clear(run_dir);
    Ok(outcome)
}

fn end(
    run_dir: &Path,
    running: Running,
    grace: Duration,
    patient: &dyn Fn() -> bool,
) -> Result<StopOutcome, MachineError> {
    let Running { process, .. } = running;
    let engine = engine(running.engine);
    let press = || engine.press_power_button(run_dir);
    if !grace.is_zero() && ends_when_asked(process, grace, press, patient) {
        return Ok(StopOutcome::Shutdown);
    }
    if engine.quit(run_dir) && process.wait_exit(QUIT_PATIENCE).is_some() {
        return Ok(StopOutcome::Quit);
    }
    process.kill().map_err(MachineError::io("kill the process of", run_dir))?;
    match process.wait_exit(KILL_PATIENCE) {
        Some(_) => Ok(StopOutcome::Killed),
        None => Err(MachineError::DoesNotEnd { pid: process.pid }),
    }
}

/// Asks the guest now and again, and waits for the process to end; whether it has.
fn ends_when_asked(
    process: Process,
    grace: Duration,
    mut ask: impl FnMut() -> bool,
    patient: &dyn Fn() -> bool,
) -> bool {
    let deadline = Instant::now() + grace;
    let mut ask_at = Instant::now();
    loop {
        let now = Instant::now();
        if now >= ask_at {
            if !ask() {
                return process.wait_exit(Duration::ZERO).is_some();
            }
            ask_at = now + PRESS_INTERVAL;
        }
        let left = deadline.saturating_duration_since(now);
        if process.wait_exit(left.min(LOOK_INTERVAL)).is_some() {
            return true;
        }
        if left.is_zero() || !patient() {
            return false;
        }
    }
}

/// Removes a machine for good: its process if it still runs, and both its folders with all that is in them.
pub fn remove(state_dir: &Path, run_dir: &Path) -> Result<(), MachineError> {
    stop(run_dir, Duration::ZERO, &|| false)?;
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
    let shared = [files::CONSOLE, files::AGENT, files::QGA, files::PROCESS];
    for name in ENGINES.iter().flat_map(|engine| engine.files()).chain(&shared) {
        let path = run_dir.join(name);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)); // what stays is replaced by the next start
    }
    shares::clear(run_dir);
    let _ = fs::remove_dir(run_dir);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::Command;

    use super::*;

    #[test]
    #[expect(clippy::zombie_processes, reason = "`ends_when_asked` reaps it")]
    fn a_guest_is_waited_for_until_somebody_is_in_a_hurry() {
        let sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of_pid(sleeper.id()).unwrap();
        let looks = Cell::new(0);
        let patient = || looks.replace(looks.get() + 1) < 1;
        let minute = Duration::from_secs(60);
        assert!(!ends_when_asked(process, minute, || true, &patient));
        assert_eq!(looks.get(), 2);
        assert!(!ends_when_asked(process, Duration::from_millis(10), || true, &|| true));
        assert!(!ends_when_asked(process, minute, || false, &|| true), "nobody hears");
        assert!(ends_when_asked(process, minute, || process.kill().is_ok(), &|| true));
    }
}
