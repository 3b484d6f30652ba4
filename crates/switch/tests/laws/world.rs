//! Worlds and frames, small enough that things happen in them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use weft_switch::{
    Acl, Addresses, Config, Direction, Endpoint, Excess, Mirror, MirrorFilter, MirrorId, MirrorTarget, Mode,
    Permission, Policy, PortConfig, Rate, Rates, ReceiveFilter, Role, Rule, Segment, Switch, Team, TeamMode, Traffic,
    VSwitchConfig, VSwitchId, Vlans,
};
use weft_types::{IpNet, MacAddr, MacRange, PortId, Provenance, VlanId};

use weft_wire::Protocol;

use crate::packet;

/// Addresses by number: stations, and a few of every other kind.
pub(crate) fn mac(number: u8) -> MacAddr {
    match number {
        0 => MacAddr::ZERO,
        248 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x10]), // the first that is not reserved
        249 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x0f]), // the last that is
        250 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x00]),
        251..=253 => MacAddr::new([0x33, 0x33, 0, 0, 0, number]),
        254.. => MacAddr::BROADCAST,
        station => MacAddr::new([2, 0, 0, 0, 0, station]),
    }
}

/// A frame at a port.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) ingress: PortId,
    pub(crate) head: Vec<u8>,
    pub(crate) len: usize,
}

impl Frame {
    /// A short frame between two addresses of [`mac`], behind these tags, with nothing of meaning in it.
    pub(crate) fn new(ingress: u32, src: u8, dst: u8, tags: &[(u16, u16)]) -> Self {
        Self::with(ingress, src, dst, tags, &[0x08, 0x00])
    }

    /// The same with this EtherType and packet.
    pub(crate) fn with(ingress: u32, src: u8, dst: u8, tags: &[(u16, u16)], packet: &[u8]) -> Self {
        let mut head = [mac(dst).octets(), mac(src).octets()].concat();
        for (kind, control) in tags {
            head.extend(kind.to_be_bytes());
            head.extend(control.to_be_bytes());
        }
        head.extend(packet);
        head.resize(head.len().clamp(60, 128), 0);
        Self { ingress: PortId(ingress), len: head.len(), head }
    }
}

/// How many ports and vSwitches worlds have at most.
const PORTS: u32 = 12;
const VSWITCHES: u32 = 2;

/// The VLANs of all worlds; frames know one more.
const VLANS: [u16; 3] = [10, 20, 4094];

fn vlan(raw: u16) -> VlanId {
    VlanId::try_from(raw).unwrap()
}

fn any_segment() -> impl Strategy<Value = Segment> {
    let vlans = prop::sample::select(VLANS.to_vec()).prop_map(|raw| Segment::Vlan(vlan(raw)));
    prop_oneof![Just(Segment::Untagged), vlans]
}

fn any_vlans() -> impl Strategy<Value = Vlans> {
    let allowed = prop::sample::subsequence(VLANS.to_vec(), 0..=3).prop_map(|raw| raw.into_iter().map(vlan).collect());
    let trunk = (allowed, prop::option::of(any_segment()));
    prop_oneof![
        3 => Just(Vlans::default()),
        2 => any_segment().prop_map(Vlans::Access),
        3 => trunk.prop_map(|(allowed, native)| Vlans::Trunk { allowed, native }),
    ]
}

prop_compose! {
    fn any_policy()(
        forged_macs in prop::bool::weighted(0.3),
        mac_changes in prop::bool::weighted(0.5),
        promiscuous in prop::bool::weighted(0.2),
        others in prop::collection::vec(prop::bool::weighted(0.2), 5),
    ) -> Policy {
        Policy {
            forged_macs,
            mac_changes,
            promiscuous,
            forged_ips: others[0],
            forged_arp: others[1],
            forged_neighbours: others[2],
            dhcp_server: others[3],
            router_advertisements: others[4],
        }
    }
}

fn any_addresses() -> impl Strategy<Value = Addresses> {
    let fixed =
        prop::collection::vec((packet::any_address(), prop::sample::select(vec![0u8, 24, 64, 128, 128, 128])), 0..3);
    let fixed = fixed.prop_map(|fixed| {
        let net = |(address, len): (IpAddr, u8)| IpNet::new(address, len.min(if address.is_ipv4() { 32 } else { 128 }));
        fixed.into_iter().map(|fixed| net(fixed).unwrap()).collect()
    });
    prop_oneof![Just(Addresses::Any), (fixed, 0..3u32).prop_map(|(fixed, learn)| Addresses::Known { fixed, learn })]
}

