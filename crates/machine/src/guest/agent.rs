//! Weft's own agent.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{AgentInfo, ExecRequest, GuestInfo, Result, Shutdown};

/// The connection to the agent of one guest. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Agent {}

impl Agent {
    /// Begins to talk to the agent behind `socket`, which the engine listens on. The agent need not answer yet, and the
    /// connection is made again whenever it breaks.
    pub fn connect(_socket: &Path) -> Result<Self> {
        todo!()
    }

    /// Waits until the agent answers, and says who it is.
    pub fn wait_ready(&self, _timeout: Duration) -> Result<AgentInfo> {
        todo!()
    }

    /// Asks the guest about itself.
    pub fn info(&self) -> Result<GuestInfo> {
        todo!()
    }

    /// Runs a command; the stream speaks `session` frames. Dropping the stream kills the command.
    pub fn exec(&self, _request: ExecRequest) -> Result<UnixStream> {
        todo!()
    }

    /// Asks the guest to end itself.
    pub fn shutdown(&self, _how: Shutdown) -> Result<()> {
        todo!()
    }
}
