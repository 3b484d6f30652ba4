//! Changes of desired state: checked against everything that is there, then written in one transaction together with
//! the operation that will carry them out. So either nothing has happened, or some daemon will finish it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use weft_model::view::{ApplyRequest, ForwardRequest, OperationState, PlanView, ProblemView};
use weft_model::{Forward, HostFacts, Mode, Network, Vm, World};
use weft_store::{Compare, Op, Txn};
use weft_types::{ByteSize, ForwardHost, ForwardTarget, Label, Listen, NetworkName, Provenance, VmName};

use crate::conflicts::conflicts;
use crate::controller::VmAction;
use crate::desired::{Desired, DesiredVm, Records};
use crate::host::Trouble;
use crate::inner::Inner;
use crate::objects::{
    AddedForward, Fate, GENERATION, Goal, Object, OperationRecord, Override, Wish, enabled_key, fate_key, forward_key,
    image_key, network_key, operation_key, override_key, owner_key, put, restart_key, router_key, shell_key, vm_key,
};
use crate::plan::{Plan, drift, plan};
use crate::state::Operation;
use crate::undo::remember;

/// How many operations that have ended are remembered.
const REMEMBERED: usize = 100;
/// The longest owner's name, in bytes.
const MAX_OWNER_BYTES: usize = 4096;

type Problems = Vec<ProblemView>;

/// What a change writes, beside its operation.
pub(crate) struct Change {
    pub(crate) title: String,
    pub(crate) goal: Goal,
    pub(crate) ops: Vec<Op>,
    /// What desired state will be; the plan for it is checked before anything is written.
    pub(crate) next: Desired,
}

impl Inner {
    /// What [`Self::apply`] would do.
    pub(crate) fn plan_world(&self, request: &ApplyRequest) -> Result<PlanView, Problems> {
        let records = self.records().map_err(problems)?;
        let (request, facts) = self.with_kept_images(request)?;
        check_world(&records, &request, &facts)?;
        let next = records.desired.with_world(&request.owner, &request.world);
        let plan = self.feasible(&records, &next)?;
        let steps = plan.steps().cloned().collect();
        Ok(PlanView { revision: records.revision, steps, drift: drift(&records.desired, &request.owner) })
    }

    /// Makes an owner's objects become a world.
    pub(crate) fn apply(self: &Arc<Self>, request: &ApplyRequest) -> Result<u64, Problems> {
        self.propose(|records| {
            let (request, facts) = self.with_kept_images(request)?;
            check_world(records, &request, &facts)?;
            let verb = if request.world == World::default() { "down" } else { "up" };
            let mut ops = world_ops(records, &request.owner, &request.world);
            if !ops.is_empty() {
                ops.extend(remember(&*self.store, records, &request.owner, &request.world).map_err(problems)?);
            }
            Ok(Change {
                title: format!("{verb} {}", request.owner),
                goal: Goal::World { owner: request.owner.clone() },
                ops,
                next: records.desired.with_world(&request.owner, &request.world),
            })
        })
    }

    /// The request with the images that this host keeps, and what else must be known of the host.
    fn with_kept_images(&self, request: &ApplyRequest) -> Result<(ApplyRequest, HostFacts), Problems> {
        let kept = self.host.kept_images().map_err(|trouble| vec![trouble.problem()])?;
        let usable = kept.into_iter().filter_map(|(name, image)| Some((name, image.ok()?.source)));
        let facts = HostFacts::of_this_host(usable.collect());
        let mut request = request.clone();
        request.world.find_kept_images(&facts.images);
        Ok((request, facts))
    }

    /// Does something to one machine.
    pub(crate) fn act(self: &Arc<Self>, vm: &VmName, action: VmAction) -> Result<u64, Problems> {
        self.propose(|records| {
            let Some(current) = records.desired.vms.get(vm).filter(|vm| !vm.removed()) else {
                return Err(vec![no_such_vm(vm)]);
            };
            let (verb, goal) = (action.verb(), Goal::Vm { vm: vm.clone() });
            let title = format!("weft vm {verb} {vm}");
            let mut next = records.desired.clone();
            let ops = vm_ops(vm, current, action, &title, &mut next);
            Ok(Change { title, goal, ops, next })
        })
    }

