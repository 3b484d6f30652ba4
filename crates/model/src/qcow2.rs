//! The headers of QEMU's copy-on-write format (QEMU's `docs/interop/qcow2.txt`), and whether a file that others gave us
//! may stand under a machine's own disk. Numbers are big-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::DiskFormat;

/// How a qcow2 file begins.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The name of the backing file's format, as a header extension.
pub const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The longest backing file name, in bytes.
pub const MAX_BACKING_BYTES: usize = 1023;
/// The longest first-level table that QEMU takes, in bytes.
pub const MAX_L1_BYTES: u64 = 32 << 20;

/// How much of a file may be its header, in bytes: a cluster of the usual size.
const HEADER_ROOM_BYTES: u64 = 64 << 10;
/// The longest refcount table that QEMU takes, in bytes.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// How many empty refcount blocks at a file's end are looked through for the last cluster in use.
const MAX_EMPTY_BLOCKS: usize = 16;
/// Where an offset's bits stand in an entry of the refcount table.
const OFFSET_MASK: u64 = !0x1ff;

/// Incompatible features that a base may have: dirty refcounts (bit 0) only matter to who writes, compression type
/// (bit 3) and extended entries (bit 4) are QEMU's own affair.
const BASE_MAY_HAVE: u64 = 1 | 1 << 3 | 1 << 4;
/// Incompatible feature: the file is known to be damaged.
const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: the data stand in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// Why a qcow2 file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Qcow2Fault {
    /// It does not begin as one.
    #[error("it is not in the qcow2 format")]
    NotQcow2,
    /// The file ends within the header.
    #[error("its header is truncated")]
    HeaderTruncated,
    /// The header says what no header says.
    #[error("its header gives {0}")]
    Nonsense(&'static str),
    /// It is newer than what is known here.
    #[error("it uses {0} of qcow2 that is not known")]
    Unknown(&'static str),
    /// It is the upper part of a pair. Followed blindly, it would let whoever made it read any file of this host.
    #[error("it stands on another file itself")]
    Chained,
    /// Its data are elsewhere; the same danger.
    #[error("its data stand in another file")]
    ExternalData,
    /// It says so itself.
    #[error("it is marked as damaged")]
    Corrupt,
    /// Nobody is asked for a password.
    #[error("it is encrypted")]
    Encrypted,
    /// The file ends before the data that it speaks of.
    #[error("it is truncated")]
    Truncated,
}

impl Qcow2Fault {
    /// What the user can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::NotQcow2 => "leave `format` out, or write `format = \"raw\"`",
            Self::HeaderTruncated | Self::Truncated => "was it downloaded whole?",
            Self::Chained | Self::ExternalData => "flatten it: qemu-img convert -O qcow2 OLD NEW",
            Self::Corrupt => "look at it with `qemu-img check`",
            Self::Encrypted => "decrypt it with `qemu-img convert`",
            Self::Unknown(_) => "write it anew: qemu-img convert -O qcow2 OLD NEW",
            Self::Nonsense(_) => "fetch or make it again",
        }
    }
}

/// What stands at a qcow2 file's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    cluster_bits: u32,
    virtual_bytes: u64,
    encryption: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_table_offset: u64,
    refcount_table_clusters: u32,
    refcount_bits: u64,
    incompatible: u64,
    backing: Option<String>,
    extensions: Vec<(u32, String)>,
}

