//! What the daemon says about networks and ports, in the words of the switch's law.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_dataplane_protocol::{
    AccessConfig, AclConfig, AddressConfig, DataplaneConfig, EndConfig, MirrorConfig, MirrorTo, NetworkConfig,
    PortKind, RuleConfig, Switching, TeamMode,
};
use weft_services::NetworkId;
use weft_switch::{
    Acl, Addresses, Config, Endpoint, Mirror, MirrorFilter, MirrorId, MirrorTarget, Mode, Policy, PortConfig, Rate,
    Rates, Role, Rule, Segment, Team, VSwitchConfig, VSwitchId, Vlans,
};
use weft_types::{BitRate, Direction, IpNet, Native, NetworkName, PortId, PortName, PortRates, PortVlans, Traffic};
use weft_wire::Protocol;

use crate::slot::About;

/// The configuration of a switch with these networks and ports, the gateways' among them.
pub(crate) fn switch_config<'a>(
    generation: u64,
    config: &DataplaneConfig,
    networks: &BTreeMap<NetworkName, NetworkId>,
    ports: impl Iterator<Item = (PortId, &'a About)>,
) -> Config {
    let ports: Vec<_> = ports.collect();
    let ids: BTreeMap<_, _> = ports.iter().map(|(id, about)| (&about.name, *id)).collect();
    // Mirrors are numbered across all networks.
    let mut mirrors = 0;
    let vswitches = config.networks.iter().map(|network| {
        let first = mirrors;
        mirrors += network.mirrors.len() as u32;
        vswitch(network, networks[&network.name], &ids, first)
    });
    Config {
        generation,
        vswitches: vswitches.collect(),
        ports: ports.iter().map(|(id, about)| Arc::new(port(*id, about))).collect(),
    }
}

fn vswitch(
    network: &NetworkConfig,
    id: NetworkId,
    ports: &BTreeMap<&PortName, PortId>,
    first_mirror: u32,
) -> VSwitchConfig {
    VSwitchConfig {
        mode: match network.switching {
            Switching::Veb => Mode::Veb,
            Switching::Vepa => Mode::Vepa,
        },
        team: network.team.as_ref().map(|team| Team {
            mode: match team.mode {
                TeamMode::ActiveStandby => weft_switch::TeamMode::ActiveStandby,
                TeamMode::Hash => weft_switch::TeamMode::FlowHash,
            },
            // A name of no port is no uplink of the network either, which the switch will say.
            members: team.members.iter().map(|name| ports.get(name).copied().unwrap_or(PortId(u32::MAX))).collect(),
        }),
        acl: network.acl.as_ref().map(|acl| Arc::new(access_list(acl, ports))),
        mirrors: (first_mirror..)
            .zip(&network.mirrors)
            .filter_map(|(number, config)| mirror(MirrorId(number), config, ports))
            .collect(),
        ..VSwitchConfig::new(VSwitchId(id.0), network.name.clone(), network.provenance.clone())
    }
}

fn port(id: PortId, about: &About) -> PortConfig {
    let role = match &about.kind {
        None => Role::Gateway,
        Some(_) if about.uplink => Role::Uplink,
        Some(PortKind::Tap { host: Some(_), .. }) => Role::HostAdapter,
        Some(_) => Role::Vnic,
    };
    let vswitch = VSwitchId(about.network_id.0);
    PortConfig {
        macs: about.macs.clone(),
        mac_ranges: about.mac_ranges.clone(),
        vlans: vlans(&about.vlans),
        learn: about.learn,
        addresses: addresses(about),
        policy: policy(about.access),
        rates: rates(&about.rates),
        ..PortConfig::new(id, about.name.clone(), vswitch, role, about.provenance.clone())
    }
}

/// Which IP addresses are a port's own. The host has at its adapter what it was given, and gets no more.
fn addresses(about: &About) -> Addresses {
    let (fixed, learn) = match &about.addresses {
        AddressConfig::Any => (&[][..], None),
        AddressConfig::Known { fixed, learn } => (&fixed[..], Some(*learn)),
    };
    match (&about.kind, learn) {
        (Some(PortKind::Tap { host: Some(host), .. }), _) => {
            let host = IpNet::from(IpAddr::V4(host.addr()));
            let others = fixed.iter().copied().filter(|own| *own != host);
            Addresses::Known { fixed: others.chain([host]).collect(), learn: 0 }
        }
        (_, Some(learn)) => Addresses::Known { fixed: fixed.to_vec(), learn },
        (_, None) => Addresses::Any,
    }
}

