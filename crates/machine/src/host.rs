//! What this host has for running machines.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use weft_model::Arch;
use weft_types::ByteSize;

use crate::MachineError;
use crate::engine::{Board, kvm_state, uefi};

/// What this host has for running machines.
#[derive(Debug)]
pub struct HostReport {
    /// The engine.
    pub qemu: Result<QemuReport, MachineError>,
    /// Hardware virtualization.
    pub kvm: KvmState,
    /// The programs that building the image `micro` needs.
    pub tools: Vec<Tool>,
    /// Memory that machines could have now.
    pub memory_available: ByteSize,
}

/// The QEMU of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuReport {
    /// The program.
    pub path: PathBuf,
    /// Its version, like `7.2.22`.
    pub version: String,
}

impl QemuReport {
    /// The version's first two numbers; zeros where it has none.
    pub(crate) fn version_numbers(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// Whether the hardware can run guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmState {
    /// It can.
    Usable,
    /// `/dev/kvm` is there, but guests do not run on it or crawl; why, in words.
    Unusable(String),
    /// There is no `/dev/kvm`.
    Absent,
    /// This user may not open `/dev/kvm`.
    NoPermission,
}

impl KvmState {
    /// What the user can do about it; empty where there is nothing to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Usable => "",
            Self::Unusable(_) => "machines run translated (TCG): slower, otherwise the same",
            Self::Absent => "turn on virtualization in the firmware, or machines run translated (TCG), which is slower",
            Self::NoPermission => "join the group that owns /dev/kvm, usually `kvm`: usermod -aG kvm USER",
        }
    }
}

/// A program of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub path: Option<PathBuf>,
    /// What it is for.
    pub purpose: &'static str,
    /// How to get it.
    pub hint: &'static str,
}

/// The programs that are looked for, each with what it is for and where it comes from.
const TOOLS: [(&str, &str, &str); 9] = [
    ("apt-get", "downloads the packages of which the image `micro` is made", "only Debian and its relatives have it"),
    ("dpkg-deb", "unpacks those packages", "apt-get install dpkg"),
    ("busybox", "goes into the image `micro`; downloaded if missing", "apt-get install busybox-static"),
    ("curl", "downloads images: weft image pull", "apt-get install curl"),
    ("mmdebstrap", "puts a Debian together: weft image build debian", "apt-get install mmdebstrap uidmap"),
    ("mke2fs", "makes disks of containers' images and of Debian", "apt-get install e2fsprogs"),
    ("qemu-system-aarch64", "runs machines of 64-bit Arm, translated", "apt-get install qemu-system-arm"),
    ("qemu-system-riscv64", "runs machines of 64-bit RISC-V, translated", "apt-get install qemu-system-misc"),
    ("setsid", "detaches the machines from the terminal", "apt-get install util-linux"),
];

/// Looks at the host. Takes some hundredths of a second, the first time in a process.
pub fn probe() -> HostReport {
    let tools = TOOLS.map(|(name, purpose, hint)| Tool { name, path: program(name), purpose, hint });
    let firmware = [
        (Arch::X86, "UEFI", "boots disks with `firmware = \"uefi\"`", "apt-get install ovmf"),
        (Arch::Aarch64, "UEFI of Arm", "boots disks of 64-bit Arm", "apt-get install qemu-efi-aarch64"),
    ];
    let firmware = firmware.map(|(arch, name, purpose, hint)| {
        let path = uefi(arch).ok().map(|uefi| uefi.code.path);
        Tool { name, path, purpose, hint }
    });
    HostReport {
        qemu: qemu(Arch::X86),
        kvm: kvm_state(),
        tools: tools.into_iter().chain(firmware).collect(),
        memory_available: memory_available().unwrap_or_default(),
    }
}

/// The QEMU of this host for machines with this processor, and its version.
pub(crate) fn qemu(arch: Arch) -> Result<QemuReport, MachineError> {
    let path = program(Board::of(arch).program).ok_or(MachineError::QemuMissing { arch })?;
    let output = Command::new(&path).arg("--version").output();
    let output = output.map_err(|source| MachineError::Run { program: path.clone(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_once(" version ").map_or("", |(_, rest)| rest);
    let version = version.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    Ok(QemuReport { version: version.to_owned(), path })
}

/// What the kernel says can be had without swapping (`proc_meminfo(5)`, `MemAvailable`).
pub(crate) fn memory_available() -> Option<ByteSize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize::from_mib(kib / 1024))
}

/// Where a program is, among the folders of PATH and those for administrators, which an ordinary user's lacks.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders.chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from)).map(|folder| folder.join(name)).find(
        |file| file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let numbers =
            |version: &str| QemuReport { path: PathBuf::new(), version: version.to_owned() }.version_numbers();
        assert_eq!(numbers("7.2.22"), (7, 2));
        assert_eq!(numbers("10.0"), (10, 0));
        assert_eq!(numbers(""), (0, 0));
    }

    #[test]
    fn programs_are_files_that_can_be_run() {
        assert!(program("sh").is_some());
        assert_eq!(program("no-such-program"), None);
        assert_eq!(program("../etc/passwd"), None);
    }

    #[test]
    fn a_host_can_always_be_looked_at() {
        let report = probe();
        assert_eq!(report.qemu.is_ok(), program("qemu-system-x86_64").is_some());
        assert!(report.memory_available.bytes() > 0);
    }
}