impl Header {
    /// Reads the header of a file; the inner error says what is wrong with it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(file: &File) -> io::Result<Result<Self, Qcow2Fault>> {
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len().min(HEADER_ROOM_BYTES)).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Self::decode(&bytes))
    }

    /// Reads the header from the first cluster of a file, or as much of it as there is.
    ///
    /// # Errors
    /// When it is none, or holds what cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, Qcow2Fault> {
        const TRUNCATED: Qcow2Fault = Qcow2Fault::HeaderTruncated;
        let u32_at = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        if !bytes.starts_with(&MAGIC) {
            return Err(Qcow2Fault::NotQcow2);
        }
        let (incompatible, refcount_order, header_bytes) = match u32_at(4).ok_or(TRUNCATED)? {
            2 => (0, 4, 72),
            3 => (u64_at(72).ok_or(TRUNCATED)?, u32_at(96).ok_or(TRUNCATED)?, u32_at(100).ok_or(TRUNCATED)? as usize),
            _ => return Err(Qcow2Fault::Unknown("a version")),
        };
        let cluster_bits = u32_at(20).ok_or(TRUNCATED)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Fault::Nonsense("clusters of an impossible size"));
        }
        if refcount_order > 6 {
            return Err(Qcow2Fault::Nonsense("refcounts of an impossible size"));
        }
        let backing_offset = u64_at(8).ok_or(TRUNCATED)?;
        let backing_bytes = u32_at(16).ok_or(TRUNCATED)? as usize;
        let backing = match backing_offset {
            0 => None,
            _ if backing_bytes > MAX_BACKING_BYTES => {
                return Err(Qcow2Fault::Nonsense("a name of an impossible length"));
            }
            offset => {
                let start = usize::try_from(offset).map_err(|_| TRUNCATED)?;
                let name = bytes.get(start..).and_then(|rest| rest.get(..backing_bytes)).ok_or(TRUNCATED)?;
                Some(String::from_utf8_lossy(name).into_owned())
            }
        };
        Ok(Self {
            cluster_bits,
            virtual_bytes: u64_at(24).ok_or(TRUNCATED)?,
            encryption: u32_at(32).ok_or(TRUNCATED)?,
            l1_entries: u32_at(36).ok_or(TRUNCATED)?,
            l1_offset: u64_at(40).ok_or(TRUNCATED)?,
            refcount_table_offset: u64_at(48).ok_or(TRUNCATED)?,
            refcount_table_clusters: u32_at(56).ok_or(TRUNCATED)?,
            refcount_bits: 1 << refcount_order,
            incompatible,
            backing,
            extensions: extensions(bytes, header_bytes).unwrap_or_default(),
        })
    }

    /// The size of the disk inside, in bytes.
    pub fn virtual_bytes(&self) -> u64 {
        self.virtual_bytes
    }

    /// How large the disk inside could become without another first-level table, in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        u64::from(self.l1_entries).saturating_mul(self.bytes_per_l1_entry())
    }

    /// Whether this overlay was made over this base.
    pub fn is_over(&self, base: &str, format: DiskFormat) -> bool {
        self.backing.as_deref() == Some(base) && self.extension(BACKING_FORMAT) == Some(format.as_str())
    }

    /// The text of a header extension, if there is one of this kind.
    pub fn extension(&self, kind: u32) -> Option<&str> {
        self.extensions.iter().find(|(other, _)| *other == kind).map(|(_, text)| text.as_str())
    }

    /// Checks whether a machine's overlay may stand over this file, of which this is the header: that it holds all its
    /// data itself and is there to its end.
    ///
    /// # Errors
    /// When the file cannot be read. The inner one says why it cannot be used.
    pub fn check_as_base(&self, file: &File) -> io::Result<Result<(), Qcow2Fault>> {
        let length = file.metadata()?.len();
        Ok(match self.check_features().and_then(|()| self.check_tables(length)) {
            Ok(()) if self.ends_beyond(file, length)? => Err(Qcow2Fault::Truncated),
            outcome => outcome,
        })
    }

    fn check_features(&self) -> Result<(), Qcow2Fault> {
        if self.backing.is_some() {
            return Err(Qcow2Fault::Chained);
        }
        if self.incompatible & EXTERNAL_DATA != 0 {
            return Err(Qcow2Fault::ExternalData);
        }
        if self.incompatible & CORRUPT != 0 {
            return Err(Qcow2Fault::Corrupt);
        }
        if self.incompatible & !BASE_MAY_HAVE != 0 {
            return Err(Qcow2Fault::Unknown("a feature"));
        }
        if self.encryption != 0 {
            return Err(Qcow2Fault::Encrypted);
        }
        Ok(())
    }

    /// The tables that the header names, and nothing behind them, in a file of `length` bytes.
    fn check_tables(&self, length: u64) -> Result<(), Qcow2Fault> {
        let most = (MAX_L1_BYTES / 8).saturating_mul(self.bytes_per_l1_entry());
        if self.virtual_bytes == 0 || self.virtual_bytes > most.min(self.capacity_bytes()) {
            return Err(Qcow2Fault::Nonsense("a disk of an impossible size"));
        }
        if self.refcount_table_clusters == 0 || self.refcount_table_bytes() > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Qcow2Fault::Nonsense("a refcount table of an impossible size"));
        }
        let l1_end = self.l1_offset.saturating_add(u64::from(self.l1_entries) * 8);
        let refcounts_end = self.refcount_table_offset.saturating_add(self.refcount_table_bytes());
        if l1_end > length || refcounts_end > length { Err(Qcow2Fault::Truncated) } else { Ok(()) }
    }

    /// Whether the last cluster that is in use, by the file's own refcounts, lies beyond its `length`.
    ///
    /// A file that was cut short still has its header and, as a rule, its tables: its clusters are what is missing, and
    /// QEMU would read them as zeros without a word.
    fn ends_beyond(&self, file: &File, length: u64) -> io::Result<bool> {
        let mut table = vec![0; usize::try_from(self.refcount_table_bytes()).unwrap_or_default()];
        file.read_exact_at(&mut table, self.refcount_table_offset)?;
        let mut block = vec![0; 1 << self.cluster_bits];
        let blocks = table.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry) & OFFSET_MASK).enumerate();
        for (index, offset) in blocks.rev().filter(|(_, offset)| *offset != 0).take(MAX_EMPTY_BLOCKS) {
            if offset.saturating_add(block.len() as u64) > length {
                return Ok(true);
            }
            file.read_exact_at(&mut block, offset)?;
            if let Some(at) = block.iter().rposition(|byte| *byte != 0) {
                let clusters_per_block = (8 << self.cluster_bits) / self.refcount_bits;
                let cluster = index as u64 * clusters_per_block + at as u64 * 8 / self.refcount_bits;
                return Ok(cluster.saturating_mul(1 << self.cluster_bits) >= length);
            }
        }
        Ok(false)
    }

    /// How much of the disk one entry of the first-level table stands for: a second-level table of clusters.
    fn bytes_per_l1_entry(&self) -> u64 {
        1 << (2 * self.cluster_bits - 3)
    }

    fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.cluster_bits
    }
}

