//! PVH's boot protocol (Xen, docs/misc/pvh.pandoc): a 32-bit entry, and a structure that says what there is.

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::entry::{Entry, Mode};
use super::{Placed, memory_map};
use crate::layout::{ACPI_TABLES, BOOT_INFO, COMMAND_LINE};
use crate::memory::GuestMemory;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO_BYTES: u64 = 56;
const MODULE_BYTES: u64 = 32;

/// Writes `hvm_start_info`, its one module and its memory map.
pub(super) fn write(memory: &GuestMemory, at: u64, initrd: Option<Placed>) -> Result<Entry, GuestMemoryError> {
    let modules = BOOT_INFO + START_INFO_BYTES;
    let map_at = modules + MODULE_BYTES;
    let map = memory_map(memory);
    let mut info = Vec::new();
    let words = |info: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|word| info.extend(word.to_le_bytes()));
    let longs = |info: &mut Vec<u8>, longs: &[u64]| longs.iter().for_each(|long| info.extend(long.to_le_bytes()));
    words(&mut info, &[MAGIC, VERSION, 0, u32::from(initrd.is_some())]);
    longs(&mut info, &[modules, COMMAND_LINE, ACPI_TABLES, map_at]);
    words(&mut info, &[map.len() as u32, 0]);
    let Placed { at: initrd_at, bytes } = initrd.unwrap_or(Placed { at: 0, bytes: 0 });
    longs(&mut info, &[initrd_at, bytes, 0, 0]);
    for (start, len, kind) in map {
        longs(&mut info, &[start, len]);
        words(&mut info, &[kind, 0]);
    }
    memory.write_slice(&info, GuestAddress(BOOT_INFO))?;
    Ok(Entry { mode: Mode::Protected, at, info: BOOT_INFO })
}
