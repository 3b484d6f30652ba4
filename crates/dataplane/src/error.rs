use std::io;
use std::path::PathBuf;

use weft_port::PortError;

/// Why the switch process could not start.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The folder for what must last cannot be used.
    #[error("cannot use `{}`", path.display())]
    State {
        /// The folder, or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another switch process works on the same folder.
    #[error("another switch process runs on `{}`", path.display())]
    AlreadyRunning {
        /// The folder.
        path: PathBuf,
    },
    /// Nobody could talk to us.
    #[error("cannot open the control socket")]
    Control(#[source] PortError),
    /// The process is out of something.
    #[error("cannot start the switch")]
    System(#[from] io::Error),
}

impl DataplaneError {
    /// How to fix it.
    pub fn hint(&self) -> &str {
        match self {
            Self::State { .. } => "check that the folder is yours and that its disk is not full",
            Self::AlreadyRunning { .. } => "use that one, or end it first",
            Self::Control(error) => error.hint(),
            Self::System(_) => "see whether the limit of open files (`ulimit -n`) or memory is used up",
        }
    }
}
