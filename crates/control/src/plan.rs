//! The difference between what should be and what is, as a list of tasks. Pure: no clock, no disk, no process.
//!
//! The order is that of dependencies, and of the least harm: an image is there before the machine that is to be
//! restarted with it is stopped; a machine has stopped before its port goes; a port is there before its machine starts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_dataplane_protocol::DataplaneConfig;
use weft_model::view::{DriftView, Impact, StepAction, StepView};
use weft_model::{ImageSource, MICRO};
use weft_types::{ByteSize, Label, Provenance, Shares, VmName};

use crate::Paths;
use crate::desired::{Desired, DesiredVm, dataplane_config};
use crate::launch::{Difference, Launch};
use crate::observed::{Observed, ObservedVm};
use crate::plan_network::network_steps;

/// What is to be done, in an order in which it can be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The tasks; each depends only on earlier ones.
    pub tasks: Vec<Task>,
    /// What starting machines takes of memory, beyond what stopping others gives back.
    pub memory: ByteSize,
}

/// One piece of work, which is done as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What to do.
    pub work: Work,
    /// Tasks that must have succeeded.
    pub needs: Vec<usize>,
    /// Tasks that must have ended, whatever became of them.
    pub after: Vec<usize>,
    /// How it is told to people; nothing for what only prepares another task.
    pub steps: Vec<StepView>,
}

/// Everything that can be done to the host. Each can be done again without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Start the switch's process.
    StartSwitch,
    /// Make sure that an image is there.
    EnsureImage {
        /// Its name.
        image: Label,
        /// What it is; `None` for one that Weft builds.
        source: Option<ImageSource>,
    },
    /// End a machine's process.
    StopVm {
        /// The machine.
        vm: VmName,
        /// How long its guest is asked first.
        grace: Duration,
        /// What it is to be started as again with the disk that it has; where that cannot be, it is not stopped.
        again: Option<Box<Launch>>,
    },
    /// Remove what is left of a machine, its disk too.
    RemoveVm {
        /// The machine.
        vm: VmName,
    },
    /// Let the switch become this.
    ApplyDataplane(DataplaneConfig),
    /// Start a machine.
    StartVm {
        /// The machine.
        vm: VmName,
        /// What it is.
        launch: Box<Launch>,
    },
    /// Give a machine that runs other shares of the host.
    ShareVm {
        /// The machine.
        vm: VmName,
        /// What it is then.
        launch: Box<Launch>,
    },
    /// End the switch's process and forget its leases.
    StopSwitch,
}

impl Work {
    /// The machine that it is about.
    pub fn vm(&self) -> Option<&VmName> {
        match self {
            Self::StopVm { vm, .. } | Self::RemoveVm { vm } => Some(vm),
            Self::StartVm { vm, .. } | Self::ShareVm { vm, .. } => Some(vm),
            _ => None,
        }
    }
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The steps of all tasks, for people.
    pub fn steps(&self) -> impl Iterator<Item = &StepView> {
        self.tasks.iter().flat_map(|task| &task.steps)
    }
}

/// What must be done so that what is becomes what should be.
pub fn plan(desired: &Desired, observed: &Observed, paths: &Paths) -> Plan {
    let mut planner = Planner { desired, observed, plan: Plan::default(), images: BTreeMap::new() };
    let changes = planner.changes();
    let switch = (desired.needs_switch() && observed.switch.is_none())
        .then(|| planner.add(Work::StartSwitch, [], [], vec![start_switch_step()]));
    for change in changes.values() {
        if let Some(launch) = &change.start {
            planner.ensure_image(launch);
        }
    }
    let stopped: BTreeMap<_, _> =
        changes.iter().filter_map(|(vm, change)| Some((*vm, planner.stop(vm, change)?))).collect();
    let removed: BTreeMap<_, _> =
        changes.iter().filter_map(|(vm, change)| Some((*vm, planner.remove(vm, change, stopped.get(vm))?))).collect();
    let applied = planner.apply(dataplane_config(desired, paths), switch, stopped.values(), &changes);
    for (vm, change) in changes {
        planner.share(vm, &change);
        planner.start(vm, change, [applied, stopped.get(vm).copied(), removed.get(vm).copied()]);
    }
    let remains = observed.switch.is_some() || observed.switch_remains || observed.applied.is_some();
    if !desired.needs_switch() && remains {
        let mut steps = network_steps(desired, observed.applied.as_ref(), &DataplaneConfig::default());
        steps.push(step(StepAction::Stop, "switch", "switch", "no network is left", Impact::Hitless, None));
        planner.add(Work::StopSwitch, [], stopped.values().copied(), steps);
    }
    planner.plan
}

