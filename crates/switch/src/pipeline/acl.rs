//! Who may begin what with whom (law 6).

use std::net::IpAddr;
use std::ops::ControlFlow;

use weft_types::Instant;
use weft_wire::Protocol;

use super::{Action, Context, Continue, Fields};
use crate::connections::{Phase, REFRESH, Touch, Tuple};
use crate::frame::Frame;
use crate::packet::{Class, Packet, Piece};
use crate::rules::{Query, Rules};
use crate::table::{PortIndex, Tables};
use crate::{DropReason, Permission};

const TCP_END: u8 = 0x05; // FIN, RST
const TCP_SYN: u8 = 0x02;

/// Of a TCP segment, what begins or ends a connection.
pub(crate) const TCP_CONTROL: u8 = TCP_END | TCP_SYN;

/// What lets hosts find each other and their addresses is guarded by port policy, and free here.
fn is_free(packet: &Packet) -> bool {
    !matches!(packet.class, Class::Other | Class::Unreadable)
}

/// Whether a frame for one port may go there: because it belongs to a connection that was let begin, or begins one.
pub(super) fn check(cx: &mut Context<'_>, target: PortIndex) -> ControlFlow<Action> {
    let Some(rules) = &cx.vswitch().rules else { return Continue(()) };
    cx.stage = "acl";
    cx.consulted = cx.consulted.and(Fields::PACKET);
    let packet = *cx.frame.packet;
    if is_free(&packet) {
        return Continue(());
    }
    let Some(((src, dst), (src_port, dst_port))) = packet.ends() else { return rule(cx, rules, target, false) };
    if packet.class == Class::Unreadable || packet.transport_at == 0 && packet.fragment != Piece::Later {
        return cx.drop(DropReason::Unreadable, None, || "what the packet carries cannot be seen".to_owned());
    }
    let icmp = packet.icmp();
    let (src_port, dst_port) = match icmp {
        None => (src_port, dst_port),
        Some(kind) => {
            cx.until = Instant::ZERO;
            match (kind, cx.echo_ident()) {
                (Icmp::Request | Icmp::Reply, Some(ident)) => (ident, ident),
                (Icmp::Error, _) if cx.is_related() => {
                    cx.found(None, || "it is about a connection that may be".to_owned());
                    return Continue(());
                }
                _ => return rule(cx, rules, target, false),
            }
        }
    };
    if packet.fragment == Piece::Later {
        return rule(cx, rules, target, false);
    }
    let (vswitch, segment) = (cx.vswitch().config.id, cx.segment);
    let tuple = Tuple { vswitch, segment, protocol: packet.protocol, src: (src, src_port), dst: (dst, dst_port) };
    let connections = &cx.knowledge.connections;
    // Of echoes only a request begins, and only a reply answers: their one number does not tell who asked.
    let (may_begin, may_answer) = (icmp != Some(Icmp::Reply), icmp != Some(Icmp::Request));
    let known = |tuple: Tuple, is_answer| connections.get(cx.now, &tuple).map(|known| (known, tuple, is_answer));
    let begun = may_begin.then(|| known(tuple, false)).flatten();
    let answered = || may_answer.then(|| known(tuple.reversed(), true)).flatten();
    let Some((known, tuple, is_answer)) = begun.or_else(answered) else {
        rule(cx, rules, target, false)?;
        if !may_begin {
            return Continue(());
        }
        let (owner, limit) = (cx.ingress().config.id, rules.acl.connections);
        if !connections.has_room(cx.now, owner, limit) {
            cx.effects.full = true;
            return cx.drop(DropReason::ConnectionLimit, None, || format!("the port has begun {limit} connections"));
        }
        return go_on(cx, Touch { tuple, owner, phase: Phase::Opening.after(&packet, false), limit }, None);
    };
    if known.generation == connections.generation {
        cx.found(None, || "it belongs to a connection that may be".to_owned());
    } else if let end @ ControlFlow::Break(_) = rule(cx, rules, target, is_answer) {
        cx.effects.end = Some(tuple);
        return end;
    }
    let phase = known.phase.after(&packet, is_answer);
    let refreshed = (phase == known.phase).then_some(known.refreshed);
    go_on(cx, Touch { tuple, owner: known.owner, phase, limit: rules.acl.connections }, refreshed)
}

