//! Disks.
use std::path::Path;
use weft_model::DiskFormat;
use crate::MachineError;
/// Finds out a disk's format.
pub fn disk_format(_path: &Path) -> Result<DiskFormat, MachineError> { todo!() }
