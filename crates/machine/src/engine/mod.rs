//! The QEMU engine: from a [`LaunchSpec`](crate::LaunchSpec) to a process, and to that process's end.
//!
//! The process belongs to nobody: it leaves the session of whoever starts it, keeps none of its descriptors, and lives on
//! when that one is killed. What is known of it stands in its run folder (`record`), and all talk with it goes over the
//! sockets there.

mod accel;
mod argv;
mod files;
mod log;
mod qmp;
mod record;
mod replug;
mod rx_filter;
mod start;
mod stop;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) use accel::kvm_state;
pub use log::{bound_logs, console_log, engine_words, written_bytes};
pub use qmp::{Qmp, QmpError, QmpEvent, fuzz as fuzz_qmp};
pub use record::fuzz as fuzz_record;
pub use replug::replug;
pub use rx_filter::{RxFilter, RxFilters, RxWish, fuzz as fuzz_rx_filter};
pub use start::{prepare, start};
pub use stop::{StopOutcome, remove, stop};

use crate::Process;

/// How long the monitor may take to answer, and QEMU to quit.
const MONITOR_PATIENCE: Duration = Duration::from_millis(500);

/// How QEMU runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// On the processor, through the kernel.
    Kvm,
    /// By translating them.
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A machine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub process: Process,
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

/// Lets a machine go on that QEMU has paused because the host had no room for what it wrote; whether it was so.
///
/// The write that failed is done again, so nothing is lost; while there is still no room the machine is paused again.
pub fn resume_writes(run_dir: &Path) -> Result<bool, QmpError> {
    let mut qmp = Qmp::connect(&run_dir.join(files::QMP), MONITOR_PATIENCE)?;
    let status = qmp.execute("query-status", json!({}), MONITOR_PATIENCE)?;
    let paused = status["status"] == "io-error";
    if paused {
        qmp.execute("cont", json!({}), MONITOR_PATIENCE)?;
    }
    Ok(paused)
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

/// The socket of a machine's second monitor, for [`RxFilters`], which stay connected.
pub fn filter_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(files::FILTER)
}

/// The name of a machine's adapter, by its number.
pub fn adapter_name(index: usize) -> String {
    format!("nic{index}")
}

/// The socket of a machine's monitor, for [`Qmp`].
pub fn monitor_socket(run_dir: &Path) -> PathBuf {
    run_dir.join(files::QMP)
}