/// The frame passes as part of a connection, which was `refreshed` then, if nothing about it changes.
fn go_on(cx: &mut Context<'_>, touch: Touch, refreshed: Option<Instant>) -> ControlFlow<Action> {
    cx.effects.touch = Some(touch);
    let last = refreshed.filter(|last| cx.now.since(*last) < REFRESH).unwrap_or(cx.now);
    let is_control = cx.frame.packet.protocol == Protocol::TCP.0 && cx.frame.packet.flags & TCP_CONTROL != 0;
    cx.until = if is_control { Instant::ZERO } else { cx.until.min(last + REFRESH) };
    Continue(())
}

/// What the list says about the frame's way to `target`, or if it `answers`, about what it answers.
fn rule(cx: &mut Context<'_>, rules: &Rules, target: PortIndex, answers: bool) -> ControlFlow<Action> {
    let query = query(cx.tables, cx.ingress, target, cx.frame.packet);
    let query = if answers { reversed(query) } else { query };
    let (permission, number) = permission(rules, &query);
    cx.effects.ruling = Some(Ruling { receiver: target, permission, rule: number });
    let declared = number.map(|number| &rules.acl.rules[number]);
    let because = declared.map(|rule| &rule.provenance).unwrap_or(&cx.vswitch().config.provenance);
    let name = declared.map_or("the default", |rule| rule.name.as_str());
    match permission {
        Permission::Allow => {
            cx.found(Some(because), || format!("`{name}` allows it"));
            Continue(())
        }
        Permission::Deny => cx.drop(DropReason::AclDenied, Some(because), || format!("`{name}` denies it")),
        Permission::Reject => cx.drop(DropReason::AclRejected, Some(because), || format!("`{name}` rejects it")),
    }
}

/// Later fragments show no ports, and are worth nothing without the first: they pass where some of their packet might,
/// in either direction.
fn permission(rules: &Rules, query: &Query) -> (Permission, Option<usize>) {
    let (permission, number) = rules.permission(query);
    if permission != Permission::Allow && query.addresses.is_some() && query.ports.is_none() {
        let answered = rules.permission(&reversed(*query));
        return if answered.0 == Permission::Allow { answered } else { (permission, number) };
    }
    (permission, number)
}

/// What was decided about a frame and one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ruling {
    pub(crate) receiver: PortIndex,
    pub(crate) permission: Permission,
    /// The rule that decided, if it was one.
    pub(crate) rule: Option<usize>,
}

/// Whether one receiver of a group may hear it. Groups have no connections.
pub(super) fn ruling(tables: &Tables, ingress: PortIndex, frame: &Frame<'_>, receiver: PortIndex) -> Ruling {
    let without_rule = |permission| Ruling { receiver, permission, rule: None };
    let vswitch = tables.vswitch(tables.port(ingress).vswitch);
    let Some(rules) = vswitch.rules.as_ref().filter(|_| !is_free(frame.packet)) else {
        return without_rule(Permission::Allow);
    };
    let packet = frame.packet;
    let is_hidden = packet.addresses.is_some() && packet.transport_at == 0 && packet.fragment != Piece::Later;
    if packet.class == Class::Unreadable || is_hidden {
        return without_rule(Permission::Deny);
    }
    let (permission, rule) = permission(rules, &query(tables, ingress, receiver, packet));
    Ruling { receiver, permission, rule }
}

fn query(tables: &Tables, from: PortIndex, to: PortIndex, packet: &Packet) -> Query {
    let (from, to) = (tables.port(from).config.id, tables.port(to).config.id);
    let ends = packet.ends();
    let ports = ends.map(|(_, ports)| ports).filter(|_| packet.fragment != Piece::Later);
    Query { from, to, addresses: ends.map(|(addresses, _)| addresses), protocol: packet.protocol, ports }
}

