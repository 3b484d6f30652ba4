//! What must hold of a configuration, all of which is checked before any of it counts.

mod acl;
mod difference;
mod mirrors;

use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use weft_types::MacRange;

pub(crate) use difference::is_harmless;
pub(crate) use mirrors::check_mirror;

use crate::{Config, ConfigError, PortConfig, Rate, Role, VSwitchConfig};

/// Configurations come from the daemon, not from guests: no seed is needed.
type Map<K, V> = HashMap<K, V, FixedState>;

/// Everything that is wrong with `config`, for a switch at generation `current`.
pub(crate) fn problems(config: &Config, current: u64) -> Vec<ConfigError> {
    let mut problems = Vec::new();
    if config.generation < current {
        problems.push(ConfigError::Stale { given: config.generation, current });
    }
    check_vswitches(&config.vswitches, &mut problems);
    check_port_identities(&config.ports, &mut problems);
    check_membership(config, &mut problems);
    check_teams(config, &mut problems);
    check_macs(&config.ports, &mut problems);
    check_ranges(&config.ports, &mut problems);
    check_rates(&config.ports, &mut problems);
    acl::check(config, &mut problems);
    mirrors::check(config, &mut problems);
    problems
}

fn check_vswitches(vswitches: &[VSwitchConfig], problems: &mut Vec<ConfigError>) {
    let (mut ids, mut names) = (Map::default(), Map::default());
    for vswitch in vswitches {
        let provenance = || vswitch.provenance.clone();
        if let Some(first) = rival(ids.entry(vswitch.id), vswitch) {
            let (first, second) = (first.name.clone(), vswitch.name.clone());
            problems.push(ConfigError::DuplicateVSwitchId { id: vswitch.id, first, second, provenance: provenance() });
        }
        if let Some(first) = rival(names.entry(&vswitch.name), vswitch) {
            let (name, first) = (vswitch.name.clone(), first.provenance.clone());
            problems.push(ConfigError::DuplicateVSwitchName { name, first, second: provenance() });
        }
    }
}

fn check_port_identities(ports: &[Arc<PortConfig>], problems: &mut Vec<ConfigError>) {
    let (mut ids, mut names) = (Map::default(), Map::default());
    for port in ports.iter().map(Arc::as_ref) {
        let provenance = || port.provenance.clone();
        if let Some(first) = rival(ids.entry(port.id), port) {
            let (first, second) = (first.name.clone(), port.name.clone());
            problems.push(ConfigError::DuplicatePortId { id: port.id, first, second, provenance: provenance() });
        }
        if let Some(first) = rival(names.entry(&port.name), port) {
            let (name, first) = (port.name.clone(), first.provenance.clone());
            problems.push(ConfigError::DuplicatePortName { name, first, second: provenance() });
        }
    }
}

/// Every port belongs to a vSwitch, and every vSwitch has at most one uplink. So no path joins two vSwitches, and
/// none leads from uplink to uplink (law 2).
fn check_membership(config: &Config, problems: &mut Vec<ConfigError>) {
    let vswitches: Map<_, _> = config.vswitches.iter().map(|vswitch| (vswitch.id, &vswitch.name)).collect();
    let mut uplinks = Map::default();
    let teams: Map<_, _> =
        config.vswitches.iter().filter_map(|vswitch| Some((vswitch.id, vswitch.team.as_ref()?))).collect();
    for port in config.ports.iter().map(Arc::as_ref) {
        let (name, provenance) = (|| port.name.clone(), || port.provenance.clone());
        let Some(&vswitch) = vswitches.get(&port.vswitch) else {
            let error = ConfigError::UnknownVSwitch { port: name(), vswitch: port.vswitch, provenance: provenance() };
            problems.push(error);
            continue;
        };
        if port.role == Role::Uplink
            && !teams.contains_key(&port.vswitch)
            && let Some(first) = rival(uplinks.entry(port.vswitch), port)
        {
            let (vswitch, first) = (vswitch.clone(), first.name.clone());
            problems.push(ConfigError::SecondUplink { vswitch, first, second: name(), provenance: provenance() });
        }
    }
}

