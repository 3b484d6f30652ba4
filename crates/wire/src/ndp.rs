//! Neighbour discovery for IPv6 (RFC 4861), with the options of router advertisements for names (RFC 8106).

use std::net::Ipv6Addr;

use weft_types::{Ipv6Net, MacAddr};

use crate::read::bytes;
use crate::{Layer, Malformed, Problem, icmpv6, ipv6};

/// The hop limit of every message: who receives one with less did not get it from this link (RFC 4861, section 3.1).
pub const HOP_LIMIT: u8 = 255;

/// Every station of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Every router of the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The messages' numbers.
mod kind {
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
}

/// The options' numbers (RFC 4861, section 4.6; RFC 8106, section 5).
mod option {
    pub(super) const SOURCE: u8 = 1;
    pub(super) const TARGET: u8 = 2;
    pub(super) const PREFIX: u8 = 3;
    pub(super) const MTU: u8 = 5;
    pub(super) const NAME_SERVERS: u8 = 25;
    pub(super) const SEARCH_LIST: u8 = 31;
}

/// A message from a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Which routers are there?
    RouterSolicitation {
        /// The sender's hardware address, if it says so.
        mac: Option<MacAddr>,
    },
    /// A router says so. What it says is for stations.
    RouterAdvertisement,
    /// Who has the address `target`?
    NeighbourSolicitation {
        /// The address.
        target: Ipv6Addr,
        /// The sender's hardware address, if it says so.
        mac: Option<MacAddr>,
    },
    /// The sender has the address `target`.
    NeighbourAdvertisement {
        /// The address.
        target: Ipv6Addr,
        /// Whether it was asked for.
        is_solicited: bool,
        /// Its hardware address, if it says so.
        mac: Option<MacAddr>,
    },
    /// A router says that there is a better way.
    Redirect,
}

/// Whether an ICMPv6 message is one of neighbour discovery.
pub fn is_ndp(message: &[u8]) -> bool {
    matches!(message.first(), Some(kind::ROUTER_SOLICITATION..=kind::REDIRECT))
}

/// The message `message` that stands in `packet`, behind its extension headers. All that RFC 4861 has a receiver look at
/// is right about it (sections 6.1.1, 6.1.2, 7.1.1 and 7.1.2), the checksum too.
///
/// # Errors
/// When it is to be dropped: [`Problem::Mismatch`] where it contradicts the packet that carries it, its hop limit among
/// that.
pub fn parse(packet: &ipv6::Packet<'_>, message: &[u8]) -> Result<Message, Malformed> {
    let wrong = |problem| Layer::Icmpv6.is(problem);
    let (header, rest) = message.split_first_chunk::<8>().ok_or(wrong(Problem::Truncated))?;
    let [kind, code, _, _, flags, ..] = *header;
    if packet.hop_limit != HOP_LIMIT {
        return Err(wrong(Problem::Mismatch));
    }
    if !icmpv6::checksum_ok(packet.src, packet.dst, message) {
        return Err(wrong(Problem::Checksum));
    }
    if code != 0 {
        return Err(wrong(Problem::Unsupported));
    }
    let nameless = packet.src.is_unspecified();
    let neighbour = || {
        let (target, options) = rest.split_first_chunk::<16>().ok_or(wrong(Problem::Truncated))?;
        let target = Ipv6Addr::from_octets(*target);
        if target.is_multicast() { Err(wrong(Problem::Mismatch)) } else { Ok((target, options)) }
    };
    match kind {
        kind::ROUTER_SOLICITATION => {
            let mac = hardware_address(rest, option::SOURCE)?;
            if nameless && mac.is_some() {
                return Err(wrong(Problem::Mismatch));
            }
            Ok(Message::RouterSolicitation { mac })
        }
        kind::NEIGHBOUR_SOLICITATION => {
            let (target, options) = neighbour()?;
            let mac = hardware_address(options, option::SOURCE)?;
            if nameless && (mac.is_some() || packet.dst != solicited_node(target)) {
                return Err(wrong(Problem::Mismatch));
            }
            Ok(Message::NeighbourSolicitation { target, mac })
        }
        kind::NEIGHBOUR_ADVERTISEMENT => {
            let (target, options) = neighbour()?;
            let mac = hardware_address(options, option::TARGET)?;
            let is_solicited = flags & 0x40 != 0;
            if packet.dst.is_multicast() && is_solicited {
                return Err(wrong(Problem::Mismatch));
            }
            Ok(Message::NeighbourAdvertisement { target, is_solicited, mac })
        }
        kind::ROUTER_ADVERTISEMENT if packet.src.is_unicast_link_local() => Ok(Message::RouterAdvertisement),
        kind::REDIRECT if packet.src.is_unicast_link_local() => Ok(Message::Redirect),
        kind::ROUTER_ADVERTISEMENT | kind::REDIRECT => Err(wrong(Problem::Mismatch)),
        _ => Err(wrong(Problem::Unsupported)),
    }
}

