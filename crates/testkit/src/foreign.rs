//! Guests for processors of other kinds: Debian's kernel and busybox for them, as an initial RAM disk that takes a lease and
//! tells by HTTP which processor it runs on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weft_machine::CpioWriter;

/// What a guest needs for its adapter, each after what it needs itself; what is not there is in the kernel.
const MODULES: [&str; 8] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
cd /modules
for module in $($b cat order); do
    [ -e "$module.ko.xz" ] && $b xzcat "$module.ko.xz" > "$module.ko"
    [ -e "$module.ko" ] && $b insmod "$module.ko"
done
$b ifconfig lo up
$b ifconfig eth0 up
for word in $($b cat /proc/cmdline); do
    case $word in weft.hostname=*) name=${word#*=} ;; esac
done
$b udhcpc -i eth0 -s /leased -x "hostname:$name"
$b uname -m > /www/index.html
exec $b httpd -f -h /www
"#;

const LEASED: &str = r#"#!/bin/busybox sh
[ "$1" = bound ] && /bin/busybox ifconfig "$interface" "$ip" netmask "$subnet"
"#;

/// A kernel and its initial RAM disk.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
}

impl Foreign {
    /// Those for a processor, by Debian's name for it (`arm64`, `i386`) and that of its kernel's package; downloaded into
    /// `cache` unless they lie there.
    ///
    /// # Panics
    /// When they cannot be had.
    pub fn new(cache: &Path, arch: &str, package: &str) -> Self {
        let dir = cache.join(arch);
        let foreign = Self { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd") };
        if !foreign.initrd.exists() {
            fs::create_dir_all(cache).unwrap();
            let draft = tempfile::tempdir_in(cache).unwrap();
            make(draft.path(), arch, package);
            // Another test may have been faster.
            if fs::rename(draft.path(), &dir).is_ok() {
                let _ = draft.keep();
            }
        }
        foreign
    }
}

fn make(dir: &Path, arch: &str, package: &str) {
    let apt = Apt::new(dir, arch);
    let depends = apt.run("apt-cache", &["depends", package]);
    let newest = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image")).unwrap();
    for package in [&format!("linux-image{newest}"), "busybox-static"] {
        apt.run("apt-get", &["--quiet", "download", package]);
    }
    let root = dir.join("root");
    let mut debs: Vec<_> = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect();
    debs.retain(|path| path.extension().is_some_and(|it| it == "deb"));
    for deb in &debs {
        done(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root));
    }
    let boot = fs::read_dir(root.join("boot")).unwrap().flatten();
    let mut kernels = boot.filter(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"));
    fs::rename(kernels.next().unwrap().path(), dir.join("vmlinuz")).unwrap();

    let mut archive = CpioWriter::new(fs::File::create(dir.join("initrd.new")).unwrap());
    for folder in ["bin", "dev", "modules", "proc", "www"] {
        archive.directory(folder, 0o755).unwrap();
    }
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path)).into_iter().find(|it| it.is_file());
    archive.file("bin/busybox", 0o755, &fs::read(busybox.unwrap()).unwrap()).unwrap();
    archive.file("init", 0o755, INIT.as_bytes()).unwrap();
    archive.file("leased", 0o755, LEASED.as_bytes()).unwrap();
    archive.file("modules/order", 0o644, MODULES.join(" ").as_bytes()).unwrap();
    let found = done(Command::new("find").arg(&root).args(["-name", "*.ko", "-o", "-name", "*.ko.xz"]));
    for path in found.lines().map(Path::new) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if MODULES.contains(&name.split('.').next().unwrap()) {
            archive.file(&format!("modules/{name}"), 0o644, &fs::read(path).unwrap()).unwrap();
        }
    }
    archive.finish().unwrap();
    for folder in [&root, &dir.join("apt")] {
        fs::remove_dir_all(folder).unwrap();
    }
    for deb in debs {
        fs::remove_file(deb).unwrap();
    }
    fs::rename(dir.join("initrd.new"), dir.join("initrd")).unwrap();
}

/// Debian's archive for another processor, with lists of our own.
struct Apt<'a> {
    dir: &'a Path,
    arch: &'a str,
}

impl<'a> Apt<'a> {
    fn new(dir: &'a Path, arch: &'a str) -> Self {
        for folder in ["apt/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        fs::write(dir.join("apt/status"), "").unwrap();
        let apt = Self { dir, arch };
        // A mirror may lack one of the lists for a while; whether the others do is seen by who needs a package.
        let _ = apt.command("apt-get", &["--quiet", "update"]).stdin(Stdio::null()).output().unwrap();
        apt
    }

    fn run(&self, program: &str, words: &[&str]) -> String {
        done(&mut self.command(program, words))
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let apt = self.dir.join("apt");
        let options = [
            ("APT::Architecture", self.arch.into()),
            ("APT::Architectures", self.arch.into()),
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            ("Dir::State", apt.clone()),
            ("Dir::State::status", apt.join("status")),
            ("Dir::Cache", apt.join("cache")),
        ];
        let options = options.map(|(key, value)| format!("{key}={}", value.display()));
        let mut command = Command::new(program);
        command.args(options.iter().flat_map(|option| ["-o", option])).args(words).current_dir(self.dir);
        command
    }
}

/// Runs a program to its good end; what it said.
fn done(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
