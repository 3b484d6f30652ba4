//! A guest's memory: one memfd that this process, KVM and the virtual switch map.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion as _};

use crate::layout::{HIGH_RAM_START, LOW_RAM_END};

/// A guest's memory, by its own addresses. Every access is checked.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Memory is given in pages of 2 MiB, so that the host may use large pages for it.
pub const GRANULE_BYTES: u64 = 2 << 20;

/// Why there is no memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size makes no sense.
    #[error("A machine's memory is a multiple of 2 MiB, and at least 16 MiB, not {0} bytes")]
    Size(u64),
    /// The system refuses.
    #[error("Cannot make {bytes} bytes of guest memory: {source}")]
    System {
        /// What was wanted.
        bytes: u64,
        /// The refusal.
        source: io::Error,
    },
}

/// A memfd of a guest's size. It cannot shrink, so nobody who maps it can be hurt by whoever else has it.
///
/// # Errors
/// When the size makes no sense or the system refuses.
pub fn create(bytes: u64) -> Result<Arc<File>, MemoryError> {
    if !bytes.is_multiple_of(GRANULE_BYTES) || bytes < 8 * GRANULE_BYTES {
        return Err(MemoryError::Size(bytes));
    }
    let make = || -> io::Result<File> {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.set_len(bytes)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(file)
    };
    Ok(Arc::new(make().map_err(|source| MemoryError::System { bytes, source })?))
}

/// Maps a guest's memory where the guest sees it: below the hole for PCI, and from 4 GiB on.
///
/// # Errors
/// When the system refuses.
pub fn map(file: &Arc<File>) -> Result<GuestMemory, MemoryError> {
    let bytes = file.metadata().map_err(|source| MemoryError::System { bytes: 0, source })?.len();
    let regions = regions(bytes)
        .map(|(at, len, offset)| (GuestAddress(at), len as usize, Some(FileOffset::from_arc(file.clone(), offset))));
    GuestMemory::from_ranges_with_files(regions)
        .map_err(|error| MemoryError::System { bytes, source: io::Error::other(error) })
}

/// Makes the memory what it was at first: zeroes that take no room.
///
/// # Errors
/// When the system refuses.
pub fn clear(file: &File) -> io::Result<()> {
    let bytes = file.metadata()?.len();
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, bytes)?)
}

/// Where `bytes` of memory are: address, length and place in the file of each piece.
fn regions(bytes: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let low = bytes.min(LOW_RAM_END);
    [(0, low, 0), (HIGH_RAM_START, bytes - low, low)].into_iter().filter(|(_, len, _)| *len > 0)
}

/// The end of the memory below 4 GiB.
pub(crate) fn low_end(memory: &GuestMemory) -> u64 {
    use vm_memory::GuestMemoryBackend as _;
    memory.find_region(GuestAddress(0)).map_or(0, |region| region.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes as _, GuestMemoryBackend as _};

    #[test]
    fn memory_leaves_a_hole_below_4_gib() {
        let gib = 1 << 30;
        assert_eq!(regions(gib).collect::<Vec<_>>(), [(0, gib, 0)]);
        assert_eq!(regions(3 * gib).collect::<Vec<_>>(), [(0, 3 * gib, 0)]);
        assert_eq!(regions(5 * gib).collect::<Vec<_>>(), [(0, 3 * gib, 0), (4 * gib, 2 * gib, 3 * gib)]);
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for bytes in [0, 1 << 20, (64 << 20) + 4096, u64::MAX] {
            assert!(matches!(create(bytes), Err(MemoryError::Size(_))), "{bytes}");
        }
    }

    #[test]
    fn a_cleared_memory_is_zero_again() {
        let file = create(32 << 20).expect("memory");
        let memory = map(&file).expect("a mapping");
        assert_eq!(memory.last_addr().0, (32 << 20) - 1);
        memory.write_obj(7_u64, GuestAddress(0x1000)).expect("inside");
        clear(&file).expect("a hole");
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1000)).expect("inside"), 0);
    }
}
