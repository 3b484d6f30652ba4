//! What a world may not take, because another owner has it already. Pure.

use weft_model::view::ProblemView;
use weft_model::{Vm, World};
use weft_types::{Provenance, VmName};

use crate::desired::Desired;
use crate::shells::Shell;

/// Everything in `world` that another owner than `owner` has already, each naming both places; empty if all is well.
pub(crate) fn conflicts(current: &Desired, owner: &str, world: &World) -> Vec<ProblemView> {
    let mut problems = Vec::new();
    let mut taken = |kind: &str, name: &str, other: &str, theirs: &Provenance, ours: &Provenance| {
        if other != owner {
            let title = format!("there is a {kind} `{name}` already");
            let hint = format!("call this one something else, or take the other away: weft down {other}");
            problems.push(problem("name-taken", title, theirs, hint, ours));
        }
    };
    for (name, network) in &world.networks {
        if let Some(other) = current.networks.get(name) {
            taken("network", name.as_str(), &other.owner, &other.spec.provenance, &network.provenance);
        }
    }
    for (name, network) in &world.networks {
        for (_, other) in current.networks.iter().filter(|(other_name, _)| *other_name != name) {
            for adapter in network.adapters.keys().filter(|adapter| other.spec.adapters.contains_key(*adapter)) {
                taken("adapter", adapter.as_str(), &other.owner, &other.spec.provenance, &network.provenance);
            }
        }
    }
    for (name, image) in &world.images {
        if let Some(other) = current.images.get(name) {
            taken("image", name.as_str(), &other.owner, &other.spec.provenance, &image.provenance);
        }
    }
    for (name, router) in &world.routers {
        if let Some(other) = current.routers.get(name) {
            taken("router", name.as_str(), &other.owner, &other.spec.provenance, &router.provenance);
        }
    }
    for (name, vm) in &world.vms {
        if let Some(other) = current.vms.get(name) {
            taken("VM", name.as_str(), &other.owner, &other.spec.provenance, &vm.provenance);
        }
    }
    problems.extend(shells(current, world));
    problems.extend(overlaps(current, owner, world));
    problems.extend(macs(current, owner, world));
    problems.extend(forwards(current, owner, world));
    problems
}

/// Names of machines that shells have.
fn shells(current: &Desired, world: &World) -> Vec<ProblemView> {
    let named = world.vms.iter().filter_map(|(name, vm)| Some((name, vm, current.shells.get(name)?)));
    let clash = |(name, vm, shell): (&VmName, &Vm, &Shell)| {
        let title = format!("there is a shell `{name}` already");
        let hint = format!("call the machine something else, or end the shell (process {})", shell.process.pid);
        problem("name-taken", title, &shell.provenance, hint, &vm.provenance)
    };
    named.map(clash).collect()
}

fn overlaps(current: &Desired, owner: &str, world: &World) -> Vec<ProblemView> {
    let mut problems = Vec::new();
    for (name, network) in &world.networks {
        for (other_name, other) in current.networks.iter().filter(|(_, other)| other.owner != owner) {
            let (a, b) = (network.subnet, other.spec.subnet);
            let clash = network.uplink.as_ref().zip(other.spec.uplink.as_ref());
            if let Some(clash) = clash.filter(|_| name != other_name).and_then(|(own, its)| own.clash(its, other_name))
            {
                let places = (&other.spec.provenance, &network.provenance);
                problems.push(problem(clash.code, clash.message, places.0, clash.hint.unwrap_or_default(), places.1));
            }
            let are_ours = network.uplink.is_none() && other.spec.uplink.is_none();
            if name != other_name && are_ours && (a.contains(&b) || b.contains(&a)) {
                let title = format!("the subnet {a} of network `{name}` overlaps with {b} of network `{other_name}`");
                let hint = "choose another `subnet`";
                let places = (&other.spec.provenance, &network.provenance);
                problems.push(problem("overlapping-subnets", title, places.0, hint.to_owned(), places.1));
            }
            let prefixes = network.subnet6.zip(other.spec.subnet6);
            if let Some((a, b)) = prefixes.filter(|(a, b)| name != other_name && (a.contains(b) || b.contains(a))) {
                let title = format!("the IPv6 prefix {a} of network `{name}` is {b} of network `{other_name}`, too");
                let hint = "choose another `ipv6`";
                let places = (&other.spec.provenance, &network.provenance);
                problems.push(problem("overlapping-subnets", title, places.0, hint.to_owned(), places.1));
            }
        }
    }
    problems
}

fn macs(current: &Desired, owner: &str, world: &World) -> Vec<ProblemView> {
    let mut problems = Vec::new();
    let others = || current.vms.iter().filter(|(_, vm)| vm.owner != owner);
    for (name, vm) in &world.vms {
        for nic in &vm.nics {
            let clash = others().flat_map(|(name, vm)| vm.spec.nics.iter().map(move |nic| (name, nic)));
            for (other, theirs) in clash.filter(|(other, theirs)| *other != name && theirs.mac == nic.mac) {
                let title = format!("`{name}` and `{other}` both have the MAC address {}", nic.mac);
                let hint = "leave `mac` out, and Weft chooses one".to_owned();
                problems.push(problem("duplicate-mac", title, &theirs.provenance, hint, &nic.provenance));
            }
        }
    }
    problems
}

/// Places of the host that another owner's forward, or one that a command has added, has already.
fn forwards(current: &Desired, owner: &str, world: &World) -> Vec<ProblemView> {
    let mut problems = Vec::new();
    let others = || current.all_forwards().filter(|(_, other, _)| *other != owner);
    for ours in world.networks.values().flat_map(|network| &network.forwards) {
        for (_, _, theirs) in others() {
            let Some(clash) = ours.clash(theirs) else { continue };
            let hint = match theirs.provenance.line {
                Some(_) => "choose another port of the host".to_owned(),
                None => format!("choose another port of the host, or: weft forward rm {}", theirs.listen),
            };
            problems.push(problem("name-taken", clash.message, &theirs.provenance, hint, &ours.provenance));
        }
    }
    problems
}

fn problem(code: &str, title: String, theirs: &Provenance, hint: String, ours: &Provenance) -> ProblemView {
    ProblemView {
        code: code.to_owned(),
        title,
        detail: Some(format!("declared at {ours}, and already at {theirs}")),
        hint: Some(hint),
        provenance: Some(ours.clone()),
    }
}
