//! What a change of the switch's configuration means to people: a step for each network that they can tell apart.

use std::collections::BTreeMap;

use weft_dataplane_protocol::{DataplaneConfig, GatewayConfig, NetworkConfig, NetworkMode, Reservation};
use weft_model::view::{Impact, StepAction, StepView};
use weft_types::{MacAddr, NetworkName};

use crate::desired::Desired;
use crate::plan::step;

/// The steps from `old` to `new`, networks first, then machines whose address changes on a network that stays.
///
/// Adapters that come and go are not among them: they come and go with their machine. Nor is a declaration that merely
/// moved to another line.
pub(crate) fn network_steps(desired: &Desired, old: Option<&DataplaneConfig>, new: &DataplaneConfig) -> Vec<StepView> {
    let by_name = |config: &DataplaneConfig| -> BTreeMap<NetworkName, NetworkConfig> {
        config.networks.iter().map(|network| (network.name.clone(), network.clone())).collect()
    };
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
    steps.append(&mut moves);
    steps
}

/// A network in a few words.
fn describe(network: &NetworkConfig) -> String {
    let mut words = vec![mode(network.mode).to_owned()];
    if let Some(gateway) = &network.gateway {
        words.push(gateway.subnet.to_string());
        let absent = [("no DHCP", gateway.dhcp.is_none()), ("no DNS", !gateway.dns)];
        words.extend(absent.iter().filter(|(_, is)| *is).map(|(word, _)| (*word).to_owned()));
        words.extend(gateway.host_access.then(|| "host access".to_owned()));
    }
    words.join(", ")
}

fn mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Nat => "nat",
        NetworkMode::Internal => "internal",
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
    ];
    compare("lease time", |gateway| {
        gateway.dhcp.as_ref().map_or_else(String::new, |dhcp| format!("{} s", dhcp.lease_s))
    });
    compare("DNS", |gateway| if gateway.dns { "on" } else { "off" }.to_owned());
    let host_access =
        |network: &NetworkConfig| on_off(network.gateway.as_ref().is_some_and(|gateway| gateway.host_access));
    differs("host access", host_access(old), host_access(new));
    differs("mode", mode(old.mode).to_owned(), mode(new.mode).to_owned());
    differs("mtu", old.mtu.to_string(), new.mtu.to_string());
    let impact = if moved.contains(&true) { Impact::Release } else { Impact::Hitless };
    (words, impact)
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
        steps.push(step(StepAction::Update, "vm", kept.vm.as_str(), detail, Impact::Release, provenance));
    }
    steps
}