/// The hardware address in the option `wanted` of `options`, which are all whole.
fn hardware_address(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, Malformed> {
    let mut found = None;
    while let Some((kind, rest)) = options.split_first() {
        let len = 8 * usize::from(*rest.first().ok_or(Layer::Icmpv6.is(Problem::Options))?);
        if len == 0 || len > options.len() {
            return Err(Layer::Icmpv6.is(Problem::Options));
        }
        if *kind == wanted {
            let Some(option) = options.first_chunk::<8>() else { break };
            found = found.or(Some(MacAddr::new(bytes::<2, 6, _>(option))));
        }
        options = &options[len..];
    }
    Ok(found)
}

/// The group in which whoever has `ip` is asked for (RFC 4291, section 2.7.1).
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The hardware address of an IPv6 group (RFC 2464, section 7).
pub fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr::new([0x33, 0x33, a, b, c, d])
}

/// The address that a station with this hardware address makes of a prefix of 64 bits (RFC 4862, section 5.5.3; RFC 4291,
/// appendix A).
pub fn eui64(prefix: Ipv6Net, mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(prefix.network().to_bits() & !u128::from(u64::MAX) | u128::from(interface))
}

/// Appends the question who has `target`, from `src` to `dst`, to `out`; `mac` is the asker's hardware address.
pub fn emit_solicitation(out: &mut Vec<u8>, (src, dst): (Ipv6Addr, Ipv6Addr), target: Ipv6Addr, mac: MacAddr) {
    let start = out.len();
    out.extend_from_slice(&[kind::NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&target.octets());
    out.extend_from_slice(&[option::SOURCE, 1]);
    out.extend_from_slice(&mac.octets());
    icmpv6::finish(src, dst, &mut out[start..]);
}

/// That `mac` has the address `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The address.
    pub target: Ipv6Addr,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Whether it is a router that leads somewhere.
    pub is_router: bool,
    /// Whether it answers a question.
    pub is_solicited: bool,
}

impl Advertisement {
    /// Appends the message from `src` to `dst` to `out`: it holds whatever was known before.
    pub fn emit(&self, out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr) {
        const OVERRIDE: u8 = 0x20;
        let flags = (u8::from(self.is_router) << 7) | (u8::from(self.is_solicited) << 6) | OVERRIDE;
        let start = out.len();
        out.extend_from_slice(&[kind::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
        out.extend_from_slice(&self.target.octets());
        out.extend_from_slice(&[option::TARGET, 1]);
        out.extend_from_slice(&self.mac.octets());
        icmpv6::finish(src, dst, &mut out[start..]);
    }
}

/// A prefix in a router advertisement: all its addresses are on the link, and stations make themselves some of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix.
    pub net: Ipv6Net,
    /// How long such an address is an address, in seconds.
    pub valid_s: u32,
    /// How long new connections may begin from one, in seconds.
    pub preferred_s: u32,
    /// Whether stations make themselves addresses of it.
    pub is_autonomous: bool,
}

/// What a router says about a link (RFC 4861, section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterAdvertisement<'a> {
    /// The hop limit that stations should use.
    pub hop_limit: u8,
    /// Whether addresses can be had by DHCPv6.
    pub is_managed: bool,
    /// Whether other things can be learned by DHCPv6.
    pub has_other: bool,
    /// How long the sender is a way out, in seconds; 0 where it is none.
    pub lifetime_s: u16,
    /// The sender's hardware address.
    pub mac: MacAddr,
    /// The largest packet of the link, in bytes.
    pub mtu: u32,
    /// The link's prefixes.
    pub prefixes: &'a [Prefix],
    /// Who knows names.
    pub name_servers: &'a [Ipv6Addr],
    /// What is put behind names that are one label, in the form of RFC 1035, section 3.1, without compression.
    pub search: &'a [u8],
    /// How long name servers and search list hold, in seconds.
    pub names_lifetime_s: u32,
}

