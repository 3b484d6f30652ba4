//! A machine's own disk: an empty overlay over its image's, in QEMU's copy-on-write format
//! (QEMU's `docs/interop/qcow2.txt`). The reading half is [`weft_model::qcow2`].
//!
//! Numbers are big-endian. An overlay written here has clusters of 64 KiB: the header, the refcount table, one refcount
//! block, and the first-level table. That table has room for 4 TiB from the start, so that a disk can grow by its header.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use weft_model::DiskFormat;
use weft_model::qcow2::{BACKING_FORMAT, Header, MAGIC, MAX_BACKING_BYTES, MAX_L1_BYTES};

/// The length of the header that version 3 demands, in bytes.
const HEADER_BYTES: usize = 104;
/// The stamp of the base, as a header extension of our own. QEMU keeps those that it does not know.
const BASE_STAMP: u32 = u32::from_be_bytes(*b"Weft");
/// An overlay's clusters: 2 to the power of this, in bytes.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: usize = 1 << CLUSTER_BITS;
/// How much of a disk one entry of the first-level table stands for: a whole second-level table's clusters.
const BYTES_PER_L1_ENTRY: u64 = (CLUSTER / 8 * CLUSTER) as u64;
/// Entries in one cluster of the first-level table.
const L1_ENTRIES_PER_CLUSTER: u64 = CLUSTER as u64 / 8;
/// The largest disk that QEMU takes.
const MAX_VIRTUAL_BYTES: u64 = MAX_L1_BYTES / 8 * BYTES_PER_L1_ENTRY;

/// What an overlay stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base<'a> {
    /// The file's absolute path.
    pub(super) path: &'a str,
    /// What it is.
    pub(super) format: DiskFormat,
    /// Which of the files that may have had this path one after the other: see [`stamp`].
    pub(super) stamp: String,
}

/// How an overlay that is there already stands to a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// It is this one's.
    Same,
    /// It is that of a file which had the base's path and has been written to, or replaced, since.
    Changed,
    /// It is another disk's, or no overlay at all.
    Other,
}

