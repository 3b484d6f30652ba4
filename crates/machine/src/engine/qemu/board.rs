//! What is different between machines with different processors.

use weft_model::Arch;

/// A kind of machine of QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Board {
    /// QEMU's name for the processor, which its program's name ends in.
    pub(crate) target: &'static str,
    /// The program.
    pub(crate) program: &'static str,
    /// How the names of such machines begin, their version apart.
    pub(super) kind: &'static str,
    /// The machine, without what it has by default and nobody needs.
    pub(super) machine: &'static str,
    /// The processor where it is translated: what runs any system, and is translated well.
    pub(super) cpu: &'static str,
    /// The graphics adapter.
    pub(super) graphics: &'static str,
    /// What drives for CDs are plugged into, and such a drive: of the kinds that firmware and installers know.
    pub(super) drive: [&'static str; 2],
}

impl Board {
    pub(crate) const fn of(arch: Arch) -> Self {
        match arch {
            Arch::X86 => Self {
                target: "x86_64",
                program: "qemu-system-x86_64",
                kind: "pc-q35",
                machine: "q35,vmport=off,smbus=off,sata=off,usb=off,i8042=off",
                // Five-level page tables would make every miss of the translated TLB one step longer, for nothing.
                cpu: "max,la57=off",
                graphics: "VGA",
                drive: ["ich9-ahci,id=drives", "ide-cd,bus=drives.0"],
            },
            Arch::Aarch64 => Self {
                target: "aarch64",
                program: "qemu-system-aarch64",
                kind: "virt",
                machine: "virt,gic-version=3",
                // The newest have pointer authentication, which takes half of the time where it is translated.
                cpu: "cortex-a72",
                graphics: "virtio-gpu-pci",
                drive: ["virtio-scsi-pci,id=drives", "scsi-cd,bus=drives.0"],
            },
            Arch::Riscv64 => Self {
                target: "riscv64",
                program: "qemu-system-riscv64",
                kind: "virt",
                machine: "virt",
                cpu: "rv64",
                graphics: "virtio-gpu-pci",
                drive: ["virtio-scsi-pci,id=drives", "scsi-cd,bus=drives.0"],
            },
        }
    }
}
