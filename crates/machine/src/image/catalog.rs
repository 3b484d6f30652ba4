//! The catalogue: images that a user has brought, each kept whole under a name of its own.
//!
//! An image is a folder, `NAME/`, with its files and `image.json`, which says what they are. It is made in a draft folder
//! beside it, checked there, and renamed, so a kill at any instant leaves the whole image or a draft. Who writes a draft
//! holds a lock on its folder; a draft that nobody holds is removed by whoever makes or removes an image next. All of it
//! lies with what must last and not in the cache, because Weft cannot make these images again.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with, statvfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use weft_model::{Arch, Disk, ImageDisk, ImageSource, KERNEL_HEAD_BYTES, MICRO, Platform};
use weft_types::{ByteSize, Label};

use super::SCRATCH;
use crate::MachineError;
use crate::whole::write_whole;

/// The description's name in an image's folder.
const DESCRIPTION: &str = "image.json";
/// What this program writes into a description, and the only version that it reads.
const VERSION: u32 = 1;
/// The longest description, in bytes: one that somebody has put there is not read without end.
const MAX_DESCRIPTION_BYTES: u64 = 64 << 10;
/// How much is copied between two words about the progress, in bytes.
const CHUNK_BYTES: u64 = 4 << 20;
/// The names of files in an image's folder.
const KERNEL: &str = "kernel";
const INITRD: &str = "initrd";
const DISK: &str = "disk";

/// What an image is to be made from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A kernel, perhaps an initial RAM disk, the kernel's command line, and perhaps a disk beside it.
    Kernel {
        /// The kernel.
        kernel: &'a Path,
        /// The initial RAM disk.
        initrd: Option<&'a Path>,
        /// The command line; the usual one of the kernel's processor if there is none.
        cmdline: Option<&'a str>,
        /// The disk.
        disk: Option<&'a Path>,
    },
    /// A disk that boots by itself on such machines: raw, qcow2, or what stands on a CD; which of them it is, is found
    /// out.
    Disk(&'a Path, Platform),
}

/// What is done with the files that an image is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    /// They stay where they are.
    Copy,
    /// They become the image's; they lie on the same file system.
    Move,
}

/// The contents of `image.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    /// Seconds since 1970-01-01T00:00:00Z.
    created: u64,
    /// Where it comes from, for people.
    origin: String,
    /// What it consists of; the paths are names in its folder.
    source: ImageSource,
}

/// An image in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogImage {
    /// Its name.
    pub name: Label,
    /// What it consists of; the paths are absolute if the catalogue's is.
    pub source: ImageSource,
    /// When it was made, in seconds since 1970-01-01T00:00:00Z.
    pub created: u64,
    /// Where it comes from, for people.
    pub origin: String,
    /// What its files take on the disk.
    pub size: ByteSize,
}

/// An image by its name, or why it cannot be used.
pub type KeptImage = (Label, Result<CatalogImage, MachineError>);

/// The images in a folder.
#[derive(Clone, Debug)]
pub struct Catalog {
    dir: PathBuf,
}

/// A folder in which an image is made; it goes unless it is renamed. While it lives, nobody else removes it.
pub(super) struct Draft {
    dir: TempDir,
    _lock: File,
}

