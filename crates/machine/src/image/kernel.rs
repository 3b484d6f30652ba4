//! A kernel and a few of its modules, taken out of one of Debian's kernel packages.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::deb;
use super::elf::{module_depends, module_name};
use super::modules::{Needs, load_order};
use crate::MachineError;

/// Which kernel, and which of its modules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    /// The package that stands for Debian's newest kernel of a kind, or is it.
    pub(super) package: &'a str,
    /// The modules, in the order in which they are loaded; those that they need come along.
    pub(super) modules: &'a [&'a str],
}

/// The micro guest's: of Debian's kernel for virtual machines.
///
/// Panics are reported first, so that a guest that goes wrong is noticed; then the devices of the engine's machine, and
/// the power button.
pub(super) const MICRO: Choice<'static> = Choice {
    package: "linux-image-cloud-amd64",
    modules: &["pvpanic_pci", "virtio_pci", "virtio_console", "virtio_net", "virtio_rng", "evdev", "button"],
};
/// That of machines whose root file system is their disk, and which have none of their own.
pub(super) const ROOTED: Choice<'static> = Choice {
    package: "linux-image-cloud-amd64",
    modules: &[
        "pvpanic_pci",
        "virtio_pci",
        "virtio_blk",
        "ext4",
        "virtio_console",
        "virtio_net",
        "virtio_rng",
        "evdev",
        "button",
    ],
};
/// The same guest's of User-Mode Linux: a package that is the kernel itself, which is a program.
pub(super) const MICRO_UML: Choice<'static> = Choice { package: "user-mode-linux", modules: &["virtio_net", "ipv6"] };
/// The largest kernel module that is believed to be one, in bytes.
const MAX_MODULE_BYTES: u64 = 32 << 20;

/// The kernel's name in its folder.
const KERNEL: &str = "vmlinuz";
/// The file that says which kernel it is.
const RELEASE: &str = "release";
/// The file with the modules in load order, each with what it needs, in the format of `modules.dep(5)`.
const ORDER: &str = "modules.dep";

/// Where the list of the modules that are in the kernel itself is put, among what is not kept.
const BUILT_IN: &str = "modules.builtin";

/// A module's file: its name and its contents.
pub(super) type ModuleFile = (String, Vec<u8>);

/// A kernel's folder.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    dir: PathBuf,
    /// Its release, like `6.1.0-44-cloud-amd64`.
    pub(super) release: String,
}

impl Kernel {
    /// Opens a folder that [`extract`](Self::extract) has filled.
    pub(super) fn open(dir: &Path) -> Option<Self> {
        let release = fs::read_to_string(dir.join(RELEASE)).ok()?;
        dir.join(KERNEL).is_file().then(|| Self { dir: dir.to_owned(), release })
    }