impl RouterAdvertisement<'_> {
    /// Appends the message from `src` to `dst` to `out`.
    pub fn emit(&self, out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr) {
        let start = out.len();
        let flags = (u8::from(self.is_managed) << 7) | (u8::from(self.has_other) << 6);
        out.extend_from_slice(&[kind::ROUTER_ADVERTISEMENT, 0, 0, 0, self.hop_limit, flags]);
        out.extend_from_slice(&self.lifetime_s.to_be_bytes());
        out.extend_from_slice(&[0; 8]); // how long neighbours are reachable, and when they are asked again: as ever
        out.extend_from_slice(&[option::SOURCE, 1]);
        out.extend_from_slice(&self.mac.octets());
        out.extend_from_slice(&[option::MTU, 1, 0, 0]);
        out.extend_from_slice(&self.mtu.to_be_bytes());
        for prefix in self.prefixes {
            const ON_LINK: u8 = 0x80;
            let flags = ON_LINK | (u8::from(prefix.is_autonomous) << 6);
            out.extend_from_slice(&[option::PREFIX, 4, prefix.net.prefix_len(), flags]);
            out.extend_from_slice(&prefix.valid_s.to_be_bytes());
            out.extend_from_slice(&prefix.preferred_s.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&prefix.net.network().octets());
        }
        // An option's length is a number of eight bytes, in one byte.
        let servers = &self.name_servers[..self.name_servers.len().min(127)];
        if !servers.is_empty() {
            out.extend_from_slice(&[option::NAME_SERVERS, (1 + 2 * servers.len()) as u8, 0, 0]);
            out.extend_from_slice(&self.names_lifetime_s.to_be_bytes());
            servers.iter().for_each(|server| out.extend_from_slice(&server.octets()));
        }
        let search = self.search.len().next_multiple_of(8);
        if !self.search.is_empty() && search <= 254 * 8 {
            out.extend_from_slice(&[option::SEARCH_LIST, (1 + search / 8) as u8, 0, 0]);
            out.extend_from_slice(&self.names_lifetime_s.to_be_bytes());
            out.extend_from_slice(self.search);
            out.resize(out.len() + search - self.search.len(), 0);
        }
        icmpv6::finish(src, dst, &mut out[start..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Protocol;

    const STATION: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0x0a]);

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// What the receiver makes of a message, whose checksum is made if there is none.
    fn check(src: &str, dst: &str, hop_limit: u8, message: &[u8]) -> String {
        let (src, dst) = (ip(src), ip(dst));
        let mut message = message.to_vec();
        if message[2..4.min(message.len())] == [0, 0] {
            icmpv6::finish(src, dst, &mut message);
        }
        let packet = ipv6::Packet { src, dst, next_header: Protocol::ICMPV6, hop_limit, payload: &message };
        match parse(&packet, &message) {
            Ok(message) => format!("{message:?}"),
            Err(malformed) => malformed.to_string(),
        }
    }

    fn ask(target: &str, options: &[u8]) -> Vec<u8> {
        [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip(target).octets(), options].concat()
    }

    #[test]
    fn what_a_receiver_has_to_look_at() {
        let own = [1, 1, 2, 0, 0, 0, 0, 0x0a];
        let good = "NeighbourSolicitation { target: fe80::1, mac: Some(02:00:00:00:00:0a) }";
        let (a, group) = ("fe80::a", "ff02::1:ff00:1");
        assert_eq!(check(a, group, 255, &ask("fe80::1", &own)), good);
        assert_eq!(check(a, group, 254, &ask("fe80::1", &own)), "icmpv6-mismatch");
        assert_eq!(check(a, group, 255, &ask("ff02::1", &own)), "icmpv6-mismatch");
        assert_eq!(check(a, group, 255, &ask("fe80::1", &own[..7])), "icmpv6-options");
        assert_eq!(check(a, group, 255, &ask("fe80::1", &[1, 0, 0, 0, 0, 0, 0, 0])), "icmpv6-options");
        assert_eq!(check(a, group, 255, &ask("fe80::1", &[1])), "icmpv6-options");
        assert_eq!(check(a, group, 255, &ask("fe80::1", &[])[..23]), "icmpv6-truncated");
        assert_eq!(check(a, group, 255, &[135, 0, 0]), "icmpv6-truncated");
        let none = "NeighbourSolicitation { target: fe80::1, mac: None }";
        assert_eq!(check("::", group, 255, &ask("fe80::1", &[])), none);
        assert_eq!(check("::", group, 255, &ask("fe80::1", &own)), "icmpv6-mismatch");
        assert_eq!(check("::", "fe80::1", 255, &ask("fe80::1", &[])), "icmpv6-mismatch");
        let mut with_code = ask("fe80::1", &own);
        with_code[1] = 1;
        assert_eq!(check(a, group, 255, &with_code), "icmpv6-unsupported");
        let router = [133, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(check("::", "ff02::2", 255, &router), "RouterSolicitation { mac: None }");
        assert_eq!(check("::", "ff02::2", 255, &[&router[..], &own].concat()), "icmpv6-mismatch");
        assert_eq!(check("2001:db8::1", "ff02::1", 255, &[134, 0, 0, 0, 0, 0, 0, 0]), "icmpv6-mismatch");
        let mut tell = ask("fe80::a", &[2, 1, 2, 0, 0, 0, 0, 0x0a]);
        (tell[0], tell[4]) = (136, 0x60);
        let told = "NeighbourAdvertisement { target: fe80::a, is_solicited: true, mac: Some(02:00:00:00:00:0a) }";
        assert_eq!(check(a, "fe80::1", 255, &tell), told);
        assert_eq!(check(a, "ff02::1", 255, &tell), "icmpv6-mismatch");
    }

    #[test]
    fn addresses_that_follow_from_others() {
        let net: Ipv6Net = "fd00:1::/64".parse().unwrap();
        assert_eq!(eui64(net, MacAddr::new([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde])), ip("fd00:1::3656:78ff:fe9a:bcde"));
        assert_eq!(solicited_node(ip("4037::01:800:200e:8c6c")), ip("ff02::1:ff0e:8c6c")); // RFC 4291's example
        assert_eq!(group_mac(ip("ff02::1:ff0e:8c6c")).to_string(), "33:33:ff:0e:8c:6c");
    }

    #[test]
    fn what_is_written_is_read() {
        let (src, dst) = (ip("fe80::1"), ip("ff02::1:ff00:a"));
        let mut out = Vec::new();
        emit_solicitation(&mut out, (src, dst), ip("fe80::a"), STATION);
        let expected = "NeighbourSolicitation { target: fe80::a, mac: Some(02:00:00:00:00:0a) }";
        assert_eq!(check("fe80::1", "ff02::1:ff00:a", 255, &out), expected);
        let mut out = Vec::new();
        let told = Advertisement { target: src, mac: STATION, is_router: true, is_solicited: false };
        told.emit(&mut out, src, ALL_NODES);
        assert_eq!(out[4], 0xa0);
        let expected = "NeighbourAdvertisement { target: fe80::1, is_solicited: false, mac: Some(02:00:00:00:00:0a) }";
        assert_eq!(check("fe80::1", "ff02::1", 255, &out), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(src: u128, dst: u128, hop_limit: u8, message in vec(any::<u8>(), 0..128)) {
            let (src, dst) = (Ipv6Addr::from_bits(src), Ipv6Addr::from_bits(dst));
            let mut message = message;
            let packet = |payload| ipv6::Packet { src, dst, next_header: Protocol::ICMPV6, hop_limit, payload };
            let _ = parse(&packet(&[]), &message);
            if message.len() >= 4 {
                message[2..4].fill(0);
                icmpv6::finish(src, dst, &mut message);
            }
            let result = parse(&packet(&[]), &message);
            prop_assert!(hop_limit == 255 || result.is_err());
        }
    }
}
