//! A look at a file that is to be the disk of an image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::DiskFormat;
use crate::qcow2::{self, Header, Qcow2Fault};

/// What machines read and write at once: no disk is smaller.
const SECTOR_BYTES: u64 = 512;
/// Where ISO 9660 (ECMA-119, 8.1) has its identifier, and which that is.
const ISO_MAGIC: (u64, &[u8; 5]) = (0x8001, b"CD001");
/// How other files begin that people take for disks, and what to do with them.
const OTHERS: [(&[u8], &str, &str); 9] = [
    (b"KDMV", "in the VMDK format", CONVERT),
    (b"vhdx", "in the VHDX format", CONVERT),
    (b"conectix", "in the VHD format", CONVERT),
    (b"<<< ", "in the VDI format", CONVERT),
    (b"\x1f\x8b", "compressed with gzip", "unpack it: gunzip FILE"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it: unzstd FILE"),
    (b"BZh", "compressed with bzip2", "unpack it: bunzip2 FILE"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it: unzip FILE"),
];
const CONVERT: &str = "convert it: qemu-img convert -O qcow2 OLD NEW";

/// What a file that is to be a disk turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its format.
    pub format: DiskFormat,
    /// The size of the disk, in bytes.
    pub bytes: u64,
}

/// Why a file cannot be a machine's disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskFault {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is shorter than the shortest disk.
    #[error("it is too short for a disk")]
    Short,
    /// It is something else.
    #[error("it is {0}")]
    Other(&'static str, &'static str),
    /// It is qcow2, and was said to be raw: the machine would see the container and not the disk.
    #[error("it is in the qcow2 format, not raw")]
    NotRaw,
    /// It was said to be a CD's, and is not.
    #[error("it is not in the ISO 9660 format")]
    NotIso,
    /// It is no qcow2 that can be used.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Fault),
}

impl DiskFault {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "look at the file and its disk",
            Self::Empty | Self::Short => "give a disk with a system on it",
            Self::Other(_, hint) => hint,
            Self::NotRaw => "leave `format` out, or write `format = \"qcow2\"`",
            Self::NotIso => "leave `format` out",
            Self::Qcow2(fault) => fault.hint(),
        }
    }
}

impl Disk {
    /// Looks at a file that its owner names as a disk; the format is found out unless it is given.
    ///
    /// Only for a file to which no machine writes: a guest that has a raw disk can write another format's beginning to it.
    ///
    /// # Errors
    /// When no machine could use it.
    pub fn examine(file: &File, format: Option<DiskFormat>) -> Result<Self, DiskFault> {
        let length = file.metadata()?.len();
        let mut head = [0; 8];
        let head = match usize::try_from(length).unwrap_or(usize::MAX).min(head.len()) {
            0 => return Err(DiskFault::Empty),
            known => &mut head[..known],
        };
        file.read_exact_at(head, 0)?;
        if let Some((_, what, hint)) = OTHERS.iter().find(|(magic, ..)| head.starts_with(magic)) {
            return Err(DiskFault::Other(what, hint));
        }
        match (format, head.starts_with(&qcow2::MAGIC)) {
            (Some(DiskFormat::Iso), _) if !is_iso(file)? => Err(DiskFault::NotIso),
            (Some(DiskFormat::Iso), _) => Ok(Self { format: DiskFormat::Iso, bytes: length }),
            (Some(DiskFormat::Raw), true) => Err(DiskFault::NotRaw),
            (None, false) if is_iso(file)? => Ok(Self { format: DiskFormat::Iso, bytes: length }),
            (Some(DiskFormat::Qcow2), _) | (None, true) => {
                let header = Header::read(file)??;
                header.check_as_base(file)??;
                Ok(Self { format: DiskFormat::Qcow2, bytes: header.virtual_bytes() })
            }
            (_, false) if length < SECTOR_BYTES => Err(DiskFault::Short),
            (_, false) => Ok(Self { format: DiskFormat::Raw, bytes: length.next_multiple_of(SECTOR_BYTES) }),
        }
    }
}

/// Whether a file is what stands on a CD. Those that can be put onto a disk as well count too: `format = "raw"` says that
/// this has been done.
fn is_iso(file: &File) -> io::Result<bool> {
    let (at, magic) = ISO_MAGIC;
    let mut found = [0; 5];
    match file.read_exact_at(&mut found, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| found == *magic),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn check(bytes: &[u8], format: Option<DiskFormat>, expected: Result<(DiskFormat, u64), &str>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        match (Disk::examine(&file, format), expected) {
            (Ok(disk), Ok(expected)) => assert_eq!((disk.format, disk.bytes), expected),
            (Err(fault), Err(expected)) => assert_eq!(format!("{fault}; {}", fault.hint()), expected),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn disks_by_how_they_begin() {
        let qcow2 = qcow2::tests::file();
        let (raw_format, qcow2_format) = (Some(DiskFormat::Raw), Some(DiskFormat::Qcow2));
        check(&qcow2, None, Ok((DiskFormat::Qcow2, 32 << 10)));
        check(&qcow2, qcow2_format, Ok((DiskFormat::Qcow2, 32 << 10)));
        check(
            &qcow2,
            raw_format,
            Err("it is in the qcow2 format, not raw; leave `format` out, or write `format = \"qcow2\"`"),
        );
        check(&qcow2[..1024], None, Err("it is truncated; was it downloaded whole?"));
        check(&[0; 513], None, Ok((DiskFormat::Raw, 1024)));
        check(&[0; 512], raw_format, Ok((DiskFormat::Raw, 512)));
        check(
            &[0; 512],
            qcow2_format,
            Err("it is not in the qcow2 format; leave `format` out, or write `format = \"raw\"`"),
        );
        let mut iso = vec![0; 40 << 10];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        check(&iso, None, Ok((DiskFormat::Iso, 40 << 10)));
        check(&iso, Some(DiskFormat::Iso), Ok((DiskFormat::Iso, 40 << 10)));
        check(&iso, raw_format, Ok((DiskFormat::Raw, 40 << 10)));
        check(&[0; 513], Some(DiskFormat::Iso), Err("it is not in the ISO 9660 format; leave `format` out"));
        check(b"", None, Err("it is empty; give a disk with a system on it"));
        check(b"ab", None, Err("it is too short for a disk; give a disk with a system on it"));
        check(b"KDMV....", None, Err("it is in the VMDK format; convert it: qemu-img convert -O qcow2 OLD NEW"));
        check(b"\xfd7zXZ\0..", None, Err("it is compressed with xz; unpack it: unxz FILE"));
    }
}
