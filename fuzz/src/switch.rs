//! A whole life of the switch: bytes decode into actions on the switch and on its naive model, which must agree.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_switch::{
    Acl, Addresses, Config, Direction, DropReason, Endpoint, Excess, Mirror, MirrorCopy, MirrorFilter, MirrorId,
    MirrorTarget, Mode, Outcome, Output, Permission, Policy, PortConfig, Rate, Rates, ReceiveFilter, Role, Rule,
    Segment, Switch, Team, TeamMode, Traffic, VSwitchConfig, VSwitchId, Verdict, Vlans,
};
use weft_types::{Instant, IpNet, MacAddr, MacRange, PortId, Provenance, VlanId};
use weft_wire::{Protocol, TagEdit};

#[path = "../../crates/switch/tests/laws/model/mod.rs"]
mod model;

use model::mirror::Copies;
use model::{Fate, Model};

/// So many ports a configuration has at most.
const MAX_PORTS: u8 = 16;

/// The switch three times over, its model, and their time.
struct World {
    switches: [Switch; 3],
    model: Model,
    now: Instant,
}

/// Actions, each a byte and what it takes. `0`: become another configuration. `1`: a frame of numbered addresses,
/// most of which are known. `2`: the same with a tag. `3`: a receive filter. `4`: time passes. `5`: a link
/// goes up or down. `6`: one thing of the configuration changes. `7`: a datagram. All others: a frame of any bytes.
pub(crate) fn switch_life(data: &[u8]) {
    let mut bytes = Bytes(data);
    // A cache of one set, so that flows give way to each other.
    let switches = [Switch::with_capacity(1, 64), Switch::with_capacity(1, 1), Switch::new(1).without_cache()];
    let mut world = World { switches, model: Model::default(), now: Instant::ZERO };
    while let Some(action) = bytes.next() {
        match action {
            0 => world.configure(&configuration(&mut bytes)),
            1 => {
                let [ingress, src, dst] = bytes.take();
                world.send(ingress, &numbered(src, dst, &[8, 0]));
            }
            2 => {
                let [ingress, src, dst, priority, vlan] = bytes.take();
                world.send(ingress, &numbered(src, dst, &[0x81, 0, priority, vlan, 8, 0]));
            }
            3 => {
                let [port, flags, stations, groups] = bytes.take();
                let mut macs = |count: u8| (0..count % 8).map(|_| mac(bytes.next().unwrap_or(0))).collect();
                let filter = ReceiveFilter {
                    stations: macs(stations),
                    groups: macs(groups),
                    all_multicast: flags & 1 != 0,
                    promiscuous: flags & 2 != 0,
                };
                let port = PortId(u32::from(port % MAX_PORTS));
                let reports = world.switches.each_mut().map(|switch| switch.set_receive_filter(port, &filter));
                assert!(reports.iter().all(|report| *report == reports[0]));
                world.model.set_filter(port, &filter);
            }
            4 => {
                let [seconds] = bytes.take();
                world.now += Duration::from_secs(seconds.into());
            }
            5 => {
                let [port] = bytes.take();
                let (port, is_up) = (PortId(u32::from(port % MAX_PORTS)), port < 128);
                let known = world.switches.each_mut().map(|switch| switch.set_link(port, is_up));
                assert!(known.iter().all(|is_known| *is_known == known[0]));
                world.model.set_link(port, is_up);
            }
            6 => {
                let config = changed(world.model.config.clone(), &mut bytes);
                world.configure(&config);
            }
            7 => {
                let [ingress, src, dst, tag] = bytes.take();
                let tag = [0x81, 0, tag & 0xe0, tag & 0x1f];
                let tag = if tag[3] == 0x1f { &[] } else { &tag[..] };
                let frame = numbered(src, dst, &[tag, &datagram(&mut bytes)].concat());
                world.send(ingress, &frame);
            }
            len => {
                let [ingress] = bytes.take();
                let frame = bytes.slice(len.into());
                world.send(ingress, frame);
            }
        }
    }
}

/// A short frame between two numbered addresses.
fn numbered(src: u8, dst: u8, rest: &[u8]) -> Vec<u8> {
    [&mac(dst).octets(), &mac(src).octets(), rest].concat()
}

