//! Engines: from a [`LaunchSpec`] to a process, and to that process's end.
//!
//! Each engine has a folder of its own, and is an [`Engine`] to everybody else. What they have in common is here: the
//! process belongs to nobody. It leaves the session of whoever starts it, keeps none of its descriptors, and lives on when
//! that one is killed. What is known of it stands in its run folder (`record`), and all talk with it goes over the sockets
//! there.

mod accel;
mod choice;
mod files;
mod kvm;
mod log;
mod qemu;
mod record;
mod start;
mod stop;
mod uml;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_model::EngineKind;

pub(crate) use accel::kvm_state;
pub use log::{bound_logs, console_log, engine_words, written_bytes};
pub(crate) use qemu::{Board, uefi};
pub use qemu::{
    Qmp, QmpError, QmpEvent, RxFilter, RxFilters, RxWish, adapter_name, fuzz_qmp, fuzz_rx_filter, monitor_socket,
    screen_socket, screenshot,
};
pub use record::fuzz as fuzz_record;
pub use start::{prepare, start};
pub use stop::{StopOutcome, remove, stop};

use crate::{LaunchSpec, MachineError, Process};

/// What an engine does in its own way.
trait Engine: Sync {
    /// Its name in files of Weft's.
    fn kind(&self) -> EngineKind;

    /// Its name in messages.
    fn title(&self) -> &'static str;

    /// What it makes in a machine's run folder, beside the sockets that every engine has.
    fn files(&self) -> &'static [&'static str];

    /// Whether a process with this command line, its words ended by zeros, was started for the machine of this run folder.
    fn is_process_of(&self, command_line: &[u8], run_dir: &Path) -> bool;

    /// Starts a machine that does not run, and returns when it is set up. When this fails nothing is left running.
    fn start(&self, spec: &LaunchSpec) -> Result<Running, MachineError>;

    /// Waits until a machine that was started is set up.
    fn await_ready(&self, spec: &LaunchSpec, process: Process) -> Result<(), MachineError>;

    /// Asks the guest to power off; whether that could be said to it.
    fn press_power_button(&self, run_dir: &Path) -> bool;

    /// Tells the process to end; whether it heard.
    fn quit(&self, run_dir: &Path) -> bool;

    /// As [`resume_writes`] says; for engines that never pause a machine by themselves there is nothing to do.
    fn resume_writes(&self, run_dir: &Path) -> Result<bool, MachineError> {
        let _ = run_dir;
        Ok(false)
    }

    /// As [`replug`] says.
    fn replug(&self, run_dir: &Path, nics: &[usize]) -> Result<(), MachineError> {
        let _ = (run_dir, nics);
        Err(MachineError::EngineLacks { engine: self.title(), what: "cables that can be pulled" })
    }

    /// As [`filter_socket`] says.
    fn filter_socket(&self, run_dir: &Path) -> Option<PathBuf> {
        let _ = run_dir;
        None
    }
}

/// All of them.
const ENGINES: [&dyn Engine; 3] = [&qemu::Qemu, &kvm::Kvm, &uml::Uml];

/// The engine of this name.
fn engine(kind: EngineKind) -> &'static dyn Engine {
    match kind {
        EngineKind::Qemu => &qemu::Qemu,
        EngineKind::Kvm => &kvm::Kvm,
        EngineKind::Uml => &uml::Uml,
    }
}

/// The engine that runs the machine of this run folder; QEMU where none does.
fn engine_of(run_dir: &Path) -> &'static dyn Engine {
    engine(adopt(run_dir).map_or(EngineKind::Qemu, |running| running.engine))
}

/// How an engine runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// On the processor, through the kernel.
    Kvm,
    /// By translating them.
    Tcg,
    /// As the host's own: the guest's kernel is a program that watches its processes.
    Ptrace,
}

impl Accelerator {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Ptrace => "ptrace",
        }
    }
}

/// A machine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub process: Process,
    /// Whose process that is.
    pub engine: EngineKind,
    /// How it runs the guest's instructions.
    pub accelerator: Accelerator,
}

/// The process of the machine whose run folder this is, if it runs.
pub fn find(run_dir: &Path) -> Option<Process> {
    adopt(run_dir).map(|running| running.process)
}

/// Like [`find`], with how it runs.
pub fn adopt(run_dir: &Path) -> Option<Running> {
    record::find(run_dir)
}

/// Lets a machine go on that its engine has paused because the host had no room for what it wrote; whether it was so.
///
/// The write that failed is done again, so nothing is lost; while there is still no room the machine is paused again.
pub fn resume_writes(run_dir: &Path) -> Result<bool, MachineError> {
    engine_of(run_dir).resume_writes(run_dir)
}

/// Takes the link of the adapters with these numbers down and up again, upon which guests ask for new leases.
pub fn replug(run_dir: &Path, nics: &[usize]) -> Result<(), MachineError> {
    engine_of(run_dir).replug(run_dir, nics)
}

/// The socket of a machine's serial console.
pub fn console_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(files::CONSOLE)
}

/// The socket behind which a machine's agent of Weft's own speaks.
pub fn agent_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(files::AGENT)
}

/// The socket behind which a machine's QEMU guest agent speaks.
pub fn guest_agent_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(files::QGA)
}

/// The socket at which the engine of a machine that runs tells what adapters listen to, for [`RxFilters`], which stay
/// connected; `None` where its engine does not tell.
pub fn filter_socket(run_dir: &Path) -> Option<PathBuf> {
    engine_of(run_dir).filter_socket(run_dir)
}