/// What changes when somebody writes to a file or puts another in its place.
pub(super) fn stamp(file: &File) -> io::Result<String> {
    let metadata = file.metadata()?;
    Ok(format!("{} bytes of {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// The stamp of a disk that stands on nothing.
const NOTHING: &str = "nothing";

impl Base<'_> {
    /// What an empty disk stands on.
    pub(super) fn nothing() -> Self {
        Base { path: "", format: DiskFormat::Raw, stamp: NOTHING.to_owned() }
    }

    fn is_nothing(&self) -> bool {
        self.path.is_empty()
    }

    /// How the overlay with this header stands to this base.
    pub(super) fn relation(&self, overlay: &Header) -> Relation {
        match overlay.extension(BASE_STAMP) {
            Some(NOTHING) if self.is_nothing() => Relation::Same,
            _ if !overlay.is_over(self.path, self.format) => Relation::Other,
            Some(stamp) if stamp != self.stamp => Relation::Changed,
            _ => Relation::Same,
        }
    }

    /// An overlay with nothing in it yet; an error says what is wrong with the base.
    pub(super) fn overlay(&self, virtual_bytes: u64) -> Result<Vec<u8>, &'static str> {
        if self.path.len() > MAX_BACKING_BYTES {
            return Err("its path is too long");
        }
        if virtual_bytes > MAX_VIRTUAL_BYTES {
            return Err("it is larger than qcow2 can be");
        }
        let l1_clusters = virtual_bytes.div_ceil(BYTES_PER_L1_ENTRY).div_ceil(L1_ENTRIES_PER_CLUSTER).max(1);
        let [refcount_table, refcount_block, l1] = [1, 2, 3].map(|cluster| cluster * CLUSTER);
        let used = 3 + l1_clusters as usize;
        let mut extensions = Vec::new();
        let format = (!self.is_nothing()).then_some((BACKING_FORMAT, self.format.as_str()));
        for (kind, text) in format.into_iter().chain([(BASE_STAMP, self.stamp.as_str())]) {
            extensions.extend(kind.to_be_bytes());
            extensions.extend((text.len() as u32).to_be_bytes());
            extensions.extend(text.as_bytes());
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        extensions.extend([0; 8]); // the end of them

        let mut header = Vec::with_capacity(used * CLUSTER);
        header.extend(MAGIC);
        header.extend(3_u32.to_be_bytes());
        let name = if self.is_nothing() { 0 } else { HEADER_BYTES + extensions.len() };
        header.extend((name as u64).to_be_bytes());
        header.extend((self.path.len() as u32).to_be_bytes());
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
        header.extend(extensions);
        header.extend(self.path.as_bytes());

        let mut file = header;
        file.resize(used * CLUSTER, 0);
        file[refcount_table..refcount_table + 8].copy_from_slice(&(refcount_block as u64).to_be_bytes());
        for cluster in 0..used {
            let at = refcount_block + cluster * 2;
            file[at..at + 2].copy_from_slice(&1_u16.to_be_bytes());
        }
        Ok(file)
    }
}

/// Makes an overlay's disk larger, if its first-level table has room for that; it never shrinks. Eight bytes of one sector
/// are written, so it happens whole or not at all.
pub(super) fn grow(path: &Path, overlay: &Header, virtual_bytes: u64) -> io::Result<()> {
    if virtual_bytes <= overlay.virtual_bytes() || virtual_bytes > overlay.capacity_bytes() {
        return Ok(());
    }
    File::options().write(true).open(path)?.write_all_at(&virtual_bytes.to_be_bytes(), 24)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::host;

    const GIB: u64 = 1 << 30;

    fn base(path: &str, format: DiskFormat) -> Base<'_> {
        Base { path, format, stamp: "7 bytes of then".to_owned() }
    }

    #[test]
    fn an_overlay_reads_back() {
        for (format, bytes) in [(DiskFormat::Raw, 512), (DiskFormat::Qcow2, 3 * GIB), (DiskFormat::Raw, 9 << 40)] {
            let of = base("/images/a,b.img", format);
            let file = of.overlay(bytes).unwrap();
            let header = Header::decode(&file[..CLUSTER]).unwrap();
            assert_eq!(header.virtual_bytes(), bytes);
            assert!(header.capacity_bytes() >= bytes.max(4 << 40));
            assert_eq!(of.relation(&header), Relation::Same);
            assert_eq!(Base { stamp: "7 bytes of now".to_owned(), ..of }.relation(&header), Relation::Changed);
            assert_eq!(base("/images/a", format).relation(&header), Relation::Other);
        }
        assert!(base(&"x".repeat(1024), DiskFormat::Raw).overlay(512).is_err());
        assert!(base("/x", DiskFormat::Raw).overlay(u64::MAX).is_err());
    }

    #[test]
    fn a_stamp_tells_of_every_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        let now = |bytes: &[u8]| {
            std::thread::sleep(std::time::Duration::from_millis(20)); // a file's clock ticks up to every 10 ms
            fs::write(&path, bytes).unwrap();
            stamp(&File::open(&path).unwrap()).unwrap()
        };
        let first = now(b"a");
        assert_eq!(stamp(&File::open(&path).unwrap()).unwrap(), first);
        assert_ne!(now(b"b"), first);
        assert_ne!(now(b"longer"), first);
    }

    #[test]
    fn qemu_finds_no_fault_with_an_overlay_and_keeps_its_stamp() {
        let Some(qemu_img) = host::program("qemu-img") else {
            eprintln!("SKIPPED: qemu-img is not installed");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let [lower, path] = ["base.img", "disk.qcow2"].map(|name| dir.path().join(name));
        fs::write(&lower, vec![1; 1 << 20]).unwrap();
        let of = base(lower.to_str().unwrap(), DiskFormat::Raw);
        fs::write(&path, of.overlay(GIB).unwrap()).unwrap();
        let run = |words: &[&str]| {
            let output = Command::new(&qemu_img).args(words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let shown = path.to_str().unwrap();
        run(&["check", shown]);
        run(&["info", shown]);
        let empty = dir.path().join("empty.qcow2");
        fs::write(&empty, Base::nothing().overlay(GIB).unwrap()).unwrap();
        run(&["check", empty.to_str().unwrap()]);
        let header = Header::read(&File::open(&empty).unwrap()).unwrap().unwrap();
        assert_eq!((Base::nothing().relation(&header), of.relation(&header)), (Relation::Same, Relation::Other));
        // Writes the header anew.
        run(&["amend", "-o", "lazy_refcounts=on", shown]);
        let header = || Header::read(&File::open(&path).unwrap()).unwrap().unwrap();
        assert_eq!(of.relation(&header()), Relation::Same);
        grow(&path, &header(), 2 * GIB).unwrap();
        run(&["check", shown]);
        assert_eq!(header().virtual_bytes(), 2 * GIB);
        grow(&path, &header(), GIB).unwrap();
        assert_eq!(header().virtual_bytes(), 2 * GIB, "a disk never shrinks");
    }
}