/// An EtherType and an IPv4 packet between two numbered addresses: of any protocol, with ports, or a fragment.
fn datagram(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let [src, dst, protocol, fragment, from, to] = bytes.take();
    let protocol = if protocol < 128 { 17 } else { protocol };
    let mut packet = vec![8, 0, 0x45, 0, 0, 28, 0, 0, fragment & 0x20, fragment & 0x1f, 64, protocol, 0, 0];
    packet.extend_from_slice(&[10, 0, 0, src, 10, 0, 0, dst]);
    packet.extend_from_slice(&[from, 0, to, 0, 0, 8, 0, 0]);
    packet
}

/// The configuration with one thing changed: most of what was known goes on.
fn changed(mut config: Config, bytes: &mut Bytes<'_>) -> Config {
    let [what, port, value] = bytes.take();
    config.generation = config.generation.wrapping_add(1);
    let index = usize::from(port) % config.ports.len().max(1);
    match (what % 13, config.ports.get_mut(index).map(Arc::make_mut), config.vswitches.first_mut()) {
        (0, ..) => config.ports.push(self::port(bytes).into()),
        (1, Some(_), _) => drop(config.ports.remove(index)),
        (2, Some(port), _) => port.vlans = vlans(value, bytes),
        (3, Some(port), _) => port.macs = vec![mac(value)],
        (4, Some(port), _) => port.learn = (value % 4).into(),
        (5, Some(port), _) => port.rates = rates(bytes),
        (6, Some(port), _) => port.policy = policy(value),
        (7, Some(port), _) => port.role = role(value),
        (8, Some(port), _) => port.addresses = addresses(bytes),
        (9, _, Some(vswitch)) => vswitch.mode = if value & 1 == 0 { Mode::Veb } else { Mode::Vepa },
        (10, _, Some(vswitch)) => vswitch.acl = acl(bytes),
        (11, _, Some(vswitch)) => vswitch.mirrors = (0..value % 5).map(|number| mirror(number, bytes.take())).collect(),
        (12, ..) => team(&mut config, value),
        _ => {}
    }
    config
}

impl World {
    fn configure(&mut self, config: &Config) {
        let results = self.switches.each_mut().map(|switch| switch.configure(config.clone()));
        assert!(results.iter().all(|result| *result == results[0]));
        match &results[0] {
            Ok(()) => self.model.configure(config.clone()),
            Err(problems) => assert!(problems.iter().all(|problem| !problem.to_string().is_empty())),
        }
    }

    fn send(&mut self, ingress: u8, frame: &[u8]) {
        let (ingress, now) = (PortId(u32::from(ingress % (MAX_PORTS + 1))), self.now);
        let traces = self.switches.each_ref().map(|switch| switch.explain(now, ingress, frame, frame.len()));
        let (expected, copies) = self.model.decide(now, ingress, frame, frame.len());
        let is_port = self.model.config.ports.iter().any(|port| port.id == ingress);
        let left = |port: PortId, edit: TagEdit| {
            let mut frame = frame.to_vec();
            edit.apply(&mut frame).expect("an edit that fits the frame");
            (port, frame)
        };
        for (switch, trace) in self.switches.iter_mut().zip(traces) {
            let explained: Fate = match trace.outcome {
                Outcome::Drop(reason) => Err(reason),
                Outcome::Forward => Ok(trace.egress.iter().map(|egress| left(egress.id, egress.edit)).collect()),
            };
            assert_eq!(explained, expected, "{trace}");
            let before: u64 = switch.drops(ingress).map(|(_, frames)| frames).sum();
            let decided: Fate = match switch.forward(now, ingress, frame, frame.len()) {
                Verdict::Drop(reason) => Err(reason),
                Verdict::Forward(outputs) => {
                    let ports: BTreeSet<_> = outputs.iter().map(|output| output.port).collect();
                    assert_eq!(ports.len(), outputs.len(), "a port is named twice");
                    Ok(outputs.iter().map(|Output { port, edit }| left(*port, *edit)).collect())
                }
            };
            let counted = switch.drops(ingress).map(|(_, frames)| frames).sum::<u64>() - before;
            assert_eq!(counted, u64::from(decided.is_err() && is_port));
            assert_eq!(decided, expected, "{trace}");
            let copy = |copy: &MirrorCopy| match copy.to {
                MirrorTarget::Port(port) => (copy.mirror, Some(port), left(port, copy.edit).1),
                MirrorTarget::Outside => (copy.mirror, None, frame.to_vec()),
            };
            assert_eq!(switch.copies().iter().map(copy).collect::<Copies>(), copies, "{trace}");
            assert_eq!(trace.copies, switch.copies(), "{trace}");
            if expected == Err(DropReason::AclRejected) {
                assert!(switch.answer().is_none_or(|answer| answer.len() <= frame.len() + 48));
            }
            assert!(switch.rule_log().decisions().count() <= 256);
        }
    }
}

