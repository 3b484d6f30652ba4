//! Law 6: who may begin what with whom.

use std::net::IpAddr;
use std::time::Duration;

use weft_switch::{Acl, DropReason, Endpoint, Permission, PortConfig, Rule, Traffic, VSwitchId};
use weft_types::{Instant, PortId};

use super::guard::{Packet, be16, packet};
use super::{Model, vlan};

type End = (IpAddr, u16);

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    vswitch: VSwitchId,
    segment: u16,
    protocol: u8,
    ends: (End, End),
    owner: PortId,
    /// 0: nobody answered; 1: both have spoken; 2: it is ending.
    phase: u8,
    refreshed: Instant,
    generation: u64,
}

impl Connection {
    fn is_live(&self, now: Instant) -> bool {
        let seconds = match (self.phase, self.protocol) {
            (0 | 2, _) | (_, 1 | 58) => 30,
            (_, 6) => 7440,
            _ => 300,
        };
        now < self.refreshed + Duration::from_secs(seconds)
    }
}

/// A frame as rules see it: what begins, or would.
#[derive(Clone, Copy)]
struct Beginning<'a> {
    from: &'a PortConfig,
    to: &'a PortConfig,
    ips: Option<(IpAddr, IpAddr)>,
    protocol: u8,
    /// `None` in a later fragment.
    ports: Option<(u16, u16)>,
}

impl Beginning<'_> {
    fn reversed(self) -> Self {
        let back = |(src, dst): (u16, u16)| match (self.protocol, dst >> 8) {
            (1, 0) => (src, 8 << 8),
            (58, 129) => (src, 128 << 8),
            (1 | 58, _) => (src, dst),
            _ => (dst, src),
        };
        Self { from: self.to, to: self.from, ips: self.ips.map(|(a, b)| (b, a)), ports: self.ports.map(back), ..self }
    }
}

fn is_end(end: &Endpoint, port: &PortConfig, ip: Option<IpAddr>) -> bool {
    match end {
        Endpoint::Any => true,
        Endpoint::Ports(ports) => ports.contains(&port.id),
        Endpoint::Prefix(prefix) => ip.is_some_and(|ip| prefix.contains(&ip)),
    }
}

fn fits(rule: &Rule, it: &Beginning<'_>) -> bool {
    let traffic = match (&rule.traffic, it.ips, it.ports) {
        (Traffic::Any, ..) => true,
        (_, None, _) => false,
        (Traffic::Protocol(protocol), ..) => protocol.0 == it.protocol,
        (Traffic::Ports { protocol, .. } | Traffic::Icmp { protocol, .. }, _, None) => {
            protocol.0 == it.protocol && rule.permission == Permission::Allow
        }
        (Traffic::Ports { protocol, src, dst }, _, Some(ports)) => {
            protocol.0 == it.protocol && src.contains(&ports.0) && dst.contains(&ports.1)
        }
        (Traffic::Icmp { protocol, kind }, _, Some(ports)) => {
            protocol.0 == it.protocol && ports.1 >> 8 == u16::from(*kind)
        }
    };
    let (src, dst) = (it.ips.map(|ips| ips.0), it.ips.map(|ips| ips.1));
    traffic && is_end(&rule.from, it.from, src) && is_end(&rule.to, it.to, dst)
}

/// What a list says, and by which rule.
type Ruling = (Permission, Option<usize>);

fn one_way(acl: &Acl, it: &Beginning<'_>) -> Ruling {
    let rule = acl.rules.iter().position(|rule| fits(rule, it));
    (rule.map_or(acl.default, |rule| acl.rules[rule].permission), rule)
}

fn ruling(acl: &Acl, it: &Beginning<'_>) -> Ruling {
    let is_later = it.ips.is_some() && it.ports.is_none();
    let (forth, back) = (one_way(acl, it), one_way(acl, &it.reversed()));
    if forth.0 != Permission::Allow && is_later && back.0 == Permission::Allow { back } else { forth }
}

