//! Disks: their formats, the copy-on-write overlay that each machine gets, and the seed that cloud-init reads.

mod overlay;
mod seed;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use weft_model::qcow2::Header;
use weft_model::{Disk, DiskFormat};
use weft_types::ByteSize;

use self::overlay::{Base, Relation};
use crate::MachineError;
use crate::spec::{Seed, Uuid};
use crate::whole::write_whole;

/// The overlay's name in a machine's state folder.
pub(crate) const OVERLAY: &str = "disk.qcow2";
/// The seed's name in a machine's state folder.
pub(crate) const SEED: &str = "seed.img";

/// The size of an empty disk where nobody says which.
const EMPTY_DISK: ByteSize = ByteSize::from_mib(10 << 10);

/// Checks that a file of an image is there, is a file, can be read, and is not empty.
pub fn check_file(what: &'static str, path: &Path) -> Result<(), MachineError> {
    let length = open(what, path)?.metadata().map_err(MachineError::io("read", path))?.len();
    if length == 0 {
        return Err(MachineError::FileDamaged { what, path: path.to_owned(), why: "it is empty".to_owned() });
    }
    Ok(())
}

/// Checks that a disk is there, and that machines could use it.
pub fn check_disk(path: &Path, format: DiskFormat) -> Result<Disk, MachineError> {
    examine(&open("disk", path)?, path, format)
}

fn examine(file: &File, path: &Path, format: DiskFormat) -> Result<Disk, MachineError> {
    let bad = |fault| MachineError::BadDisk { path: path.to_owned(), fault };
    Disk::examine(file, Some(format)).map_err(bad)
}

pub(crate) fn open(what: &'static str, path: &Path) -> Result<File, MachineError> {
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MachineError::FileMissing { what, path: path.to_owned() },
        _ => MachineError::Io { action: "read", path: path.to_owned(), source },
    })?;
    if !metadata.is_file() {
        return Err(MachineError::FileDamaged { what, path: path.to_owned(), why: "it is not a file".to_owned() });
    }
    File::open(path).map_err(MachineError::io("open", path))
}

/// Sees to it that the state folder has an overlay over `path`, at least as large as `size` and as the disk there.
///
/// An overlay over the same disk stays, and grows if need be; one over another disk is replaced, because to read it over
/// this one would give neither. Where the file itself has become another since, nothing is done: what the machine has
/// written means nothing over it, and is not ours to throw away.
pub(crate) fn ensure_overlay(
    state_dir: &Path,
    path: &Path,
    format: DiskFormat,
    size: Option<ByteSize>,
) -> Result<(), MachineError> {
    let (base, least) = base(path, format)?;
    let asked = size.or((format == DiskFormat::Iso).then_some(EMPTY_DISK));
    let bytes = asked.map_or(0, ByteSize::bytes).max(least).next_multiple_of(512);
    let target = state_dir.join(OVERLAY);
    if let Some(header) = kept(&target, &base)? {
        return overlay::grow(&target, &header, bytes).map_err(MachineError::io("write", &target));
    }
    let why = |why: &str| MachineError::FileDamaged { what: "disk", path: path.to_owned(), why: why.to_owned() };
    let overlay = base.overlay(bytes).map_err(why)?;
    write_whole(&target, &overlay).map_err(MachineError::io("write", &target))
}

/// Checks, without changing anything, that the overlay in the state folder could be used over `path`.
pub fn check_overlay(state_dir: &Path, path: &Path, format: DiskFormat) -> Result<(), MachineError> {
    kept(&state_dir.join(OVERLAY), &base(path, format)?.0).map(drop)
}

/// What an overlay over this disk would stand on, after a look at whether it can be trusted, and how many bytes that has.
///
/// Beside a CD a machine has a disk that stands on nothing: what it puts there from the one is still worth something when
/// there is another in the drive.
fn base(path: &Path, format: DiskFormat) -> Result<(Base<'_>, u64), MachineError> {
    let file = open("disk", path)?;
    let disk = examine(&file, path, format)?;
    if format == DiskFormat::Iso {
        return Ok((Base::nothing(), 0));
    }
    let text = path.to_str().ok_or(MachineError::PathText { path: path.to_owned(), why: "it is not UTF-8" })?;
    let stamp = overlay::stamp(&file).map_err(MachineError::io("read", path))?;
    Ok((Base { path: text, format, stamp }, disk.bytes))
}

/// The header of the overlay that is there, if it is one over this base.
fn kept(overlay: &Path, base: &Base<'_>) -> Result<Option<Header>, MachineError> {
    let header = File::open(overlay).and_then(|file| Header::read(&file)).ok().and_then(Result::ok);
    match header.as_ref().map(|header| base.relation(header)) {
        Some(Relation::Changed) => Err(MachineError::DiskChanged { path: base.path.into() }),
        Some(Relation::Same) => Ok(header),
        Some(Relation::Other) | None => Ok(None),
    }
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

    fn ensure(dir: &Path, base: &Path, size: Option<u64>) -> Result<u64, MachineError> {
        ensure_overlay(dir, base, DiskFormat::Raw, size.map(ByteSize::from_bytes))?;
        let overlay = File::open(dir.join(OVERLAY)).unwrap();
        Ok(Header::read(&overlay).unwrap().unwrap().virtual_bytes())
    }

    #[test]
    fn an_overlay_stays_grows_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (base, other) = (dir.path().join("base"), dir.path().join("other"));
        fs::write(&base, vec![7; 4096]).unwrap();
        fs::write(&other, vec![8; 8192]).unwrap();
        let overlay = dir.path().join(OVERLAY);
        let ensure = |base: &Path, size: Option<u64>| ensure(dir.path(), base, size).unwrap();
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
    fn a_machine_keeps_what_it_wrote_over_a_file_that_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::write(&base, vec![7; 4096]).unwrap();
        ensure(dir.path(), &base, None).unwrap();
        let before = fs::read(dir.path().join(OVERLAY)).unwrap();
        fs::write(&base, vec![7; 8192]).unwrap();
        assert_eq!(check_overlay(dir.path(), &base, DiskFormat::Raw).unwrap_err().code(), "image-file-changed");
        assert_eq!(ensure(dir.path(), &base, None).unwrap_err().code(), "image-file-changed");
        assert_eq!(fs::read(dir.path().join(OVERLAY)).unwrap(), before);
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
