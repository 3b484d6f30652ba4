//! Disks: their formats, the copy-on-write overlay that each machine gets, and the seed that cloud-init reads.

mod qcow2;
mod seed;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use weft_model::DiskFormat;
use weft_types::ByteSize;

use crate::MachineError;
use crate::spec::{Seed, Uuid};
use crate::whole::write_whole;

pub use qcow2::fuzz;

/// The overlay's name in a machine's state folder.
pub(crate) const OVERLAY: &str = "disk.qcow2";
/// The seed's name in a machine's state folder.
pub(crate) const SEED: &str = "seed.img";

/// Finds out a disk's format by looking at how the file begins.
///
/// This is for a disk that its owner names and only once, when it is described: a guest that has a raw disk can write
/// another format's beginning to it.
pub fn disk_format(path: &Path) -> Result<DiskFormat, MachineError> {
    let mut magic = [0; 4];
    match open("disk", path)?.read_exact(&mut magic) {
        Ok(()) if magic == qcow2::MAGIC => Ok(DiskFormat::Qcow2),
        Ok(()) => match known_but_unsupported(&magic) {
            Some(name) => Err(damaged(path, format!("it is in the format {name}: convert it with qemu-img to qcow2"))),
            None => Ok(DiskFormat::Raw),
        },
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(path, "it is too short".to_owned())),
        Err(error) => Err(MachineError::io("read", path)(error)),
    }
}

/// What a file is that is clearly no raw disk.
fn known_but_unsupported(magic: &[u8; 4]) -> Option<&'static str> {
    match magic {
        b"KDMV" => Some("VMDK"),
        b"vhdx" => Some("VHDX"),
        b"QED\0" => Some("QED"),
        [0x1f, 0x8b, ..] => Some("gzip, which is no disk"),
        [0xfd, b'7', b'z', b'X'] => Some("xz, which is no disk"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("zstd, which is no disk"),
        _ => None,
    }
}

/// Checks that a file of an image is there, is a file, and can be read.
pub(crate) fn readable(what: &'static str, path: &Path) -> Result<(), MachineError> {
    let length = open(what, path)?.metadata().map_err(MachineError::io("read", path))?.len();
    if length == 0 {
        return Err(MachineError::FileDamaged { what, path: path.to_owned(), why: "it is empty".to_owned() });
    }
    Ok(())
}

fn open(what: &'static str, path: &Path) -> Result<File, MachineError> {
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MachineError::FileMissing { what, path: path.to_owned() },
        _ => MachineError::Io { action: "read", path: path.to_owned(), source },
    })?;
    if !metadata.is_file() {
        return Err(MachineError::FileDamaged { what, path: path.to_owned(), why: "it is not a file".to_owned() });
    }
    File::open(path).map_err(MachineError::io("open", path))
}

fn damaged(path: &Path, why: String) -> MachineError {
    MachineError::FileDamaged { what: "disk", path: path.to_owned(), why }
}

/// Sees to it that the state folder has an overlay over `base`, at least as large as `size` and as the base.
///
/// An overlay over the same base stays, and grows if need be; one over another base is replaced, because to read it over
/// this one would give neither disk.
pub(crate) fn ensure_overlay(
    state_dir: &Path,
    base: &Path,
    format: DiskFormat,
    size: Option<ByteSize>,
) -> Result<(), MachineError> {
    let base_bytes = match format {
        DiskFormat::Raw => raw_bytes(base)?,
        DiskFormat::Qcow2 => qcow2_bytes(base)?,
    };
    let bytes = size.map_or(0, ByteSize::bytes).max(base_bytes).next_multiple_of(512);
    let path = state_dir.join(OVERLAY);
    let base_text = base.to_str().ok_or(MachineError::PathText { path: base.to_owned(), why: "it is not UTF-8" })?;
    match qcow2::Header::read(&path) {
        Ok(Ok(header)) if header.is_over(base_text, format) => match header.grown(bytes) {
            Some(grown) => grown.write_to(&path).map_err(MachineError::io("write", &path)),
            None => Ok(()),
        },
        _ => {
            let overlay = qcow2::overlay(base_text, format, bytes).map_err(|why| damaged(base, why.to_owned()))?;
            write_whole(&path, &overlay).map_err(MachineError::io("write", &path))
        }
    }
}