/// Where commands and accidents have moved `owner`'s machines away from what it says.
pub fn drift(current: &Desired, owner: &str) -> Vec<DriftView> {
    let own = current.vms.iter().filter(|(_, vm)| vm.owner == owner);
    own.filter_map(|(name, vm)| Some(DriftView { kind: "vm".to_owned(), name: name.to_string(), detail: vm.drift()? }))
        .collect()
}

/// What is to become of one machine.
struct VmChange<'a> {
    desired: Option<&'a DesiredVm>,
    observed: Option<&'a ObservedVm>,
    stop: bool,
    remove: bool,
    start: Option<Launch>,
    /// What it is with other shares, while it runs.
    share: Option<Launch>,
    /// Why a machine that runs is stopped and started again.
    why: Vec<String>,
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    plan: Plan,
    /// The task that makes sure of each image.
    images: BTreeMap<Label, usize>,
}

impl<'a> Planner<'a> {
    fn add(
        &mut self,
        work: Work,
        needs: impl IntoIterator<Item = usize>,
        after: impl IntoIterator<Item = usize>,
        steps: Vec<StepView>,
    ) -> usize {
        let (needs, after) = (needs.into_iter().collect(), after.into_iter().collect());
        self.plan.tasks.push(Task { work, needs, after, steps });
        self.plan.tasks.len() - 1
    }

    /// What is to become of each machine that should be or is; only those to which something happens.
    fn changes(&mut self) -> BTreeMap<&'a VmName, VmChange<'a>> {
        let names: BTreeSet<_> = self.desired.vms.keys().chain(self.observed.vms.keys()).collect();
        let changes: BTreeMap<_, _> = names.into_iter().filter_map(|name| Some((name, self.change(name)?))).collect();
        let started = changes.values().filter_map(|change| Some(change.start.as_ref()?.memory.bytes()));
        let freed = changes.values().filter(|change| change.stop).filter_map(|change| change.observed?.launch.as_ref());
        let started = started.fold(0, u64::saturating_add);
        let freed = freed.map(|launch| launch.memory.bytes()).fold(0, u64::saturating_add);
        self.plan.memory = ByteSize::from_bytes(started.saturating_sub(freed));
        changes
    }

