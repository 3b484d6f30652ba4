//! The names of a machine's files, whichever engine runs it.

/// The serial console, in the run folder.
pub(crate) const CONSOLE: &str = "console.sock";
/// The port of Weft's agent, in the run folder.
pub(crate) const AGENT: &str = "agent.sock";
/// The port of QEMU's guest agent, in the run folder.
pub(crate) const QGA: &str = "qga.sock";
/// The record of the process, in the run folder.
pub(crate) const PROCESS: &str = "process.json";
/// What the serial console has said, in the state folder.
pub(crate) const CONSOLE_LOG: &str = "console.log";
/// What the engine has said, in the state folder.
pub(crate) const ENGINE_LOG: &str = "engine.log";
