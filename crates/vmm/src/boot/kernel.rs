//! Kernels and initial RAM disks: which kind of file it is, and where it goes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::Placed;
use crate::layout::{COMMAND_LINE_BYTES, HIGH_MEMORY};
use crate::memory::{GuestMemory, low_end};

const PAGE_BYTES: u64 = 4096;
/// In `xloadflags`: the kernel has a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;

/// What is looked at of a file before it is loaded: the header of either kind.
const HEAD_BYTES: u64 = 4096;
/// In a bzImage: how much memory it needs from where it runs, which is this address unless it was built for another.
const INIT_SIZE: usize = 0x260;
const PREFERRED_ADDRESS: u64 = 16 << 20;

/// Why a machine cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file is something else.
    #[error("The kernel is neither a bzImage nor an ELF file with a PVH entry")]
    Unknown,
    /// It is an ELF file, and broken.
    #[error("The kernel's ELF file cannot be loaded: {0}")]
    Elf(linux_loader::loader::Error),
    /// It is a bzImage, and broken.
    #[error("The kernel's bzImage cannot be loaded: {0}")]
    BzImage(linux_loader::loader::Error),
    /// An old kernel, or one for other processors.
    #[error("The kernel's bzImage has no 64-bit entry")]
    NoEntry,
    /// The kernel unpacks itself to where there is no memory.
    #[error("The kernel needs the memory below {} MiB, and there are {} MiB", .needs >> 20, .has >> 20)]
    TooLarge {
        /// The end of what it needs.
        needs: u64,
        /// The end of what there is.
        has: u64,
    },
    /// The initial RAM disk and the kernel are too large together.
    #[error("The initial RAM disk of {0} bytes has no room in memory")]
    NoRoom(u64),
    /// A file cannot be read.
    #[error("Cannot read {what}: {source}")]
    Read {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What the kernel is told is too long, or has a NUL inside.
    #[error("The kernel's command line has {0} bytes; it may have 2047, and no NUL")]
    CommandLine(usize),
    /// Memory is smaller than what must be in it.
    #[error("The machine's memory is too small to boot: {0}")]
    Memory(#[from] GuestMemoryError),
}

const _: () = assert!(COMMAND_LINE_BYTES == 2048, "the message says so");

impl KernelError {
    /// What helps.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unknown | Self::NoEntry => {
                "use a distribution's /boot/vmlinuz for x86-64, or a vmlinux with CONFIG_PVH"
            }
            Self::Elf(_) | Self::BzImage(_) => "look whether the file is whole, and the machine's memory large enough",
            Self::TooLarge { .. } | Self::NoRoom(_) | Self::Memory(_) => "give the machine more memory",
            Self::Read { .. } => "look whether the file is a regular one that can be read",
            Self::CommandLine(_) => "shorten it",
        }
    }
}

/// A kernel in memory.
pub(super) struct Kernel {
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) entry: KernelEntry,
}

/// How a kernel begins.
pub(super) enum KernelEntry {
    /// By Linux' boot protocol.
    Linux(Box<setup_header>),
    /// By PVH's, there.
    Pvh(u64),
}

/// Loads a kernel where it wants to be; `prepare` is told before where that is.
pub(super) fn load(
    memory: &GuestMemory,
    file: &File,
    prepare: &mut dyn FnMut(Range<u64>),
) -> Result<Kernel, KernelError> {
    let read = |source| KernelError::Read { what: "the kernel", source };
    let mut file = file.try_clone().map_err(read)?;
    let mut head = Vec::new();
    file.rewind().map_err(read)?;
    (&file).take(HEAD_BYTES).read_to_end(&mut head).map_err(read)?;
    if head.starts_with(b"\x7fELF") {
        segments(&head).for_each(&mut *prepare);
        let loaded = Elf::load(memory, None, &mut file, Some(GuestAddress(HIGH_MEMORY)));
        let loaded = loaded.map_err(KernelError::Elf)?;
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else { return Err(KernelError::Unknown) };
        return Ok(Kernel { at: loaded.kernel_load.0, end: loaded.kernel_end, entry: KernelEntry::Pvh(entry.0) });
    }
    if head.get(0x202..0x206) != Some(b"HdrS") {
        return Err(KernelError::Unknown);
    }
    if let Some(header) = head.get(INIT_SIZE..).and_then(|bytes| bytes.first_chunk()) {
        // Where a kernel is loaded comes next to where it unpacks itself.
        prepare(HIGH_MEMORY..PREFERRED_ADDRESS + u64::from(u32::from_le_bytes(*header)));
    }
    let loaded = BzImage::load(memory, None, &mut file, Some(GuestAddress(HIGH_MEMORY)));
    let loaded = loaded.map_err(KernelError::BzImage)?;
    let header = loaded.setup_header.ok_or(KernelError::Unknown)?;
    if header.version < 0x20c || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::NoEntry);
    }
    // Unpacking needs more room than the file has: the kernel says how much.
    let end = loaded.kernel_end.max(header.pref_address.saturating_add(u64::from(header.init_size)));
    let has = low_end(memory);
    if end > has {
        return Err(KernelError::TooLarge { needs: end, has });
    }
    Ok(Kernel { at: loaded.kernel_load.0, end, entry: KernelEntry::Linux(Box::new(header)) })
}

