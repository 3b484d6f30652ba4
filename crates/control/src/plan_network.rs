//! What a change of the switch's configuration means to people: a step for each network that they can tell apart, and
//! for each machine whose ports do or may do something else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_dataplane_protocol::{
    AclConfig, AddressConfig, DataplaneConfig, ForwardConfig, GatewayConfig, MirrorConfig, NetworkConfig, NetworkMode,
    PortConfig, PortKind, Reservation,
};
use weft_model::view::{Impact, StepAction, StepView};
use weft_types::{Dhcp6, IpNet, Listen, MacAddr, NetworkName, Provenance};

use crate::desired::Desired;
use crate::plan::step;
use crate::router::router_steps;

/// The steps from `old` to `new`, networks first, then machines whose address or port changes on a network that stays.
///
/// Adapters that come and go are not among them: they come and go with their machine. Nor is a declaration that merely
/// moved to another line.
pub(crate) fn network_steps(desired: &Desired, old: Option<&DataplaneConfig>, new: &DataplaneConfig) -> Vec<StepView> {
    let by_name = |config: &DataplaneConfig| -> BTreeMap<NetworkName, NetworkConfig> {
        config.networks.iter().map(|network| (network.name.clone(), network.clone())).collect()
    };
    let port_steps = old.map_or_else(Vec::new, |old| port_steps(desired, old, new));
    let forward_steps = forward_steps(old, new);
    let adapter_steps = adapter_steps(old, new);
    let router_steps = router_steps(old, new);
    let (old, new) = (old.map(by_name).unwrap_or_default(), by_name(new));
    let mut steps = Vec::new();
    let mut moves = Vec::new();
    for (name, network) in &new {
        let provenance = Some(network.provenance.clone());
        let make = |action, detail, impact| step(action, "network", name.as_str(), detail, impact, provenance);
        match old.get(name) {
            None => steps.push(make(StepAction::Create, describe(network), Impact::Hitless)),
            Some(old) => {
                let (changes, impact) = changes(old, network);
                if !changes.is_empty() {
                    steps.push(make(StepAction::Update, changes.join(", "), impact));
                }
                moves.extend(address_steps(desired, old, network));
            }
        }
    }
    for (name, network) in old.iter().filter(|(name, _)| !new.contains_key(name)) {
        let provenance = Some(network.provenance.clone());
        let detail = "its switch and services go";
        steps.push(step(StepAction::Remove, "network", name.as_str(), detail, Impact::Hitless, provenance));
    }
    steps.extend(router_steps);
    steps.append(&mut moves);
    steps.extend(port_steps);
    steps.extend(forward_steps);
    steps.extend(adapter_steps);
    steps
}