    /// Takes the kernel and these modules out of a package into `dir`, which is empty; `scratch` is for what is not kept,
    /// and `busybox` decompresses where there is need.
    pub(super) fn extract(
        deb: &Path,
        wanted: &[&str],
        dir: &Path,
        scratch: &Path,
        busybox: &Path,
    ) -> Result<Self, MachineError> {
        let damaged = |why: String| MachineError::Package {
            package: deb.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            why,
        };
        let all = scratch.join("modules");
        fs::create_dir_all(&all).map_err(MachineError::io("create", &all))?;
        let mut release = None;
        deb::unpack(deb, &mut |path| {
            if path == "usr/bin/linux.uml" || path.strip_prefix("boot/vmlinuz-").is_some_and(|rest| !rest.contains('/'))
            {
                return Some(dir.join(KERNEL));
            }
            if path.ends_with("/modules.builtin") {
                return Some(scratch.join(BUILT_IN));
            }
            let (version, file) = module_file(path)?;
            release.get_or_insert_with(|| version.to_owned());
            Some(all.join(file))
        })?;
        let release = release.ok_or_else(|| damaged("it has no kernel modules".to_owned()))?;
        let kernel = dir.join(KERNEL);
        // Some are programs.
        match fs::set_permissions(&kernel, Permissions::from_mode(0o755)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it has no kernel".to_owned()));
            }
            outcome => outcome.map_err(MachineError::io("write", &kernel))?,
        }
        let built_in = fs::read_to_string(scratch.join(BUILT_IN)).unwrap_or_default();
        let wanted: Vec<_> = wanted.iter().copied().filter(|name| !is_built_in(&built_in, name)).collect();
        let needs = needs_of(&all, &wanted, busybox)?;
        let order = load_order(&needs, &wanted).map_err(|error| damaged(error.to_string()))?;
        let mut table = String::new();
        for name in &order {
            let file = format!("{name}.ko");
            let to = dir.join(&file);
            fs::rename(all.join(&file), &to).map_err(MachineError::io("write", &to))?;
            // `modules.dep` names all that a module needs, the nearest first.
            let closure = load_order(&needs, &[name]).map_err(|error| damaged(error.to_string()))?;
            let needed: String = closure.iter().rev().skip(1).map(|name| format!(" {name}.ko")).collect();
            table += &format!("{file}:{needed}\n");
        }
        for (name, text) in [(ORDER, &table), (RELEASE, &release)] {
            let path = dir.join(name);
            fs::write(&path, text).map_err(MachineError::io("write", &path))?;
        }
        Ok(Self { dir: dir.to_owned(), release })
    }

    /// The file that the engine boots.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(KERNEL)
    }

    /// The modules' names and contents, and what stands in `modules.dep`.
    pub(super) fn modules(&self) -> Result<(String, Vec<ModuleFile>), MachineError> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            fs::read(&path).map_err(MachineError::io("read", &path))
        };
        let table = String::from_utf8_lossy(&read(ORDER)?).into_owned();
        let files = table.lines().filter_map(|line| line.split_once(':')).map(|(file, _)| file);
        let modules = files.map(|file| Ok((file.to_owned(), read(file)?))).collect::<Result<_, MachineError>>()?;
        Ok((table, modules))
    }
}

/// Whether a module is in the kernel itself, by the list of those that are (the kernel's Documentation/kbuild/kbuild.rst).
fn is_built_in(list: &str, name: &str) -> bool {
    let names = list.lines().filter_map(|path| path.rsplit('/').next()?.strip_suffix(".ko"));
    names.into_iter().any(|known| module_name(known) == name)
}

/// A module's release and the name of its file as we keep it, if `path` in the package is one.
fn module_file(path: &str) -> Option<(&str, String)> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    let path = path.strip_prefix("lib/modules/").or(path.strip_prefix("lib/uml/modules/"))?;
    let (release, path) = path.split_once('/')?;
    let file = path.rsplit('/').next()?;
    let (name, suffix) = file.split_once(".ko")?;
    let legal = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b)) && text != "..";
    (matches!(suffix, "" | ".xz") && legal(name) && legal(release))
        .then(|| (release, format!("{}.ko{suffix}", module_name(name))))
}

/// What each of the wanted modules needs, and each that these need; compressed ones are decompressed.
fn needs_of(dir: &Path, wanted: &[&str], busybox: &Path) -> Result<Needs, MachineError> {
    let mut needs = Needs::new();
    let mut open: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = open.pop() {
        let plain = dir.join(format!("{name}.ko"));
        let packed = dir.join(format!("{name}.ko.xz"));
        let small = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.len() <= MAX_MODULE_BYTES);
        if !needs.contains_key(&name) && small(&packed) {
            decompress(busybox, &packed, &plain)?;
        }
        if needs.contains_key(&name) || !small(&plain) {
            continue;
        }
        let bytes = fs::read(&plain).map_err(MachineError::io("read", &plain))?;
        // What is no module is as good as missing: that is noticed when they are put in order.
        if let Some(depends) = module_depends(&bytes) {
            open.extend(depends.iter().cloned());
            needs.insert(name, depends);
        }
    }
    Ok(needs)
}