impl Draft {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Catalog {
    /// The images in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// All images, by name; of those whose description cannot be used, why.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<KeptImage>, MachineError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(MachineError::io("read", &self.dir))?,
        };
        let mut images = Vec::new();
        for entry in entries {
            let entry = entry.map_err(MachineError::io("read", &self.dir))?;
            // Drafts and the lock begin with a dot, which no label does.
            let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match self.find(&name) {
                Err(MachineError::NoSuchImage(_)) => {} // removed meanwhile
                image => images.push((name, image)),
            }
        }
        images.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(images)
    }

    /// The image with this name.
    ///
    /// # Errors
    /// When there is none, or its description cannot be used.
    pub fn find(&self, name: &Label) -> Result<CatalogImage, MachineError> {
        let dir = self.dir.join(name.as_str());
        let path = dir.join(DESCRIPTION);
        let mut text = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MachineError::NoSuchImage(name.to_string()));
            }
            file => file.and_then(|file| file.take(MAX_DESCRIPTION_BYTES).read_to_end(&mut text)),
        }
        .map_err(MachineError::io("read", &path))?;
        let bad = |why: String| MachineError::ImageDescription { path: path.clone(), why };
        let description: Description = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        let Description { version, created, origin, source } = description;
        if version != VERSION {
            return Err(bad(format!("it has version {version}, and {VERSION} is known")));
        }
        let source =
            located(source, &dir).map_err(|file| bad(format!("`{}` is no file of an image", file.display())))?;
        let size = disk_bytes(&dir).map_err(MachineError::io("read", &dir))?;
        Ok(CatalogImage { name: name.clone(), source, created, origin, size: ByteSize::from_bytes(size) })
    }

    /// Makes an image of copies of these files; `progress` hears how many bytes of how many are copied.
    ///
    /// # Errors
    /// When the name is taken, a file is not what it should be, or there is no room. Nothing stays then.
    pub fn import(
        &self,
        name: &Label,
        source: Source<'_>,
        origin: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CatalogImage, MachineError> {
        self.make(name, source, Take::Copy, origin, progress)
    }

    /// Makes an image of these files, which lie on the catalogue's file system and are gone afterwards.
    ///
    /// # Errors
    /// As [`Self::import`]; the files stay then.
    pub fn adopt(&self, name: &Label, source: Source<'_>, origin: &str) -> Result<CatalogImage, MachineError> {
        self.make(name, source, Take::Move, origin, &mut |_, _| {})
    }

    /// Checks that a new image could have this name.
    ///
    /// # Errors
    /// When it is taken.
    pub fn check_free(&self, name: &Label) -> Result<(), MachineError> {
        match name.as_str() == MICRO || self.dir.join(name.as_str()).exists() {
            true => Err(MachineError::ImageExists(name.to_string())),
            false => Ok(()),
        }
    }

    fn make(
        &self,
        name: &Label,
        source: Source<'_>,
        take: Take,
        origin: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CatalogImage, MachineError> {
        self.check_free(name)?;
        let mut opened = Vec::new();
        let (mut total, mut room) = (0, 0);
        for (what, path) in files_of(source) {
            let file = crate::disk::open(what, path)?;
            let metadata = file.metadata().map_err(MachineError::io("read", path))?;
            examine(what, &file, path)?;
            total += metadata.len();
            room += (metadata.blocks() * 512).min(metadata.len());
            opened.push((what, path, file));
        }
        let draft = self.draft()?;
        if take == Take::Copy {
            self.check_room(room)?;
        }
        let mut done = 0;
        for (what, path, file) in &mut opened {
            let own = draft.dir.path().join(*what);
            match take {
                Take::Copy => done += copy_file(file, path, &own, &mut |bytes| progress(done + bytes, total))?,
                Take::Move => {
                    file.sync_all().map_err(MachineError::io("write", *path))?;
                    fs::rename(&path, &own).map_err(MachineError::io("move", *path))?;
                }
            }
        }
        let made =
            described(source, draft.dir.path()).and_then(|source| self.publish(draft.dir.path(), name, source, origin));
        match (made, take) {
            (Ok(()), _) => {
                let _ = draft.dir.keep(); // it has its name now
                self.find(name)
            }
            (Err(error), Take::Copy) => Err(error),
            (Err(error), Take::Move) => {
                for (what, path, _) in &opened {
                    let _ = fs::rename(draft.dir.path().join(what), path);
                }
                Err(error)
            }
        }
    }

    /// Removes an image. Whether somebody uses it is for the caller to know.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn remove(&self, name: &Label) -> Result<(), MachineError> {
        let path = self.dir.join(name.as_str());
        if !path.is_dir() {
            return Err(MachineError::NoSuchImage(name.to_string()));
        }
        // First out of sight in one step, so that nobody finds a part of it; the draft then goes with all that is in it.
        let draft = self.draft()?;
        match fs::rename(&path, draft.dir.path().join("image")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MachineError::NoSuchImage(name.to_string())),
            renamed => renamed.map_err(MachineError::io("remove", &path)),
        }?;
        let gone = draft.dir.path().to_owned();
        draft.dir.close().map_err(MachineError::io("remove", gone))
    }

    /// A new draft, after those are removed whose makers were killed.
    pub(super) fn draft(&self) -> Result<Draft, MachineError> {
        fs::create_dir_all(&self.dir).map_err(MachineError::io("create", &self.dir))?;
        let path = self.dir.join(".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(MachineError::io("open", &path))?;
        // Held until the new draft is locked, so that nobody takes it for one that was left.
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .map_err(MachineError::io("lock", &path))?;
        for entry in fs::read_dir(&self.dir).map_err(MachineError::io("read", &self.dir))?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                continue;
            }
            let left = |dir: &File| flock(dir, FlockOperation::NonBlockingLockExclusive).is_ok();
            if File::open(entry.path()).is_ok_and(|dir| left(&dir)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let made = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&self.dir);
        let dir = made.map_err(MachineError::io("create a folder in", &self.dir))?;
        let own = File::open(dir.path())
            .and_then(|own| flock(&own, FlockOperation::LockExclusive).map(|()| own).map_err(io::Error::from));
        let own = own.map_err(MachineError::io("lock", dir.path()))?;
        Ok(Draft { dir, _lock: own })
    }

    fn check_room(&self, needed: u64) -> Result<(), MachineError> {
        let stat = statvfs(&self.dir).map_err(io::Error::from).map_err(MachineError::io("read", &self.dir))?;
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        if needed > available {
            let [needed, available] = [needed, available].map(ByteSize::from_bytes);
            return Err(MachineError::NoRoom { path: self.dir.clone(), needed, available });
        }
        Ok(())
    }

    /// Writes the description into a draft, and gives it its name.
    fn publish(&self, draft: &Path, name: &Label, source: ImageSource, origin: &str) -> Result<(), MachineError> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let origin = origin.to_owned();
        let description = Description { version: VERSION, created: since.as_secs(), origin, source };
        let path = draft.join(DESCRIPTION);
        let text = serde_json::to_vec_pretty(&description).expect("a description is plain data");
        write_whole(&path, &text).map_err(MachineError::io("write", &path))?;
        let target = self.dir.join(name.as_str());
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        sync(&path).and_then(|()| sync(draft)).map_err(MachineError::io("write", &path))?;
        match renameat_with(CWD, draft, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(MachineError::ImageExists(name.to_string())),
            Err(error) => return Err(MachineError::io("write", &target)(error.into())),
        }
        sync(&self.dir).map_err(MachineError::io("write", &self.dir))
    }
}