/// A step for each adapter of the host that comes, goes or is another.
fn adapter_steps(old: Option<&DataplaneConfig>, new: &DataplaneConfig) -> Vec<StepView> {
    let all = |config: &DataplaneConfig| -> BTreeMap<String, (String, Provenance)> {
        let adapters = config.ports.iter().filter_map(|port| match &port.kind {
            PortKind::Tap { name, host: Some(host) } => {
                Some((name.clone(), (format!("{host} of the host on {}", port.network), port.provenance.clone())))
            }
            _ => None,
        });
        adapters.collect()
    };
    let (old, new) = (old.map(all).unwrap_or_default(), all(new));
    let make = |action, name: &str, detail, provenance: &Provenance| {
        step(action, "adapter", name, detail, Impact::Hitless, Some(provenance.clone()))
    };
    let mut steps = Vec::new();
    for (name, (what, place)) in &new {
        match old.get(name) {
            None => steps.push(make(StepAction::Create, name, what.clone(), place)),
            Some((before, _)) if before != what => {
                steps.push(make(StepAction::Update, name, format!("{before} -> {what}"), place));
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
    steps.extend(gone.map(|(name, (what, place))| make(StepAction::Remove, name, what.clone(), place)));
    steps
}

/// A step for each port forward that comes, goes or leads elsewhere.
fn forward_steps(old: Option<&DataplaneConfig>, new: &DataplaneConfig) -> Vec<StepView> {
    type Forwards = BTreeMap<Listen, (NetworkName, ForwardConfig)>;
    let all = |config: &DataplaneConfig| -> Forwards {
        let each = config.networks.iter().flat_map(|network| network.forwards.iter().map(move |it| (network, it)));
        each.map(|(network, forward)| (forward.listen, (network.name.clone(), forward.clone()))).collect()
    };
    let (old, new) = (old.map(all).unwrap_or_default(), all(new));
    let mut steps = Vec::new();
    for (listen, (network, forward)) in &new {
        let make = |action, detail| {
            let provenance = Some(forward.provenance.clone());
            step(action, "forward", &listen.to_string(), detail, Impact::Hitless, provenance)
        };
        match old.get(listen) {
            None => steps.push(make(StepAction::Create, format!("to {} on {network}", forward.to))),
            Some((before_on, before)) if (before_on, &before.to) != (network, &forward.to) => {
                let detail = format!("to {} on {before_on} -> {} on {network}", before.to, forward.to);
                steps.push(make(StepAction::Update, detail));
            }
            Some(_) => {}
        }
    }
    for (listen, (_, forward)) in old.iter().filter(|(listen, _)| !new.contains_key(listen)) {
        let provenance = Some(forward.provenance.clone());
        let detail = format!("to {}: its connections end", forward.to);
        steps.push(step(StepAction::Remove, "forward", &listen.to_string(), detail, Impact::Hitless, provenance));
    }
    steps
}

/// A network in a few words.
fn describe(network: &NetworkConfig) -> String {
    let mut words = vec![mode(network.mode).to_owned()];
    if let Some(gateway) = &network.gateway {
        words.push(gateway.subnet.to_string());
        words.extend(gateway.subnet6.map(|net| net.to_string()));
        let absent = [("no DHCP", gateway.dhcp.is_none()), ("no DNS", !gateway.dns)];
        words.extend(absent.iter().filter(|(_, is)| *is).map(|(word, _)| (*word).to_owned()));
        words.extend(gateway.host_access.then(|| "host access".to_owned()));
    }
    words.extend(network.acl.as_ref().map(|acl| access(Some(acl))));
    words.join(", ")
}

fn mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Nat => "nat",
        NetworkMode::HostOnly => "host-only",
        NetworkMode::Internal => "internal",
        NetworkMode::Bridged => "bridged",
    }
}

/// What differs, and what that does to those who are on the network.
fn changes(old: &NetworkConfig, new: &NetworkConfig) -> (Vec<String>, Impact) {
    let mut words = Vec::new();
    let mut differs = |what: &str, old: String, new: String| {
        let differs = old != new;
        if differs {
            words.push(format!("{what} {old} -> {new}"));
        }
        differs
    };
    let text = |network: &NetworkConfig, tell: fn(&GatewayConfig) -> String| {
        network.gateway.as_ref().map_or_else(|| "none".to_owned(), tell)
    };
    let mut compare = |what, tell| differs(what, text(old, tell), text(new, tell));
    let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
    let moved = [
        compare("subnet", |gateway| gateway.subnet.to_string()),
        compare("gateway", |gateway| gateway.ip.to_string()),
        compare("DHCP", |gateway| match &gateway.dhcp {
            Some(dhcp) => format!("{}-{}", dhcp.first, dhcp.last),
            None => "off".to_owned(),
        }),
        compare("excluded addresses", |gateway| {
            let excluded = gateway.dhcp.iter().flat_map(|dhcp| &dhcp.excluded).map(ToString::to_string);
            list(excluded.collect())
        }),
        compare("kept addresses", |gateway| {
            let kept = gateway.dhcp.iter().flat_map(|dhcp| &dhcp.kept).map(|(client, ip)| format!("{ip} for {client}"));
            list(kept.collect())
        }),
    ];
    compare("IPv6", |gateway| gateway.subnet6.map_or_else(|| "off".to_owned(), |net| net.to_string()));
    compare("DHCPv6", |gateway| gateway.dhcp6.map_or("off", Dhcp6::as_str).to_owned());
    compare("lease time", |gateway| {
        gateway.dhcp.as_ref().map_or_else(String::new, |dhcp| format!("{} s", dhcp.lease_s))
    });
    compare("DHCP options", |gateway| {
        list(gateway.dhcp.iter().flat_map(|dhcp| dhcp.options.keys()).map(ToString::to_string).collect())
    });
    compare("DNS", |gateway| if gateway.dns { "on" } else { "off" }.to_owned());
    let host_access =
        |network: &NetworkConfig| on_off(network.gateway.as_ref().is_some_and(|gateway| gateway.host_access));
    let names = |network: &NetworkConfig| network.gateway.as_ref().map(|gateway| gateway.names.clone());
    differs("host access", host_access(old), host_access(new));
    differs("mode", mode(old.mode).to_owned(), mode(new.mode).to_owned());
    differs("mtu", old.mtu.to_string(), new.mtu.to_string());
    let access_changed = differs("access", access(old.acl.as_ref()), access(new.acl.as_ref()));
    let count = |network: &NetworkConfig| network.mirrors.len().to_string();
    let is_more_or_less = differs("mirrors", count(old), count(new));
    if !access_changed && sense(old.acl.as_ref()) != sense(new.acl.as_ref()) {
        words.push("rules changed".to_owned());
    }
    if names(old) != names(new) {
        words.push("names changed".to_owned());
    }
    if !is_more_or_less && mirrored(old) != mirrored(new) {
        words.push("mirrors changed".to_owned());
    }
    let told = |network: &NetworkConfig| {
        let dhcp = network.gateway.as_ref().and_then(|gateway| gateway.dhcp.as_ref());
        dhcp.map(|dhcp| (dhcp.options.clone(), dhcp.boot.clone())).unwrap_or_default()
    };
    if told(old) != told(new) && !words.iter().any(|word| word.starts_with("DHCP ")) {
        words.push("what DHCP clients are told changed".to_owned());
    }
    let says_else = matches!((told_by_leases(old), told_by_leases(new)), (Some(old), Some(new)) if old != new);
    // Who has an address of a prefix that goes has another one, or none, soon.
    let prefix = |network: &NetworkConfig| network.gateway.as_ref().and_then(|gateway| gateway.subnet6);
    let is_renumbered = prefix(old).is_some() && prefix(old) != prefix(new);
    let impact = if is_renumbered || says_else || moved.contains(&true) { Impact::ReLease } else { Impact::Hitless };
    (words, impact)
}

/// What a network's leases say beside an address and how long it lasts, if it has leases.
pub(crate) fn told_by_leases(network: &NetworkConfig) -> Option<impl PartialEq + use<>> {
    let gateway = network.gateway.as_ref()?;
    let dhcp = gateway.dhcp.as_ref()?;
    let leads_out = network.mode == NetworkMode::Nat;
    let boot = (dhcp.options.clone(), dhcp.boot.clone());
    Some((gateway.ip, gateway.subnet.prefix_len(), leads_out, gateway.dns, network.mtu, boot))
}

/// An access list in a few words.
fn access(acl: Option<&AclConfig>) -> String {
    match acl {
        None => "open".to_owned(),
        Some(AclConfig { rules, default, .. }) => match rules.len() {
            1 => format!("1 rule, else {default}"),
            count => format!("{count} rules, else {default}"),
        },
    }
}

/// An access list without the places where it is declared.
fn sense(acl: Option<&AclConfig>) -> Option<AclConfig> {
    let mut acl = acl?.clone();
    acl.rules.iter_mut().for_each(|rule| rule.provenance = Provenance::command(""));
    Some(acl)
}

/// A network's mirrors without the places where they are declared.
fn mirrored(network: &NetworkConfig) -> Vec<MirrorConfig> {
    let mut mirrors = network.mirrors.clone();
    mirrors.iter_mut().for_each(|mirror| mirror.provenance = Provenance::command(""));
    mirrors
}

/// A step for each machine whose ports stay and are, or may do, something else.
fn port_steps(desired: &Desired, old: &DataplaneConfig, new: &DataplaneConfig) -> Vec<StepView> {
    let before: BTreeMap<_, _> = old.ports.iter().map(|port| (&port.name, port)).collect();
    let reserved = |config: &DataplaneConfig| -> BTreeSet<(NetworkName, IpNet)> {
        let adapters = |network: &NetworkConfig| -> Vec<_> {
            let dhcp = network.gateway.as_ref().and_then(|gateway| gateway.dhcp.as_ref());
            let kept = dhcp.into_iter().flat_map(|dhcp| &dhcp.reservations).filter_map(|kept| kept.ip);
            kept.map(|ip| (network.name.clone(), IpAddr::V4(ip).into())).collect()
        };
        config.networks.iter().flat_map(adapters).collect()
    };
    // Another address from the DHCP server has a step of its own.
    let (old_reserved, new_reserved) = (reserved(old), reserved(new));
    let mut steps = Vec::new();
    for port in &new.ports {
        let (Some(vm), Some(before)) = (&port.vm, before.get(&port.name)) else { continue };
        if before.network != port.network {
            continue;
        }
        let changes = port_changes((before, &old_reserved), (port, &new_reserved));
        if !changes.is_empty() {
            let detail = format!("port {}: {}", port.name, changes.join(", "));
            let provenance = desired.vms.get(vm).map(|_| port.provenance.clone());
            steps.push(step(StepAction::Update, "vm", vm.as_str(), detail, Impact::Hitless, provenance));
        }
    }
    steps
}

/// Items in a line.
fn list(items: Vec<String>) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(" ") }
}

