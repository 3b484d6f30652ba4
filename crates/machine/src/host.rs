//! What this host has for running machines.
use std::path::PathBuf;
use weft_types::ByteSize;
use crate::MachineError;

/// What this host has for running machines.
#[derive(Debug)]
pub struct HostReport {
    /// The engine.
    pub qemu: Result<QemuReport, MachineError>,
    /// Hardware virtualization.
    pub kvm: KvmState,
    /// The programs that building the image `micro` needs, and what is optional.
    pub tools: Vec<Tool>,
    /// Memory that machines could have now.
    pub memory_available: ByteSize,
}
/// The QEMU of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuReport {
    /// The program.
    pub path: PathBuf,
    /// Its version, like `7.2.22`.
    pub version: String,
}
/// Whether the hardware can run guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmState {
    /// It can.
    Usable,
    /// `/dev/kvm` opens, but guests do not run or crawl; why, in words.
    Unusable(String),
    /// There is no `/dev/kvm`.
    Absent,
    /// This user may not open `/dev/kvm`.
    NoPermission,
}
/// A program of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub path: Option<PathBuf>,
    /// What it is for.
    pub purpose: &'static str,
    /// How to get it.
    pub hint: &'static str,
}
/// Looks.
pub fn probe() -> HostReport { todo!() }
