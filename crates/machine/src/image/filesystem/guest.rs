//! What makes a machine of a root file system: a kernel to start it, a first program where it has none, addresses, and the
//! agent.

use std::io;
use std::path::PathBuf;

use super::oci::Command;
use super::tree::Tree;
use crate::guest::AGENT;
use crate::image::busybox::Busybox;

/// Where everything of ours lies in it.
const OWN: &str = "usr/lib/weft";

/// What the first program of a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstProgram {
    /// systemd, to which what is ours is known as services.
    Systemd,
    /// OpenRC, which is left as it is.
    OpenRc,
    /// None of its own, as in containers: ours.
    Ours,
}

impl FirstProgram {
    /// What this root file system has.
    pub(super) fn of(tree: &Tree) -> Self {
        let has = |path: &str| tree.find(path).is_some();
        match has("sbin/init") {
            true if has_any(tree, "systemd/systemd") => Self::Systemd,
            true if has("sbin/openrc") && has("etc/inittab") => Self::OpenRc,
            _ => Self::Ours,
        }
    }

    /// Its path in the machine.
    pub(super) fn path(self) -> &'static str {
        if self == Self::Ours { "/usr/lib/weft/init" } else { "/sbin/init" }
    }
}

/// How a machine with a root file system starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// By the kernel, and its initial RAM disk, that are in it.
    Own {
        /// Where the kernel is on the host.
        kernel: PathBuf,
        /// Where its initial RAM disk is.
        initrd: PathBuf,
    },
    /// By a kernel of ours.
    Ours,
}

/// How a machine with this root file system starts.
pub(super) fn start(tree: &Tree, first: FirstProgram) -> Start {
    let own = own_kernel(tree).filter(|_| first != FirstProgram::Ours);
    own.map_or(Start::Ours, |(kernel, initrd)| Start::Own { kernel, initrd })
}

/// Puts into a root file system what it needs to be a machine's; `command` is what a container of it would run, and
/// `busybox` is at hand where the first program is ours.
///
/// # Errors
/// When something in it is in the way.
pub(super) fn prepare(
    tree: &mut Tree,
    first: FirstProgram,
    busybox: Option<&Busybox>,
    command: Option<&Command>,
) -> io::Result<()> {
    tree.file(&format!("{OWN}/agent"), 0o755, AGENT)?;
    // Nothing that tells one machine from another is the image's.
    tree.file("etc/machine-id", 0o444, b"")?;
    for folder in ["dev", "proc", "sys", "run"] {
        tree.directory(folder)?;
    }
    match (first, busybox) {
        (FirstProgram::Systemd, _) => with_systemd(tree),
        (FirstProgram::Ours, Some(busybox)) => without_init(tree, busybox, command),
        (FirstProgram::OpenRc, _) | (FirstProgram::Ours, None) => Ok(()),
    }
}

/// Whether there is such a file in the folder of libraries, wherever that is.
fn has_any(tree: &Tree, path: &str) -> bool {
    ["usr/lib", "lib"].iter().any(|folder| tree.find(&format!("{folder}/{path}")).is_some())
}

/// The newest kernel in `/boot` that has an initial RAM disk.
fn own_kernel(tree: &Tree) -> Option<(PathBuf, PathBuf)> {
    let names = tree.entries().filter_map(|(name, _)| std::str::from_utf8(name).ok());
    let versions = names.filter_map(|name| name.strip_prefix("boot/vmlinuz-"));
    let initrd = |version: &str| {
        let names = [format!("boot/initrd.img-{version}"), format!("boot/initramfs-{version}.img")];
        names.iter().find_map(|name| tree.contents(name))
    };
    // Numbers in versions count as numbers: 6.10 is newer than 6.9.
    let order = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    let newest = versions.filter(|version| initrd(version).is_some()).max_by_key(|version| order(version))?;
    Some((tree.contents(&format!("boot/vmlinuz-{newest}"))?, initrd(newest)?))
}

fn with_systemd(tree: &mut Tree) -> io::Result<()> {
    tree.file(&format!("{OWN}/hostname"), 0o755, include_bytes!("guest/hostname"))?;
    let units: [(&str, &str, &[u8]); 2] = [
        ("weft-agent.service", "multi-user.target.wants", include_bytes!("guest/weft-agent.service")),
        ("weft-hostname.service", "sysinit.target.wants", include_bytes!("guest/weft-hostname.service")),
    ];
    for (unit, wants, text) in units {
        tree.file(&format!("etc/systemd/system/{unit}"), 0o644, text)?;
        tree.link(&format!("etc/systemd/system/{wants}/{unit}"), &format!("../{unit}"))?;
    }
    // Who brings a way of his own to set adapters up, keeps it.
    let others = ["usr/sbin/NetworkManager", "etc/network/interfaces", "usr/sbin/netplan", "usr/bin/cloud-init"];
    if !has_any(tree, "systemd/systemd-networkd") || others.iter().any(|path| tree.find(path).is_some()) {
        return Ok(());
    }
    tree.file("etc/systemd/network/80-weft.network", 0o644, include_bytes!("guest/80-weft.network"))?;
    enable(tree, "systemd-networkd.service")?;
    tree.file("usr/local/sbin/refresh-leases", 0o755, include_bytes!("guest/refresh-leases"))?;
    if has_any(tree, "systemd/systemd-resolved") {
        enable(tree, "systemd-resolved.service")?;
        tree.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")?;
    }
    Ok(())
}

/// Has systemd start one of its own services.
fn enable(tree: &mut Tree, unit: &str) -> io::Result<()> {
    tree.link(&format!("etc/systemd/system/multi-user.target.wants/{unit}"), &format!("/lib/systemd/system/{unit}"))
}

fn without_init(tree: &mut Tree, busybox: &Busybox, command: Option<&Command>) -> io::Result<()> {
    let program = std::fs::read(&busybox.path)?;
    tree.file(&format!("{OWN}/busybox"), 0o755, &program)?;
    for applet in &busybox.applets {
        tree.link(&format!("{OWN}/bin/{applet}"), "../busybox")?;
    }
    tree.file(&format!("{OWN}/init"), 0o755, include_bytes!("guest/init"))?;
    tree.file(&format!("{OWN}/as-usual"), 0o755, include_bytes!("guest/as-usual"))?;
    let own_path = "#!/usr/lib/weft/busybox sh\nexport PATH=/usr/lib/weft/bin";
    let script = include_str!("../rootfs/udhcpc.script").replacen("#!/bin/sh", own_path, 1);
    tree.file(&format!("{OWN}/udhcpc.script"), 0o755, script.as_bytes())?;
    let scripts = [
        ("renew-leases", include_str!("../rootfs/renew-leases")),
        ("refresh-leases", include_str!("../rootfs/refresh-leases")),
    ];
    for (name, text) in scripts {
        let text = text.replacen("#!/bin/sh", own_path, 1);
        tree.file(&format!("{OWN}/bin/{name}"), 0o755, text.as_bytes())?;
    }
    if let Some(command) = command.filter(|command| !command.words.is_empty()) {
        tree.file(&format!("{OWN}/run"), 0o755, command.script().as_bytes())?;
    }
    Ok(())
}
