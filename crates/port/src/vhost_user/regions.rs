//! A guest's memory, as its VMM lends it to us.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{FsWord, SealFlags, fcntl_get_seals, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

/// Where `memfd_create` files live; see statfs(2).
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// Why memory was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("the memory is not sealed against shrinking: use a memfd with F_SEAL_SHRINK (QEMU: memory-backend-memfd)")]
    NotSealed,
    #[error("the memory is no memfd of ordinary pages (QEMU: memory-backend-memfd, hugetlb=off)")]
    NotMemfd,
    #[error("the memory ends at {has} bytes, and {wanted} were announced")]
    TooShort { has: u64, wanted: u64 },
    #[error("two regions overlap, or one has no or too many bytes")]
    BadPlace,
    #[error("a region that is not there was taken away")]
    NoSuchRegion,
    #[error("cannot look at the memory")]
    Look(#[from] Errno),
    #[error("cannot map the memory")]
    Map(#[from] MmapRegionError),
}

/// A region as it is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionInfo {
    pub(crate) guest_addr: u64,
    pub(crate) len: u64,
    /// Where the VMM itself sees it: ring addresses come in its terms.
    pub(crate) vmm_addr: u64,
    pub(crate) file_offset: u64,
}

/// The regions of one guest.
#[derive(Default)]
pub(crate) struct Regions {
    infos: Vec<RegionInfo>,
    memory: GuestMemoryMmap,
}

/// Takes a guest's memory out of our page tables: what we have touched counts as ours until then. The guest's
/// memory itself stays as it is, and comes back page by page when it is touched again.
#[expect(unsafe_code, reason = "the kernel is told about a mapping")]
pub(crate) fn untouch(memory: &GuestMemoryMmap) {
    for region in memory.iter() {
        let (start, len) = (region.get_mmap().as_ptr(), region.get_mmap().size());
        // SAFETY: the range is a live shared mapping of a file, of which this changes no byte (madvise(2):
        // "subsequent accesses of pages in the range will succeed" and find the file's contents).
        let _ = unsafe { madvise(start.cast(), len, Advice::LinuxDontNeed) };
    }
}

impl Regions {
    /// The memory as the worker uses it.
    pub(crate) fn memory(&self) -> GuestMemoryMmap {
        self.memory.clone()
    }

    /// Maps one more region.
    pub(crate) fn add(&mut self, info: RegionInfo, file: File) -> Result<(), MemoryError> {
        let region = Arc::new(map(info, file)?);
        self.memory = self.memory.insert_region(region).map_err(|_| MemoryError::BadPlace)?;
        self.infos.push(info);
        Ok(())
    }

    /// Forgets a region.
    pub(crate) fn remove(&mut self, guest_addr: u64, len: u64, vmm_addr: u64) -> Result<(), MemoryError> {
        let same = |i: &RegionInfo| (i.guest_addr, i.len, i.vmm_addr) == (guest_addr, len, vmm_addr);
        let index = self.infos.iter().position(same).ok_or(MemoryError::NoSuchRegion)?;
        (self.memory, _) =
            self.memory.remove_region(GuestAddress(guest_addr), len).map_err(|_| MemoryError::NoSuchRegion)?;
        self.infos.remove(index);
        Ok(())
    }

    /// Where the guest sees what its VMM sees at `vmm_addr`.
    pub(crate) fn guest_address(&self, vmm_addr: u64) -> Option<GuestAddress> {
        self.infos.iter().find_map(|info| {
            let offset = vmm_addr.checked_sub(info.vmm_addr)?;
            (offset < info.len).then(|| GuestAddress(info.guest_addr + offset))
        })
    }

    /// How many regions there are.
    pub(crate) fn count(&self) -> usize {
        self.memory.num_regions()
    }
}

/// Maps a region, having made sure that touching it can never end us with SIGBUS: the file must be a memfd of
/// ordinary pages that is long enough and can never become shorter.
fn map(info: RegionInfo, file: File) -> Result<GuestRegionMmap, MemoryError> {
    let wanted = info.file_offset.checked_add(info.len).ok_or(MemoryError::BadPlace)?;
    let len = usize::try_from(info.len).map_err(|_| MemoryError::BadPlace)?;
    let fits = |start: u64| start.checked_add(info.len).is_some();
    if len == 0 || !fits(info.guest_addr) || !fits(info.vmm_addr) {
        return Err(MemoryError::BadPlace);
    }
    if fstatfs(&file)?.f_type != TMPFS_MAGIC {
        return Err(MemoryError::NotMemfd);
    }
    match fcntl_get_seals(&file) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
        Ok(_) | Err(Errno::INVAL) => return Err(MemoryError::NotSealed),
        Err(error) => return Err(error.into()),
    }
    let has = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
    if has < wanted {
        return Err(MemoryError::TooShort { has, wanted });
    }
    let prot = (ProtFlags::READ | ProtFlags::WRITE).bits() as i32;
    let flags = (MapFlags::SHARED | MapFlags::NORESERVE).bits() as i32;
    let mapping = MmapRegion::build(Some(FileOffset::new(file, info.file_offset)), len, prot, flags)?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(info.guest_addr)).ok_or(MemoryError::BadPlace)?;
    debug_assert_eq!(region.len(), info.len);
    Ok(region)
}