fn raw_bytes(base: &Path) -> Result<u64, MachineError> {
    let length = open("disk", base)?.metadata().map_err(MachineError::io("read", base))?.len();
    if length < 512 { Err(damaged(base, "it is too short for a disk".to_owned())) } else { Ok(length) }
}

/// The size of the disk in a qcow2 file that others gave us, after looking whether it can be trusted.
fn qcow2_bytes(base: &Path) -> Result<u64, MachineError> {
    let file = open("disk", base)?;
    let length = file.metadata().map_err(MachineError::io("read", base))?.len();
    let header = qcow2::Header::read(base).map_err(MachineError::io("read", base))?;
    let header = header.map_err(|why| damaged(base, why.to_owned()))?;
    header.check_as_base(length).map_err(|why| damaged(base, why.to_owned()))?;
    Ok(header.virtual_bytes())
}

/// Writes the volume that cloud-init reads.
pub(crate) fn write_seed(state_dir: &Path, seed: &Seed, uuid: Uuid) -> Result<(), MachineError> {
    let path: PathBuf = state_dir.join(SEED);
    let volume = seed::volume(seed, uuid).map_err(MachineError::io("write", &path))?;
    write_whole(&path, &volume).map_err(MachineError::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_format(bytes: &[u8], expected: Result<DiskFormat, &str>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, bytes).unwrap();
        let found = disk_format(&path).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn formats_by_how_a_file_begins() {
        check_format(b"QFI\xfb\0\0\0\x03", Ok(DiskFormat::Qcow2));
        check_format(&[0; 512], Ok(DiskFormat::Raw));
        check_format(b"KDMV....", Err("convert it with qemu-img"));
        check_format(b"\x1f\x8b\x08\0", Err("gzip"));
        check_format(b"ab", Err("too short"));
    }

    #[test]
    fn an_overlay_stays_grows_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (base, other) = (dir.path().join("base"), dir.path().join("other"));
        fs::write(&base, vec![7; 4096]).unwrap();
        fs::write(&other, vec![8; 8192]).unwrap();
        let overlay = dir.path().join(OVERLAY);
        let ensure = |base: &Path, size: Option<u64>| {
            ensure_overlay(dir.path(), base, DiskFormat::Raw, size.map(ByteSize::from_bytes)).unwrap();
            qcow2::Header::read(&overlay).unwrap().unwrap().virtual_bytes()
        };
        assert_eq!(ensure(&base, None), 4096);
        // A mark where a guest's data would stand.
        let mut bytes = fs::read(&overlay).unwrap();
        bytes.extend(b"mark");
        fs::write(&overlay, &bytes).unwrap();
        assert_eq!(ensure(&base, Some(1 << 30)), 1 << 30);
        assert_eq!(ensure(&base, Some(1 << 20)), 1 << 30, "a disk never shrinks");
        assert!(fs::read(&overlay).unwrap().ends_with(b"mark"));
        assert_eq!(ensure(&other, None), 8192);
        assert!(!fs::read(&overlay).unwrap().ends_with(b"mark"));
    }

    #[test]
    fn files_that_cannot_be_disks() {
        let dir = tempfile::tempdir().unwrap();
        let code = |path: &Path, format| ensure_overlay(dir.path(), path, format, None).unwrap_err().code();
        assert_eq!(code(&dir.path().join("none"), DiskFormat::Raw), "image-file-missing");
        assert_eq!(code(dir.path(), DiskFormat::Raw), "image-file-damaged");
        let short = dir.path().join("short");
        fs::write(&short, b"QFI\xfb").unwrap();
        assert_eq!(code(&short, DiskFormat::Raw), "image-file-damaged");
        assert_eq!(code(&short, DiskFormat::Qcow2), "image-file-damaged");
        assert!(!dir.path().join(OVERLAY).exists());
    }
}
