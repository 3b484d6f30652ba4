//! Machines: engines, images, disks, consoles and the guest agent's host side.
//!
//! A machine is described by a [`LaunchSpec`], made ready by [`prepare`], started by [`start`] as a process that
//! outlives this one, found again by [`find`], and ended by [`stop`]. Everything is a plain blocking call.

mod disk;
mod engine;
mod error;
pub mod guest;
mod host;
mod image;
mod process;
mod spec;

pub use disk::disk_format;
pub use engine::{
    Accelerator, CONSOLE_LOG, ENGINE_LOG, Qmp, QmpError, Running, StopOutcome, adopt, console_log, engine_words, find,
    prepare, remove, start, stop,
};
pub use error::{MAX_SOCKET_PATH_BYTES, MachineError};
pub use host::{HostReport, KvmState, QemuReport, Tool, probe};
pub use image::{Built, ImageInfo, Images, Progress};
pub use process::{Exit, Process};
pub use spec::{Boot, LaunchNic, LaunchSpec, Seed, SeedNic, Uuid};