    fn change(&self, name: &VmName) -> Option<VmChange<'a>> {
        let desired = self.desired.vms.get(name).filter(|vm| !vm.removed());
        let observed = self.observed.vms.get(name);
        let runs = observed.is_some_and(|seen| seen.running.is_some());
        let change =
            VmChange { desired, observed, stop: false, remove: false, start: None, share: None, why: Vec::new() };
        let Some(vm) = desired else {
            return observed.map(|_| VmChange { stop: runs, remove: true, ..change });
        };
        if !vm.should_run() {
            return runs.then_some(VmChange { stop: true, ..change });
        }
        let wanted = self.desired.launch(vm);
        let difference = match observed {
            None => Difference::None,
            Some(ObservedVm { launch: Some(launch), .. }) => launch.difference(&wanted),
            Some(_) if runs => Difference::Restart(vec!["nobody knows what it was started as".to_owned()]),
            Some(_) => Difference::None,
        };
        let start = Some(wanted);
        match difference {
            Difference::None if runs => None,
            Difference::Shares if runs => Some(VmChange { share: start, ..change }),
            Difference::None | Difference::Shares => Some(VmChange { start, ..change }),
            Difference::Restart(why) => Some(VmChange { stop: runs, start, why, ..change }),
            Difference::Recreate(why) => Some(VmChange { stop: runs, remove: true, start, why, ..change }),
        }
    }

    fn ensure_image(&mut self, launch: &Launch) {
        if self.images.contains_key(&launch.image) {
            return;
        }
        let mut steps = Vec::new();
        if launch.source.is_none() && !self.observed.images.contains(&launch.image) {
            let detail = if launch.image.as_str() == MICRO { "build from Debian's packages" } else { "build" };
            steps.push(step(StepAction::Create, "image", launch.image.as_str(), detail, Impact::Hitless, None));
        }
        let work = Work::EnsureImage { image: launch.image.clone(), source: launch.source.clone() };
        let task = self.add(work, [], [], steps);
        self.images.insert(launch.image.clone(), task);
    }

    fn stop(&mut self, vm: &VmName, change: &VmChange<'a>) -> Option<usize> {
        if !change.stop {
            return None;
        }
        let forced = change.desired.is_some_and(DesiredVm::stopped_by_force);
        // A machine that is to go has nothing to write down first: its disk goes with it.
        let nothing_to_save = change.remove;
        let grace = match change.observed.and_then(|seen| seen.launch.as_ref()) {
            Some(launch) if !forced && !nothing_to_save => launch.grace(),
            _ => Duration::ZERO,
        };
        // A machine that is stopped only to be started is not stopped before it could be.
        let needs = change.start.as_ref().and_then(|launch| self.images.get(&launch.image)).copied();
        let mut steps = Vec::new();
        if let (Some(desired), None) = (change.desired, &change.start) {
            let detail = desired.drift().unwrap_or_default();
            let provenance = Some(desired.spec.provenance.clone());
            steps.push(step(StepAction::Stop, "vm", vm.as_str(), detail, Impact::Restart, provenance));
        }
        let again = change.start.clone().filter(|_| !change.remove).map(Box::new);
        Some(self.add(Work::StopVm { vm: vm.clone(), grace, again }, needs, [], steps))
    }

    fn remove(&mut self, vm: &VmName, change: &VmChange<'a>, stopped: Option<&usize>) -> Option<usize> {
        if !change.remove {
            return None;
        }
        let mut steps = Vec::new();
        if change.start.is_none() {
            let disk = change.observed.and_then(|seen| seen.launch.as_ref()).is_some_and(Launch::has_disk);
            let detail = if disk { "stop, and delete its disk" } else { "stop, and delete its files" };
            let provenance = self.desired.vms.get(vm).map(|vm| vm.spec.provenance.clone());
            steps.push(step(StepAction::Remove, "vm", vm.as_str(), detail, Impact::Restart, provenance));
        }
        Some(self.add(Work::RemoveVm { vm: vm.clone() }, stopped.copied(), [], steps))
    }

    fn apply<'b>(
        &mut self,
        wanted: DataplaneConfig,
        switch: Option<usize>,
        stopped: impl Iterator<Item = &'b usize>,
        changes: &BTreeMap<&VmName, VmChange<'a>>,
    ) -> Option<usize> {
        let same =
            |applied: &DataplaneConfig| *applied == DataplaneConfig { revision: applied.revision, ..wanted.clone() };
        let in_force = self.observed.in_force && self.observed.applied.as_ref().is_some_and(same);
        if !self.desired.needs_switch() || in_force {
            return None;
        }
        let mut steps = network_steps(self.desired, self.observed.applied.as_ref(), &wanted);
        // What happens to a machine says already what happens to its adapters.
        steps.retain(|step| {
            step.kind != "vm" || step.name.parse().is_ok_and(|name: VmName| !changes.contains_key(&name))
        });
        Some(self.add(Work::ApplyDataplane(wanted), switch, stopped.copied(), steps))
    }

    fn share(&mut self, vm: &VmName, change: &VmChange<'a>) {
        let Some((launch, desired)) = change.share.as_ref().zip(change.desired) else { return };
        let old = change.observed.and_then(|seen| seen.launch.as_ref()).map(|launch| &launch.shares);
        let detail = shares_change(old.unwrap_or(&Shares::default()), &launch.shares);
        let place = Some(desired.spec.provenance.clone());
        let steps = vec![step(StepAction::Update, "vm", vm.as_str(), detail, Impact::Hitless, place)];
        self.add(Work::ShareVm { vm: vm.clone(), launch: Box::new(launch.clone()) }, [], [], steps);
    }

    fn start(&mut self, vm: &VmName, change: VmChange<'a>, needs: [Option<usize>; 3]) {
        let Some(launch) = change.start else { return };
        let new = self.desired.vms.get(vm).map(|vm| vm.spec.provenance.clone());
        let known = change.observed.is_some();
        let summary = summary(&launch);
        let (action, detail, impact) = match (known, change.stop, change.remove) {
            (false, ..) => (StepAction::Create, format!("start with {summary}"), Impact::Hitless),
            (true, true, false) => (StepAction::Update, format!("restart: {}", change.why.join(", ")), Impact::Restart),
            (true, _, true) => {
                (StepAction::Update, format!("make anew, with a new disk: {}", change.why.join(", ")), Impact::Restart)
            }
            (true, false, false) => (StepAction::Start, format!("start with {summary}"), Impact::Hitless),
        };
        let steps = vec![step(action, "vm", vm.as_str(), detail, impact, new)];
        let image = self.images.get(&launch.image).copied();
        let work = Work::StartVm { vm: vm.clone(), launch: Box::new(launch) };
        self.add(work, needs.into_iter().flatten().chain(image), [], steps);
    }
}

