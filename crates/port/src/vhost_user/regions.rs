//! A guest's memory, as its VMM lends it to us.

use std::fs::File;

use crate::guest_memory::{GuestMemory, MemoryError};

/// A region as it is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionInfo {
    pub(crate) guest_addr: u64,
    pub(crate) len: u64,
    /// Where the VMM itself sees it: ring addresses are given so.
    pub(crate) vmm_addr: u64,
    pub(crate) file_offset: u64,
}

/// Everything that one VMM lends.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    memory: GuestMemory,
    infos: Vec<RegionInfo>,
}

impl Regions {
    /// The memory as the worker uses it.
    pub(crate) fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    /// Maps one more region.
    pub(crate) fn add(&mut self, info: RegionInfo, file: &File) -> Result<(), MemoryError> {
        info.vmm_addr.checked_add(info.len).ok_or(MemoryError::BadPlace)?;
        self.memory = self.memory.with(info.guest_addr, info.len, file, info.file_offset)?;
        self.infos.push(info);
        Ok(())
    }

    /// Forgets a region.
    pub(crate) fn remove(&mut self, guest_addr: u64, len: u64, vmm_addr: u64) -> Result<(), MemoryError> {
        let same = |i: &RegionInfo| (i.guest_addr, i.len, i.vmm_addr) == (guest_addr, len, vmm_addr);
        let index = self.infos.iter().position(same).ok_or(MemoryError::NoSuchRegion)?;
        self.memory = self.memory.without(guest_addr, len)?;
        self.infos.remove(index);
        Ok(())
    }

    /// Where the guest sees what its VMM sees at `vmm_addr`.
    pub(crate) fn guest_address(&self, vmm_addr: u64) -> Option<u64> {
        self.infos.iter().find_map(|info| {
            let offset = vmm_addr.checked_sub(info.vmm_addr)?;
            (offset < info.len).then(|| info.guest_addr + offset)
        })
    }

    /// How many regions there are.
    pub(crate) fn count(&self) -> usize {
        self.memory.count()
    }
}