fn any_rates() -> impl Strategy<Value = Rates> {
    let rate = (prop::sample::select(vec![1000u64, 9_999, 1_000_000]), prop::sample::select(vec![1u64, 200, 70_000]));
    let excess = prop_oneof![4 => Just(Excess::Drop), 1 => Just(Excess::Wait)];
    let rate = (rate, excess).prop_map(|((bits_per_s, burst_bytes), excess)| Rate { bits_per_s, burst_bytes, excess });
    let rate = || prop::option::weighted(0.15, rate.clone());
    (rate(), rate()).prop_map(|(from_port, to_port)| Rates { from_port, to_port })
}

prop_compose! {
    fn any_port(id: u32)(
        vswitch in 0..VSWITCHES,
        role in prop::sample::select(vec![Role::Vnic, Role::Vnic, Role::Gateway, Role::HostAdapter, Role::Uplink]),
        macs in prop::collection::btree_set(1u8..20, 0..3),
        range in prop::option::weighted(0.2, (1u8..24, 0u8..4)),
        vlans in any_vlans(),
        learn in prop_oneof![3 => Just(0), 1 => 1u32..4],
        policy in any_policy(),
        addresses in any_addresses(),
        rates in any_rates(),
    ) -> PortConfig {
        let provenance = Provenance::file("lab.toml", id);
        PortConfig {
            macs: macs.into_iter().map(mac).collect(),
            mac_ranges: range.map(|(first, more)| MacRange::new(mac(first), mac(first + more)).unwrap()).into_iter().collect(),
            vlans,
            learn,
            policy,
            addresses,
            rates,
            ..PortConfig::new(PortId(id), format!("p{id}").parse().unwrap(), VSwitchId(vswitch), role, provenance)
        }
    }
}

/// The vSwitches of all worlds.
pub(crate) fn vswitches() -> Vec<VSwitchConfig> {
    let vswitch = |id| {
        let provenance = Provenance::file("lab.toml", 100 + id);
        VSwitchConfig::new(VSwitchId(id), format!("n{id}").parse().unwrap(), provenance)
    };
    (0..VSWITCHES).map(vswitch).collect()
}

/// Ports as they come: two may have one address, or one vSwitch two uplinks.
pub(crate) fn any_ports() -> impl Strategy<Value = Vec<PortConfig>> {
    let ids = prop::sample::subsequence((0..PORTS).collect::<Vec<_>>(), 0..=PORTS as usize).prop_shuffle();
    ids.prop_flat_map(|ids| ids.into_iter().map(any_port).collect::<Vec<_>>())
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let ports = prop::collection::vec((0..PORTS).prop_map(PortId), 0..5);
    prop_oneof![
        3 => Just(Endpoint::Any),
        1 => ports.prop_map(Endpoint::Ports),
        1 => (packet::any_address(), 28u8..=32).prop_map(|(address, len)| {
            let len = if address.is_ipv4() { len } else { 96 + len };
            Endpoint::Prefix(IpNet::new(address, len).unwrap())
        }),
    ]
}

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let protocol = prop::sample::select(vec![6u8, 17, 1, 58, 47]).prop_map(Protocol);
    let range = || (0u16..600, 0u16..600).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let of_ports = (prop::sample::select(vec![6u8, 17]), range(), range());
    let of_icmp = (prop::sample::select(vec![1u8, 58]), prop::sample::select(vec![0u8, 8, 3, 128, 1]));
    prop_oneof![
        Just(Traffic::Any),
        protocol.prop_map(Traffic::Protocol),
        of_ports.prop_map(|(protocol, src, dst)| Traffic::Ports { protocol: Protocol(protocol), src, dst }),
        of_icmp.prop_map(|(protocol, kind)| Traffic::Icmp { protocol: Protocol(protocol), kind }),
    ]
}

fn any_acl() -> impl Strategy<Value = Acl> {
    let permission =
        || prop::sample::select(vec![Permission::Allow, Permission::Allow, Permission::Deny, Permission::Reject]);
    let rule = (permission(), any_endpoint(), any_endpoint(), any_traffic(), prop::bool::weighted(0.3));
    (prop::collection::vec(rule, 0..6), 0..70usize, permission(), 0..4u32).prop_map(
        |(rules, gap, default, connections)| {
            // Rules that fit nothing in between, so that there are more than fit into a word.
            let nobody = (Permission::Deny, Endpoint::Ports(Vec::new()), Endpoint::Any, Traffic::Any, false);
            let rules = rules.into_iter().flat_map(|rule| std::iter::repeat_n(nobody.clone(), gap / 3).chain([rule]));
            let rule = |(line, (permission, from, to, traffic, log)): (u32, _)| Rule {
                name: format!("r{line}"),
                permission,
                from,
                to,
                traffic,
                log,
                provenance: Provenance::file("lab.toml", 1000 + line),
            };
            Acl { rules: (0..).zip(rules).map(rule).collect(), default, connections }
        },
    )
}

