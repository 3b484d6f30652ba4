//! Images that Weft makes itself. There is one, `micro`: Debian's kernel and a root file system in memory, of busybox and
//! Weft's agent.
//!
//! It is built as any user, without mounting anything: packages are downloaded and unpacked, files chosen, and an archive
//! written. Every result lies in the cache under a name that is made from all that it depends on, and appears there whole,
//! so what is there can be used at once; a file lock keeps two builds from doing the same work.

mod apt;
mod busybox;
mod catalog;
mod checksum;
mod cpio;
mod deb;
mod elf;
mod filesystem;
mod initrd;
mod kernel;
mod modules;
mod packed;
mod parts;
mod pull;
mod unpack;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use weft_model::{EngineKind, MICRO};
use weft_types::ByteSize;

use self::apt::Apt;
use self::busybox::Busybox;
use self::kernel::{Choice, Kernel, MICRO as MICRO_KERNEL, MICRO_UML, ROOTED as ROOTED_KERNEL};
use crate::MachineError;
use crate::guest::AGENT;
use crate::whole::draft_beside;

pub use catalog::{Catalog, CatalogImage, KeptImage, Source};
pub use checksum::Checksum;
pub use cpio::Writer as CpioWriter;
pub use deb::fuzz as fuzz_tar;
pub use elf::fuzz as fuzz_elf;
pub use filesystem::{Debian, fuzz as fuzz_layers};
pub use packed::is_archive;
pub use parts::Parts;
pub use pull::{Expected, Wanted};
pub(crate) use unpack::unpacked;

/// How the name of a kernel's package begins.
const KERNEL_PREFIX: &str = "linux-image-";
/// The micro guest's kernel command line. The kernel's tests of its own ciphers, and its look for a timer that QEMU is
/// known to have, would take a third of the time that an emulated guest needs to start.
const CMDLINE: &str = "console=ttyS0 quiet cryptomgr.notests no_timer_check i8042.noaux 8250.nr_uarts=1 net.ifnames=0";
/// The same of one that is a program: nothing in it is emulated.
const CMDLINE_UML: &str = "quiet net.ifnames=0";
/// How the names of the folders begin in which a build puts what is not done yet.
const SCRATCH: &str = ".new-";

/// What a micro guest's image is made of.
struct Recipe {
    kernel: Choice<'static>,
    cmdline: &'static str,
}

/// For engines that have a processor, or make one.
const HARDWARE: Recipe = Recipe { kernel: MICRO_KERNEL, cmdline: CMDLINE };
/// For User-Mode Linux.
const PARAVIRTUAL: Recipe = Recipe { kernel: MICRO_UML, cmdline: CMDLINE_UML };

/// A built image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
}

/// What starts a machine whose root file system is its disk.
#[derive(Debug)]
struct Rooted {
    kernel: PathBuf,
    initrd: PathBuf,
    busybox: Busybox,
}

/// A step of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process builds the same; waiting for it.
    Waiting,
    /// The lists of packages are being refreshed.
    Refreshing,
    /// A package is being downloaded.
    Downloading(String),
    /// A package is being unpacked.
    Unpacking(String),
    /// The initial RAM disk is being written.
    Writing,
    /// It is built.
    Done,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another build"),
            Self::Refreshing => f.write_str("refreshing the lists of packages"),
            Self::Downloading(package) => write!(f, "downloading {package}"),
            Self::Unpacking(package) => write!(f, "unpacking {package}"),
            Self::Writing => f.write_str("writing the initial RAM disk"),
            Self::Done => f.write_str("done"),
        }
    }
}

/// An image in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// What it is made of, like `linux 6.1.0-44-cloud-amd64`.
    pub detail: String,
    /// Its size on disk.
    pub size: ByteSize,
    /// Where it lies.
    pub path: PathBuf,
}

/// The images of a cache folder.
#[derive(Clone, Debug)]
pub struct Images {
    /// The folder of the image `micro`.
    micro: PathBuf,
}

impl Images {
    /// The images in `cache_dir`, which need not exist yet.
    pub fn new(cache_dir: impl AsRef<Path>) -> Self {
        Self { micro: cache_dir.as_ref().join(MICRO) }
    }

