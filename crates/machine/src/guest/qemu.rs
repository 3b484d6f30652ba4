//! The QEMU guest agent, for foreign images.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{ExecRequest, Result};

/// The connection to the QEMU guest agent of one guest.
#[derive(Clone)]
pub struct QemuGuestAgent {}

impl QemuGuestAgent {
    /// Begins to talk to the agent behind `socket`. The agent need not answer yet.
    pub fn connect(_socket: &Path) -> Result<Self> {
        todo!()
    }

    /// Waits until the agent answers.
    pub fn wait_ready(&self, _timeout: Duration) -> Result<()> {
        todo!()
    }

    /// Runs a command; its output comes in one piece when it has ended.
    pub fn exec(&self, _request: ExecRequest) -> Result<UnixStream> {
        todo!()
    }

    /// Asks the guest to power itself off.
    pub fn shutdown(&self) -> Result<()> {
        todo!()
    }
}
