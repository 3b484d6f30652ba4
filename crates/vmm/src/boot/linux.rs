//! Linux' boot protocol for 64-bit entries (the kernel's Documentation/arch/x86/boot.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::entry::{Entry, Mode};
use super::kernel::Kernel;
use super::{Placed, memory_map};
use crate::layout::{ACPI_TABLES, BOOT_INFO, COMMAND_LINE, COMMAND_LINE_BYTES};
use crate::memory::GuestMemory;

/// A loader that has no number of its own.
const LOADER_UNKNOWN: u8 = 0xff;
/// From where a kernel is loaded to its 64-bit entry.
const ENTRY_64: u64 = 0x200;

/// Writes `boot_params`.
pub(super) fn write(
    memory: &GuestMemory,
    kernel: &Kernel,
    header: &setup_header,
    initrd: Option<Placed>,
) -> Result<Entry, GuestMemoryError> {
    let mut params = boot_params { hdr: *header, acpi_rsdp_addr: ACPI_TABLES, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER_UNKNOWN;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    params.hdr.cmdline_size = COMMAND_LINE_BYTES as u32 - 1;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.at as u32;
        params.hdr.ramdisk_size = initrd.bytes as u32;
    }
    let map = memory_map(memory);
    params.e820_entries = map.len() as u8;
    let mut table = params.e820_table;
    for (entry, (addr, size, kind)) in table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type: kind };
    }
    params.e820_table = table;
    memory.write_obj(params, GuestAddress(BOOT_INFO))?;
    Ok(Entry { mode: Mode::Long, at: kernel.at + ENTRY_64, info: BOOT_INFO })
}