fn decompress(busybox: &Path, from: &Path, to: &Path) -> Result<(), MachineError> {
    let input = fs::File::open(from).map_err(MachineError::io("read", from))?;
    let output = fs::File::create(to).map_err(MachineError::io("write", to))?;
    let status = Command::new(busybox).arg("xzcat").stdin(input).stdout(output).stderr(Stdio::null()).status();
    let status = status.map_err(|source| MachineError::Run { program: busybox.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    let why = "it cannot be decompressed".to_owned();
    Err(MachineError::Package { package: from.display().to_string(), why })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::host;
    use crate::image::elf::tests::module;

    /// A package like Debian's, with these modules (`name:needs,needs`) and the text `kernel` for a kernel.
    pub(in crate::image) fn fake_deb(dir: &Path, modules: &[&str]) -> PathBuf {
        let root = dir.join("root");
        let drivers = root.join("lib/modules/6.1.0-0-test/kernel/drivers");
        for folder in [&root.join("DEBIAN"), &root.join("boot"), &drivers] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(root.join("DEBIAN/control"), CONTROL).unwrap();
        fs::write(root.join("boot/vmlinuz-6.1.0-0-test"), "kernel").unwrap();
        for entry in modules {
            let (name, needs) = entry.split_once(':').unwrap();
            fs::write(drivers.join(format!("{name}.ko")), module(needs)).unwrap();
        }
        let deb = dir.join("linux-image-6.1.0-0-test_1_amd64.deb");
        let output =
            Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).arg(&root).arg(&deb).output();
        assert!(output.unwrap().status.success());
        deb
    }

    const CONTROL: &str = "Package: linux-image-6.1.0-0-test\nVersion: 1\nArchitecture: amd64\n\
                           Maintainer: Nobody <nobody@example.org>\nDescription: a kernel that is none\n";

    pub(in crate::image) const MODULES: [&str; 10] = [
        "pvpanic:",
        "pvpanic-pci:pvpanic",
        "virtio:",
        "virtio_ring:virtio",
        "virtio_pci:virtio_ring,virtio",
        "virtio_console:virtio",
        "virtio_net:virtio",
        "virtio-rng:virtio",
        "evdev:",
        "button:",
    ];

    fn check(modules: &[&str], expected: Result<&str, &str>) {
        if host::program("dpkg-deb").is_none() {
            eprintln!("SKIPPED: dpkg-deb is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let [to, scratch] = ["to", "scratch"].map(|name| dir.path().join(name));
        fs::create_dir(&to).unwrap();
        let deb = fake_deb(dir.path(), modules);
        match (Kernel::extract(&deb, MICRO.modules, &to, &scratch, Path::new("/nonexistent")), expected) {
            (Ok(kernel), Ok(order)) => {
                assert_eq!(kernel.release, "6.1.0-0-test");
                assert_eq!(fs::read(kernel.path()).unwrap(), b"kernel");
                assert_eq!(Kernel::open(&to).unwrap().modules().unwrap().0, order);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (outcome, expected) => panic!("{outcome:?} is not {expected:?}"),
        }
    }

    #[test]
    fn a_package_becomes_a_kernel_and_the_modules_that_are_needed() {
        let mut modules = MODULES.to_vec();
        modules.push("unneeded:");
        check(
            &modules,
            Ok("pvpanic.ko:\npvpanic_pci.ko: pvpanic.ko\nvirtio.ko:\nvirtio_ring.ko: virtio.ko\n\
                virtio_pci.ko: virtio_ring.ko virtio.ko\nvirtio_console.ko: virtio.ko\nvirtio_net.ko: virtio.ko\n\
                virtio_rng.ko: virtio.ko\nevdev.ko:\nbutton.ko:\n"),
        );
        check(&[], Err("it has no kernel modules"));
        check(&["virtio:"], Err("the kernel module `pvpanic_pci` is not in it"));
        modules[0] = "pvpanic:pvpanic_pci";
        check(&modules, Err("needs itself"));
    }

    #[test]
    fn paths_of_modules() {
        let check = |path: &str, expected: Option<(&str, &str)>| {
            assert_eq!(module_file(path).as_ref().map(|(release, file)| (*release, file.as_str())), expected, "{path}");
        };
        check("lib/modules/6.1/kernel/net/virtio-net.ko", Some(("6.1", "virtio_net.ko")));
        check("usr/lib/modules/6.12/kernel/net/virtio_net.ko.xz", Some(("6.12", "virtio_net.ko.xz")));
        check("lib/modules/6.1/modules.order", None);
        check("lib/modules/../x.ko", None);
        check("lib/modules/6.1/x.ko.zst", None);
        check("x.ko", None);
    }
}
