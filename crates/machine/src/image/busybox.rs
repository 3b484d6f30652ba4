//! The busybox that goes into an image: the host's if it fits, Debian's otherwise.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::apt::Apt;
use super::{deb, elf};
use crate::MachineError;
use crate::host;

/// The programs that a micro guest does not work without.
const NEEDED: [&str; 12] =
    ["acpid", "cat", "init", "ip", "mkdir", "modprobe", "mount", "poweroff", "sh", "sleep", "udhcpc", "xzcat"];

/// A static busybox with all that a micro guest needs.
#[derive(Clone, Debug)]
pub(super) struct Busybox {
    /// The program.
    pub(super) path: PathBuf,
    /// The names of its programs.
    pub(super) applets: Vec<String>,
}

impl Busybox {
    /// Looks for one on this host, and in the folder `dir` of those that were downloaded.
    pub(super) fn find(dir: &Path) -> Option<Self> {
        ["busybox", "busybox-static"]
            .into_iter()
            .find_map(|name| Self::open(&host::program(name)?))
            .or_else(|| Self::open(&dir.join("busybox")))
    }

    /// Downloads Debian's into the folder `dir`.
    pub(super) fn download(apt: &mut Apt<'_>, dir: &Path, scratch: &Path) -> Result<Self, MachineError> {
        let deb = apt.download("busybox-static", scratch)?;
        let (draft, path) = (scratch.join("busybox"), dir.join("busybox"));
        deb::unpack(&deb, &mut |path| matches!(path, "bin/busybox" | "usr/bin/busybox").then(|| draft.clone()))?;
        let damaged = || MachineError::Package {
            package: "busybox-static".to_owned(),
            why: "it has no static busybox with the programs that a micro guest needs".to_owned(),
        };
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).map_err(|_| damaged())?;
        Self::open(&draft).ok_or_else(damaged)?;
        fs::rename(&draft, &path).map_err(MachineError::io("write", &path))?;
        Self::open(&path).ok_or_else(damaged)
    }

    /// Looks whether a file is a busybox that will do.
    fn open(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        if !elf::is_static(&fs::read(&path).ok()?) {
            return None;
        }
        let output = Command::new(&path).arg("--list").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let legal = |name: &&str| {
            !matches!(*name, "" | "busybox" | "." | "..") && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        let list = String::from_utf8(output.stdout).ok()?;
        let applets: Vec<_> = list.lines().filter(legal).map(str::to_owned).collect();
        NEEDED.iter().all(|name| applets.iter().any(|applet| applet == name)).then_some(Self { path, applets })
    }

    /// What tells this busybox from another, without reading all of it.
    pub(super) fn identity(&self) -> String {
        let metadata = fs::metadata(&self.path);
        let stamp = metadata.map(|metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        format!("{} {:?}", self.path.display(), stamp.ok())
    }

    /// The program's bytes.
    pub(super) fn read(&self) -> Result<Vec<u8>, MachineError> {
        fs::read(&self.path).map_err(MachineError::io("read", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_busybox_will_not_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busybox");
        assert!(Busybox::open(&path).is_none());
        fs::write(&path, "#!/bin/sh\necho sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Busybox::open(&path).is_none());
        assert!(Busybox::open(Path::new("/bin/ls")).is_none(), "not static");
    }
}