/// Any configuration, the wrong ones too.
fn configuration(bytes: &mut Bytes<'_>) -> Config {
    let [generation, vswitches, ports] = bytes.take();
    let vswitch = |id: u8| {
        let name = format!("n{id}").parse().expect("a name");
        VSwitchConfig::new(VSwitchId(id.into()), name, Provenance::command("fuzz"))
    };
    let mut config = Config { generation: generation.into(), ..Config::default() };
    config.vswitches = (0..vswitches % 4).map(vswitch).collect();
    if let Some(first) = config.vswitches.first_mut() {
        first.acl = acl(bytes);
    }
    if let Some(last) = config.vswitches.last_mut().filter(|_| vswitches & 4 != 0) {
        last.mode = Mode::Vepa;
    }
    for _ in 0..ports % (MAX_PORTS + 1) {
        config.ports.push(port(bytes).into());
    }
    if let Some(first) = config.vswitches.first_mut() {
        let [mirrors] = bytes.take();
        first.mirrors = (0..mirrors % 5).map(|number| mirror(number, bytes.take())).collect();
    }
    let [index] = bytes.take();
    let rates = rates(bytes);
    if let Some(port) = config.ports.get_mut(usize::from(index)) {
        Arc::make_mut(port).rates = rates;
    }
    let [bits] = bytes.take();
    team(&mut config, bits);
    config
}

/// Policing, or shaping, which is not the switch's.
fn rates(bytes: &mut Bytes<'_>) -> Rates {
    let [from_port, to_port, burst] = bytes.take();
    let excess = if burst < 240 { Excess::Drop } else { Excess::Wait };
    let rate = |kilobits: u8| {
        let bits_per_s = u64::from(kilobits) * 1000;
        (kilobits != 0).then_some(Rate { bits_per_s, burst_bytes: burst.into(), excess })
    };
    Rates { from_port: rate(from_port), to_port: rate(to_port) }
}

/// All uplinks of the first vSwitch are a team, or none is.
fn team(config: &mut Config, bits: u8) {
    let Some(first) = config.vswitches.first_mut() else { return };
    let mode = if bits & 2 == 0 { TeamMode::ActiveStandby } else { TeamMode::FlowHash };
    let is_uplink = |port: &&Arc<PortConfig>| port.role == Role::Uplink && port.vswitch == first.id;
    let members = config.ports.iter().filter(is_uplink).map(|port| port.id).collect();
    first.team = (bits & 1 != 0).then_some(Team { mode, members });
}

fn mirror(number: u8, [of, to, kind, protocol, low, high]: [u8; 6]) -> Mirror {
    let port = |raw: u8| PortId(u32::from(raw % MAX_PORTS));
    let traffic = match kind >> 6 {
        0 => Traffic::Any,
        1 => Traffic::Protocol(Protocol(protocol)),
        2 => Traffic::Icmp { protocol: Protocol::ICMP, kind: protocol },
        _ => {
            let dst = u16::from(low) << 8..=u16::from(high) << 8;
            Traffic::Ports { protocol: Protocol(protocol), src: 0..=u16::MAX, dst }
        }
    };
    Mirror {
        id: MirrorId(number.into()),
        name: number.to_string(),
        ports: if of < 128 { vec![port(of)] } else { Vec::new() },
        segments: if kind & 4 == 0 { Vec::new() } else { vec![Segment::Untagged] },
        direction: [Direction::Both, Direction::In, Direction::Out, Direction::Both][usize::from(kind & 3)],
        filter: (kind & 8 != 0).then_some(MirrorFilter { from: None, to: None, traffic }),
        snap_bytes: None,
        to: if to < 128 { MirrorTarget::Port(port(to)) } else { MirrorTarget::Outside },
        provenance: Provenance::file("fuzz.toml", number.into()),
    }
}

