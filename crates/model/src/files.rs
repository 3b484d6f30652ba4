//! The files that a world's file names: found, opened, and looked at, so that nothing is begun with a bad one.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::DiskFormat;
use crate::arch::{Arch, KERNEL_HEAD_BYTES};
use crate::disk::Disk;
use crate::problem::Problem;
use crate::read::Notes;

/// The file that is meant: `~/` is the home folder, and what is not absolute counts from the folder of the world's file.
pub(crate) fn resolve(world: &Path, text: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => world.with_file_name(text),
    }
}

fn open(notes: &mut Notes, path: &str, file: &Path) -> Option<File> {
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let opened = fs::metadata(file).and_then(|metadata| match metadata.is_file() {
        true => File::open(file),
        false => Err(std::io::Error::other("it is not a file")),
    });
    match opened {
        Ok(opened) => Some(opened),
        Err(error) => {
            let message = format!("cannot open {}: {error}", file.display());
            notes.complain(
                path,
                Problem::new(
                    "missing-image",
                    message,
                    "give a path that you can read; it counts from the file's own folder",
                ),
            );
            None
        }
    }
}

/// For which processor this file is a kernel, which has to be the one that was said, if one was.
pub(crate) fn check_kernel(notes: &mut Notes, path: &str, kernel: &Path, said: Option<Arch>) -> Option<Arch> {
    let mut file = open(notes, path, kernel)?;
    let mut head = Vec::new();
    let read = file.by_ref().take(KERNEL_HEAD_BYTES as u64).read_to_end(&mut head);
    let (message, hint) = match Arch::of_kernel(&head).filter(|_| read.is_ok()) {
        Some(arch) if said.is_none_or(|said| said == arch) => return Some(arch),
        // QEMU unpacks it.
        None if said == Some(Arch::Aarch64) && head.starts_with(&[0x1f, 0x8b]) => return said,
        Some(arch) => {
            let message = format!("{} is a kernel for {}", kernel.display(), arch.as_str());
            (message, format!("leave `arch` out, or write `arch = \"{}\"`", arch.as_str()))
        }
        None => {
            let message = format!("{} is not a kernel for {}", kernel.display(), said.unwrap_or_default().as_str());
            (message, "give a bzImage, an Image or an ELF kernel, like /boot/vmlinuz-…".to_owned())
        }
    };
    notes.complain(path, Problem::new("bad-image", message, hint));
    None
}

pub(crate) fn check_initrd(notes: &mut Notes, path: &str, initrd: &Path) {
    let Some(file) = open(notes, path, initrd) else { return };
    if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        let message = format!("{} is empty", initrd.display());
        notes.complain(path, Problem::new("bad-image", message, "give an archive that the kernel can unpack"));
    }
}

pub(crate) fn check_disk(notes: &mut Notes, path: &str, disk: &Path, format: Option<DiskFormat>) -> Option<Disk> {
    let file = open(notes, path, disk)?;
    match Disk::examine(&file, format) {
        Ok(disk) => Some(disk),
        Err(fault) => {
            let message = format!("the disk {} cannot be used: {fault}", disk.display());
            notes.complain(path, Problem::new("bad-image", message, fault.hint()));
            None
        }
    }
}

/// A public key as it stands, or the file that holds it (`~` is the home folder).
pub(crate) fn read_ssh_key(notes: &mut Notes, path: &str, base: &Path, text: &str) -> Option<String> {
    let is_key =
        |text: &str| ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| text.starts_with(prefix)) && text.contains(' ');
    if is_key(text) && !text.contains('\n') {
        return Some(text.trim().to_owned());
    }
    let file = resolve(base, text);
    let key = read_small(notes, path, &file)?;
    let key = key.trim();
    if !is_key(key) || key.contains('\n') {
        let message = format!("{} is not an SSH public key", file.display());
        notes.complain(path, Problem::new("bad-value", message, "name the `.pub` file, or write the key itself"));
        return None;
    }
    Some(key.to_owned())
}

pub(crate) fn read_user_data(notes: &mut Notes, path: &str, base: &Path, text: &str) -> Option<String> {
    let file = resolve(base, text);
    let data = read_small(notes, path, &file)?;
    if !data.starts_with("#") {
        let message = format!("{} is not cloud-init user data", file.display());
        notes.complain(path, Problem::new("bad-value", message, "it begins with `#cloud-config` or `#!`"));
        return None;
    }
    Some(data)
}

/// A text file of at most 1 MiB that the world's file refers to.
fn read_small(notes: &mut Notes, path: &str, file: &Path) -> Option<String> {
    let opened = open(notes, path, file)?;
    let mut text = String::new();
    let read = opened.take((1 << 20) + 1).read_to_string(&mut text);
    if read.is_err() || text.len() > 1 << 20 {
        let message = format!("{} is not a text of at most 1 MiB", file.display());
        notes.complain(path, Problem::new("bad-value", message, "is it the right file?"));
        return None;
    }
    Some(text)
}
