//! Worlds for tests, and what a host looks like on which they have come true.

use std::path::{Path, PathBuf};

use weft_machine::{Accelerator, Process, Running};
use weft_model::{EngineKind, HostFacts, World, parse_world};
use weft_types::Label;

use crate::Paths;
use crate::desired::{Desired, dataplane_config};
use crate::launch::Launch;
use crate::observed::{Observed, ObservedVm};

/// The file that owns the samples.
pub(crate) const OWNER: &str = "/lab/lab.toml";

/// Three machines on two networks.
pub(crate) const THREE: &str = r#"
[network.office]
subnet = "10.20.0.0/24"
[network.backstage]
mode = "internal"
subnet = "10.30.0.0/24"
[vm.web]
nics = [{ network = "office", ip = "10.20.0.10" }, "backstage"]
[vm.db]
nics = ["backstage"]
[vm.laptop]
nics = ["office"]
"#;

/// The same after an edit: one machine changed, one gone, one new, a network gone.
pub(crate) const EDITED: &str = r#"
[network.office]
subnet = "10.20.0.0/24"
host_access = true
[vm.web]
memory = "512MiB"
nics = [{ network = "office", ip = "10.20.0.10" }]
[vm.laptop]
nics = ["office"]
[vm.extra]
nics = ["office"]
"#;

pub(crate) fn world(source: &str) -> World {
    world_of(OWNER, source)
}

pub(crate) fn world_of(owner: &str, source: &str) -> World {
    let parsed = parse_world(source, Path::new(owner), "lab.toml", &HostFacts::default());
    parsed.unwrap_or_else(|report| panic!("{report}"))
}

pub(crate) fn desired(source: &str) -> Desired {
    Desired::default().with_world(OWNER, &world(source))
}

pub(crate) fn paths() -> Paths {
    let [state, cache, run] = ["/w/state", "/w/cache", "/w/run"].map(PathBuf::from);
    Paths { state, cache, run }
}

pub(crate) fn launch() -> Launch {
    let desired = desired(THREE);
    desired.launch(&desired.vms[&"web".parse().unwrap()])
}

/// A machine that runs as this process.
pub(crate) fn running(process: Process) -> Running {
    Running { process, engine: EngineKind::Qemu, accelerator: Accelerator::Tcg }
}

/// A host on which `desired` has come true.
pub(crate) fn converged(desired: &Desired) -> Observed {
    let process = Some(Process { pid: 7, start_ticks: 7 });
    let vms = desired.vms.iter().filter(|(_, vm)| !vm.removed()).map(|(name, vm)| {
        let launch = Some(desired.launch(vm));
        let running = process.filter(|_| vm.should_run()).map(running);
        (name.clone(), ObservedVm { running, launch })
    });
    let micro: Label = weft_model::MICRO.parse().unwrap();
    Observed {
        switch: process.filter(|_| desired.needs_switch()),
        switch_remains: desired.needs_switch(),
        applied: desired.needs_switch().then(|| dataplane_config(desired, &paths())),
        in_force: desired.needs_switch(),
        vms: vms.collect(),
        images: [micro].into(),
    }
}
