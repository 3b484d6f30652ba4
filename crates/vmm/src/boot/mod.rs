//! What a machine holds when its first processor begins: a kernel, what the kernel is told, and ACPI's tables.

mod acpi;
mod entry;
mod kernel;
mod linux;
mod pvh;

use std::fs::File;
use std::ops::Range;

use vm_memory::{Bytes as _, GuestAddress};

pub use entry::{Entry, Mode};
pub use kernel::KernelError;

use crate::devices::PowerPort;
use crate::layout::{
    ACPI_TABLES, COMMAND_LINE, COMMAND_LINE_BYTES, CONVENTIONAL_END, ECAM, ECAM_BYTES, HIGH_MEMORY, POWER_PORT,
    RESET_VECTOR,
};
use crate::memory::GuestMemory;

/// What is booted.
#[derive(Debug)]
pub struct Boot<'a> {
    /// A bzImage or an ELF file with a PVH entry.
    pub kernel: &'a File,
    /// The initial RAM disk.
    pub initrd: Option<&'a File>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// How many processors there are.
    pub cpus: u8,
}

/// The only firmware: it writes to the port that resets. On hardware-reduced machines Linux asks UEFI to reset, and
/// where there is none, it jumps to where firmware begins.
const FIRMWARE: [u8; 9] = {
    let [low, high] = (POWER_PORT + PowerPort::RESET).to_le_bytes();
    [
        0xba,
        low,
        high, // mov dx, port
        0xb0,
        PowerPort::RESET_VALUE, // mov al, value
        0xee,                   // out dx, al
        0xf4,                   // hlt
        0xeb,
        0xfd, // jmp to it
    ]
};

/// Loads all of it, and says how the first processor begins. `prepare` is told each range of memory that will hold the
/// kernel, what it unpacks itself to, or the initial RAM disk, before anything is written there.
///
/// # Errors
/// When a file is not what it should be, or does not fit.
pub fn load(memory: &GuestMemory, boot: &Boot<'_>, prepare: &mut dyn FnMut(Range<u64>)) -> Result<Entry, KernelError> {
    if boot.command_line.len() >= COMMAND_LINE_BYTES || boot.command_line.contains('\0') {
        return Err(KernelError::CommandLine(boot.command_line.len()));
    }
    let kernel = kernel::load(memory, boot.kernel, prepare)?;
    let initrd = boot.initrd.map(|file| kernel::load_initrd(memory, file, &kernel, prepare)).transpose()?;
    let mut line = boot.command_line.as_bytes().to_vec();
    line.push(0);
    memory.write_slice(&line, GuestAddress(COMMAND_LINE))?;
    memory.write_slice(&acpi::tables(boot.cpus), GuestAddress(ACPI_TABLES))?;
    memory.write_slice(&FIRMWARE, GuestAddress(RESET_VECTOR))?;
    let entry = match &kernel.entry {
        kernel::KernelEntry::Linux(header) => linux::write(memory, &kernel, header, initrd)?,
        kernel::KernelEntry::Pvh(at) => pvh::write(memory, *at, initrd)?,
    };
    entry.write(memory)?;
    Ok(entry)
}

/// A file's place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    at: u64,
    bytes: u64,
}

/// Kinds of memory, by the numbers that firmware and kernels use for them.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// What is where: start, length and kind.
fn memory_map(memory: &GuestMemory) -> Vec<(u64, u64, u32)> {
    use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
    let mut map = vec![(0, CONVENTIONAL_END, RAM)];
    for region in memory.iter() {
        let start = region.start_addr().0.max(HIGH_MEMORY);
        map.push((start, region.start_addr().0 + region.len() - start, RAM));
    }
    map.push((ECAM, ECAM_BYTES, RESERVED));
    map.sort_unstable();
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn the_map_leaves_out_what_is_not_memory() {
        let file = memory::create(4 << 30).expect("memory");
        let map = memory_map(&memory::map(&file).expect("a mapping"));
        assert_eq!(
            map,
            [
                (0, 0x9_fc00, RAM),
                (0x10_0000, 0xbff0_0000, RAM),
                (0xe000_0000, 0x10_0000, RESERVED),
                (0x1_0000_0000, 0x4000_0000, RAM),
            ]
        );
    }

    #[test]
    fn bad_files_are_refused_with_their_reason() {
        use std::io::Write as _;
        let memory = memory::map(&memory::create(32 << 20).expect("memory")).expect("a mapping");
        let check = |bytes: &[u8], line: &str, expected: &str| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(bytes).expect("room");
            let boot = Boot { kernel: &file, initrd: None, command_line: line, cpus: 1 };
            let error = load(&memory, &boot, &mut drop).expect_err("no kernel").to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        check(b"", "", "The kernel is neither");
        check(b"#!/bin/sh\n", "", "The kernel is neither");
        check(&[b"\x7fELF".as_slice(), &[0; 600]].concat(), "", "The kernel's ELF file");
        let mut truncated = vec![0; 0x300];
        truncated[0x202..0x206].copy_from_slice(b"HdrS");
        check(&truncated, "", "The kernel's bzImage");
        let mut large = vec![0; 0x1000];
        for (at, bytes) in [
            (0x1f1, &[1][..]),                     // setup sectors
            (0x202, b"HdrS\x0f\x02"),              // version 2.15
            (0x211, &[1]),                         // loaded high
            (0x214, &0x10_0000_u32.to_le_bytes()), // where
            (0x236, &[1]),                         // with a 64-bit entry
            (0x25b, &[1]),                         // wants to be at 16 MiB
            (0x263, &[4]),                         // and 64 MiB of memory there
        ] {
            large[at..at + bytes.len()].copy_from_slice(bytes);
        }
        check(&large, "", "The kernel needs the memory below 80 MiB, and there are 32 MiB");
        check(b"", &"x".repeat(2048), "The kernel's command line has 2048 bytes");
        check(b"", "a\0b", "The kernel's command line");
    }
}