/// A mirror, of and to ports that are chosen by number among those of a vSwitch.
#[derive(Clone, Debug)]
struct RawMirror {
    of: u16,
    to: Option<usize>,
    segments: Vec<Segment>,
    direction: Direction,
    filter: Option<MirrorFilter>,
}

fn any_mirror() -> impl Strategy<Value = RawMirror> {
    let net = || prop::option::of(packet::any_address().prop_map(IpNet::from));
    let filter = (net(), net(), any_traffic()).prop_map(|(from, to, traffic)| MirrorFilter { from, to, traffic });
    let direction = prop::sample::select(vec![Direction::In, Direction::Out, Direction::Both]);
    let segments = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(any_segment(), 1..3)];
    let of = prop_oneof![1 => Just(0), 3 => any::<u16>()];
    (of, prop::option::of(0usize..12), segments, direction, prop::option::weighted(0.4, filter))
        .prop_map(|(of, to, segments, direction, filter)| RawMirror { of, to, segments, direction, filter })
}

fn mirror(number: u32, raw: RawMirror, vswitch: VSwitchId, ports: &[Arc<PortConfig>]) -> Mirror {
    let members = || ports.iter().filter(|port| port.vswitch == vswitch);
    let ports: Vec<_> = members().filter(|port| raw.of >> port.id.0 & 1 == 1).map(|port| port.id).collect();
    let may_get =
        |port: &&Arc<PortConfig>| !ports.contains(&port.id) && matches!(port.role, Role::Vnic | Role::HostAdapter);
    let targets: Vec<_> = members().filter(may_get).collect();
    let target = raw.to.and_then(|to| targets.get(to % targets.len().max(1)));
    Mirror {
        id: MirrorId(number),
        name: format!("m{number}"),
        to: target.map_or(MirrorTarget::Outside, |port| MirrorTarget::Port(port.id)),
        ports,
        segments: raw.segments,
        direction: raw.direction,
        filter: raw.filter,
        snap_bytes: None,
        provenance: Provenance::file("lab.toml", 2000 + number),
    }
}

/// Worlds that are right: of two ports that cannot both be, the second gives way.
pub(crate) fn any_config() -> impl Strategy<Value = Config> {
    let mirrors = prop::collection::vec((0..VSWITCHES, any_mirror()), 0..4);
    let mode = prop::sample::select(vec![TeamMode::ActiveStandby, TeamMode::FlowHash]);
    let teams = prop::collection::vec(prop::option::weighted(0.4, mode), VSWITCHES as usize);
    (any_ports(), prop::option::of(any_acl()), prop::bool::weighted(0.3), mirrors, teams).prop_map(
        |(ports, mut acl, is_vepa, mirrors, teams)| {
            let mut config = Config { vswitches: vswitches(), ..Config::default() };
            for rule in acl.iter_mut().flat_map(|acl| &mut acl.rules) {
                for end in [&mut rule.from, &mut rule.to] {
                    if let Endpoint::Ports(members) = end {
                        members.retain(|id| ports.iter().any(|port| port.id == *id));
                    }
                }
            }
            config.vswitches[1].mode = if is_vepa { Mode::Vepa } else { Mode::Veb };
            for (vswitch, team) in config.vswitches.iter_mut().zip(teams) {
                vswitch.team = team.map(|mode| Team { mode, members: Vec::new() });
            }
            for port in ports {
                let team = &mut config.vswitches[port.vswitch.0 as usize].team;
                if let Some(team) = team.as_mut().filter(|_| port.role == Role::Uplink) {
                    team.members.insert(port.id.0 as usize % (team.members.len() + 1), port.id);
                }
                config.ports.push(Arc::new(port));
                if !Switch::new(0).problems(&config).is_empty() {
                    let port = Arc::make_mut(config.ports.last_mut().unwrap());
                    port.macs.clear();
                    port.mac_ranges.clear();
                    if let Some(team) = &mut config.vswitches[port.vswitch.0 as usize].team {
                        team.members.retain(|member| *member != port.id);
                    }
                    port.role = Role::Vnic;
                }
            }
            config.vswitches[0].acl = acl.map(Arc::new);
            for (number, (vswitch, raw)) in (0..).zip(mirrors) {
                let mirror = mirror(number, raw, VSwitchId(vswitch), &config.ports);
                config.vswitches[vswitch as usize].mirrors.push(mirror);
            }
            config
        },
    )
}

