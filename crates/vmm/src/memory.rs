//! A guest's memory: one memfd that this process, KVM and the virtual switch map.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::null_mut;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap};

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

/// Maps a guest's memory where the guest sees it: below the hole for PCI, and from 4 GiB on. It stays mapped until the
/// process ends, which has one guest.
///
/// Each piece begins at a multiple of [`GRANULE_BYTES`] here, too: only so can a large page of the host be one of the
/// guest's.
///
/// # Errors
/// When the system refuses.
pub fn map(file: &Arc<File>) -> Result<GuestMemory, MemoryError> {
    let bytes = file.metadata().map_err(|source| MemoryError::System { bytes: 0, source })?.len();
    let region = |(at, len, offset)| {
        let region = map_region(file, len, offset)?;
        GuestRegionMmap::new(region, GuestAddress(at)).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let regions = regions(bytes).map(region).collect::<io::Result<_>>();
    let regions = regions.map_err(|source| MemoryError::System { bytes, source })?;
    GuestMemoryMmap::from_regions(regions)
        .map_err(|error| MemoryError::System { bytes, source: io::Error::other(error) })
}

/// Maps `len` bytes of a memfd, for good.
#[expect(unsafe_code, reason = "vm-memory has no way to choose where memory is mapped")]
fn map_region(file: &Arc<File>, len: u64, offset: u64) -> io::Result<MmapRegion> {
    let overflow = || io::Error::from(io::ErrorKind::OutOfMemory);
    let (len, granule) = (usize::try_from(len).map_err(|_| overflow())?, GRANULE_BYTES as usize);
    let room = len.checked_add(granule).ok_or_else(overflow)?;
    // SAFETY: the kernel chooses a place where nothing is; the memory cannot be reached, and takes no room.
    let reserved = unsafe { mmap_anonymous(null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE) }?;
    let place = reserved.cast::<u8>().wrapping_add(reserved.addr().wrapping_neg() & (granule - 1));
    let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: it replaces a part of what was reserved, which is ours and has no references into it.
    unsafe { mmap(place.cast::<c_void>(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset) }?;
    let region = MmapRegionBuilder::new(len)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
        .with_file_offset(FileOffset::from_arc(file.clone(), offset));
    // SAFETY: `len` bytes are mapped there, and nobody takes them away.
    unsafe { region.with_raw_mmap_pointer(place) }.build().map_err(io::Error::other)
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
        let start = memory.get_host_address(GuestAddress(0)).expect("inside");
        assert!(start.addr().is_multiple_of(GRANULE_BYTES as usize), "{start:?}");
        memory.write_obj(7_u64, GuestAddress(0x1000)).expect("inside");
        clear(&file).expect("a hole");
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1000)).expect("inside"), 0);
    }
}
