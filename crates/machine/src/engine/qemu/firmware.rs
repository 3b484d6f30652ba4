//! The UEFI firmware of this host, as its packages describe it for QEMU (QEMU's `docs/interop/firmware.json`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weft_model::Arch;

use super::board::Board;
use crate::MachineError;

/// Where descriptions are; one in an earlier folder stands for those of the same name in later ones.
const FOLDERS: [&str; 2] = ["/etc/qemu/firmware", "/usr/share/qemu/firmware"];
/// What makes a firmware no use for any machine: it demands a mode of the processor that ours lack, or systems with
/// certain signatures.
const UNWANTED: [&str; 3] = ["requires-smm", "secure-boot", "enrolled-keys"];
/// The largest description that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// UEFI firmware: the program, and the empty store of its variables, of which each machine has a copy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Uefi {
    #[serde(rename = "executable")]
    pub(crate) code: Flash,
    #[serde(rename = "nvram-template")]
    pub(crate) variables: Flash,
}

/// What a flash chip holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Flash {
    #[serde(rename = "filename")]
    pub(crate) path: PathBuf,
    pub(crate) format: String,
}

#[derive(Deserialize)]
struct Description {
    #[serde(rename = "interface-types")]
    interfaces: Vec<String>,
    mapping: serde_json::Value,
    targets: Vec<Target>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// The firmware for machines with this processor.
pub(crate) fn uefi(arch: Arch) -> Result<Uefi, MachineError> {
    among(&FOLDERS.map(Path::new), arch).ok_or(MachineError::UefiMissing { arch })
}

fn among(folders: &[&Path], arch: Arch) -> Option<Uefi> {
    let mut files = BTreeMap::<OsString, PathBuf>::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            files.entry(entry.file_name()).or_insert(entry.path());
        }
    }
    files.values().find_map(|path| {
        let small = fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_BYTES);
        let text = small.then(|| fs::read(path).ok()).flatten()?;
        fitting(&text, arch).filter(|uefi| uefi.code.path.is_file() && uefi.variables.path.is_file())
    })
}

/// What a description describes, if machines with this processor can have it.
fn fitting(text: &[u8], arch: Arch) -> Option<Uefi> {
    let Description { interfaces, mapping, targets, features } = serde_json::from_slice(text).ok()?;
    let board = Board::of(arch);
    let is_for_us = targets.iter().any(|target| {
        let kinds = || target.machines.iter().map(|glob| glob.trim_end_matches('*').trim_end_matches('-'));
        target.architecture == board.target && kinds().any(|kind| kind == board.kind)
    });
    let fits = is_for_us
        && interfaces.iter().any(|interface| interface == "uefi")
        && !features.iter().any(|feature| UNWANTED.contains(&feature.as_str()));
    fits.then(|| serde_json::from_value(mapping).ok()).flatten().filter(|uefi: &Uefi| {
        [&uefi.code, &uefi.variables].iter().all(|flash| matches!(flash.format.as_str(), "raw" | "qcow2"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(code: &Path, arch: &str, machine: &str, features: &str) -> String {
        format!(
            r#"{{"description": "x", "interface-types": ["uefi"], "mapping": {{"device": "flash",
                "executable": {{"filename": "{code}", "format": "raw"}},
                "nvram-template": {{"filename": "{code}", "format": "raw"}}}},
                "targets": [{{"architecture": "{arch}", "machines": ["{machine}"]}}],
                "features": [{features}], "tags": []}}"#,
            code = code.display()
        )
    }

    #[test]
    fn the_first_that_fits_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let [ours, theirs] = ["etc", "usr"].map(|name| dir.path().join(name));
        let [first, second] = ["first.fd", "second.fd"].map(|name| dir.path().join(name));
        for folder in [&ours, &theirs] {
            fs::create_dir(folder).unwrap();
        }
        for file in [&first, &second] {
            fs::write(file, "flash").unwrap();
        }
        let found = |arch| among(&[&ours, &theirs], arch).map(|uefi| uefi.code.path);
        assert_eq!(found(Arch::X86), None);
        let write = |folder: &Path, name: &str, text: String| fs::write(folder.join(name), text).unwrap();
        write(&theirs, "20-secure.json", description(&second, "x86_64", "pc-q35-*", r#""requires-smm""#));
        write(&theirs, "30-arm.json", description(&second, "aarch64", "virt-*", ""));
        write(&theirs, "40-gone.json", description(&dir.path().join("none"), "x86_64", "pc-q35-*", ""));
        write(&theirs, "50-other.json", description(&second, "x86_64", "microvm", ""));
        write(&theirs, "51-broken.json", "{".to_owned());
        assert_eq!(found(Arch::X86), None);
        write(&theirs, "60-good.json", description(&first, "x86_64", "pc-q35-*", r#""acpi-s3""#));
        write(&theirs, "70-later.json", description(&second, "x86_64", "pc-q35-*", ""));
        assert_eq!(found(Arch::X86), Some(first));
        assert_eq!(found(Arch::Aarch64), Some(second.clone()));
        assert_eq!(found(Arch::Riscv64), None);
        // The administrator's word stands before the package's.
        write(&ours, "60-good.json", description(&second, "x86_64", "pc-q35-*", ""));
        assert_eq!(found(Arch::X86), Some(second));
    }
}