    /// The image with this name, built if that has not been done yet; `progress` hears of each step of a build.
    pub fn ensure(&self, name: &str, progress: &dyn Fn(Progress)) -> Result<Built, MachineError> {
        self.ensure_for(EngineKind::Qemu, name, progress)
    }

    /// The same as this engine can run it.
    pub fn ensure_for(
        &self,
        engine: EngineKind,
        name: &str,
        progress: &dyn Fn(Progress),
    ) -> Result<Built, MachineError> {
        if name != MICRO {
            return Err(MachineError::NoSuchImage(name.to_owned()));
        }
        let recipe = if engine == EngineKind::Uml { &PARAVIRTUAL } else { &HARDWARE };
        match self.built(recipe) {
            Some(built) => Ok(built),
            None => self.build(recipe, progress),
        }
    }

    /// What starts a machine whose root file system is its disk, and has no kernel; built if that has not been done yet.
    pub(in crate::image) fn rooted(&self, progress: &dyn Fn(Progress)) -> Result<Rooted, MachineError> {
        let _lock = self.lock(progress)?;
        let (kernel, busybox) = self.ingredients(&ROOTED_KERNEL, progress)?;
        progress(Progress::Writing);
        let path = self.micro.join(format!(
            "rooted-{}",
            digest(&[kernel.release.as_bytes(), busybox.identity().as_bytes(), initrd::ROOTED_INIT.as_bytes()])
        ));
        if !path.is_file() {
            self.write_archive(&path, &kernel, ROOTED_KERNEL.modules, &busybox, |to, contents| {
                initrd::write_rooted(to, contents).map(drop)
            })?;
        }
        Ok(Rooted { kernel: kernel.path(), initrd: path, busybox })
    }

    /// The images that are built.
    pub fn list(&self) -> Result<Vec<ImageInfo>, MachineError> {
        let Some(kernel) = Kernel::open(&self.kernel_dir(&MICRO_KERNEL)) else { return Ok(Vec::new()) };
        let size = ByteSize::from_bytes(bytes_in(&self.micro).map_err(MachineError::io("read", &self.micro))?);
        let detail = format!("linux {}", kernel.release);
        Ok(vec![ImageInfo { name: MICRO.to_owned(), detail, size, path: self.micro.clone() }])
    }

    /// Removes an image from the cache; the next that needs it builds it anew, from the newest packages.
    pub fn remove(&self, name: &str) -> Result<(), MachineError> {
        if name != MICRO || !self.micro.exists() {
            return Err(MachineError::NoSuchImage(name.to_owned()));
        }
        let _lock = self.lock(&|_| {})?;
        fs::remove_dir_all(&self.micro).map_err(MachineError::io("remove", &self.micro))
    }

    /// What is in the cache already, if it is all there.
    fn built(&self, recipe: &Recipe) -> Option<Built> {
        let kernel = Kernel::open(&self.kernel_dir(&recipe.kernel))?;
        let initrd = self.initrd(&kernel, &Busybox::find(&self.micro)?);
        initrd.is_file().then(|| Built { kernel: kernel.path(), initrd, cmdline: recipe.cmdline.to_owned() })
    }

    #[tracing::instrument(target = "weft::machine", skip_all, err)]
    fn build(&self, recipe: &Recipe, progress: &dyn Fn(Progress)) -> Result<Built, MachineError> {
        let _lock = self.lock(progress)?;
        if let Some(built) = self.built(recipe) {
            return Ok(built); // by whoever had the lock before
        }
        let (kernel, busybox) = self.ingredients(&recipe.kernel, progress)?;
        progress(Progress::Writing);
        let initrd = self.write_initrd(&kernel, recipe.kernel.modules, &busybox)?;
        progress(Progress::Done);
        Ok(Built { kernel: kernel.path(), initrd, cmdline: recipe.cmdline.to_owned() })
    }