/// The files that an image is made from, each with the name that it gets.
fn files_of(source: Source<'_>) -> Vec<(&'static str, &Path)> {
    let (kernel, initrd, disk) = match source {
        Source::Kernel { kernel, initrd, disk, .. } => (Some(kernel), initrd, disk),
        Source::Disk(disk, _) => (None, None, Some(disk)),
    };
    let files =
        [kernel.map(|kernel| (KERNEL, kernel)), initrd.map(|initrd| (INITRD, initrd)), disk.map(|disk| (DISK, disk))];
    files.into_iter().flatten().collect()
}

/// What the files in a draft are. They are looked at and not those that were taken, which may have changed meanwhile.
fn described(source: Source<'_>, draft: &Path) -> Result<ImageSource, MachineError> {
    let open = |what: &str| {
        let path = draft.join(what);
        File::open(&path).map_err(MachineError::io("open", path))
    };
    let disk = |path: &Path, Platform { arch, firmware }: Platform| -> Result<ImageDisk, MachineError> {
        let bad = |fault| MachineError::BadDisk { path: path.to_owned(), fault };
        let Disk { format, .. } = Disk::examine(&open(DISK)?, None).map_err(bad)?;
        Ok(ImageDisk { path: DISK.into(), format, arch: arch.unwrap_or_default(), firmware })
    };
    match source {
        Source::Kernel { kernel, initrd, cmdline, disk: beside } => {
            let arch = kernel_arch(&open(KERNEL)?, kernel)?;
            initrd.map_or(Ok(()), |initrd| examine(INITRD, &open(INITRD)?, initrd))?;
            Ok(ImageSource::Kernel {
                kernel: KERNEL.into(),
                initrd: initrd.map(|_| INITRD.into()),
                cmdline: cmdline.unwrap_or(arch.cmdline()).to_owned(),
                disk: beside.map(|path| disk(path, Platform::default())).transpose()?,
                arch,
            })
        }
        Source::Disk(path, platform) => match platform.contradiction() {
            Some(why) => Err(MachineError::FileDamaged { what: DISK, path: path.to_owned(), why }),
            None => Ok(ImageSource::Disk(disk(path, platform)?)),
        },
    }
}