    /// Adds a port forward.
    pub(crate) fn add_forward(self: &Arc<Self>, request: &ForwardRequest) -> Result<u64, Problems> {
        self.propose(|records| {
            let ForwardRequest { listen, to, network } = request;
            let title = format!("weft forward add {listen} {to}");
            let network = match network {
                Some(network) => network.clone(),
                None => network_of(&records.desired, to)?,
            };
            let forward = Forward { listen: *listen, to: to.clone(), provenance: Provenance::command(&title) };
            let clash = records.desired.all_forwards().find_map(|(_, _, other)| forward.clash(other));
            let added = AddedForward { network, forward };
            if let Some(problem) = records.desired.forward_problem(&added).or(clash) {
                let hint = problem.hint.unwrap_or_default();
                return Err(vec![Trouble::new(problem.code, problem.message, hint).problem()]);
            }
            let object = Object { owner: title.clone(), spec: added };
            let ops = vec![put(forward_key(listen), &object)];
            let mut next = records.desired.clone();
            next.forwards.insert(*listen, object);
            Ok(Change { title, goal: Goal::Tidy, ops, next })
        })
    }

    /// Removes a port forward that a command has added.
    pub(crate) fn remove_forward(self: &Arc<Self>, listen: &Listen) -> Result<u64, Problems> {
        self.propose(|records| {
            let mut next = records.desired.clone();
            if next.forwards.remove(listen).is_none() {
                return Err(vec![no_such_forward(&records.desired, listen)]);
            }
            let title = format!("weft forward rm {listen}");
            Ok(Change { title, goal: Goal::Tidy, ops: vec![Op::delete(forward_key(listen))], next })
        })
    }

    /// Builds an image.
    pub(crate) fn build(self: &Arc<Self>, image: &Label) -> Result<u64, Problems> {
        self.propose(|records| {
            let goal = Goal::Image { image: image.clone() };
            let title = format!("weft image build {image}");
            Ok(Change { title, goal, ops: Vec::new(), next: records.desired.clone() })
        })
    }

    /// Carries out whatever separates what is from what should be.
    pub(crate) fn tidy(self: &Arc<Self>) -> Result<u64, Problems> {
        self.propose(|records| {
            let title = "tidy up".to_owned();
            Ok(Change { title, goal: Goal::Tidy, ops: Vec::new(), next: records.desired.clone() })
        })
    }

    /// Writes a change and its operation, and queues the operation; its number.
    pub(crate) fn propose(
        self: &Arc<Self>,
        change: impl Fn(&Records) -> Result<Change, Problems>,
    ) -> Result<u64, Problems> {
        loop {
            let records = self.records().map_err(problems)?;
            let Change { title, goal, ops, next } = change(&records)?;
            if !ops.is_empty() {
                self.feasible(&records, &next)?;
            }
            let id = records.operations.keys().next_back().map_or(1, |last| last + 1);
            let record = OperationRecord { id, title, goal, state: OperationState::Waiting, problems: Vec::new() };
            let mut txn = Txn::new()
                .when(Compare::absent(operation_key(id)))
                .when(Compare::mod_revision(GENERATION, records.desired.generation))
                .then(record.put());
            for forgotten in forgettable(&records) {
                txn = txn.then(Op::delete(operation_key(forgotten)));
                self.state().operations.remove(&forgotten);
            }
            if !ops.is_empty() {
                txn = txn.then(Op::put(GENERATION, id.to_string()));
            }
            txn.then.extend(ops);
            match self.store.txn(txn) {
                Err(error) => return Err(problems(error)),
                Ok(outcome) if !outcome.succeeded => continue,
                Ok(_) => {}
            }
            self.enqueue(record);
            return Ok(id);
        }
    }

    /// Queues an operation that is recorded already.
    pub(crate) fn enqueue(&self, record: OperationRecord) {
        let id = record.id;
        let mut state = self.state();
        state.operations.insert(id, Operation::new(record));
        state.queue.push_back(id);
        drop(state);
        self.notify();
    }

