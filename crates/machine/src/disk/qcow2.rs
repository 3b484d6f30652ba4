//! QEMU's copy-on-write format (QEMU's `docs/interop/qcow2.txt`): reading a header, and writing an empty overlay.
//!
//! Numbers are big-endian. An overlay written here has clusters of 64 KiB: the header, the refcount table, one refcount
//! block, and the first-level table. That table has room for 4 TiB from the start, so that a disk can grow by its header.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use weft_model::DiskFormat;

/// How a qcow2 file begins.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The length of the header that version 3 demands, in bytes.
const HEADER_BYTES: usize = 104;
/// The name of the backing file's format, as a header extension.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The longest backing file name, in bytes.
const MAX_BACKING_BYTES: usize = 1023;
/// An overlay's clusters: 2 to the power of this, in bytes.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: usize = 1 << CLUSTER_BITS;
/// How much of a disk one entry of the first-level table stands for: a whole second-level table's clusters.
const BYTES_PER_L1_ENTRY: u64 = (CLUSTER / 8 * CLUSTER) as u64;
/// Entries in one cluster of the first-level table.
const L1_ENTRIES_PER_CLUSTER: u64 = CLUSTER as u64 / 8;
/// The largest disk that QEMU takes: its first-level table may have 32 MiB.
const MAX_VIRTUAL_BYTES: u64 = (32 << 20) / 8 * BYTES_PER_L1_ENTRY;

/// Incompatible features that a base may have: dirty refcounts (bit 0) only matter to who writes, compression type
/// (bit 3) and extended entries (bit 4) are QEMU's own affair.
const BASE_MAY_HAVE: u64 = 1 | 1 << 3 | 1 << 4;
/// Incompatible feature: the data stand in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible feature: the file is known to be damaged.
const CORRUPT: u64 = 1 << 1;

/// What stands at a qcow2 file's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    version: u32,
    cluster_bits: u32,
    virtual_bytes: u64,
    encryption: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_table_offset: u64,
    refcount_table_clusters: u32,
    incompatible: u64,
    backing: Option<String>,
    backing_format: Option<String>,
}

impl Header {
    /// Reads the header of a file; the inner error says what is wrong with it.
    pub(super) fn read(path: &Path) -> io::Result<Result<Self, &'static str>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(CLUSTER as u64).read_to_end(&mut bytes)?;
        Ok(Self::decode(&bytes))
    }

    /// Reads the header from the first cluster of a file, or as much of it as there is.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        const TRUNCATED: &str = "its header is truncated";
        let u32_at = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        if !bytes.starts_with(&MAGIC) {
            return Err("it is not qcow2");
        }
        let version = u32_at(4).ok_or(TRUNCATED)?;
        let (incompatible, header_bytes) = match version {
            2 => (0, 72),
            3 => (u64_at(72).ok_or(TRUNCATED)?, u32_at(100).ok_or(TRUNCATED)? as usize),
            _ => return Err("it is a version of qcow2 that is not known"),
        };
        let cluster_bits = u32_at(20).ok_or(TRUNCATED)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err("its header gives clusters of an impossible size");
        }
        let backing_offset = u64_at(8).ok_or(TRUNCATED)?;
        let backing_bytes = u32_at(16).ok_or(TRUNCATED)? as usize;
        let backing = match backing_offset {
            0 => None,
            _ if backing_bytes > MAX_BACKING_BYTES => return Err("its header names a file of an impossible length"),
            offset => {
                let start = usize::try_from(offset).map_err(|_| TRUNCATED)?;
                let name = bytes.get(start..).and_then(|rest| rest.get(..backing_bytes)).ok_or(TRUNCATED)?;
                Some(String::from_utf8_lossy(name).into_owned())
            }
        };
        Ok(Self {
            version,
            cluster_bits,
            virtual_bytes: u64_at(24).ok_or(TRUNCATED)?,
            encryption: u32_at(32).ok_or(TRUNCATED)?,
            l1_entries: u32_at(36).ok_or(TRUNCATED)?,
            l1_offset: u64_at(40).ok_or(TRUNCATED)?,
            refcount_table_offset: u64_at(48).ok_or(TRUNCATED)?,
            refcount_table_clusters: u32_at(56).ok_or(TRUNCATED)?,
            incompatible,
            backing,
            backing_format: extension(bytes, header_bytes, BACKING_FORMAT),
        })
    }

    /// The size of the disk inside, in bytes.
    pub(super) fn virtual_bytes(&self) -> u64 {
        self.virtual_bytes
    }

    /// Whether this overlay was made over this base.
    pub(super) fn is_over(&self, base: &str, format: DiskFormat) -> bool {
        self.backing.as_deref() == Some(base) && self.backing_format.as_deref() == Some(format_name(format))
    }

    /// The header with a larger disk inside, if it is to be larger and can be in this way.
    pub(super) fn grown(&self, virtual_bytes: u64) -> Option<Grown> {
        let room = u64::from(self.l1_entries).saturating_mul(1 << (2 * self.cluster_bits - 3).min(63));
        (virtual_bytes > self.virtual_bytes && virtual_bytes <= room).then_some(Grown(virtual_bytes))
    }

    /// Whether a machine's overlay may stand over this file of `length` bytes.
    pub(super) fn check_as_base(&self, length: u64) -> Result<(), &'static str> {
        if self.backing.is_some() {
            // Followed blindly, it would let whoever made the image read any file of this host.
            return Err("it stands on another file itself: flatten it with `qemu-img convert -O qcow2`");
        }
        if self.incompatible & EXTERNAL_DATA != 0 {
            return Err("its data stand in another file: flatten it with `qemu-img convert -O qcow2`");
        }
        if self.incompatible & CORRUPT != 0 {
            return Err("it is marked as damaged: see `qemu-img check`");
        }
        if self.incompatible & !BASE_MAY_HAVE != 0 {
            return Err("it uses features of qcow2 that are not known");
        }
        if self.encryption != 0 {
            return Err("it is encrypted");
        }
        if self.virtual_bytes == 0 || self.virtual_bytes > MAX_VIRTUAL_BYTES {
            return Err("the disk inside has an impossible size");
        }
        let l1_end = self.l1_offset.saturating_add(u64::from(self.l1_entries) * 8);
        let refcounts_end = u64::from(self.refcount_table_clusters)
            .saturating_mul(1 << self.cluster_bits)
            .saturating_add(self.refcount_table_offset);
        if l1_end > length || refcounts_end > length {
            return Err("it is truncated: was it downloaded whole?");
        }
        Ok(())
    }
}

