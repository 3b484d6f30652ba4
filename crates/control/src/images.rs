//! What machines can be made from, and who needs it.

use std::path::Path;

use weft_machine::CatalogImage;
use weft_model::view::{ImageView, ProblemView};
use weft_model::{Arch, DiskFormat, Firmware, ImageDisk, ImageSource, MICRO, Vm};
use weft_types::{ByteSize, Label, VmName};

use crate::desired::Desired;
use crate::host::Trouble;
use crate::inner::Inner;
use crate::launch::Launch;

impl Inner {
    /// The images that could be used: Weft's own, those that files describe, and those that users have brought.
    pub(crate) fn image_views(&self) -> Result<Vec<ImageView>, ProblemView> {
        let desired = self.records().map_err(|error| Trouble::from(error).problem())?.desired;
        let built = self.host.images().map_err(|trouble| trouble.problem())?;
        let kept = self.host.kept_images().map_err(|trouble| trouble.problem())?;
        let micro = built.iter().find(|image| image.name == MICRO);
        let micro = ImageView {
            name: MICRO.to_owned(),
            description: micro
                .map_or("built from Debian's packages when it is first used", |image| &image.detail)
                .to_owned(),
            origin: "weft".to_owned(),
            built: micro.is_some(),
            size: micro.map(|image| image.size),
            used_by: users(&desired, |vm| vm.image.as_str() == MICRO),
        };
        let described = desired.images.iter().map(|(name, image)| {
            let (description, built, size) = described_image(&image.spec.source);
            let used_by = users(&desired, |vm| vm.image == *name && vm.kept_image.is_none());
            ImageView {
                name: name.to_string(),
                description,
                origin: image.spec.provenance.to_string(),
                built,
                size,
                used_by,
            }
        });
        let kept = kept.into_iter().map(|(name, image)| {
            let used_by = self.users_of_kept(&desired, &name);
            let name = name.to_string();
            match image {
                Ok(CatalogImage { source, origin, size, .. }) => {
                    ImageView { name, description: what(&source), origin, built: true, size: Some(size), used_by }
                }
                Err(error) => {
                    let (description, origin) = (error.to_string(), "damaged".to_owned());
                    ImageView { name, description, origin, built: false, size: None, used_by }
                }
            }
        });
        let mut views: Vec<_> = std::iter::once(micro).chain(described).chain(kept).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    /// The machines that need an image which a user has brought: those that shall be made from it, and those that still
    /// are.
    pub(crate) fn users_of_kept(&self, desired: &Desired, image: &Label) -> Vec<VmName> {
        let mut all = users(desired, |vm| vm.image == *image && vm.kept_image.is_some());
        let folder = self.paths.images().join(image.as_str());
        let stands_on_it = |launch: &Launch| launch.source.as_ref().is_some_and(|source| lies_in(source, &folder));
        let there = self.host.vms().into_iter();
        all.extend(there.filter(|(_, seen)| seen.launch.as_ref().is_some_and(stands_on_it)).map(|(name, _)| name));
        all.sort();
        all.dedup();
        all
    }

    /// Removes an image that nobody needs.
    pub(crate) fn remove_image(&self, name: &str) -> Result<(), ProblemView> {
        let image = self.known_image(name)?;
        let desired = self.records().map_err(|error| Trouble::from(error).problem())?.desired;
        let used_by = match name {
            MICRO => users(&desired, |vm| vm.image.as_str() == MICRO),
            _ => self.users_of_kept(&desired, &image),
        };
        if let [first, ..] = &used_by[..] {
            let title = format!("the image `{name}` is in use by {}", listed(&used_by));
            let hint = format!("remove the VM first: weft vm rm {first}");
            return Err(Trouble::new("image-in-use", title, hint).problem());
        }
        self.host.remove_image(&image).map_err(|trouble| {
            match desired.images.get(&image) {
                Some(object) if trouble.code == "no-such-image" => {
                    let title = format!("the image `{name}` is described in {}", object.spec.provenance);
                    Trouble::new("no-such-image", title, "remove it there")
                }
                _ => trouble,
            }
            .problem()
        })
    }

    /// The name, if there is such an image.
    pub(crate) fn known_image(&self, name: &str) -> Result<Label, ProblemView> {
        let views = self.image_views()?;
        let known = views.iter().any(|view| view.name == name);
        name.parse().ok().filter(|_| known).ok_or_else(|| {
            let names: Vec<_> = views.iter().map(|view| view.name.as_str()).collect();
            let title = format!("there is no image `{name}`");
            Trouble::new("no-such-image", title, format!("there are: {}", listed(&names))).problem()
        })
    }
}

/// The machines for which this holds.
fn users(desired: &Desired, uses: impl Fn(&Vm) -> bool) -> Vec<VmName> {
    let used = desired.vms.iter().filter(|(_, vm)| uses(&vm.spec) && !vm.removed());
    used.map(|(name, _)| name.clone()).collect()
}

/// What an image consists of, in words.
fn what(source: &ImageSource) -> String {
    let disk = |disk: &ImageDisk| match disk.format {
        DiskFormat::Iso => "CD".to_owned(),
        format => format!("disk ({})", format.as_str()),
    };
    let arch = Some(source.arch()).filter(|arch| *arch != Arch::X86).map(|arch| arch.as_str().to_owned());
    match source {
        ImageSource::Kernel { initrd, disk: beside, .. } => {
            let parts = [
                Some("kernel".to_owned()),
                initrd.as_ref().map(|_| "initrd".to_owned()),
                beside.as_ref().map(disk),
                arch,
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        ImageSource::Disk(it) => {
            let uefi = (it.firmware == Some(Firmware::Uefi)).then(|| "UEFI".to_owned());
            [Some(disk(it)), arch, uefi].into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
    }
}

/// Whether a file of an image lies in this folder.
fn lies_in(source: &ImageSource, folder: &Path) -> bool {
    let kernel = match source {
        ImageSource::Kernel { kernel, .. } => Some(kernel),
        ImageSource::Disk(_) => None,
    };
    kernel.into_iter().chain(source.disk().map(|disk| &disk.path)).any(|path| path.starts_with(folder))
}

fn listed(words: &[impl ToString]) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn described_image(source: &ImageSource) -> (String, bool, Option<ByteSize>) {
    let (what, path) = match source {
        ImageSource::Kernel { kernel, .. } => ("kernel", kernel),
        ImageSource::Disk(disk) => ("disk", &disk.path),
    };
    let size = std::fs::metadata(path).ok().map(|metadata| ByteSize::from_bytes(metadata.len()));
    (format!("{what} {}", path.display()), size.is_some(), size)
}
