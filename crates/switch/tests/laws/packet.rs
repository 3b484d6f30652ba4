//! What frames carry: the packets on which law 5 and the laws after it rest, right and wrong ones.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::world::mac;

/// Addresses by number: few, so that they meet.
pub(crate) fn v4(number: u8) -> Ipv4Addr {
    match number {
        0 => Ipv4Addr::UNSPECIFIED,
        224 => Ipv4Addr::new(224, 0, 0, 1),
        _ => Ipv4Addr::new(10, 0, 0, number),
    }
}

/// The same; from 100 on they are made of the MAC address of that number less 100.
pub(crate) fn v6(number: u8) -> Ipv6Addr {
    match number {
        0 => Ipv6Addr::UNSPECIFIED,
        1..100 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()),
        _ => {
            let [a, b, c, d, e, f] = mac(number - 100).octets();
            Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
        }
    }
}

pub(crate) fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![(1u8..6).prop_map(|n| v4(n).into()), (1u8..6).prop_map(|n| v6(n).into())]
}

/// An EtherType and a packet, from the station of this number.
pub(crate) struct Packet(Box<dyn Fn(u8) -> Vec<u8>>);

impl Packet {
    fn new(bytes: impl Fn(u8) -> Vec<u8> + 'static) -> Self {
        Self(Box::new(bytes))
    }

    /// Its EtherType and bytes, from the station `src`.
    pub(crate) fn bytes(&self, src: u8) -> Vec<u8> {
        self.0(src)
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.bytes(1))
    }
}

fn ipv4(src: u8, dst: u8, protocol: u8, place: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + 4 * options;
    let mut packet = vec![0x08, 0x00, 0x40 | (header_len / 4) as u8, 0];
    packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(place.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(v4(src).octets());
    packet.extend(v4(dst).octets());
    packet.resize(2 + header_len, 1);
    packet.extend(payload);
    packet
}

/// `extensions`: each a number and what its second byte and second word are.
fn ipv6(src: u8, dst: u8, extensions: &[(u8, u8, u16)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut chain = Vec::new();
    for (index, (number, len, word)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(protocol, |next| next.0);
        chain.extend([next, *len]);
        chain.extend(word.to_be_bytes());
        chain.extend([0; 4]);
        if *number != 44 {
            chain.resize(chain.len() + 8 * usize::from(*len), 0);
        }
    }
    chain.extend(payload);
    let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0];
    packet.extend((chain.len() as u16).to_be_bytes());
    packet.extend([extensions.first().map_or(protocol, |first| first.0), 255]);
    packet.extend(v6(src).octets());
    packet.extend(v6(dst).octets());
    packet.extend(chain);
    packet
}

/// An IPv4 packet of a protocol with ports between the addresses of these numbers.
pub(crate) fn between(src: u8, dst: u8, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
    ipv4(src, dst, protocol, 0, 0, &transport(ports, 16))
}

/// The same over IPv6.
pub(crate) fn between_v6(src: u8, dst: u8, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
    ipv6(src, dst, &[], protocol, &transport(ports, 16))
}

/// A TCP segment from port 5000 to 80 with these flags and numbers.
pub(crate) fn segment(src: u8, dst: u8, flags: u8, seq: u8, ack: u8) -> Vec<u8> {
    let mut segment = transport((5000, 80), flags);
    (segment[7], segment[11]) = (seq, ack);
    ipv4(src, dst, 6, 0, 0, &segment)
}

/// A fragment of a UDP datagram, so many times eight bytes behind its start.
pub(crate) fn fragment(src: u8, dst: u8, place: u16) -> Vec<u8> {
    ipv4(src, dst, 17, place, 0, &transport((5000, 53), 0))
}

/// An ICMP error about a packet of the other.
pub(crate) fn icmp_error(src: u8, dst: u8) -> Vec<u8> {
    let quote = &ipv4(dst, src, 17, 0, 0, &transport((53, 5000), 0)[..8])[2..];
    ipv4(src, dst, 1, 0, 0, &[&[3, 3, 0, 0, 0, 0, 0, 0], quote].concat())
}

/// An ICMP message of this type and identifier.
pub(crate) fn echo(src: u8, dst: u8, kind: u8, ident: u8) -> Vec<u8> {
    ipv4(src, dst, 1, 0, 0, &[kind, 0, 0, 0, 0, ident, 0, 1])
}

fn any_port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![53, 67, 68, 80, 443, 546, 547])
}