/// A packet as lists see it; `Err` when it hides what it is, `None` when it is free or none.
fn read(frame: &[u8]) -> Result<Option<Packet<'_>>, bool> {
    let at = if vlan::is_tag(&frame[12..]) { 16 } else { 12 };
    let ethertype = be16(&frame[at..]);
    if ethertype == 0x0806 {
        return Ok(None);
    }
    let Some(packet) = packet(ethertype, &frame[at + 2..]) else { return Err(false) };
    if packet.is_later {
        return Ok(Some(packet));
    }
    let Some(transport) = packet.transport else { return Err(true) };
    let is_v6 = ethertype == 0x86dd;
    let is_free = match packet.protocol {
        17 if is_v6 => be16(transport) == 547,
        17 => be16(transport) == 67 || be16(transport) == 68 && be16(&transport[2..]) == 67,
        58 if is_v6 => matches!(transport[0], 130..=137 | 143),
        _ => false,
    };
    Ok((!is_free).then_some(packet))
}

pub(super) fn ports(packet: &Packet<'_>) -> Option<(u16, u16)> {
    let transport = packet.transport.filter(|_| !packet.is_later)?;
    Some(match packet.protocol {
        6 | 17 | 132 | 33 | 136 => (be16(transport), be16(&transport[2..])),
        1 | 58 => (0, be16(transport)),
        _ => (0, 0),
    })
}

impl Model {
    fn acl(&self, port: &PortConfig) -> Option<Acl> {
        self.config.vswitches.iter().find(|vswitch| vswitch.id == port.vswitch)?.acl.as_deref().cloned()
    }

    /// What a list says, counted.
    fn ask(&mut self, acl: &Acl, it: &Beginning<'_>) -> Result<(), DropReason> {
        let (permission, rule) = ruling(acl, it);
        if let Some(rule) = rule {
            *self.rule_counts.entry((it.from.vswitch, rule)).or_default() += 1;
        }
        match permission {
            Permission::Allow => Ok(()),
            Permission::Deny => Err(DropReason::AclDenied),
            Permission::Reject => Err(DropReason::AclRejected),
        }
    }

    pub(crate) fn may_hear(&mut self, from: &PortConfig, to: &PortConfig, frame: &[u8]) -> bool {
        let Some(acl) = self.acl(from) else { return true };
        let it = match read(frame) {
            Ok(None) => return true,
            Err(true) => return false,
            Err(false) => Beginning { from, to, ips: None, protocol: 0, ports: None },
            Ok(Some(packet)) => {
                let ips = packet.src.map(|src| (src, packet.dst));
                Beginning { from, to, ips, protocol: packet.protocol, ports: ports(&packet) }
            }
        };
        self.ask(&acl, &it).is_ok()
    }

    fn live(&self, now: Instant, from: &PortConfig, segment: u16, protocol: u8, ends: (End, End)) -> Option<usize> {
        self.connections.iter().position(|known| {
            (known.vswitch, known.segment, known.protocol, known.ends) == (from.vswitch, segment, protocol, ends)
                && known.is_live(now)
        })
    }