fn port(bytes: &mut Bytes<'_>) -> PortConfig {
    let [id, vswitch, role, policy, first, second, last, vlans, learn] = bytes.take();
    let (name, place) = (format!("p{id}").parse().expect("a name"), Provenance::file("fuzz.toml", id.into()));
    let number = PortId(u32::from(id % MAX_PORTS));
    PortConfig {
        macs: [first, second].into_iter().filter(|number| *number != 0).map(mac).collect(),
        mac_ranges: MacRange::new(mac(second), mac(last)).into_iter().collect(),
        vlans: self::vlans(vlans, bytes),
        learn: (learn % 4).into(),
        addresses: addresses(bytes),
        policy: self::policy(policy),
        ..PortConfig::new(number, name, VSwitchId(u32::from(vswitch % 4)), self::role(role), place)
    }
}

fn role(number: u8) -> Role {
    [Role::Vnic, Role::Gateway, Role::HostAdapter, Role::Uplink][usize::from(number % 4)]
}

fn policy(policy: u8) -> Policy {
    Policy {
        forged_macs: policy & 1 != 0,
        promiscuous: policy & 2 != 0,
        mac_changes: policy & 4 != 0,
        forged_ips: policy & 8 != 0,
        forged_arp: policy & 16 != 0,
        forged_neighbours: policy & 32 != 0,
        dhcp_server: policy & 64 != 0,
        router_advertisements: policy & 128 != 0,
    }
}

fn acl(bytes: &mut Bytes<'_>) -> Option<Arc<Acl>> {
    let permission = |bits: u8| match bits & 9 {
        0 | 8 => Permission::Allow,
        1 => Permission::Deny,
        _ => Permission::Reject,
    };
    let [rules, default, connections] = bytes.take();
    let rule = |line: u8, [bits, from, to, protocol, low, high]: [u8; 6]| Rule {
        name: format!("r{line}"),
        permission: permission(bits),
        from: if bits & 2 == 0 { Endpoint::Any } else { Endpoint::Ports(vec![PortId(u32::from(from % MAX_PORTS))]) },
        to: if bits & 4 == 0 { Endpoint::Any } else { Endpoint::Prefix(IpNet::from(IpAddr::from([10, 0, 0, to]))) },
        traffic: match bits >> 6 {
            0 => Traffic::Any,
            1 => Traffic::Protocol(Protocol(protocol)),
            2 => Traffic::Icmp { protocol: Protocol::ICMP, kind: protocol },
            _ => Traffic::Ports {
                protocol: Protocol(protocol),
                src: 0..=u16::MAX,
                dst: u16::from(low) << 8..=u16::from(high) << 8,
            },
        },
        log: bits & 16 != 0,
        provenance: Provenance::file("fuzz.toml", line.into()),
    };
    let rules = (0..rules % 16).map(|line| rule(line, bytes.take())).collect();
    let acl = Acl { rules, default: permission(default), connections: (connections % 4).into() };
    (default & 2 != 0).then(|| acl.into())
}

fn addresses(bytes: &mut Bytes<'_>) -> Addresses {
    let [kind, host, learn] = bytes.take();
    let fixed = IpNet::from(IpAddr::from([10, 0, 0, host]));
    match kind % 3 {
        0 => Addresses::Any,
        1 => Addresses::Known { fixed: Vec::new(), learn: (learn % 4).into() },
        _ => Addresses::Known { fixed: vec![fixed], learn: (learn % 4).into() },
    }
}

fn vlans(kind: u8, bytes: &mut Bytes<'_>) -> Vlans {
    let segment = |raw: u8| VlanId::try_from(u16::from(raw)).map_or(Segment::Untagged, Segment::Vlan);
    match kind % 4 {
        0 => Vlans::default(),
        1 => Vlans::Access(segment(bytes.take::<1>()[0])),
        with_native => {
            let [first, second, native] = bytes.take();
            let allowed = [first, second].into_iter().filter_map(|raw| VlanId::try_from(u16::from(raw)).ok());
            Vlans::Trunk { allowed: allowed.collect(), native: (with_native == 3).then(|| segment(native)) }
        }
    }
}

/// Addresses by number: stations, and at the end one of every other kind.
fn mac(number: u8) -> MacAddr {
    match number {
        0 => MacAddr::ZERO,
        253 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x0e]),
        254 => MacAddr::new([0x33, 0x33, 0, 0, 0, 1]),
        255 => MacAddr::BROADCAST,
        station => MacAddr::new([2, 0, 0, 0, 0, station]),
    }
}

/// The rest of the input; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().unwrap_or(0))
    }

    fn slice(&mut self, len: usize) -> &'a [u8] {
        let (slice, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        slice
    }
}
