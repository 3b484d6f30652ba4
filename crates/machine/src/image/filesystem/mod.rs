//! From root file systems to images that machines start from: archives, containers' images, and Debian as `mmdebstrap`
//! makes it. All of it as any user; nothing is mounted.

mod debian;
mod ext4;
mod guest;
mod oci;
mod tree;

use std::fs;
use std::path::Path;

use weft_model::Platform;
use weft_types::Label;

use self::guest::{FirstProgram, Start};
use self::oci::Command;
use self::tree::Tree;
use super::catalog::{Catalog, CatalogImage, Source};
use super::pull::check_boots;
use super::{Images, Progress, packed};
use crate::MachineError;

pub use debian::Debian;
pub use tree::fuzz;

/// The command line of a machine whose root file system is its disk.
const CMDLINE: &str = "root=/dev/vda rw console=ttyS0 quiet panic=-1 net.ifnames=0";

impl Catalog {
    /// Makes an image of what is in an archive: a root file system, or a container's image in one file; and of a packed
    /// disk. The kernel of a root file system comes from it, if it has one and a first program, and otherwise from
    /// `images`.
    ///
    /// # Errors
    /// When the name is taken, the archive is damaged, a program that this needs is missing, or there is no room.
    pub fn import_archive(
        &self,
        images: &Images,
        name: &Label,
        archive: &Path,
        platform: Platform,
        origin: &str,
        progress: &dyn Fn(String),
    ) -> Result<CatalogImage, MachineError> {
        self.check_free(name)?;
        let Some(program) = packed::packing(archive).map_err(MachineError::io("read", archive))? else {
            return self.import_tar(images, name, archive, platform, origin, progress);
        };
        let draft = self.draft()?;
        let plain = draft.path().join("unpacked");
        progress("unpacking".to_owned());
        packed::unpack_to(program, archive, &plain).map_err(|error| damaged(archive, error))?;
        match packed::is_tar(&plain).map_err(MachineError::io("read", &plain))? {
            true => self.import_tar(images, name, &plain, platform, origin, progress),
            false => {
                check_boots(&plain)?;
                self.adopt(name, Source::Disk(&plain, platform), origin)
            }
        }
    }

    fn import_tar(
        &self,
        images: &Images,
        name: &Label,
        archive: &Path,
        platform: Platform,
        origin: &str,
        progress: &dyn Fn(String),
    ) -> Result<CatalogImage, MachineError> {
        if platform != Platform::default() {
            let why = "an archive of files becomes a disk for x86-64 that a kernel boots".to_owned();
            return Err(MachineError::FileDamaged { what: "archive", path: archive.to_owned(), why });
        }
        let mut file = crate::disk::open("archive", archive)?;
        self.make_of_tree(images, name, origin, progress, |tree| {
            oci::lay(&mut file, tree, progress).map_err(|error| damaged(archive, error))
        })
    }

    /// Makes an image of a Debian that is put together now.
    ///
    /// # Errors
    /// When the name is taken, `mmdebstrap` is missing or fails, or there is no room.
    pub fn build_debian(
        &self,
        images: &Images,
        name: &Label,
        debian: &Debian,
        progress: &dyn Fn(String),
    ) -> Result<CatalogImage, MachineError> {
        self.check_free(name)?;
        self.make_of_tree(images, name, &debian.origin(), progress, |tree| debian.lay(tree, progress).map(|()| None))
    }

    /// Makes an image of what `fill` puts into a tree.
    fn make_of_tree(
        &self,
        images: &Images,
        name: &Label,
        origin: &str,
        progress: &dyn Fn(String),
        fill: impl FnOnce(&mut Tree) -> Result<Option<Command>, MachineError>,
    ) -> Result<CatalogImage, MachineError> {
        let draft = self.draft()?;
        let at = |name: &str| draft.path().join(name);
        for folder in ["contents", "scratch"] {
            fs::create_dir(at(folder)).map_err(MachineError::io("create", at(folder)))?;
        }
        let mut tree = Tree::new(at("contents"));
        let command = fill(&mut tree)?;
        if tree.entries().next().is_none() {
            let why = "it has nothing in it".to_owned();
            return Err(MachineError::FileDamaged { what: "archive", path: origin.into(), why });
        }
        let tell = |step: Progress| progress(step.to_string());
        let first = FirstProgram::of(&tree);
        let start = guest::start(&tree, first);
        let ours = match start {
            Start::Ours => Some(images.rooted(&tell)?),
            Start::Own { .. } => None,
        };
        let busybox = ours.as_ref().map(|ours| &ours.busybox);
        guest::prepare(&mut tree, first, busybox, command.as_ref())
            .map_err(MachineError::io("write to", at("contents")))?;
        let (kernel, initrd, cmdline) = match (&start, &ours) {
            (Start::Own { kernel, initrd }, _) => (kernel, initrd, CMDLINE.to_owned()),
            (Start::Ours, Some(ours)) => (&ours.kernel, &ours.initrd, format!("{CMDLINE} init={}", first.path())),
            (Start::Ours, None) => unreachable!("it was made just now"),
        };
        for (from, to) in [(kernel, "kernel"), (initrd, "initrd")] {
            fs::copy(from, at(to)).map_err(MachineError::io("copy", from))?;
        }
        progress("writing the disk".to_owned());
        ext4::write(&tree, &at("disk"), &at("scratch"))?;
        let (kernel, initrd, disk) = (at("kernel"), at("initrd"), at("disk"));
        let source =
            Source::Kernel { kernel: &kernel, initrd: Some(&initrd), cmdline: Some(&cmdline), disk: Some(&disk) };
        self.adopt(name, source, origin)
    }
}

/// Why an archive cannot be taken in.
fn damaged(archive: &Path, error: std::io::Error) -> MachineError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => MachineError::io("unpack", archive)(error),
        _ => MachineError::FileDamaged { what: "archive", path: archive.to_owned(), why: error.to_string() },
    }
}