/// A new size for an overlay.
pub(super) struct Grown(u64);

impl Grown {
    /// Writes the new size into the header; eight bytes of one sector, so it happens whole or not at all.
    pub(super) fn write_to(&self, path: &Path) -> io::Result<()> {
        File::options().write(true).open(path)?.write_all_at(&self.0.to_be_bytes(), 24)
    }
}

/// Looks for a header extension; its text, if it has one.
fn extension(bytes: &[u8], header_bytes: usize, wanted: u32) -> Option<String> {
    let mut rest = bytes.get(header_bytes..)?;
    loop {
        let (kind, after) = rest.split_first_chunk()?;
        let (length, after) = after.split_first_chunk()?;
        let (kind, length) = (u32::from_be_bytes(*kind), u32::from_be_bytes(*length) as usize);
        let text = after.get(..length)?;
        match kind {
            0 => return None,
            kind if kind == wanted => return Some(String::from_utf8_lossy(text).into_owned()),
            _ => rest = after.get(length.checked_next_multiple_of(8)?..)?,
        }
    }
}

fn format_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    }
}

/// An overlay with nothing in it yet, over `base`; an error says what is wrong with the base.
pub(super) fn overlay(base: &str, format: DiskFormat, virtual_bytes: u64) -> Result<Vec<u8>, &'static str> {
    if base.len() > MAX_BACKING_BYTES {
        return Err("its path is too long");
    }
    if virtual_bytes > MAX_VIRTUAL_BYTES {
        return Err("it is larger than qcow2 can be");
    }
    let l1_clusters = virtual_bytes.div_ceil(BYTES_PER_L1_ENTRY).div_ceil(L1_ENTRIES_PER_CLUSTER).max(1);
    let [refcount_table, refcount_block, l1] = [1, 2, 3].map(|cluster| cluster * CLUSTER);
    let used = 3 + l1_clusters as usize;
    let format = format_name(format).as_bytes();
    let backing_offset = HEADER_BYTES + 8 + format.len().next_multiple_of(8) + 8;

    let mut header = Vec::with_capacity(CLUSTER);
    header.extend(MAGIC);
    header.extend(3_u32.to_be_bytes());
    header.extend((backing_offset as u64).to_be_bytes());
    header.extend((base.len() as u32).to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(virtual_bytes.to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // no encryption
    header.extend(((l1_clusters * L1_ENTRIES_PER_CLUSTER) as u32).to_be_bytes());
    header.extend((l1 as u64).to_be_bytes());
    header.extend((refcount_table as u64).to_be_bytes());
    header.extend(1_u32.to_be_bytes()); // clusters of the refcount table
    header.extend([0; 12]); // no snapshots
    header.extend([0; 24]); // no features
    header.extend(4_u32.to_be_bytes()); // refcounts of 2^4 bits
    header.extend((HEADER_BYTES as u32).to_be_bytes());
    header.extend(BACKING_FORMAT.to_be_bytes());
    header.extend((format.len() as u32).to_be_bytes());
    header.extend(format);
    header.resize(header.len().next_multiple_of(8), 0);
    header.extend([0; 8]); // end of the extensions
    header.extend(base.as_bytes());

    let mut file = header;
    file.resize(used * CLUSTER, 0);
    file[refcount_table..refcount_table + 8].copy_from_slice(&(refcount_block as u64).to_be_bytes());
    for cluster in 0..used {
        let at = refcount_block + cluster * 2;
        file[at..at + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    Ok(file)
}

/// Reads a hostile header and asks it everything.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes) {
        let _ = header.check_as_base(bytes.len() as u64);
        let _ = header.grown(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::host;

    const GIB: u64 = 1 << 30;

    #[test]
    fn an_overlay_reads_back() {
        for (format, bytes) in [(DiskFormat::Raw, 512), (DiskFormat::Qcow2, 3 * GIB), (DiskFormat::Raw, 9 << 40)] {
            let file = overlay("/images/a,b.img", format, bytes).unwrap();
            let header = Header::decode(&file[..CLUSTER]).unwrap();
            assert_eq!(header.virtual_bytes(), bytes);
            assert!(header.is_over("/images/a,b.img", format));
            assert!(!header.is_over("/images/a", format));
            let covered = u64::from(header.l1_entries) * BYTES_PER_L1_ENTRY;
            assert!(covered >= bytes && header.l1_offset + u64::from(header.l1_entries) * 8 == file.len() as u64);
            assert_eq!(header.check_as_base(u64::MAX), Err(CHAINED));
        }
        assert!(overlay(&"x".repeat(1024), DiskFormat::Raw, 512).is_err());
        assert!(overlay("/x", DiskFormat::Raw, u64::MAX).is_err());
    }

    const CHAINED: &str = "it stands on another file itself: flatten it with `qemu-img convert -O qcow2`";

    /// What is said of a base whose header has `bytes` at `at`.
    fn check(at: usize, bytes: &[u8], expected: Result<(), &str>) {
        let mut file = overlay("", DiskFormat::Raw, GIB).unwrap();
        let length = file.len() as u64;
        file[8..16].fill(0); // no backing file
        file[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(Header::decode(&file[..CLUSTER]).and_then(|header| header.check_as_base(length)), expected);
    }

    #[test]
    fn bases_that_are_refused() {
        check(0, b"QFI\xfb", Ok(()));
        check(0, b"QFI.", Err("it is not qcow2"));
        check(7, &[1], Err("it is a version of qcow2 that is not known"));
        check(15, &[104], Err(CHAINED));
        check(23, &[60], Err("its header gives clusters of an impossible size"));
        check(24, &[0xff; 8], Err("the disk inside has an impossible size"));
        check(35, &[1], Err("it is encrypted"));
        check(40, &[0x7f; 8], Err("it is truncated: was it downloaded whole?"));
        check(79, &[2], Err("it is marked as damaged: see `qemu-img check`"));
        check(79, &[4], Err("its data stand in another file: flatten it with `qemu-img convert -O qcow2`"));
        check(79, &[128], Err("it uses features of qcow2 that are not known"));
        assert_eq!(Header::decode(b"QFI\xfb\0\0\0\x03"), Err("its header is truncated"));
    }

    #[test]
    fn qemu_finds_no_fault_with_an_overlay() {
        let Some(qemu_img) = host::program("qemu-img") else {
            eprintln!("SKIPPED: qemu-img is not installed");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.img");
        std::fs::write(&base, vec![1; 1 << 20]).unwrap();
        let path = dir.path().join("disk.qcow2");
        std::fs::write(&path, overlay(base.to_str().unwrap(), DiskFormat::Raw, GIB).unwrap()).unwrap();
        for command in ["check", "info"] {
            let output = Command::new(&qemu_img).arg(command).arg(&path).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }
}