fn reversed(query: Query) -> Query {
    Query {
        from: query.to,
        to: query.from,
        addresses: query.addresses.map(|(src, dst)| (dst, src)),
        ports: query
            .ports
            .map(|(src, dst)| if is_icmp(query.protocol) { (src, echo_request(dst)) } else { (dst, src) }),
        ..query
    }
}

fn is_icmp(protocol: u8) -> bool {
    matches!(Protocol(protocol), Protocol::ICMP | Protocol::ICMPV6)
}

/// The type and code of the request that an echo reply answers.
fn echo_request(kind: u16) -> u16 {
    match kind >> 8 {
        0 => 8 << 8,
        129 => 128 << 8,
        _ => kind,
    }
}

/// What an ICMP message is to connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Icmp {
    Request,
    Reply,
    Error,
    Other,
}

impl Packet {
    /// Addresses and ports of an IP packet; of ICMP the latter is type and code.
    fn ends(&self) -> Option<((IpAddr, IpAddr), (u16, u16))> {
        let (src, dst) = (self.src()?, self.dst()?);
        Some(((src, dst), ((self.ports >> 16) as u16, self.ports as u16)))
    }

    fn icmp(&self) -> Option<Icmp> {
        let kind = self.ports >> 8;
        match Protocol(self.protocol) {
            Protocol::ICMP => Some(match kind {
                8 => Icmp::Request,
                0 => Icmp::Reply,
                3 | 11 | 12 => Icmp::Error,
                _ => Icmp::Other,
            }),
            Protocol::ICMPV6 => Some(match kind {
                128 => Icmp::Request,
                129 => Icmp::Reply,
                1..=4 => Icmp::Error,
                _ => Icmp::Other,
            }),
            _ => None,
        }
    }
}

impl Phase {
    /// The phase after a frame.
    fn after(self, packet: &Packet, is_answer: bool) -> Self {
        let flags = if packet.protocol == Protocol::TCP.0 { packet.flags } else { 0 };
        match self {
            _ if flags & TCP_END != 0 => Self::Closing,
            _ if flags & TCP_SYN != 0 && !is_answer => Self::Opening,
            Self::Opening if is_answer => Self::Open,
            phase => phase,
        }
    }
}

impl Context<'_> {
    /// What follows the transport header's first `skip` bytes.
    fn behind(&self, skip: usize) -> &[u8] {
        self.frame.head.get(usize::from(self.frame.packet.transport_at) + skip..).unwrap_or_default()
    }

    /// The identifier of an echo message; `None` in a later fragment.
    fn echo_ident(&self) -> Option<u16> {
        let is_later = self.frame.packet.fragment == Piece::Later;
        self.behind(4).first_chunk().filter(|_| !is_later).map(|ident| u16::from_be_bytes(*ident))
    }

    /// Whether an ICMP error quotes a packet of a connection that may be (RFC 792, RFC 4443).
    fn is_related(&mut self) -> bool {
        if self.frame.packet.fragment == Piece::Later {
            return false;
        }
        let quoted = Packet::quoted(self.behind(8), matches!(self.frame.packet.src(), Some(IpAddr::V6(_))));
        let Some(((src, dst), (src_port, dst_port))) = quoted.ends().filter(|_| quoted.transport_at != 0) else {
            return false;
        };
        if quoted.icmp().is_some() || quoted.fragment == Piece::Later {
            return false;
        }
        let vswitch = self.vswitch().config.id;
        let tuple = Tuple {
            vswitch,
            segment: self.segment,
            protocol: quoted.protocol,
            src: (src, src_port),
            dst: (dst, dst_port),
        };
        let connections = &self.knowledge.connections;
        [tuple, tuple.reversed()].iter().any(|tuple| {
            connections.get(self.now, tuple).is_some_and(|known| known.generation == connections.generation)
        })
    }
}