fn vlans(vlans: &PortVlans) -> Vlans {
    match vlans {
        PortVlans::Untagged => Vlans::Access(Segment::Untagged),
        PortVlans::Access { vlan } => Vlans::Access(Segment::Vlan(*vlan)),
        PortVlans::Trunk { allowed, native } => Vlans::Trunk {
            allowed: allowed.clone(),
            native: native.map(|native| match native {
                Native::Untagged => Segment::Untagged,
                Native::Vlan(vlan) => Segment::Vlan(vlan),
            }),
        },
    }
}

fn policy(access: AccessConfig) -> Policy {
    Policy {
        forged_macs: access.forged_macs,
        forged_ips: access.forged_ips,
        forged_arp: access.forged_arp,
        forged_neighbours: access.forged_neighbours,
        mac_changes: access.mac_changes,
        promiscuous: access.promiscuous,
        dhcp_server: access.dhcp_server,
        router_advertisements: access.router_advertisements,
    }
}

/// How fast a port may be.
pub(crate) fn rates(rates: &PortRates) -> Rates {
    let way = |rate: BitRate| Rate {
        bits_per_s: rate.bits_per_s(),
        burst_bytes: rates.burst_bytes(rate),
        excess: rates.excess,
    };
    Rates { from_port: rates.inward.map(way), to_port: rates.outward.map(way) }
}

fn access_list(acl: &AclConfig, ports: &BTreeMap<&PortName, PortId>) -> Acl {
    let end = |end: &EndConfig| match end {
        EndConfig::Any => Endpoint::Any,
        EndConfig::Ports { names } => {
            Endpoint::Ports(names.iter().filter_map(|name| ports.get(name)).copied().collect())
        }
        EndConfig::Prefix { prefix } => Endpoint::Prefix(*prefix),
    };
    let rule = |rule: &RuleConfig| Rule {
        name: rule.name.clone(),
        permission: rule.permission,
        from: end(&rule.from),
        to: end(&rule.to),
        traffic: traffic(&rule.traffic),
        log: rule.log,
        provenance: rule.provenance.clone(),
    };
    Acl { rules: acl.rules.iter().map(rule).collect(), default: acl.default, connections: acl.connections }
}

/// A mirror; `None` while nobody could be mirrored, or nobody is there to get the copies.
fn mirror(id: MirrorId, config: &MirrorConfig, ports: &BTreeMap<&PortName, PortId>) -> Option<Mirror> {
    let known = |names: &Vec<PortName>| names.iter().filter_map(|name| ports.get(name)).copied().collect::<Vec<_>>();
    let mirrored = config.ports.as_ref().map(known);
    if mirrored.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    Some(Mirror {
        id,
        name: config.name.to_string(),
        ports: mirrored.unwrap_or_default(),
        segments: config.vlans.iter().copied().map(Segment::Vlan).collect(),
        direction: direction(config.direction),
        filter: config.filter.as_ref().map(mirror_filter),
        snap_bytes: config.snap_bytes,
        to: match &config.to {
            MirrorTo::Port(name) => MirrorTarget::Port(*ports.get(name)?),
            MirrorTo::Collector(_) => MirrorTarget::Outside,
        },
        provenance: config.provenance.clone(),
    })
}

pub(crate) fn direction(direction: Direction) -> weft_switch::Direction {
    match direction {
        Direction::In => weft_switch::Direction::In,
        Direction::Out => weft_switch::Direction::Out,
        Direction::Both => weft_switch::Direction::Both,
    }
}

pub(crate) fn mirror_filter(filter: &weft_types::MirrorFilter) -> MirrorFilter {
    MirrorFilter { from: filter.from, to: filter.to, traffic: traffic(&filter.traffic) }
}

fn traffic(traffic: &Traffic) -> weft_switch::Traffic {
    match traffic {
        Traffic::Any => weft_switch::Traffic::Any,
        Traffic::Protocol { protocol } => weft_switch::Traffic::Protocol(Protocol(*protocol)),
        Traffic::Ports { protocol, src, dst } => {
            weft_switch::Traffic::Ports { protocol: Protocol(*protocol), src: src.clone(), dst: dst.clone() }
        }
        Traffic::Icmp { protocol, kind } => weft_switch::Traffic::Icmp { protocol: Protocol(*protocol), kind: *kind },
    }
}
