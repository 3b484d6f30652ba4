//! Where things are in a machine's physical address space.
//!
//! ```text
//! 0             RAM, with what the kernel is handed at boot in its first mebibyte
//! 3 GiB         the window of PCI functions, then their configuration (ECAM)
//! 4 GiB - 20 M  I/O APIC, local APICs, pages that KVM keeps for itself
//! 4 GiB         RAM that had no room below
//! ```

/// Where RAM below 4 GiB ends at the latest.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM goes on.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// The addresses that PCI functions' registers are at, and how many bytes of them there are.
pub const PCI_WINDOW: u64 = LOW_RAM_END;
/// The window's length, in bytes.
pub const PCI_WINDOW_BYTES: u64 = 0x2000_0000;
/// The configuration of the functions of bus 0 (PCI Express 4.0, section 7.2.2).
pub const ECAM: u64 = PCI_WINDOW + PCI_WINDOW_BYTES;
/// One bus: 32 devices of eight functions of 4 KiB.
pub const ECAM_BYTES: u64 = 1 << 20;

/// Registers of the I/O APIC, which KVM emulates.
pub const IO_APIC: u64 = 0xfec0_0000;
/// Registers of each processor's local APIC, which KVM emulates.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// A page and three that KVM needs on some Intel processors.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// The three pages of a task that KVM runs for real mode on some Intel processors.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// Segment descriptors at boot.
pub const BOOT_GDT: u64 = 0x500;
/// What the kernel is told: Linux' `boot_params`, or PVH's start information.
pub const BOOT_INFO: u64 = 0x7000;
/// The stack at boot, which the kernel leaves at once; it grows down.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables at boot: the first 4 GiB are where they are.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// The command line, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line that Linux keeps on x86, with its NUL.
pub const COMMAND_LINE_BYTES: usize = 2048;
/// Where RAM that anybody may use ends, below the first mebibyte.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// ACPI tables: the pointer to the others, where firmware would put it, and all of them behind it.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Where a processor in real mode goes on after a reset that software makes: firmware's first instruction.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Where RAM goes on after the first mebibyte; a kernel is loaded from here on.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// The interrupt of the first serial port.
pub const SERIAL_GSI: u32 = 4;
/// The interrupt by which the machine is asked for something: the power button.
pub const EVENT_GSI: u32 = 9;
/// Interrupt lines that the I/O APIC has; messages of PCI functions have numbers from here on.
pub const IO_APIC_LINES: u32 = 24;

/// The first serial port's registers.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The keyboard controller's command port, of which we know one command: reset.
pub const KEYBOARD_PORT: u16 = 0x64;
/// Registers to sleep (that is, power off), to reset, and to read which event came.
pub const POWER_PORT: u16 = 0x600;
/// Where a kernel says that it panicked.
pub const PANIC_PORT: u16 = 0x505;
/// PCI configuration by ports (PCI 3.0, section 3.2.2.3.2).
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