/// Where the segments of an ELF file go; its header is at the beginning of `head`, and what it says may be wrong.
fn segments(head: &[u8]) -> impl Iterator<Item = Range<u64>> {
    const FIRST: usize = 0x20;
    const COUNT: usize = 0x38;
    const HEADER_BYTES: usize = 56;
    const LOADED: [u8; 4] = [1, 0, 0, 0];
    let count = head.get(COUNT..).and_then(|bytes| bytes.first_chunk()).map_or(0, |count| u16::from_le_bytes(*count));
    let first =
        head.get(FIRST..).and_then(|bytes| bytes.first_chunk()).map_or(0, |at| u64::from_le_bytes(*at)) as usize;
    let headers = (0..usize::from(count)).map_while(move |index| head.get(first.checked_add(index * HEADER_BYTES)?..));
    headers.filter(|header| header.starts_with(&LOADED)).filter_map(|header| {
        let word = |at: usize| Some(u64::from_le_bytes(*header.get(at..)?.first_chunk()?));
        let (address, bytes) = (word(0x18)?, word(0x28)?);
        Some(address..address.checked_add(bytes)?)
    })
}

/// Loads an initial RAM disk, as high as it may be and apart from the kernel.
pub(super) fn load_initrd(
    memory: &GuestMemory,
    file: &File,
    kernel: &Kernel,
    prepare: &mut dyn FnMut(Range<u64>),
) -> Result<Placed, KernelError> {
    let read = |source| KernelError::Read { what: "the initial RAM disk", source };
    let mut file = file.try_clone().map_err(read)?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(read)?;
    file.rewind().map_err(read)?;
    let limit = match &kernel.entry {
        KernelEntry::Linux(header) => u64::from(header.initrd_addr_max) + 1,
        KernelEntry::Pvh(_) => u64::MAX,
    };
    let end = low_end(memory).min(limit);
    let at = end.checked_sub(bytes).map(|at| at / PAGE_BYTES * PAGE_BYTES).filter(|at| *at >= kernel.end);
    let at = at.ok_or(KernelError::NoRoom(bytes))?;
    prepare(at..at + bytes);
    memory.read_exact_volatile_from(GuestAddress(at), &mut file, bytes as usize)?;
    Ok(Placed { at, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_found_as_far_as_the_header_can_be_believed() {
        let mut head = vec![0; 64 + 3 * 56];
        head[0x20] = 64;
        head[0x38] = 200; // more than there are
        let mut segment = |index: usize, kind: u8, address: u64, bytes: u64| {
            let at = 64 + index * 56;
            head[at] = kind;
            head[at + 0x18..at + 0x20].copy_from_slice(&address.to_le_bytes());
            head[at + 0x28..at + 0x30].copy_from_slice(&bytes.to_le_bytes());
        };
        segment(0, 1, 0x100_0000, 0x20_0000);
        segment(1, 4, 0x200_0000, 0x1000); // a note
        segment(2, 1, u64::MAX, 2);
        assert!(segments(&head).eq(std::iter::once(0x100_0000..0x120_0000)));
        head[0x20..0x28].fill(0xff);
        assert_eq!(segments(&head).count(), 0);
        assert_eq!(segments(b"\x7fELF").count(), 0);
    }
}