/// What a description means, with the files where they lie; or a file that is none of an image's.
fn located(mut source: ImageSource, dir: &Path) -> Result<ImageSource, PathBuf> {
    let locate = |path: &mut PathBuf| {
        let known = [KERNEL, INITRD, DISK].iter().any(|name| path.as_os_str() == *name);
        let located = dir.join(&path);
        let named = std::mem::replace(path, located);
        if known { Ok(()) } else { Err(named) }
    };
    match &mut source {
        ImageSource::Kernel { kernel, initrd, disk, .. } => {
            locate(kernel)?;
            initrd.as_mut().map_or(Ok(()), locate)?;
            disk.as_mut().map_or(Ok(()), |disk| locate(&mut disk.path))?;
        }
        ImageSource::Disk(disk) => locate(&mut disk.path)?,
    }
    Ok(source)
}

/// Looks at what is to become a part of an image; `path` is what the user knows it by.
fn examine(what: &'static str, file: &File, path: &Path) -> Result<(), MachineError> {
    let why = match what {
        DISK => {
            let bad = |fault| MachineError::BadDisk { path: path.to_owned(), fault };
            return Disk::examine(file, None).map(drop).map_err(bad);
        }
        KERNEL => return kernel_arch(file, path).map(drop),
        _ => {
            let length = file.metadata().map_err(MachineError::io("read", path))?.len();
            (length == 0).then_some("it is empty")
        }
    };
    why.map_or(Ok(()), |why| Err(MachineError::FileDamaged { what, path: path.to_owned(), why: why.to_owned() }))
}

/// For which processor a file is a kernel; `path` is what the user knows it by.
fn kernel_arch(mut file: &File, path: &Path) -> Result<Arch, MachineError> {
    let mut head = Vec::new();
    file.take(KERNEL_HEAD_BYTES as u64).read_to_end(&mut head).map_err(MachineError::io("read", path))?;
    file.rewind().map_err(MachineError::io("read", path))?;
    let why = "it is not a kernel for x86-64, aarch64 or riscv64".to_owned();
    Arch::of_kernel(&head).ok_or(MachineError::FileDamaged { what: KERNEL, path: path.to_owned(), why })
}

/// Copies a file with its holes, and waits until the copy lasts; its length in bytes.
fn copy_file(file: &mut File, from: &Path, to: &Path, progress: &mut dyn FnMut(u64)) -> Result<u64, MachineError> {
    let mut copy = File::options().write(true).create_new(true).open(to).map_err(MachineError::io("create", to))?;
    let read = || MachineError::io("read", from);
    let length = file.metadata().map_err(read())?.len();
    copy.set_len(length).map_err(MachineError::io("write", to))?;
    let mut at = 0;
    while at < length {
        // Where a file system knows no holes, all is data.
        let data = match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break, // a hole up to the end
            Err(_) => at,
        };
        let hole = rustix::fs::seek(&*file, rustix::fs::SeekFrom::Hole(data)).unwrap_or(length).min(length);
        file.seek(SeekFrom::Start(data)).map_err(read())?;
        copy.seek(SeekFrom::Start(data)).map_err(MachineError::io("write", to))?;
        at = data;
        while at < hole {
            let copied = io::copy(&mut io::Read::by_ref(file).take((hole - at).min(CHUNK_BYTES)), &mut copy);
            let copied = copied.map_err(MachineError::io("write", to))?;
            if copied == 0 {
                let why = "it became shorter while it was read".to_owned();
                return Err(MachineError::FileDamaged { what: "file", path: from.to_owned(), why });
            }
            at += copied;
            progress(at);
        }
    }
    progress(length);
    copy.sync_all().map_err(MachineError::io("write", to))?;
    Ok(length)
}

/// What the files of a folder take on the disk, in bytes.
fn disk_bytes(dir: &Path) -> io::Result<u64> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.blocks() * 512)).sum()
}

#[cfg(test)]
mod tests;
