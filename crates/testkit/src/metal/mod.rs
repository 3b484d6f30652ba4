//! Virtual bare metal: a whole machine under emulation, on whose kernel tests and scripts run as root.
//!
//! For what a test needs of a kernel and its host's may not have: VLAN and VRF devices, control groups, `/dev/kvm` on a
//! processor with nested virtualization. QEMU translates, so the host needs no privilege; the kernel is Debian's for real
//! machines, fetched once into the same cache as the tests' images; the root file system lies in memory and holds
//! busybox, the kernel's modules, and the programs of this host that were asked for, with their libraries.

mod inside;
mod qemu;
mod root;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use weft_machine::{Images, MachineError, Parts};
use weft_types::MacAddr;

use self::root::Root;

pub use inside::{in_metal, is_in_metal};
pub use qemu::{CableEnd, Outcome, Running, cable};

/// The package that stands for Debian's newest kernel for real machines.
const KERNEL: &str = "linux-image-amd64";

/// The kernel modules that are there to be loaded; those that they need come along.
const MODULES: [&str; 21] = [
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "tun",
    "veth",
    "bridge",
    "dummy",
    "macvtap",
    "8021q",
    "vrf",
    "vxlan",
    "geneve",
    "ip_gre",
    "sch_netem",
    "vhost_net",
    "vhost_vsock",
    "kvm_amd",
    "overlay",
    "ext4",
    "nf_tables",
];

/// The first program of the machine: the kernel starts it, and it starts the script.
const INIT: &str = include_str!("init.sh");

/// A machine to be: what it has, and what lies on it.
#[derive(Clone, Debug)]
pub struct Metal {
    memory_mib: u32,
    processors: u8,
    kvm: bool,
    kernel: bool,
    modules: Vec<&'static str>,
    adapters: Vec<(MacAddr, CableEnd)>,
    files: Vec<Given>,
    patience: Duration,
}

/// What of this host lies on the machine.
#[derive(Clone, Debug)]
enum Given {
    /// A program, at the path that it has here.
    Program(PathBuf),
    /// A program of this host, in the machine's `/bin`.
    Named(String),
    /// What is in a folder, in the machine's `/lab`.
    Folder(PathBuf),
}

impl Default for Metal {
    fn default() -> Self {
        Self::new()
    }
}

impl Metal {
    /// A machine with a processor, 768 MiB and nothing else.
    pub fn new() -> Self {
        Self {
            memory_mib: 768,
            processors: 1,
            kvm: false,
            kernel: false,
            modules: Vec::new(),
            adapters: Vec::new(),
            files: Vec::new(),
            patience: Duration::from_secs(400),
        }
    }

    /// With this much memory, the root file system included.
    #[must_use]
    pub fn memory_mib(self, memory_mib: u32) -> Self {
        Self { memory_mib, ..self }
    }

    /// With this many processors.
    #[must_use]
    pub fn processors(self, processors: u8) -> Self {
        Self { processors, ..self }
    }

    /// With a processor that has hardware virtualization (AMD's SVM, with nested paging), and with `/dev/kvm`.
    #[must_use]
    pub fn kvm(self) -> Self {
        Self { kvm: true, ..self }.modules(&["kvm_amd"])
    }

    /// With its own kernel at `/boot/vmlinuz`, for guests.
    #[must_use]
    pub fn kernel(self) -> Self {
        Self { kernel: true, ..self }
    }

    /// These modules are loaded when the script begins; `modprobe` finds the others.
    ///
    /// # Panics
    /// When one is not among those that lie on the machine.
    #[must_use]
    pub fn modules(mut self, names: &[&'static str]) -> Self {
        for name in names {
            assert!(MODULES.contains(name), "`{name}` is no module of virtual bare metal: add it to MODULES");
        }
        self.modules.extend(names);
        self
    }

    /// With a network adapter at the end of a cable. They are `eth0`, `eth1` … in the order in which they were added.
    #[must_use]
    pub fn adapter(mut self, mac: MacAddr, cable: CableEnd) -> Self {
        self.adapters.push((mac, cable));
        self.modules(&["virtio_pci", "virtio_net"])
    }

    /// With a program, its libraries beside it, at the path that it has here; without what debuggers need.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(Given::Program(path.into()));
        self
    }