    /// A kernel and a busybox, fetched if they are not in the cache yet. The caller has the lock.
    fn ingredients(&self, choice: &Choice<'_>, progress: &dyn Fn(Progress)) -> Result<(Kernel, Busybox), MachineError> {
        self.sweep();
        let scratch = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&self.micro);
        let scratch = scratch.map_err(MachineError::io("create a folder in", &self.micro))?;
        let mut apt = Apt::new(scratch.path(), progress);
        let busybox = match Busybox::find(&self.micro) {
            Some(busybox) => busybox,
            None => Busybox::download(&mut apt, &self.micro, scratch.path())?,
        };
        let kernel = match Kernel::open(&self.kernel_dir(choice)) {
            Some(kernel) => kernel,
            None => {
                let deb = match choice.package.starts_with(KERNEL_PREFIX) {
                    true => apt.download_newest(choice.package, KERNEL_PREFIX, scratch.path())?,
                    false => apt.download(choice.package, scratch.path())?,
                };
                self.unpack_kernel(&deb, choice, scratch.path(), &busybox, progress)?
            }
        };
        Ok((kernel, busybox))
    }

    fn unpack_kernel(
        &self,
        deb: &Path,
        choice: &Choice<'_>,
        scratch: &Path,
        busybox: &Busybox,
        progress: &dyn Fn(Progress),
    ) -> Result<Kernel, MachineError> {
        let name = deb.file_name().unwrap_or_default().to_string_lossy();
        progress(Progress::Unpacking(name.split('_').next().unwrap_or_default().to_owned()));
        let (draft, done) = (scratch.join("kernel"), self.kernel_dir(choice));
        fs::create_dir(&draft).map_err(MachineError::io("create", &draft))?;
        let kernel = Kernel::extract(deb, choice.modules, &draft, scratch, &busybox.path)?;
        fs::rename(&draft, &done).map_err(MachineError::io("write", &done))?;
        Kernel::open(&done).ok_or(MachineError::NoSuchImage(kernel.release))
    }

    fn write_initrd(&self, kernel: &Kernel, load: &[&str], busybox: &Busybox) -> Result<PathBuf, MachineError> {
        let path = self.initrd(kernel, busybox);
        self.write_archive(&path, kernel, load, busybox, |to, contents| initrd::write(to, contents).map(drop))?;
        Ok(path)
    }

    fn write_archive(
        &self,
        path: &Path,
        kernel: &Kernel,
        load: &[&str],
        busybox: &Busybox,
        write: impl FnOnce(BufWriter<&mut tempfile::NamedTempFile>, &initrd::Contents<'_>) -> io::Result<()>,
    ) -> Result<(), MachineError> {
        let (modules_dep, modules) = kernel.modules()?;
        let (program, wget) = busybox.read()?;
        // What is in the kernel itself has no file.
        let is_module = |name: &&str| modules.iter().any(|(file, _)| file.strip_suffix(".ko") == Some(name));
        let load: Vec<_> = load.iter().copied().filter(is_module).collect();
        let contents = initrd::Contents {
            release: &kernel.release,
            modules: &modules,
            modules_dep: &modules_dep,
            load: &load,
            busybox: &program,
            wget,
            applets: &busybox.applets,
            agent: AGENT,
        };
        let written = draft_beside(path).and_then(|mut draft| {
            write(BufWriter::new(&mut draft), &contents)?;
            draft.persist(path).map_err(|error| error.error).map(drop)
        });
        written.map_err(MachineError::io("write", path))
    }

    /// The kernel's folder: one for each choice.
    fn kernel_dir(&self, choice: &Choice<'_>) -> PathBuf {
        let mut inputs = vec![choice.package.as_bytes()];
        inputs.extend(choice.modules.iter().map(|module| module.as_bytes()));
        self.micro.join(format!("kernel-{}", digest(&inputs)))
    }

    /// The archive's path: one for each kernel, busybox, agent and recipe.
    fn initrd(&self, kernel: &Kernel, busybox: &Busybox) -> PathBuf {
        let identity = busybox.identity();
        let mut inputs = vec![kernel.release.as_bytes(), identity.as_bytes(), AGENT];
        for text in initrd::recipe() {
            inputs.push(text.as_bytes());
        }
        self.micro.join(format!("initrd-{}", digest(&inputs)))
    }

    /// Waits until nobody else builds. The lock goes with the file that is given back.
    fn lock(&self, progress: &dyn Fn(Progress)) -> Result<File, MachineError> {
        let path = self.micro.with_extension("lock");
        fs::create_dir_all(&self.micro).map_err(MachineError::io("create", &self.micro))?;
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(MachineError::io("open", &path))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).or_else(|_| {
            progress(Progress::Waiting);
            flock(&file, FlockOperation::LockExclusive)
        });
        locked.map_err(io::Error::from).map_err(MachineError::io("lock", &path))?;
        // Whoever had it may have removed the image, and the folder with it.
        fs::create_dir_all(&self.micro).map_err(MachineError::io("create", &self.micro))?;
        Ok(file)
    }

    /// Removes what builds have left behind that were killed.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.micro).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
    }
}

