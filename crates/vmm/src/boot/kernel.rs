//! Kernels and initial RAM disks: which kind of file it is, and where it goes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

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
            Self::NoRoom(_) | Self::Memory(_) => "give the machine more memory",
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

/// Loads a kernel where it wants to be.
pub(super) fn load(memory: &GuestMemory, file: &File) -> Result<Kernel, KernelError> {
    let read = |source| KernelError::Read { what: "the kernel", source };
    let mut file = file.try_clone().map_err(read)?;
    let mut head = Vec::new();
    file.rewind().map_err(read)?;
    (&file).take(0x206).read_to_end(&mut head).map_err(read)?;
    if head.starts_with(b"\x7fELF") {
        let loaded = Elf::load(memory, None, &mut file, Some(GuestAddress(HIGH_MEMORY)));
        let loaded = loaded.map_err(KernelError::Elf)?;
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else { return Err(KernelError::Unknown) };
        return Ok(Kernel { at: loaded.kernel_load.0, end: loaded.kernel_end, entry: KernelEntry::Pvh(entry.0) });
    }
    if head.get(0x202..) != Some(b"HdrS") {
        return Err(KernelError::Unknown);
    }
    let loaded = BzImage::load(memory, None, &mut file, Some(GuestAddress(HIGH_MEMORY)));
    let loaded = loaded.map_err(KernelError::BzImage)?;
    let header = loaded.setup_header.ok_or(KernelError::Unknown)?;
    if header.version < 0x20c || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::NoEntry);
    }
    // Unpacking needs more room than the file has: the kernel says how much.
    let end = loaded.kernel_end.max(header.pref_address.saturating_add(u64::from(header.init_size)));
    Ok(Kernel { at: loaded.kernel_load.0, end, entry: KernelEntry::Linux(Box::new(header)) })
}

/// Loads an initial RAM disk, as high as it may be and apart from the kernel.
pub(super) fn load_initrd(memory: &GuestMemory, file: &File, kernel: &Kernel) -> Result<Placed, KernelError> {
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
    memory.read_exact_volatile_from(GuestAddress(at), &mut file, bytes as usize)?;
    Ok(Placed { at, bytes })
}
