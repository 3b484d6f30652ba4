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

/// Where the names of busybox's programs stand in it, `wget` among its neighbours.
const WGET_AMONG_NAMES: &[u8] = b"\0wc\0wget\0which\0";
/// A name that stands at the same place in the alphabet, which busybox looks names up by.
const WGET_ASIDE: &[u8; 4] = b"wgEt";

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

    /// The program's bytes, and the name that its `wget` has in them.
    ///
    /// Debian's busybox crashes when its `wget` is given a time limit, and its shell prefers programs of its own to
    /// those in `/bin`. Under another name it stays out of the way of ours, which goes around the crash.
    pub(super) fn read(&self) -> Result<(Vec<u8>, &'static str), MachineError> {
        let mut bytes = fs::read(&self.path).map_err(MachineError::io("read", &self.path))?;
        let wget = set_wget_aside(&mut bytes);
        Ok((bytes, wget))
    }
}

/// Renames the program `wget` if its name stands where it is expected, once; returns the name that it has then.
fn set_wget_aside(busybox: &mut [u8]) -> &'static str {
    let mut places = memmem(busybox, WGET_AMONG_NAMES);
    match (places.next(), places.next()) {
        (Some(place), None) => {
            drop(places);
            let name = place + b"\0wc\0".len();
            busybox[name..name + WGET_ASIDE.len()].copy_from_slice(WGET_ASIDE);
            "wgEt"
        }
        _ => "wget",
    }
}

/// Where `needle` begins in `bytes`.
fn memmem(bytes: &[u8], needle: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(needle.len()).enumerate().filter(move |(_, window)| *window == needle).map(|(place, _)| place)
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

    #[test]
    fn wget_is_set_aside_only_where_it_is_sure_to_be_a_name() {
        let names = b"..\0wc\0wget\0which\0.."; // of Debian's
        let check = |bytes: &[u8], renamed: &[u8], name: &str| {
            let mut bytes = bytes.to_vec();
            assert_eq!((set_wget_aside(&mut bytes), &bytes[..]), (name, renamed));
        };
        check(names, b"..\0wc\0wgEt\0which\0..", "wgEt");
        check(&[names, &names[..]].concat(), &[names, &names[..]].concat(), "wget");
        check(b"..\0wget\0", b"..\0wget\0", "wget");
        check(b"", b"", "wget");
    }
}
