//! The kinds of processors that machines can have, and the firmware that boots disks on them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many bytes of a kernel's file tell what it is for.
pub const KERNEL_HEAD_BYTES: usize = 0x1000;

/// A kind of processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// A PC's, with 64 bits; it runs systems of 32 bits too.
    #[default]
    #[serde(rename = "x86-64")]
    X86,
    /// Arm's, with 64 bits.
    Aarch64,
    /// RISC-V's, with 64 bits.
    Riscv64,
}

/// What of a machine finds a system on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// A PC's of old.
    Bios,
    /// UEFI.
    Uefi,
}

/// What somebody says about the machines that a disk boots on, where it boots by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Their processor.
    pub arch: Option<Arch>,
    /// Their firmware.
    pub firmware: Option<Firmware>,
}

impl Platform {
    /// What is wrong with it, in words; `None` if there are such machines.
    pub fn contradiction(self) -> Option<String> {
        let arch = self.arch.unwrap_or_default();
        let has_none = self.firmware == Some(Firmware::Bios) && arch != Arch::X86;
        has_none.then(|| format!("machines of {} have no BIOS", arch.as_str()))
    }
}

impl Arch {
    /// All of them, as users write them.
    pub const WORDS: &[(&str, Self)] = &[("x86-64", Self::X86), ("aarch64", Self::Aarch64), ("riscv64", Self::Riscv64)];

    /// Its name, as users write it.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, arch)| *arch == self).map_or("", |(word, _)| word)
    }

    /// The command line for a kernel of which nothing else is known: it talks on the serial line, and a machine whose
    /// kernel panics starts again.
    pub fn cmdline(self) -> &'static str {
        match self {
            Self::X86 | Self::Riscv64 => "console=ttyS0 panic=-1",
            Self::Aarch64 => "console=ttyAMA0 panic=-1",
        }
    }

    /// The firmware that a machine has if nobody says which.
    pub fn firmware(self) -> Firmware {
        match self {
            Self::X86 => Firmware::Bios,
            Self::Aarch64 | Self::Riscv64 => Firmware::Uefi,
        }
    }

    /// For which processor a file that begins like this is a kernel; `head` is its first [`KERNEL_HEAD_BYTES`], or all
    /// that it has. `None` if it is none that can be told.
    pub fn of_kernel(head: &[u8]) -> Option<Self> {
        let word = |at: usize| head.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        let bytes = |at: usize| head.get(at..at + 4).unwrap_or_default();
        if head.starts_with(b"\x7fELF") {
            return match word(18) {
                Some(3 | 62) => Some(Self::X86),
                Some(183) => Some(Self::Aarch64),
                Some(243) => Some(Self::Riscv64),
                _ => None,
            };
        }
        // Linux: Documentation/arch/{x86/boot,arm64/booting,riscv/boot-image-header}.rst.
        match () {
            () if bytes(0x202) == b"HdrS" => Some(Self::X86),
            () if bytes(56) == b"ARM\x64" => Some(Self::Aarch64),
            () if bytes(56) == b"RSC\x05" => Some(Self::Riscv64),
            // One that UEFI starts as a program, and that unpacks itself: the machine stands in the COFF header.
            () if head.starts_with(b"MZ") => {
                let header = u32::from_le_bytes(bytes(0x3c).try_into().ok()?) as usize;
                match (bytes(header), word(header.checked_add(4)?)) {
                    (b"PE\0\0", Some(0xaa64)) => Some(Self::Aarch64),
                    (b"PE\0\0", Some(0x5064)) => Some(Self::Riscv64),
                    _ => None,
                }
            }
            () => None,
        }
    }
}

impl Firmware {
    /// Both, as users write them.
    pub const WORDS: &[(&str, Self)] = &[("bios", Self::Bios), ("uefi", Self::Uefi)];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_by_how_they_begin() {
        let with = |parts: &[(usize, &[u8])]| {
            let mut head = vec![0; KERNEL_HEAD_BYTES];
            for (at, bytes) in parts {
                head[*at..*at + bytes.len()].copy_from_slice(bytes);
            }
            Arch::of_kernel(&head)
        };
        let elf: (usize, &[u8]) = (0, b"\x7fELF\x02\x01\x01");
        assert_eq!(with(&[elf, (18, &[62])]), Some(Arch::X86));
        assert_eq!(with(&[elf, (18, &[3])]), Some(Arch::X86));
        assert_eq!(with(&[elf, (18, &[183])]), Some(Arch::Aarch64));
        assert_eq!(with(&[elf, (18, &[243])]), Some(Arch::Riscv64));
        assert_eq!(with(&[elf, (18, &[8])]), None, "MIPS");
        assert_eq!(with(&[(0x202, b"HdrS")]), Some(Arch::X86));
        assert_eq!(with(&[(0, b"MZ"), (0x3c, &[0x80]), (0x80, b"PE\0\0\x64\x86"), (0x202, b"HdrS")]), Some(Arch::X86));
        assert_eq!(with(&[(0, b"MZ"), (56, b"ARM\x64")]), Some(Arch::Aarch64));
        assert_eq!(with(&[(56, b"RSC\x05")]), Some(Arch::Riscv64));
        let zboot =
            |machine: &'static [u8]| with(&[(0, b"MZ\0\0zimg"), (0x3c, &[0x80]), (0x80, b"PE\0\0"), (0x84, machine)]);
        assert_eq!(zboot(&[0x64, 0xaa]), Some(Arch::Aarch64));
        assert_eq!(zboot(&[0x64, 0x50]), Some(Arch::Riscv64));
        assert_eq!(zboot(&[0x64, 0x86]), None, "a program, and no kernel");
        assert_eq!(with(&[(0, b"MZ"), (0x3c, &[0xff; 4])]), None);
        for short in [&b""[..], b"MZ", b"\x7fELF", b"text"] {
            assert_eq!(Arch::of_kernel(short), None);
        }
    }
}
