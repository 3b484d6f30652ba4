//! Which engine a machine gets.

use weft_model::EngineKind;

use super::kvm;
use crate::LaunchSpec;
use crate::host::KvmState;

/// The engine that was asked for, or the best that this host has for the machine: Weft's own VMM where it can run it, and
/// QEMU for all the rest.
pub(super) fn choose(spec: &LaunchSpec, kvm: &KvmState) -> EngineKind {
    spec.engine.unwrap_or_else(|| match kvm::why_not(spec, kvm) {
        None => EngineKind::Kvm,
        Some(why) => {
            tracing::debug!(target: "weft::machine", vm = %spec.name, "Weft's VMM {why}");
            EngineKind::Qemu
        }
    })
}

#[cfg(test)]
mod tests {
    use weft_model::{Arch, Firmware};

    use super::*;
    use crate::spec::{Boot, DiskSpec, Uuid};

    #[test]
    fn who_asks_is_served_and_others_get_the_best() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinux");
        std::fs::write(&kernel, [&b"\x7fELF\x02\x01"[..], &[0; 12], &[62, 0]].concat()).unwrap();
        let micro = LaunchSpec {
            name: "web".parse().unwrap(),
            uuid: Uuid::derive("web"),
            engine: None,
            arch: Arch::X86,
            display: None,
            memory: "128MiB".parse().unwrap(),
            cpus: 1,
            boot: Boot::Kernel { kernel, initrd: None, cmdline: String::new() },
            disk: None,
            nics: Vec::new(),
            state_dir: "/s".into(),
            run_dir: "/r".into(),
            cache_dir: "/none".into(),
            weft: "/weft".into(),
        };
        let format = weft_model::DiskFormat::Raw;
        let disk = Some(DiskSpec { base: "/d".into(), format, size: None, seed: None });
        let both = LaunchSpec { disk: disk.clone(), ..micro.clone() };
        let disk = LaunchSpec { boot: Boot::Firmware(Firmware::Bios), disk, ..micro.clone() };
        let asked = |engine| LaunchSpec { engine: Some(engine), ..micro.clone() };
        for (spec, kvm, expected) in [
            (micro.clone(), KvmState::Usable, EngineKind::Kvm),
            (micro.clone(), KvmState::Absent, EngineKind::Qemu),
            (micro.clone(), KvmState::Unusable("guests crawl".to_owned()), EngineKind::Qemu),
            (disk, KvmState::Usable, EngineKind::Qemu),
            (both, KvmState::Usable, EngineKind::Kvm),
            (asked(EngineKind::Qemu), KvmState::Usable, EngineKind::Qemu),
            (asked(EngineKind::Kvm), KvmState::Absent, EngineKind::Kvm),
        ] {
            assert_eq!(choose(&spec, &kvm), expected, "{spec:?} {kvm:?}");
        }
    }
}
