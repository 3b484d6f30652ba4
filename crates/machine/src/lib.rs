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
mod shares;
mod spec;
mod whole;

pub use disk::{check_disk, check_file, check_overlay};
pub use engine::{
    Accelerator, Qmp, QmpError, QmpEvent, Running, RxFilter, RxFilters, RxWish, StopOutcome, adapter_name, adopt,
    agent_socket, bound_logs, console_log, console_socket, engine_words, filter_socket, find, guest_agent_socket,
    monitor_socket, prepare, remove, replug, resume_writes, screen_socket, screenshot, start, stop, written_bytes,
};
pub use error::{MAX_SOCKET_PATH_BYTES, MachineError};
pub use host::{HostReport, KvmState, QemuReport, Tool, probe};
pub use image::{
    Built, Catalog, CatalogImage, Checksum, CpioWriter, Debian, Expected, ImageInfo, Images, KeptImage, Parts,
    Progress, Source, Wanted, is_archive,
};
pub use process::{Exit, Process};
pub use shares::{GroupState, share, state as group_state};
pub use spec::{Boot, DiskSpec, LaunchNic, LaunchSpec, NicSetup, Seed, SeedNic, Uuid};

/// Decoders of hostile bytes, for the fuzzers and nobody else.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::engine::{fuzz_qmp as qmp, fuzz_record as record, fuzz_rx_filter as rx_filter};
    pub use crate::image::{fuzz_elf as elf, fuzz_layers as layers, fuzz_tar as tar};
}
