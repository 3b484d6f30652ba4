//! The host's side of what runs in a guest.
//!
//! [`Agent`] speaks with Weft's own agent: streams, terminals, signals, many sessions at a time. [`QemuGuestAgent`]
//! speaks with the QEMU guest agent of foreign images: one command at a time, its output in one piece at its end. Both
//! give a session as one end of a Unix socket that speaks [`session`] frames; dropping it kills the command.

mod agent;
pub mod binary;
mod error;
mod link;
mod pump;
mod qemu;
pub mod qga;

pub use agent::Agent;
pub use binary::AGENT;
pub use error::GuestError;
pub use qemu::QemuGuestAgent;
pub use weft_agent::message::{
    Address, AgentInfo, Exec as ExecRequest, ExitStatus, GuestInfo, Interface, Shutdown, Size, Tty,
};
pub use weft_agent::{PORT_NAME, session};

/// What the functions of this module return.
pub type Result<T, E = GuestError> = std::result::Result<T, E>;