    /// The plan for `next`, if the host has what it takes.
    fn feasible(&self, records: &Records, next: &Desired) -> Result<Plan, Problems> {
        let listens = |desired: &Desired| -> Vec<Listen> { desired.all_forwards().map(|(.., it)| it.listen).collect() };
        let ours = listens(&records.desired);
        let new = listens(next).into_iter().filter(|listen| !ours.iter().any(|known| known.overlaps(listen)));
        let taken: Problems =
            new.filter_map(|listen| self.host.check_listen(&listen).err()).map(|trouble| trouble.problem()).collect();
        if !taken.is_empty() {
            return Err(taken);
        }
        let plan = plan(next, &self.observe(records), &self.paths);
        match self.host.available_memory() {
            Some(available) if plan.memory > available => {
                let available = ByteSize::from_mib(available.bytes() >> 20);
                let title =
                    format!("not enough memory: this would take {}, and {available} are available", plan.memory);
                let hint = "give the VMs less `memory`, start fewer of them, or end other programs";
                Err(vec![Trouble::new("no-memory", title, hint).problem()])
            }
            _ => Ok(plan),
        }
    }
}

/// What is wrong with a request, whatever the host.
fn check_world(records: &Records, request: &ApplyRequest, facts: &HostFacts) -> Result<(), Problems> {
    let owner = &request.owner;
    if owner.is_empty() || owner.len() > MAX_OWNER_BYTES || owner.contains('\0') {
        let hint = "name the owner by its file's absolute path";
        return Err(vec![Trouble::new("bad-owner", "that cannot be the name of an owner", hint).problem()]);
    }
    let changed = records.owners.get(owner).copied().unwrap_or(0);
    if request.if_revision.is_some_and(|planned| planned < changed) {
        let title = format!("what {owner} owns has changed since it was planned");
        return Err(vec![Trouble::new("changed-meanwhile", title, "look at the plan again").problem()]);
    }
    let mut problems: Problems = weft_model::findings(&request.world, facts)
        .into_iter()
        .map(|finding| ProblemView {
            code: finding.problem.code.to_owned(),
            title: finding.problem.message,
            detail: Some(finding.path),
            hint: finding.problem.hint,
            provenance: None,
        })
        .collect();
    problems.extend(conflicts(&records.desired, owner, &request.world));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The writes that make `owner`'s objects become `world`; none if they are that already.
fn world_ops(records: &Records, owner: &str, world: &World) -> Vec<Op> {
    let current = &records.desired;
    let mut ops = Vec::new();
    ops.extend(gone(owner, &current.networks, &world.networks, network_key));
    ops.extend(gone(owner, &current.images, &world.images, image_key));
    ops.extend(gone(owner, &current.routers, &world.routers, router_key));
    for (name, vm) in current.vms.iter().filter(|(_, vm)| vm.owner == owner) {
        if !world.vms.contains_key(name) {
            ops.extend([vm_key(name), override_key(name), restart_key(name), fate_key(name)].map(Op::delete));
            continue;
        }
        if vm.override_.is_some() {
            ops.push(Op::delete(override_key(name)));
        }
        if vm.fate.as_ref().is_some_and(|fate| fate.reason().is_some()) {
            ops.push(Op::delete(fate_key(name)));
        }
    }
    ops.extend(other(owner, &current.networks, &world.networks, network_key));
    ops.extend(other(owner, &current.images, &world.images, image_key));
    ops.extend(other(owner, &current.routers, &world.routers, router_key));
    for (name, spec) in &world.vms {
        if current.vms.get(name).is_none_or(|vm| vm.spec != *spec) {
            ops.push(put::<Object<Vm>>(vm_key(name), &Object::of(owner, spec)));
        }
    }
    let next = current.with_world(owner, world);
    ops.extend(
        current.forwards.keys().filter(|it| !next.forwards.contains_key(it)).map(|it| Op::delete(forward_key(it))),
    );
    ops.extend(current.shells.keys().filter(|it| !next.shells.contains_key(*it)).map(|it| Op::delete(shell_key(it))));
    match (ops.is_empty(), *world == World::default()) {
        (true, _) => {}
        (false, true) => ops.extend([owner_key(owner), enabled_key(owner)].map(Op::delete)),
        (false, false) => ops.push(Op::put(owner_key(owner), "")),
    }
    ops
}

/// The writes that remove an owner's objects of one kind that are not among `specs`.
fn gone<K: Ord, T>(
    owner: &str,
    current: &BTreeMap<K, Object<T>>,
    specs: &BTreeMap<K, T>,
    key: fn(&K) -> String,
) -> impl Iterator<Item = Op> {
    let gone = current.iter().filter(move |(name, object)| object.owner == owner && !specs.contains_key(name));
    gone.map(move |(name, _)| Op::delete(key(name)))
}

/// The writes that make an owner's objects of one kind `specs`, as far as they are not that already.
fn other<K: Ord, T: Clone + PartialEq + Serialize>(
    owner: &str,
    current: &BTreeMap<K, Object<T>>,
    specs: &BTreeMap<K, T>,
    key: fn(&K) -> String,
) -> impl Iterator<Item = Op> {
    let other = specs.iter().filter(|(name, spec)| current.get(name).is_none_or(|object| object.spec != **spec));
    other.map(move |(name, spec)| put(key(name), &Object::of(owner, spec)))
}

/// The writes of a command to one machine, and what they make of `next`.
fn vm_ops(name: &VmName, current: &DesiredVm, action: VmAction, title: &str, next: &mut Desired) -> Vec<Op> {
    let mut vm = current.clone();
    let by = Provenance::command(title);
    let mut ops = Vec::new();
    match action {
        VmAction::Start | VmAction::Restart => {
            vm.override_ = None;
            vm.fate = vm.fate.filter(|fate| matches!(fate, Fate::Ready { .. }));
            if current.override_.is_some() {
                ops.push(Op::delete(override_key(name)));
            }
            if current.fate != vm.fate {
                ops.push(Op::delete(fate_key(name)));
            }
        }
        VmAction::Stop { force } => vm.override_ = Some(Override { wish: Wish::Stopped { force }, by }),
        VmAction::Remove => vm.override_ = Some(Override { wish: Wish::Removed, by }),
    }
    if action == VmAction::Restart {
        vm.restarts += 1;
        ops.push(put(restart_key(name), &vm.restarts));
    }
    if let Some(override_) = &vm.override_ {
        ops.push(put(override_key(name), override_));
    }
    next.vms.insert(name.clone(), vm);
    ops
}

/// The oldest operations that have ended, beyond those that are remembered.
fn forgettable(records: &Records) -> Vec<u64> {
    let ended: Vec<_> = records.operations.values().filter(|record| record.ended()).map(|record| record.id).collect();
    ended[..ended.len().saturating_sub(REMEMBERED)].to_vec()
}

/// The network on which a forward leads to a machine or an address, where nobody says it.
fn network_of(desired: &Desired, to: &ForwardTarget) -> Result<NetworkName, Problems> {
    let reaches = |name: &NetworkName, network: &Network| match &to.host {
        ForwardHost::Vm(vm) => desired.vms.get(vm).is_some_and(|vm| Forward::adapter(&vm.spec, name).is_some()),
        ForwardHost::Ip(ip) => network.subnet.contains(ip),
    };
    let here = || desired.networks.iter().filter(|(name, network)| reaches(name, &network.spec));
    let open = here().find(|(_, network)| network.spec.mode == Mode::Nat).or_else(|| here().next());
    if let Some((name, _)) = open {
        return Ok(name.clone());
    }
    let problem = match &to.host {
        ForwardHost::Vm(vm) if !desired.vms.contains_key(vm) => no_such_vm(vm),
        ForwardHost::Vm(vm) => {
            let hint = "add a network to its `nics`";
            Trouble::new("contradiction", format!("`{vm}` is on no network"), hint).problem()
        }
        ForwardHost::Ip(ip) => {
            let hint = "`weft network ls` lists the networks and their subnets";
            Trouble::new("outside-subnet", format!("{ip} is an address of no network"), hint).problem()
        }
    };
    Err(vec![problem])
}

fn no_such_forward(desired: &Desired, listen: &Listen) -> ProblemView {
    let at_place = || desired.all_forwards().filter(|(.., forward)| forward.listen.overlaps(listen));
    match at_place().next() {
        Some((_, owner, forward)) if forward.listen == *listen => {
            let title = format!("the forward {listen} is declared by {}", forward.provenance);
            let hint = format!("remove it there, and: weft up {owner}");
            Trouble::new("declared-by-file", title, hint).problem()
        }
        near => {
            let hint = match near {
                Some((.., forward)) => format!("did you mean {}?", forward.listen),
                None => "`weft forward ls` lists them".to_owned(),
            };
            Trouble::new("no-such-forward", format!("there is no forward {listen}"), hint).problem()
        }
    }
}

pub(crate) fn no_such_vm(vm: &VmName) -> ProblemView {
    Trouble::new("no-such-vm", format!("there is no VM `{vm}`"), "`weft vm ls` lists them").problem()
}

fn problems(error: impl Into<Trouble>) -> Problems {
    vec![error.into().problem()]
}