    /// Whether a frame for one port may go there.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        from: &PortConfig,
        to: &PortConfig,
        segment: u16,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let Some(acl) = self.acl(from) else { return Ok(()) };
        let packet = match read(frame) {
            Ok(None) => return Ok(()),
            Err(true) => return Err(DropReason::Unreadable),
            Err(false) => return self.ask(&acl, &Beginning { from, to, ips: None, protocol: 0, ports: None }),
            Ok(Some(packet)) => packet,
        };
        let ips = packet.src.map(|src| (src, packet.dst)).unwrap();
        let it = Beginning { from, to, ips: Some(ips), protocol: packet.protocol, ports: ports(&packet) };
        let (Some(mut numbers), Some(transport)) = (it.ports, packet.transport) else { return self.ask(&acl, &it) };
        let (mut begins, mut answers) = (true, true);
        if matches!(packet.protocol, 1 | 58) {
            let kind = transport[0];
            let is_v6 = packet.protocol == 58;
            (begins, answers) = if is_v6 { (kind == 128, kind == 129) } else { (kind == 8, kind == 0) };
            let is_error = if is_v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
            if is_error && self.is_related(now, from, segment, ips.0.is_ipv6(), transport) {
                return Ok(());
            }
            if !(begins || answers) || transport.len() < 6 {
                return self.ask(&acl, &it);
            }
            numbers = (be16(&transport[4..]), be16(&transport[4..]));
        }
        let ends = ((ips.0, numbers.0), (ips.1, numbers.1));
        let flags = if packet.protocol == 6 { transport.get(13).copied().unwrap_or(0) } else { 0 };
        let after = |phase: u8, is_answer: bool| match phase {
            _ if flags & 5 != 0 => 2,
            _ if flags & 2 != 0 && !is_answer => 0,
            0 if is_answer => 1,
            phase => phase,
        };
        let begun = self.live(now, from, segment, packet.protocol, ends).map(|at| (at, false));
        let answered = || self.live(now, from, segment, packet.protocol, (ends.1, ends.0)).map(|at| (at, true));
        let begun = begun.filter(|_| begins);
        let answered = || answered().filter(|_| answers);
        if let Some((at, is_answer)) = begun.or_else(answered) {
            if self.connections[at].generation != self.generation {
                let asked = self.ask(&acl, &if is_answer { it.reversed() } else { it });
                if asked.is_err() {
                    self.connections.remove(at);
                    return asked;
                }
            }
            let generation = self.generation;
            let known = &mut self.connections[at];
            let phase = after(known.phase, is_answer);
            if phase != known.phase || now.since(known.refreshed) >= Duration::from_secs(5) {
                (known.phase, known.refreshed) = (phase, now);
            }
            known.generation = generation;
            return Ok(());
        }
        self.ask(&acl, &it)?;
        if !begins {
            return Ok(());
        }
        let own = self.connections.iter().filter(|known| known.owner == from.id && known.is_live(now)).count();
        if own >= acl.connections as usize {
            return Err(DropReason::ConnectionLimit);
        }
        self.connections.retain(|known| known.is_live(now));
        self.connections.push(Connection {
            vswitch: from.vswitch,
            segment,
            protocol: packet.protocol,
            ends,
            owner: from.id,
            phase: after(0, false),
            refreshed: now,
            generation: self.generation,
        });
        Ok(())
    }

    /// Whether an ICMP error is about a connection that may be.
    fn is_related(&self, now: Instant, from: &PortConfig, segment: u16, is_v6: bool, message: &[u8]) -> bool {
        let Some(quoted) = message.get(8..).and_then(|quote| packet(if is_v6 { 0x86dd } else { 0x0800 }, quote)) else {
            return false;
        };
        let (Some(src), Some(ports)) = (quoted.src, ports(&quoted)) else { return false };
        let ends = ((src, ports.0), (quoted.dst, ports.1));
        let is_icmp = matches!(quoted.protocol, 1 | 58);
        let found = [ends, (ends.1, ends.0)].into_iter().any(|ends| {
            let at = self.live(now, from, segment, quoted.protocol, ends);
            at.is_some_and(|at| self.connections[at].generation == self.generation)
        });
        found && !is_icmp
    }

    /// After a new configuration: each connection is looked at again when it is used.
    pub(crate) fn keep_connections(&mut self) {
        self.generation += 1;
        self.rule_counts.clear();
        let ports = &self.config.ports;
        self.connections.retain(|known| {
            let owner = ports.iter().find(|port| port.id == known.owner);
            owner.is_some_and(|port| port.vswitch == known.vswitch && vlan::carries(&port.vlans, known.segment))
        });
    }
}