/// A team names every uplink of its vSwitch once, and nothing else (law 8).
fn check_teams(config: &Config, problems: &mut Vec<ConfigError>) {
    let mut uplinks: Map<_, Vec<_>> = Map::default();
    for port in config.ports.iter().filter(|port| port.role == Role::Uplink) {
        uplinks.entry(port.vswitch).or_default().push(port.id);
    }
    for vswitch in &config.vswitches {
        let Some(team) = &vswitch.team else { continue };
        let mut missing = uplinks.get(&vswitch.id).cloned().unwrap_or_default();
        let mut wrong = Vec::new();
        for member in &team.members {
            match missing.iter().position(|port| port == member) {
                Some(at) => drop(missing.swap_remove(at)),
                None => wrong.push(*member),
            }
        }
        problems.extend(wrong.into_iter().chain(missing).map(|port| ConfigError::TeamMember {
            network: vswitch.name.clone(),
            port,
            provenance: vswitch.provenance.clone(),
        }));
    }
}

/// Every MAC address is one station's, and registered once in each segment of its vSwitch (laws 1 and 4).
fn check_macs(ports: &[Arc<PortConfig>], problems: &mut Vec<ConfigError>) {
    let mut owners: Map<_, Vec<&PortConfig>> = Map::default();
    for port in ports.iter().map(Arc::as_ref) {
        let named = || (port.name.clone(), port.provenance.clone());
        for &mac in &port.macs {
            if !mac.is_station() {
                let (port, provenance) = named();
                problems.push(ConfigError::NotAStation { port, mac, provenance });
                continue;
            }
            let others = owners.entry((port.vswitch, mac)).or_default();
            match others.iter().find(|other| other.vlans.overlap(&port.vlans)) {
                Some(first) => {
                    let (second, provenance) = named();
                    problems.push(ConfigError::DuplicateMac { mac, first: first.name.clone(), second, provenance });
                }
                None => others.push(port),
            }
        }
    }
}

/// Runs of MAC addresses meet no other run of their vSwitch, and no other port's address, whatever their VLANs.
fn check_ranges(ports: &[Arc<PortConfig>], problems: &mut Vec<ConfigError>) {
    if ports.iter().all(|port| port.mac_ranges.is_empty()) {
        return;
    }
    let runs = ports.iter().map(Arc::as_ref).flat_map(|port| {
        let ranges = port.mac_ranges.iter().map(move |range| (port.vswitch, range.first(), false, Some(*range), port));
        ranges.chain(port.macs.iter().map(move |mac| (port.vswitch, *mac, true, None, port)))
    });
    let mut runs: Vec<_> = runs.collect();
    runs.sort_by_key(|(vswitch, first, is_single, ..)| (*vswitch, *first, *is_single));
    let mut highest: Option<(MacRange, &PortConfig)> = None;
    for (vswitch, first, _, range, port) in runs {
        if let Some((before, owner)) = highest
            && owner.vswitch == vswitch
            && before.contains(first)
            && (range.is_some() || owner.id != port.id)
        {
            let (range, at, other) = range.map_or((before, owner, port), |range| (range, port, owner));
            problems.push(ConfigError::RangeTaken {
                range,
                port: at.name.clone(),
                other: other.name.clone(),
                provenance: at.provenance.clone(),
            });
        }
        if let Some(range) = range
            && highest.is_none_or(|(before, owner)| owner.vswitch != vswitch || before.last() < range.last())
        {
            highest = Some((range, port));
        }
    }
}

/// Rates are such that something passes, and not everything (law 9).
fn check_rates(ports: &[Arc<PortConfig>], problems: &mut Vec<ConfigError>) {
    for port in ports {
        for rate in [port.rates.from_port, port.rates.to_port].into_iter().flatten() {
            let Rate { bits_per_s, burst_bytes, .. } = rate;
            let is_rate = (1..=Rate::MAX_BITS_PER_S).contains(&bits_per_s);
            if !is_rate || !(1..=Rate::MAX_BURST_BYTES).contains(&burst_bytes) {
                let (port, provenance) = (port.name.clone(), port.provenance.clone());
                problems.push(ConfigError::Rate { port, bits_per_s, burst_bytes, provenance });
            }
        }
    }
}

/// Who was there first; if nobody, `newcomer` is now.
fn rival<'a, K: Hash, V>(entry: Entry<'_, K, &'a V, FixedState>, newcomer: &'a V) -> Option<&'a V> {
    match entry {
        Entry::Occupied(entry) => Some(*entry.get()),
        Entry::Vacant(entry) => {
            entry.insert(newcomer);
            None
        }
    }
}
