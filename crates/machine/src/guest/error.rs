//! What can go wrong between the host and a guest's agent.

use std::io;
use std::time::Duration;

/// Why a guest did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The socket of the guest's port does not answer.
    #[error("Cannot reach the port of the guest agent")]
    Unreachable(#[source] io::Error),
    /// The agent went away before it answered.
    #[error("The connection to the guest agent was lost")]
    Lost,
    /// The agent has not answered yet.
    #[error("The guest agent has not answered{}", within(*waited))]
    NotReady {
        /// How long we waited; nothing if it should have been ready before.
        waited: Duration,
    },
    /// The agent speaks another protocol.
    #[error("The guest agent speaks version {guest} of the protocol; this program speaks version {host}")]
    Version {
        /// The guest's version.
        guest: u16,
        /// Ours.
        host: u16,
    },
    /// The request itself cannot be carried out.
    #[error("The command cannot be run: {0}")]
    Invalid(String),
    /// Too many commands run in the guest.
    #[error("{0} commands run in this guest already; that is the limit")]
    TooManySessions(usize),
    /// The agent refused, in its own words.
    #[error("The guest refused: {0}")]
    Refused(String),
    /// The guest's agent cannot do this at all.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The agent says what no agent says.
    #[error("The guest agent answers nonsense: {0}")]
    Nonsense(String),
    /// The host is out of something.
    #[error("Cannot start a session with the guest")]
    Host(#[source] io::Error),
}

impl GuestError {
    /// What the user can do about it; empty where nothing is to be done.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Lost => "check with `weft ls` that the VM runs",
            Self::NotReady { .. } => {
                "the guest may still be booting, or runs no agent: `weft logs VM` shows its console"
            }
            Self::Version { .. } => "restart the VM: it will boot with this program's agent",
            Self::Invalid(_) => "check the command, its variables and its folder",
            Self::TooManySessions(_) => "end one of them first",
            Self::Unsupported(_) => "install Weft's agent in the image, or do without",
            Self::Nonsense(_) => "restart the VM; do not trust it if that goes on",
            Self::Refused(_) | Self::Host(_) => "",
        }
    }

    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "guest-unreachable",
            Self::Lost => "guest-lost",
            Self::NotReady { .. } => "guest-not-ready",
            Self::Version { .. } => "guest-version",
            Self::Invalid(_) => "guest-invalid-request",
            Self::TooManySessions(_) => "guest-too-many-sessions",
            Self::Refused(_) => "guest-refused",
            Self::Unsupported(_) => "guest-unsupported",
            Self::Nonsense(_) => "guest-nonsense",
            Self::Host(_) => "guest-session",
        }
    }
}

fn within(waited: Duration) -> String {
    if waited.is_zero() { " yet".to_owned() } else { format!(" within {:.1} s", waited.as_secs_f32()) }
}
