//! Taking single files out of a Debian package, without installing it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::apt::tool;
use crate::MachineError;

/// The most that one file of a package may have, in bytes.
const MAX_FILE_BYTES: u64 = 128 << 20;

/// Writes those files of the package for which `place` names a place. Links and other special files are passed over.
///
/// The package may be hostile: no name of its own is ever used as a path.
pub(super) fn unpack(deb: &Path, place: &mut dyn FnMut(&str) -> Option<PathBuf>) -> Result<(), MachineError> {
    let dpkg_deb = tool("dpkg-deb")?;
    let package = || deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut child = Command::new(&dpkg_deb)
        .arg("--fsys-tarfile")
        .arg(deb)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| MachineError::Run { program: dpkg_deb.clone(), source })?;
    let unpacked = match child.stdout.take() {
        // An archive is followed by zeros: they are read too, or the packer would think that nobody wants its output.
        Some(mut stdout) => untar(&mut stdout, place).map(|()| io::copy(&mut stdout, &mut io::sink())),
        None => Ok(Ok(0)),
    };
    let output = child.wait_with_output().map_err(|source| MachineError::Run { program: dpkg_deb, source })?;
    match unpacked {
        Err(UnpackError::Write { path, source }) => Err(MachineError::io("write", path)(source)),
        // The packer's own words say more than how its output broke off.
        _ if !output.status.success() && !output.stderr.is_empty() => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(MachineError::Package { package: package(), why: words })
        }
        Err(UnpackError::Read(source)) => Err(MachineError::Package { package: package(), why: source.to_string() }),
        Ok(_) if output.status.success() => Ok(()),
        Ok(_) => Err(MachineError::Package { package: package(), why: "dpkg-deb failed".to_owned() }),
    }
}

/// Which side of the unpacking failed.
#[derive(Debug)]
enum UnpackError {
    Read(io::Error),
    Write { path: PathBuf, source: io::Error },
}

fn untar(archive: impl Read, place: &mut dyn FnMut(&str) -> Option<PathBuf>) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(UnpackError::Read)? {
        let mut entry = entry.map_err(UnpackError::Read)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path_bytes();
        let Some(path) = std::str::from_utf8(&name).ok().and_then(|name| place(name.trim_start_matches("./"))) else {
            continue;
        };
        if entry.size() > MAX_FILE_BYTES {
            return Err(UnpackError::Read(io::Error::other("a file in it is larger than any that is expected")));
        }
        copy(&mut entry, path)?;
    }
    Ok(())
}

/// Copies a file; reading and writing fail for different reasons, so they are told apart.
fn copy(from: &mut impl Read, path: PathBuf) -> Result<(), UnpackError> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map_err(UnpackError::Read)?;
    let written = File::create(&path).and_then(|mut file| io::Write::write_all(&mut file, &bytes));
    written.map_err(|source| UnpackError::Write { path, source })
}

/// Reads a hostile archive, and writes nothing.
pub fn fuzz(bytes: &[u8]) {
    let _ = untar(bytes, &mut |_| None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_and_links_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_cksum();
        tar.append_data(&mut header.clone(), "./boot/vmlinuz", &b"core"[..]).unwrap();
        tar.append_data(&mut header, "./boot/other", &b"none"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "./boot/vmlinuz", "/etc/passwd").unwrap();
        let target = dir.path().join("kernel");
        let mut place = |name: &str| (name == "boot/vmlinuz").then(|| target.clone());
        untar(&*tar.into_inner().unwrap(), &mut place).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"core");
    }

    #[test]
    fn what_is_no_package_is_said_to_be_none() {
        if tool("dpkg-deb").is_err() {
            eprintln!("SKIPPED: dpkg-deb is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let deb = dir.path().join("x.deb");
        std::fs::write(&deb, "nonsense").unwrap();
        let error = unpack(&deb, &mut |_| None).unwrap_err();
        assert_eq!(error.code(), "package", "{error}");
    }
}
