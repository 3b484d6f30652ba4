//! Images, as files describe them.

use std::path::Path;

use weft_types::Label;

use crate::files::{check_disk, check_initrd, check_kernel, resolve};
use crate::problem::Problem;
use crate::read::{Notes, Section, one_of};
use crate::{Arch, Disk, DiskFormat, Firmware, ImageDisk, ImageSource, Platform};

const FORMATS: &[(&str, DiskFormat)] =
    &[("raw", DiskFormat::Raw), ("qcow2", DiskFormat::Qcow2), ("iso", DiskFormat::Iso)];

/// Reads an image's block, and what its disk turned out to be; `world` is the path of the file.
pub(crate) fn read(
    notes: &mut Notes,
    mut section: Section<'_>,
    name: &Label,
    world: &Path,
) -> (ImageSource, Option<Disk>) {
    let path = format!("image.{name}");
    let kernel = section.string(notes, "kernel", "vmlinuz").map(|p| resolve(world, p));
    let initrd = section.string(notes, "initrd", "initrd.img").map(|p| resolve(world, p));
    let cmdline = section.string(notes, "cmdline", "console=ttyS0").map(str::to_owned);
    let disk = section.string(notes, "disk", "debian.qcow2").map(|p| resolve(world, p));
    let format = section.string(notes, "format", "qcow2");
    let format = format.and_then(|text| one_of(notes, &format!("{path}.format"), text, FORMATS));
    let arch = section.string(notes, "arch", "aarch64");
    let arch = arch.and_then(|text| one_of(notes, &format!("{path}.arch"), text, Arch::WORDS));
    let firmware = section.string(notes, "firmware", "uefi");
    let firmware = firmware.and_then(|text| one_of(notes, &format!("{path}.firmware"), text, Firmware::WORDS));
    section.finish(notes);
    let mut contradiction = |key: &str, message: String, hint: &str| {
        notes.complain(&format!("{path}.{key}"), Problem::new("contradiction", message, hint));
    };
    match kernel {
        None if disk.is_some() => {
            for (key, given) in [("initrd", initrd.is_some()), ("cmdline", cmdline.is_some())] {
                if given {
                    let message = format!("a disk image boots by itself: `{key}` does not apply");
                    contradiction(key, message, "remove it, or give `kernel` too");
                }
            }
        }
        Some(_) if firmware.is_some() => {
            let message = "a kernel is booted without firmware of the user's choice".to_owned();
            contradiction("firmware", message, "remove it, or `kernel`");
        }
        _ => {}
    }
    if format.is_some() && disk.is_none() && kernel.is_some() {
        contradiction("format", "a kernel has no disk format".to_owned(), "remove it");
    }
    if let Some(message) = (Platform { arch, firmware }).contradiction() {
        contradiction("firmware", message, "remove it, or write `firmware = \"uefi\"`");
    }
    let mut examined = None;
    let disk = disk.map(|disk| {
        let found = check_disk(notes, &format!("{path}.disk"), &disk, format);
        let format = found.map_or(format.unwrap_or(DiskFormat::Raw), |found| found.format);
        examined = found;
        ImageDisk { path: disk, format, arch: arch.unwrap_or_default(), firmware }
    });
    let source = match (kernel, disk) {
        (Some(kernel), disk) => {
            let arch = check_kernel(notes, &format!("{path}.kernel"), &kernel, arch).or(arch).unwrap_or_default();
            if let Some(initrd) = &initrd {
                check_initrd(notes, &format!("{path}.initrd"), initrd);
            }
            let cmdline = cmdline.unwrap_or_else(|| arch.cmdline().to_owned());
            ImageSource::Kernel { kernel, initrd, cmdline, disk, arch }
        }
        (None, Some(disk)) => ImageSource::Disk(disk),
        (None, None) => {
            // A key whose value is no text has had its sentence already.
            if !(notes.is_broken(&format!("{path}.kernel")) || notes.is_broken(&format!("{path}.disk"))) {
                let message = format!("image `{name}` has neither a kernel nor a disk");
                let hint = "give it `kernel` (and `initrd`), or `disk`, or both";
                notes.complain(&path, Problem::new("contradiction", message, hint));
            }
            let (path, format) = (Default::default(), DiskFormat::Raw);
            ImageSource::Disk(ImageDisk { path, format, arch: Arch::X86, firmware: None })
        }
    };
    (source, examined)
}
