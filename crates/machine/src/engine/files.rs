//! The names of a machine's files.

/// QEMU's monitor, in the run folder.
pub(crate) const QMP: &str = "qmp.sock";
/// QEMU's second monitor, which tells what adapters listen to, in the run folder.
pub(crate) const FILTER: &str = "filter.sock";
/// The serial console, in the run folder.
pub(crate) const CONSOLE: &str = "console.sock";
/// The port of Weft's agent, in the run folder.
pub(crate) const AGENT: &str = "agent.sock";
/// The port of QEMU's guest agent, in the run folder.
pub(crate) const QGA: &str = "qga.sock";
/// The file that QEMU locks, in the run folder.
pub(crate) const PID: &str = "qemu.pid";
/// The record of the process, in the run folder.
pub(crate) const PROCESS: &str = "process.json";
/// What the serial console has said, in the state folder.
pub(crate) const CONSOLE_LOG: &str = "console.log";
/// What QEMU has said, in the state folder.
pub(crate) const ENGINE_LOG: &str = "engine.log";