fn transport(ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    bytes.extend([0, 8, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn any_arp() -> impl Strategy<Value = Packet> {
    (1u8..4, prop::option::weighted(0.2, 1u8..20), 0u8..6, 0u8..6, prop::bool::weighted(0.05)).prop_map(
        |(operation, sender_mac, sender, target, is_odd)| -> Packet {
            Packet::new(move |src| {
                let mut packet = vec![0x08, 0x06, 0, 1, 8, u8::from(is_odd), 6, 4, 0, operation];
                packet.extend(mac(sender_mac.unwrap_or(src)).octets());
                packet.extend(v4(sender).octets());
                packet.extend([0; 6]);
                packet.extend(v4(target).octets());
                packet
            })
        },
    )
}

fn any_ipv4() -> impl Strategy<Value = Packet> {
    let place = prop_oneof![6 => Just(0), 1 => Just(0x4000), 1 => Just(0x2000), 1 => Just(0x2001), 1 => Just(7)];
    let protocol = prop::sample::select(vec![6, 17, 17, 1, 47]);
    (
        (0u8..6, 0u8..6),
        protocol,
        place,
        0usize..2,
        (any_port(), any_port()),
        prop::sample::select(vec![0u8, 2, 16, 17, 4]),
    )
        .prop_map(|((src, dst), protocol, place, options, ports, flags)| -> Packet {
            Packet::new(move |_| ipv4(src, dst, protocol, place, options, &transport(ports, flags)))
        })
}

fn any_dhcp_reply() -> impl Strategy<Value = Packet> {
    (0u8..6, 1u8..20, 0u8..6, 1u8..3).prop_map(|(server, client, address, op)| -> Packet {
        Packet::new(move |_| {
            let mut message = [0, 67, 0, 68, 1, 0, 0, 0, op, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
            message.extend(v4(address).octets());
            message.extend([0; 8]);
            message.extend(mac(client).octets());
            ipv4(server, 0, 17, 0, 0, &message)
        })
    })
}

fn any_extensions() -> impl Strategy<Value = Vec<(u8, u8, u16)>> {
    let extension = prop_oneof![
        (prop::sample::select(vec![0u8, 43, 60]), 0u8..2, Just(0u16)),
        (Just(44u8), Just(0u8), prop::sample::select(vec![0u16, 1, 8, 9])),
    ];
    prop_oneof![6 => Just(vec![]), 3 => prop::collection::vec(extension.clone(), 1..3), 1 => prop::collection::vec(extension, 7..12)]
}

fn any_ipv6() -> impl Strategy<Value = Packet> {
    let src = prop_oneof![0u8..6, 100u8..110];
    let kind = prop::sample::select(vec![6u8, 17, 17, 58, 59]);
    let icmp = prop::sample::select(vec![128u8, 130, 134, 137, 143]);
    (src, 0u8..6, any_extensions(), kind, (any_port(), any_port()), icmp).prop_map(
        |(src, dst, extensions, protocol, ports, icmp)| -> Packet {
            Packet::new(move |_| {
                let payload = if protocol == 58 { [&[icmp][..], &[0; 23]].concat() } else { transport(ports, 16) };
                ipv6(src, dst, &extensions, protocol, &payload)
            })
        },
    )
}

fn any_neighbour() -> impl Strategy<Value = Packet> {
    let src = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 2 => (1u8..6).prop_map(Some)];
    let target = prop_oneof![3 => (1u8..6).prop_map(Some), 1 => Just(None)];
    let options =
        prop::collection::vec((prop::sample::select(vec![1u8, 2, 14]), prop::option::weighted(0.1, 1u8..20)), 0..3);
    (prop::sample::select(vec![133u8, 135, 136]), src, target, options, any_extensions(), prop::bool::weighted(0.1))
        .prop_map(|(kind, from, target, options, extensions, is_odd)| -> Packet {
            Packet::new(move |src| {
                let own = 100 + src.min(100);
                let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
                if kind != 133 {
                    message.extend(v6(target.unwrap_or(own)).octets());
                }
                for (number, about) in &options {
                    message.extend([*number, u8::from(!is_odd)]);
                    message.extend(mac(about.unwrap_or(src)).octets());
                }
                ipv6(from.unwrap_or(own), 1, &extensions, 58, &message)
            })
        })
}

/// An ICMP error about a packet between two of the addresses, or an echo.
fn any_icmp() -> impl Strategy<Value = Packet> {
    let quoted = (0u8..6, 0u8..6, prop::sample::select(vec![6u8, 17]), any_port(), any_port());
    (0u8..6, 0u8..6, quoted, prop::sample::select(vec![3u8, 3, 11, 8, 0]), 0u8..3).prop_map(
        |(src, dst, (quoted_src, quoted_dst, protocol, from, to), kind, ident)| -> Packet {
            Packet::new(move |_| {
                let mut message = vec![kind, 0, 0, 0, 0, ident, 0, 0];
                if matches!(kind, 3 | 11) {
                    message.extend(&ipv4(quoted_src, quoted_dst, protocol, 0, 0, &transport((from, to), 0)[..8])[2..]);
                }
                ipv4(src, dst, 1, 0, 0, &message)
            })
        },
    )
}

/// Any of them.
pub(crate) fn any_packet() -> impl Strategy<Value = Packet> {
    prop_oneof![3 => any_arp(), 4 => any_ipv4(), 1 => any_dhcp_reply(), 2 => any_ipv6(), 3 => any_neighbour(), 2 => any_icmp()]
}
