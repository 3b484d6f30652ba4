//! How the first processor begins: the mode it is in, the tables for that, and its registers.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use crate::layout::{BOOT_GDT, BOOT_PAGE_TABLES, BOOT_STACK};
use crate::memory::GuestMemory;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const FLAGS_RESERVED: u64 = 1 << 1;

const PAGE_BYTES: u64 = 4096;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;

const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// The mode that a processor begins in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit, with the first 4 GiB mapped where they are.
    Long,
    /// 32-bit and flat, without paging.
    Protected,
}

/// Where the first processor begins, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How.
    pub mode: Mode,
    /// The first instruction.
    pub at: u64,
    /// What the kernel is told.
    pub info: u64,
}

impl Entry {
    /// Writes segment descriptors and, for long mode, page tables.
    pub(super) fn write(&self, memory: &GuestMemory) -> Result<(), GuestMemoryError> {
        for (index, segment) in [(2, self.code()), (3, data()), (4, task())] {
            memory.write_obj(descriptor(&segment), GuestAddress(BOOT_GDT + 8 * index))?;
        }
        if self.mode == Mode::Long {
            let [top, middle, bottom] = [0, 1, 2].map(|page| BOOT_PAGE_TABLES + page * PAGE_BYTES);
            memory.write_obj(middle | PRESENT_WRITABLE, GuestAddress(top))?;
            for gib in 0..4 {
                let table = bottom + gib * PAGE_BYTES;
                memory.write_obj(table | PRESENT_WRITABLE, GuestAddress(middle + 8 * gib))?;
                for entry in 0..512 {
                    let page = (gib << 30 | entry << 21) | PRESENT_WRITABLE | LARGE;
                    memory.write_obj(page, GuestAddress(table + 8 * entry))?;
                }
            }
        }
        Ok(())
    }

    /// The general registers.
    pub fn registers(&self) -> kvm_regs {
        let (rbx, rsi) = match self.mode {
            Mode::Long => (0, self.info),
            Mode::Protected => (self.info, 0),
        };
        kvm_regs {
            rip: self.at,
            rsp: BOOT_STACK,
            rbp: BOOT_STACK,
            rbx,
            rsi,
            rflags: FLAGS_RESERVED,
            ..kvm_regs::default()
        }
    }

    /// Changes the system registers to what the mode needs.
    pub fn system(&self, registers: &mut kvm_sregs) {
        registers.gdt = kvm_dtable { base: BOOT_GDT, limit: 5 * 8 - 1, ..kvm_dtable::default() };
        registers.idt = kvm_dtable::default();
        registers.cs = self.code();
        for segment in [&mut registers.ds, &mut registers.es, &mut registers.fs, &mut registers.gs, &mut registers.ss] {
            *segment = data();
        }
        registers.tr = task();
        registers.cr0 = CR0_PE | CR0_ET;
        if self.mode == Mode::Long {
            registers.cr0 |= CR0_PG;
            registers.cr3 = BOOT_PAGE_TABLES;
            registers.cr4 = CR4_PAE;
            registers.efer = EFER_LME | EFER_LMA;
        }
    }

    fn code(&self) -> kvm_segment {
        let long = self.mode == Mode::Long;
        // Executable, readable, accessed.
        kvm_segment { selector: CODE, type_: 0xb, l: long.into(), db: (!long).into(), ..flat() }
    }
}

fn flat() -> kvm_segment {
    kvm_segment { base: 0, limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..kvm_segment::default() }
}

fn data() -> kvm_segment {
    // Writable, accessed.
    kvm_segment { selector: DATA, type_: 0x3, db: 1, ..flat() }
}

fn task() -> kvm_segment {
    // A busy 32-bit task.
    kvm_segment { selector: TASK, type_: 0xb, limit: 0x67, present: 1, ..kvm_segment::default() }
}

/// A segment's descriptor in memory.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let bits = |bits: &[(u8, u32)]| bits.iter().fold(0, |all, &(bit, place)| all | u64::from(bit) << place);
    let access = bits(&[(segment.type_, 0), (segment.s, 4), (segment.dpl, 5), (segment.present, 7)]);
    let flags = bits(&[(segment.avl, 0), (segment.l, 1), (segment.db, 2), (segment.g, 3)]);
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_what_processors_know() {
        let entry = |mode| Entry { mode, at: 0, info: 0 };
        assert_eq!(descriptor(&entry(Mode::Long).code()), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&entry(Mode::Protected).code()), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task()), 0x0000_8b00_0000_0067);
    }
}
