//! What a port may say about itself and to others (law 5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use weft_types::{Instant, MacAddr};
use weft_wire::arp;

use super::{Action, Context, Continue};
use crate::bindings::{Claim, Place};
use crate::packet::{Addresses, Class, Piece};
use crate::table::PortIndex;
use crate::{DropReason, Role};

/// Ports speak for themselves only, and neither give addresses nor lead the way unless they may.
pub(super) fn check(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let port = &cx.ingress().config;
    let (because, name, policy) = (Some(&port.provenance), &port.name, port.policy);
    if port.is_trusted() {
        return if cx.tables.learns_addresses() { lease(cx) } else { Continue(()) };
    }
    let class = cx.class();
    match class {
        Class::DhcpServer if !policy.dhcp_server => {
            return cx
                .drop(DropReason::RogueDhcpServer, because, || format!("`{name}` may not be a DHCP server or relay"));
        }
        Class::Router if !policy.router_advertisements => {
            return cx.drop(DropReason::RogueRouter, because, || format!("`{name}` may not advertise a router"));
        }
        Class::Unreadable if !(policy.router_advertisements && policy.dhcp_server) => {
            return cx.drop(DropReason::Unreadable, because, || {
                "the packet's extension headers hide what it carries".to_owned()
            });
        }
        Class::Arp => return arp(cx),
        Class::Neighbour => neighbour(cx)?,
        Class::Other | Class::DhcpClient | Class::DhcpServer | Class::Router | Class::Listener | Class::Unreadable => {}
    }
    source(cx, class)?;
    lease(cx)
}

/// The sender's IP address is the port's own; where that is not known, it was at least configured for no other.
fn source(cx: &mut Context<'_>, class: Class) -> ControlFlow<Action> {
    let port = &cx.ingress().config;
    let is_free = port.addresses == crate::Addresses::Any && !cx.vswitch().has_fixed();
    if port.policy.forged_ips || is_free {
        return Continue(());
    }
    let Some(src) = cx.ip_src() else { return Continue(()) };
    // Who has no address yet looks for one.
    let is_start = match class {
        Class::DhcpClient => src == IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Class::Neighbour | Class::Listener => src == IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => false,
    };
    let because = Some(&port.provenance);
    if is_start || owns(cx, src) {
        cx.found(because, || format!("{src} is an address of `{}`", port.name));
        return Continue(());
    }
    let reason = if src.is_ipv4() { DropReason::ForgedIpv4 } else { DropReason::ForgedIpv6 };
    cx.drop(reason, because, || format!("{src} is no address of `{}`", port.name))
}

/// ARP says who has an address: nobody does so for others.
fn arp(cx: &mut Context<'_>) -> ControlFlow<Action> {
    cx.until = Instant::ZERO;
    let port = &cx.ingress().config;
    if port.policy.forged_arp {
        return Continue(());
    }
    let (because, name) = (Some(&port.provenance), &port.name);
    let src = cx.src();
    let Ok(packet) = arp::parse(&cx.frame.head[cx.frame.link.len_bytes()..]) else {
        return cx.drop(DropReason::ForgedArp, because, || "this is not ARP as hosts speak it".to_owned());
    };
    if packet.sender_mac != src {
        return cx.drop(DropReason::ForgedArp, because, || {
            format!("it says that {} sends, and {src} does", packet.sender_mac)
        });
    }
    let sender = IpAddr::V4(packet.sender_ip);
    if packet.sender_ip.is_unspecified() {
        claim(cx, packet.target_ip.into());
    } else if !owns(cx, sender) {
        return cx.drop(DropReason::ForgedArp, because, || format!("{sender} is no address of `{name}`"));
    }
    cx.found(because, || format!("`{name}` says in ARP what it may"));
    Continue(())
}

/// So does neighbour discovery (RFC 4861, sections 4.3 and 4.4).
fn neighbour(cx: &mut Context<'_>) -> ControlFlow<Action> {
    cx.until = Instant::ZERO;
    let port = &cx.ingress().config;
    if port.policy.forged_neighbours {
        return Continue(());
    }
    let (because, name) = (Some(&port.provenance), &port.name);
    let (src, packet) = (cx.src(), cx.frame.packet);
    let (message, is_whole) = cx.message();
    let kind = packet.ports >> 8;
    let target = message.get(8..24).and_then(|bytes| bytes.first_chunk::<16>()).map(|octets| Ipv6Addr::from(*octets));
    let options = if kind == 133 { message.get(8..) } else { message.get(24..) };
    let is_honest = options.is_some_and(|options| is_whole && are_honest(options, src));
    if !is_honest || packet.fragment != Piece::Whole {
        return cx.drop(DropReason::ForgedNeighbour, because, || {
            format!("it cannot be read whole, or names another hardware address than {src}")
        });
    }
    match (kind, target) {
        (135, Some(target)) if cx.ip_src() == Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => claim(cx, target.into()),
        (136, Some(target)) if !owns(cx, target.into()) => {
            return cx.drop(DropReason::ForgedNeighbour, because, || format!("{target} is no address of `{name}`"));
        }
        _ => {}
    }
    cx.found(because, || format!("`{name}` says in neighbour discovery what it may"));
    Continue(())
}