type WithReserved<'a> = (&'a PortConfig, &'a BTreeSet<(NetworkName, IpNet)>);

fn port_changes((old, old_reserved): WithReserved<'_>, (new, new_reserved): WithReserved<'_>) -> Vec<String> {
    let mut words = Vec::new();
    let mut compare = |what: &str, old: String, new: String| {
        if old != new {
            words.push(format!("{what} {old} -> {new}"));
        }
    };
    compare("VLAN:", old.vlans.to_string(), new.vlans.to_string());
    let allowed = |port: &PortConfig| list(port.access.allowances().iter().map(ToString::to_string).collect());
    compare("may", allowed(old), allowed(new));
    let addresses = |port: &PortConfig, reserved: &BTreeSet<_>| match &port.addresses {
        AddressConfig::Any => "any".to_owned(),
        AddressConfig::Known { fixed, .. } => {
            let declared = fixed.iter().filter(|prefix| !reserved.contains(&(port.network.clone(), **prefix)));
            list(declared.map(ToString::to_string).collect())
        }
    };
    compare("addresses", addresses(old, old_reserved), addresses(new, new_reserved));
    compare("rate:", old.rates.to_string(), new.rates.to_string());
    compare("learns", old.learn.to_string(), new.learn.to_string());
    let macs = |port: &PortConfig| {
        let ranges = port.mac_ranges.iter().map(ToString::to_string);
        list(port.macs.iter().map(ToString::to_string).chain(ranges).collect())
    };
    compare("MAC addresses", macs(old), macs(new));
    words
}

/// A step for each machine whose fixed address on a network differs.
fn address_steps(desired: &Desired, old: &NetworkConfig, new: &NetworkConfig) -> Vec<StepView> {
    let fixed = |network: &NetworkConfig| -> BTreeMap<MacAddr, Reservation> {
        let dhcp = network.gateway.as_ref().and_then(|gateway| gateway.dhcp.as_ref());
        dhcp.into_iter().flat_map(|dhcp| &dhcp.reservations).map(|kept| (kept.mac, kept.clone())).collect()
    };
    let old = fixed(old);
    let mut steps = Vec::new();
    for (mac, kept) in fixed(new) {
        let Some(before) = old.get(&mac).filter(|before| before.ip != kept.ip) else { continue };
        let text = |ip: Option<std::net::Ipv4Addr>| ip.map_or_else(|| "from the pool".to_owned(), |ip| ip.to_string());
        let detail = format!("address on {} {} -> {}", new.name, text(before.ip), text(kept.ip));
        let provenance = desired.vms.get(&kept.vm).map(|vm| vm.spec.provenance.clone());
        steps.push(step(StepAction::Update, "vm", kept.vm.as_str(), detail, Impact::ReLease, provenance));
    }
    steps
}