/// A machine in a few words.
fn summary(launch: &Launch) -> String {
    let networks: Vec<_> = launch.nics.iter().map(|nic| nic.network.as_str()).collect();
    let cpus = if launch.cpus == 1 { "CPU" } else { "CPUs" };
    let place = if networks.is_empty() { "no network".to_owned() } else { networks.join(", ") };
    format!("image {}, {}, {} {cpus}, on {place}", launch.image, launch.memory, launch.cpus)
}

/// What changes of a machine's shares.
fn shares_change(old: &Shares, new: &Shares) -> String {
    fn or_none(value: Option<impl std::fmt::Display>) -> String {
        value.map_or_else(|| "none".to_owned(), |value| value.to_string())
    }
    let keys = |shares: &Shares| {
        [
            ("cpu_weight", shares.cpu_weight.to_string()),
            ("cpu_limit", or_none(shares.cpu_limit)),
            ("cpu_pin", or_none(shares.cpu_pin.as_ref())),
            ("io_weight", shares.io_weight.to_string()),
            ("memory_limit", or_none(shares.memory_limit)),
        ]
    };
    let changed = keys(old).into_iter().zip(keys(new)).filter(|(old, new)| old != new);
    changed.map(|((key, old), (_, new))| format!("{key} {old} -> {new}")).collect::<Vec<_>>().join(", ")
}

fn start_switch_step() -> StepView {
    step(StepAction::Start, "switch", "switch", "the virtual switch's process", Impact::Hitless, None)
}

/// A step.
pub(crate) fn step(
    action: StepAction,
    kind: &str,
    name: &str,
    detail: impl Into<String>,
    impact: Impact,
    provenance: Option<Provenance>,
) -> StepView {
    let (kind, name, detail) = (kind.to_owned(), name.to_owned(), detail.into());
    StepView { action, kind, name, detail, impact, provenance }
}