/// Whether the link-layer addresses among a message's options are `mac` (RFC 4861, section 4.6).
fn are_honest(mut options: &[u8], mac: MacAddr) -> bool {
    while let [kind, len, ..] = *options {
        let len = usize::from(len) * 8;
        if len == 0 || len > options.len() {
            return false;
        }
        if matches!(kind, 1 | 2) && options[2..8] != mac.octets() {
            return false;
        }
        options = &options[len..];
    }
    options.is_empty()
}

/// An adapter of the host hears what is for the host itself: anything else it would have to forward. Groups end there.
pub(super) fn hears(cx: &mut Context<'_>, target: PortIndex) -> ControlFlow<Action> {
    let port = &cx.tables.port(target).config;
    if !port.is_end() {
        return Continue(());
    }
    let Some(address) = cx.ip_dst() else { return Continue(()) };
    let is_group = address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let (place, mac) = (cx.place(address), cx.dst());
    let is_own = port.addresses.is_fixed(address)
        || cx.knowledge.bindings.owner(&place) == Some(port.id)
        || address == IpAddr::V6(link_local(mac));
    if is_group || is_own {
        return Continue(());
    }
    cx.drop(DropReason::NotForHost, Some(&port.provenance), || {
        format!("{address} is no address of `{}`, by which the host forwards nothing", port.name)
    })
}

/// Whether an IP address is the port's own: configured, learned, or made of the sender's MAC address (RFC 4291,
/// appendix A). Where that is not known, every address could be that was configured for no other port.
fn owns(cx: &mut Context<'_>, address: IpAddr) -> bool {
    let port = &cx.ingress().config;
    if port.addresses == crate::Addresses::Any {
        return !is_anothers(cx, address);
    }
    let place = cx.place(address);
    port.addresses.is_fixed(address)
        || cx.knowledge.bindings.owner(&place) == Some(port.id)
        || address == IpAddr::V6(link_local(cx.src()))
}

/// Whether an IP address was configured for another port where the frame is.
fn is_anothers(cx: &mut Context<'_>, address: IpAddr) -> bool {
    let (index, vswitch) = (cx.ingress, cx.ingress().vswitch);
    cx.tables.is_fixed(vswitch, cx.segment, address, index)
}

fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Duplicate address detection: the port is about to use an address, which is its own then, unless it is another's.
fn claim(cx: &mut Context<'_>, address: IpAddr) {
    let port = &cx.ingress().config;
    let limit = port.addresses.learn();
    let place = cx.place(address);
    if limit > 0
        && !address.is_unspecified()
        && !is_anothers(cx, address)
        && cx.knowledge.bindings.owner(&place).is_none()
    {
        cx.effects.claim = Some(Claim { place, port: port.id, limit });
    }
}

/// A DHCP server gives an address to the client whose hardware address its answer names (RFC 2131, section 2: `op`,
/// `yiaddr` and `chaddr`). Only whom policy trusts comes here, and nobody gives addresses to itself.
fn lease(cx: &mut Context<'_>) -> ControlFlow<Action> {
    if cx.class() != Class::DhcpServer || !cx.tables.learns_addresses() {
        return Continue(());
    }
    cx.until = Instant::ZERO;
    let packet = cx.frame.packet;
    let message = cx.frame.head.get(usize::from(packet.transport_at) + 8..).unwrap_or_default();
    let is_v4 = matches!(packet.addresses, Some(Addresses::V4 { .. }));
    if let (true, [2, 1, 6, ..], Some(address), Some(mac)) = (
        is_v4,
        message,
        message.get(16..20).and_then(|bytes| bytes.first_chunk::<4>()),
        message.get(28..34).and_then(|bytes| bytes.first_chunk::<6>()),
    ) {
        let (address, mac) = (Ipv4Addr::from(*address), MacAddr::new(*mac));
        let vswitch = cx.ingress().vswitch;
        let client = cx.tables.owner(vswitch, cx.segment, mac).filter(|client| *client != cx.ingress);
        if let Some(client) = client.filter(|_| !address.is_unspecified()) {
            let port = &cx.tables.port(client).config;
            let limit = port.addresses.learn();
            if limit > 0 && !cx.tables.is_fixed(vswitch, cx.segment, address.into(), client) {
                let place = cx.place(address.into());
                cx.effects.claim = Some(Claim { place, port: port.id, limit });
                cx.found(Some(&port.provenance), || format!("a DHCP server gives {address} to `{}`", port.name));
            }
        }
    }
    Continue(())
}

impl Context<'_> {
    /// What an IP address is known by where the frame is.
    fn place(&mut self, address: IpAddr) -> Place {
        Place { vswitch: self.vswitch().config.id, segment: self.segment, address }
    }

    /// The ICMPv6 message as far as it can be seen, and whether that is all of it.
    fn message(&self) -> (&[u8], bool) {
        let (head, at) = (self.frame.head, self.frame.link.len_bytes());
        let len = head.get(at + 4..).and_then(|bytes| bytes.first_chunk::<2>());
        let end = at + 40 + len.map_or(0, |len| usize::from(u16::from_be_bytes(*len)));
        let message = head.get(self.frame.packet.transport_at.into()..end.min(head.len())).unwrap_or_default();
        (message, end <= head.len())
    }
}

impl crate::PortConfig {
    /// Whether it is ours, or leads to where others are responsible.
    pub(crate) fn is_trusted(&self) -> bool {
        matches!(self.role, Role::Gateway | Role::Uplink)
    }
}