    /// With programs of this host, by name or path, in `/bin`, where they take the places of busybox's.
    #[must_use]
    pub fn host_programs(mut self, names: &[&str]) -> Self {
        self.files.extend(names.iter().map(|name| Given::Named((*name).to_owned())));
        self
    }

    /// With what is in this folder in `/lab`, where the script begins; programs with their libraries.
    #[must_use]
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(Given::Folder(path.into()));
        self
    }

    /// With this much time from its start to its end; then it is ended.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Turns the machine on. It runs a script in busybox's shell, as root, and turns itself off.
    ///
    /// # Errors
    /// What this host lacks for it, in words for whoever skips a test.
    ///
    /// # Panics
    /// When it should work and does not.
    pub fn boot(&self, script: &str) -> Result<Running, String> {
        let parts = parts()?;
        Ok(Running::start(self, &parts, |path| self.write_root(&parts, script, path)))
    }

    /// Runs a script from the machine's start to its end.
    ///
    /// # Errors
    /// As [`boot`](Self::boot) says.
    pub fn run(&self, script: &str) -> Result<Outcome, String> {
        Ok(self.boot(script)?.wait())
    }

    /// Gives the terminal to a shell on the machine until that ends; its exit code.
    ///
    /// # Errors
    /// As [`boot`](Self::boot) says.
    pub fn interact(&self) -> Result<Option<i32>, String> {
        let parts = parts()?;
        let script = "echo 'Virtual bare metal; `exit` turns it off.'; setsid cttyhack sh";
        Ok(qemu::interact(self, &parts, |path| self.write_root(&parts, script, path)))
    }

    /// Writes the root file system.
    fn write_root(&self, parts: &Parts, script: &str, path: &Path) {
        let mut root = Root::default();
        for folder in ["dev", "proc", "sys", "run", "tmp", "root", "lab", "var/tmp", "usr/bin", "sbin"] {
            root.folder(folder);
        }
        root.link("var/run", "../run");
        root.program("bin/busybox", &parts.busybox);
        for applet in &parts.applets {
            root.link(&format!("bin/{applet}"), "busybox");
        }
        if self.kernel {
            let bytes = fs::read(&parts.kernel).unwrap_or_else(|error| panic!("{}: {error}", parts.kernel.display()));
            root.file("boot/vmlinuz", 0o644, bytes);
        }
        let modules = format!("lib/modules/{}", parts.release);
        root.text(&format!("{modules}/modules.dep"), 0o644, &parts.modules_dep);
        for (name, bytes) in &parts.modules {
            root.file(&format!("{modules}/{name}"), 0o644, bytes.clone());
        }
        for given in &self.files {
            match given {
                Given::Program(program) => root.program(&program.to_string_lossy(), program),
                Given::Named(name) => {
                    let program = find_program(name);
                    let name = program.file_name().unwrap_or_default().to_string_lossy();
                    root.program(&format!("bin/{name}"), &program);
                }
                Given::Folder(folder) => root.tree("lab", folder),
            }
        }
        root.text("etc/passwd", 0o644, "root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
        root.text("etc/group", 0o644, "root:x:0:\ntty:x:5:\nkvm:x:104:\nnogroup:x:65534:\n");
        root.text("etc/modules", 0o644, &self.modules.join(" "));
        root.text("etc/script", 0o644, script);
        root.text("init", 0o755, INIT);
        root.write(path).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

/// The kernel, its modules and busybox, or why this host cannot have them.
fn parts() -> Result<Parts, String> {
    weft_machine::probe().qemu.map_err(|error| error.to_string())?;
    let cache = cache();
    fs::create_dir_all(&cache).map_err(|error| format!("cannot create {}: {error}", cache.display()))?;
    let tell = |step| eprintln!("virtual bare metal: {step}");
    match Images::new(&cache).parts(KERNEL, &MODULES, &tell) {
        Err(error @ (MachineError::Download { .. } | MachineError::ToolMissing { .. })) => Err(error.to_string()),
        parts => Ok(parts.expect("Debian's kernel can be unpacked")),
    }
}

/// The cache that the tests of worlds use, too: in the folder into which cargo builds, three above this program.
fn cache() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    program.ancestors().nth(3).expect("cargo builds tests and examples below a folder").join("tmp/image-home/cache")
}

/// Where this host has a program.
///
/// # Panics
/// When it has none.
fn find_program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("this host has no program `{name}`: `make setup` installs what tests need"))
}