/// The header extensions; `None` where their list is broken off.
fn extensions(bytes: &[u8], header_bytes: usize) -> Option<Vec<(u32, String)>> {
    let mut rest = bytes.get(header_bytes..)?;
    let mut found = Vec::new();
    loop {
        let (kind, after) = rest.split_first_chunk()?;
        let (length, after) = after.split_first_chunk()?;
        let (kind, length) = (u32::from_be_bytes(*kind), u32::from_be_bytes(*length) as usize);
        if kind == 0 {
            return Some(found);
        }
        found.push((kind, String::from_utf8_lossy(after.get(..length)?).into_owned()));
        rest = after.get(length.checked_next_multiple_of(8)?..)?;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use super::*;

    /// A file with nothing in it but tables, in clusters of 512 bytes: header, refcount table, refcount block, first-level
    /// table. The disk inside has 32 KiB.
    pub(crate) fn file() -> Vec<u8> {
        let mut file = vec![0; 4 * 512];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &3_u32.to_be_bytes());
        put(20, &9_u32.to_be_bytes()); // clusters of 2^9 bytes
        put(24, &(32_u64 << 10).to_be_bytes());
        put(36, &1_u32.to_be_bytes()); // entries of the first-level table
        put(40, &(3_u64 * 512).to_be_bytes());
        put(48, &512_u64.to_be_bytes());
        put(56, &1_u32.to_be_bytes()); // clusters of the refcount table
        put(96, &4_u32.to_be_bytes()); // refcounts of 2^4 bits
        put(100, &104_u32.to_be_bytes());
        put(512, &(2_u64 * 512).to_be_bytes());
        for cluster in 0..4 {
            put(2 * 512 + cluster * 2, &1_u16.to_be_bytes());
        }
        file
    }

    /// What is said of a base that has these bytes.
    fn verdict(bytes: &[u8]) -> Result<(), Qcow2Fault> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Header::read(&file).unwrap()?.check_as_base(&file).unwrap()
    }

    /// What is said of a base that has `bytes` at `at`.
    fn check(at: usize, bytes: &[u8], expected: Result<(), Qcow2Fault>) {
        let mut file = file();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(verdict(&file), expected, "{bytes:?} at {at}");
    }

    #[test]
    fn bases_that_are_refused() {
        use Qcow2Fault::*;
        check(0, &MAGIC, Ok(()));
        check(0, b"QFI.", Err(NotQcow2));
        check(7, &[1], Err(Unknown("a version")));
        check(14, &[1, 104], Err(Chained));
        check(23, &[60], Err(Nonsense("clusters of an impossible size")));
        check(24, &[0xff; 8], Err(Nonsense("a disk of an impossible size")));
        check(24, &[0; 8], Err(Nonsense("a disk of an impossible size")));
        check(35, &[1], Err(Encrypted));
        check(40, &[0x7f; 8], Err(Truncated));
        check(56, &[0xff; 4], Err(Nonsense("a refcount table of an impossible size")));
        check(56, &[0; 4], Err(Nonsense("a refcount table of an impossible size")));
        check(79, &[1], Ok(()));
        check(79, &[2], Err(Corrupt));
        check(79, &[4], Err(ExternalData));
        check(79, &[128], Err(Unknown("a feature")));
        check(99, &[7], Err(Nonsense("refcounts of an impossible size")));
        check(512, &[0xff; 8], Err(Truncated));
    }

    #[test]
    fn a_file_that_was_cut_short_is_found_out_wherever() {
        let mut whole = file();
        whole[2 * 512 + 4 * 2 + 1] = 1; // a cluster of data
        whole.resize(5 * 512, 7);
        assert_eq!(verdict(&whole), Ok(()));
        for length in 4..=4 * 512 {
            assert!(verdict(&whole[..length]).is_err(), "{length}");
        }
        // Compressed data need not fill their last cluster.
        assert_eq!(verdict(&whole[..4 * 512 + 1]), Ok(()));
    }

    #[test]
    fn refcounts_of_every_width() {
        for order in 0..=6_u8 {
            let mut file = file();
            file[99] = order;
            file[2 * 512..3 * 512].fill(0);
            let bits = 1_usize << order;
            for cluster in 0..4 {
                let (at, shift) = (2 * 512 + cluster * bits / 8, cluster * bits % 8);
                file[at + bits.div_ceil(8) - 1] |= 1 << shift;
            }
            assert_eq!(verdict(&file), Ok(()), "{bits} bits");
            let far = 2 * 512 + 400 * bits / 8 + bits.div_ceil(8) - 1;
            if far < 3 * 512 {
                file[far] = 1;
                assert_eq!(verdict(&file), Err(Qcow2Fault::Truncated), "{bits} bits");
            }
        }
    }
}