/// A short name for a list of texts, each told from the next.
fn digest(texts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// How much the files of a folder take.
fn bytes_in(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { bytes_in(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::process::{Command, Stdio};

    use super::*;

    /// A cache whose kernel comes out of a package that was made here; `None` if this host lacks what that needs.
    fn with_fake_kernel(dir: &Path) -> Option<Images> {
        let images = Images::new(dir);
        let (Some(busybox), true) = (Busybox::find(dir), apt::tool("dpkg-deb").is_ok()) else {
            eprintln!("SKIPPED: busybox-static or dpkg-deb is not installed");
            return None;
        };
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(&images.micro).unwrap();
        let work = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&images.micro).unwrap();
        let deb = kernel::tests::fake_deb(scratch.path(), &kernel::tests::MODULES);
        images.unpack_kernel(&deb, &MICRO_KERNEL, work.path(), &busybox, &|_| {}).unwrap();
        Some(images)
    }

    #[test]
    fn an_image_is_built_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let Some(images) = with_fake_kernel(dir.path()) else { return };
        fs::create_dir(images.micro.join(".new-left-behind")).unwrap();
        let steps = RefCell::new(Vec::new());
        let progress = |step: Progress| steps.borrow_mut().push(step);
        let built = images.ensure(MICRO, &progress).unwrap();
        assert_eq!(*steps.borrow(), [Progress::Writing, Progress::Done]);
        assert_eq!(images.ensure(MICRO, &|step| panic!("{step}")).unwrap(), built);
        let hidden = fs::read_dir(&images.micro).unwrap().flatten();
        assert_eq!(hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
        let list = images.list().unwrap();
        assert_eq!((list.len(), list[0].detail.as_str()), (1, "linux 6.1.0-0-test"));

        let archive = File::open(&built.initrd).unwrap();
        let output =
            Command::new("busybox").args(["cpio", "-t"]).stdin(archive).stderr(Stdio::null()).output().unwrap();
        let names = String::from_utf8(output.stdout).unwrap();
        for name in ["init", "bin/busybox", "bin/weft-agent", "bin/udhcpc", "lib/modules/6.1.0-0-test/virtio_net.ko"] {
            assert!(names.lines().any(|line| line == name), "{name} in {names}");
        }
        images.remove(MICRO).unwrap();
        assert_eq!(images.list().unwrap(), []);
        assert!(matches!(images.remove(MICRO), Err(MachineError::NoSuchImage(_))));
    }

    #[test]
    fn two_builds_at_once_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let Some(images) = with_fake_kernel(dir.path()) else { return };
        let builders: Vec<_> = (0..4)
            .map(|_| {
                let images = images.clone();
                std::thread::spawn(move || images.ensure(MICRO, &|_| {}).unwrap())
            })
            .collect();
        let built: Vec<_> = builders.into_iter().map(|builder| builder.join().unwrap()).collect();
        assert!(built.iter().all(|one| *one == built[0]));
        let archives = fs::read_dir(&images.micro).unwrap().flatten();
        assert_eq!(archives.filter(|entry| entry.file_name().to_string_lossy().starts_with("initrd-")).count(), 1);
    }

    #[test]
    fn other_images_are_none_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        assert!(matches!(images.ensure("debian", &|_| {}), Err(MachineError::NoSuchImage(_))));
        assert!(matches!(images.remove("debian"), Err(MachineError::NoSuchImage(_))));
        assert_eq!(images.list().unwrap(), []);
    }
}