prop_compose! {
    /// Mostly frames that could pass, and some of every kind that cannot.
    pub(crate) fn any_frame()(
        ingress in 0..=PORTS,
        src in prop_oneof![9 => 1u8..20, 1 => any::<u8>()],
        dst in prop_oneof![6 => 0u8..24, 2 => 248u8..],
        tags in prop_oneof![4 => Just(vec![]), 4 => prop::collection::vec(any_tag(), 1), 1 => prop::collection::vec(any_tag(), 2)],
        cut in prop::option::weighted(0.05, 0usize..20),
        more in prop_oneof![8 => Just(0), 2 => 0usize..70_000],
        packet in prop::option::weighted(0.8, packet::any_packet()),
    ) -> Frame {
        let packet = packet.map_or(vec![8, 0], |packet| packet.bytes(src));
        let mut frame = Frame::with(ingress, src, dst, &tags, &packet);
        frame.head.truncate(cut.unwrap_or(usize::MAX));
        frame.len = frame.head.len() + more;
        frame
    }
}

fn any_tag() -> impl Strategy<Value = (u16, u16)> {
    let vlan = prop_oneof![6 => prop::sample::select(VLANS.to_vec()), 1 => Just(0), 1 => Just(30), 1 => Just(4095)];
    let kind = prop_oneof![5 => Just(0x8100), 1 => Just(0x88a8)];
    (kind, vlan, 0..16u16).prop_map(|(kind, vlan, priority)| (kind, priority << 12 | vlan))
}

prop_compose! {
    fn any_filter()(
        stations in prop::collection::vec(1u8..24, 0..4),
        groups in prop_oneof![9 => prop::collection::vec(247u8..=255, 0..3), 1 => Just(vec![251; 65])],
        all_multicast in prop::bool::weighted(0.2),
        promiscuous in prop::bool::weighted(0.3),
    ) -> ReceiveFilter {
        let macs = |numbers: Vec<u8>| numbers.into_iter().map(mac).collect();
        ReceiveFilter { stations: macs(stations), groups: macs(groups), all_multicast, promiscuous }
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Configure(Config),
    Filter(PortId, ReceiveFilter),
    Link(PortId, bool),
    Wait(Duration),
    Frame(Frame),
}

/// A port that comes, or becomes otherwise, or goes.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    id: PortId,
    port: Option<PortConfig>,
    place: usize,
}

pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    let port = (0..PORTS).prop_flat_map(|id| (Just(PortId(id)), prop::option::weighted(0.7, any_port(id))));
    (port, any::<usize>()).prop_map(|((id, port), place)| Change { id, port, place })
}

impl Change {
    /// A configuration after it, right or wrong.
    pub(crate) fn of(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.ports.retain(|port| port.id != self.id);
        if let Some(port) = &self.port {
            config.ports.insert(self.place % (config.ports.len() + 1), Arc::new(port.clone()));
        }
        config
    }

    /// The same, where what would be wrong does not happen, or only in part.
    pub(crate) fn of_right(&self, config: &Config) -> Config {
        let is_right = |config: &Config| Switch::new(0).problems(config).is_empty();
        let modest = self.port.clone().map(|port| PortConfig {
            macs: Vec::new(),
            mac_ranges: Vec::new(),
            role: Role::Vnic,
            ..port
        });
        let modest = Self { port: modest, ..self.clone() };
        let mut changed = [self.of(config), modest.of(config)].into_iter().filter(is_right);
        changed.next().unwrap_or_else(|| config.clone())
    }
}

/// A life: it starts with a configuration.
pub(crate) fn any_life() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => any_config().prop_map(Event::Configure),
        3 => (0..PORTS, any_filter()).prop_map(|(id, filter)| Event::Filter(PortId(id), filter)),
        2 => (0..PORTS, any::<bool>()).prop_map(|(id, is_up)| Event::Link(PortId(id), is_up)),
        2 => (0..200u64).prop_map(|seconds| Event::Wait(Duration::from_secs(seconds))),
        40 => any_frame().prop_map(Event::Frame),
    ];
    let event = prop_oneof![9 => event.prop_map(Ok), 1 => any_change().prop_map(Err)];
    (any_config(), prop::collection::vec(event, 1..120)).prop_map(|(mut config, events)| {
        let first = Event::Configure(config.clone());
        let rest = events.into_iter().map(|event| {
            let event = event.unwrap_or_else(|change: Change| Event::Configure(change.of_right(&config)));
            if let Event::Configure(new) = &event {
                config = new.clone();
            }
            event
        });
        std::iter::once(first).chain(rest).collect()
    })
}
