//! The micro guest's root file system, as the archive that the kernel unpacks into memory.

use std::io;

use super::cpio::Writer;
use super::kernel::ModuleFile;

/// The folders, parents first, with their permissions.
const FOLDERS: [(&str, u32); 14] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/acpi", 0o755),
    ("etc/acpi/PWRF", 0o755),
    ("lib", 0o755),
    ("lib/modules", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("run/dns", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// Everything is in `/bin`; the other usual places lead there.
const LINKS: [(&str, &str); 5] =
    [("sbin", "bin"), ("usr", "."), ("var/run", "../run"), ("var/log", "../tmp"), ("etc/mtab", "../proc/mounts")];

/// The files that are the same in every image, with their permissions.
const FILES: [(&str, u32, &str); 13] = [
    ("init", 0o755, include_str!("rootfs/init")),
    ("etc/inittab", 0o644, include_str!("rootfs/inittab")),
    ("etc/udhcpc.script", 0o755, include_str!("rootfs/udhcpc.script")),
    ("bin/wget", 0o755, include_str!("rootfs/wget")),
    ("bin/renew-leases", 0o755, include_str!("rootfs/renew-leases")),
    ("bin/refresh-leases", 0o755, include_str!("rootfs/refresh-leases")),
    ("etc/profile", 0o644, include_str!("rootfs/profile")),
    ("etc/motd", 0o644, include_str!("rootfs/motd")),
    // What the power button does; the path is busybox's own idea. Everything is in memory: there is nothing to save.
    ("etc/acpi/PWRF/00000080", 0o755, "#!/bin/sh\nexec poweroff -f\n"),
    ("etc/passwd", 0o644, "root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", 0o644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", 0o644, "hosts: files dns\n"),
    ("etc/shells", 0o644, "/bin/sh\n"),
];

/// What goes into an image beyond what is the same in all.
pub(super) struct Contents<'a> {
    /// The kernel's release.
    pub(super) release: &'a str,
    /// The kernel's modules, by the names of their files.
    pub(super) modules: &'a [ModuleFile],
    /// What each module needs, in the format of `modules.dep(5)`.
    pub(super) modules_dep: &'a str,
    /// The modules to load.
    pub(super) load: &'a [&'a str],
    /// A static busybox.
    pub(super) busybox: &'a [u8],
    /// The name of its `wget`.
    pub(super) wget: &'a str,
    /// The names of busybox's programs.
    pub(super) applets: &'a [String],
    /// A static agent.
    pub(super) agent: &'a [u8],
}

/// What the image's bytes depend on besides its [`Contents`], for telling two recipes apart.
pub(super) fn recipe() -> impl Iterator<Item = &'static str> {
    FILES
        .iter()
        .flat_map(|(path, _, text)| [*path, *text])
        .chain(LINKS.iter().flat_map(|(path, target)| [*path, *target]))
}

/// Writes the archive.
pub(super) fn write<W: io::Write>(to: W, contents: &Contents<'_>) -> io::Result<W> {
    let mut archive = Writer::new(to);
    for (path, permissions) in FOLDERS {
        archive.directory(path, permissions)?;
    }
    for (path, target) in LINKS {
        archive.link(path, target)?;
    }
    archive.device("dev/console", 0o600, 5, 1)?;
    archive.device("dev/null", 0o666, 1, 3)?;
    for (path, permissions, text) in FILES {
        match path {
            "bin/wget" => archive.file(path, permissions, wget(contents.wget).as_bytes())?,
            _ => archive.file(path, permissions, text.as_bytes())?,
        }
    }
    archive.file("bin/busybox", 0o755, contents.busybox)?;
    archive.file("bin/weft-agent", 0o755, contents.agent)?;
    for path in contents.applets.iter().map(|applet| format!("bin/{applet}")) {
        if !FILES.iter().any(|(file, ..)| *file == path) {
            archive.link(&path, "busybox")?;
        }
    }
    modules(&mut archive, contents)?;
    archive.finish()
}

/// The first program of a machine whose root file system is its disk.
pub(super) const ROOTED_INIT: &str = include_str!("filesystem/guest/rooted-init");

/// Writes the archive that leads to a root file system on a disk.
pub(super) fn write_rooted<W: io::Write>(to: W, contents: &Contents<'_>) -> io::Result<W> {
    let mut archive = Writer::new(to);
    for path in ["bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "sys"] {
        archive.directory(path, 0o755)?;
    }
    archive.link("sbin", "bin")?;
    archive.device("dev/console", 0o600, 5, 1)?;
    archive.device("dev/null", 0o666, 1, 3)?;
    archive.file("init", 0o755, ROOTED_INIT.as_bytes())?;
    archive.file("bin/busybox", 0o755, contents.busybox)?;
    for path in contents.applets.iter().map(|applet| format!("bin/{applet}")) {
        archive.link(&path, "busybox")?;
    }
    modules(&mut archive, contents)?;
    archive.finish()
}

/// Writes the kernel's modules, and which of them to load.
fn modules<W: io::Write>(archive: &mut Writer<W>, contents: &Contents<'_>) -> io::Result<()> {
    archive.file("etc/modules", 0o644, format!("{}\n", contents.load.join(" ")).as_bytes())?;
    let folder = format!("lib/modules/{}", contents.release);
    archive.directory(&folder, 0o755)?;
    archive.file(&format!("{folder}/modules.dep"), 0o644, contents.modules_dep.as_bytes())?;
    for (file, module) in contents.modules {
        archive.file(&format!("{folder}/{file}"), 0o644, module)?;
    }
    Ok(())
}

/// The guest's `wget`; busybox knows its own as `name`.
fn wget(name: &str) -> String {
    include_str!("rootfs/wget").replace("busybox wget", &format!("busybox {name}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn every_parent_comes_before_its_children() {
        let mut folders: BTreeSet<&str> = BTreeSet::from([""]);
        let parent = |path: &'static str| path.rsplit_once('/').map_or("", |(parent, _)| parent);
        for (path, _) in FOLDERS {
            assert!(folders.contains(parent(path)), "{path}");
            folders.insert(path);
        }
        for path in LINKS.iter().map(|(path, _)| *path).chain(FILES.iter().map(|(path, ..)| *path)) {
            assert!(folders.contains(parent(path)), "{path}");
        }
    }

    /// What the guest's `wget` runs for these arguments.
    fn check_wget(arguments: &str, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        for program in ["busybox", "timeout"] {
            let path = dir.path().join(program);
            fs::write(&path, format!("#!/bin/sh\necho {program} \"$@\"\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &wget("wgEt"), "wget"]).args(arguments.split(' '));
        let output = shell.env("PATH", dir.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{output:?}");
    }

    #[test]
    fn wget_takes_a_time_limit() {
        check_wget("-qO- http://web/", "busybox wgEt -qO- http://web/");
        check_wget("-T 3 -O f http://web/", "timeout 3 busybox wgEt -O f http://web/");
        check_wget("-q -T3 http://web/", "timeout 3 busybox wgEt -q http://web/");
        check_wget("-qT 3 http://web/", "timeout 3 busybox wgEt -q http://web/");
        check_wget("http://web/ --timeout=3", "timeout 3 busybox wgEt http://web/");
        check_wget("http://web/ -T", "");
    }
}
