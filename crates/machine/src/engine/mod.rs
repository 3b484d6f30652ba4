//! The QEMU engine.
use std::path::{Path, PathBuf};
use std::time::Duration;
use crate::{LaunchSpec, MachineError, Process};
use serde::{Deserialize, Serialize};

/// How QEMU runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// On the processor, through the kernel.
    Kvm,
    /// By translating them.
    Tcg,
}
/// A machine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub process: Process,
    /// How it runs the guest's instructions.
    pub accelerator: Accelerator,
}
/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// It did not run.
    NotRunning,
    /// The guest shut itself down.
    Shutdown,
    /// The guest did not within the grace, and QEMU was told to quit.
    Quit,
    /// QEMU did not answer and was killed.
    Killed,
}
/// The file in a machine's state folder with what its serial console has said since its last start.
pub const CONSOLE_LOG: &str = "console.log";
/// The file in a machine's state folder with what its engine has said since its last start.
pub const ENGINE_LOG: &str = "engine.log";
/// A QMP client.
#[derive(Debug)]
pub struct Qmp;
/// Why QMP failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Placeholder.
    #[error("nothing")]
    Nothing,
}
/// Makes ready what the machine needs on disk.
pub fn prepare(_spec: &LaunchSpec) -> Result<(), MachineError> { todo!() }
/// Starts.
pub fn start(_spec: &LaunchSpec) -> Result<Running, MachineError> { todo!() }
/// Finds.
pub fn find(run_dir: &Path) -> Option<Process> { adopt(run_dir).map(|running| running.process) }
/// Finds with accelerator.
pub fn adopt(_run_dir: &Path) -> Option<Running> { todo!() }
/// Stops.
pub fn stop(_run_dir: &Path, _grace: Duration) -> Result<StopOutcome, MachineError> { todo!() }
/// Removes.
pub fn remove(_state_dir: &Path, _run_dir: &Path) -> Result<(), MachineError> { todo!() }
/// The console's log.
pub fn console_log(state_dir: &Path) -> PathBuf { state_dir.join(CONSOLE_LOG) }
/// The last words.
pub fn engine_words(_state_dir: &Path) -> String { todo!() }
