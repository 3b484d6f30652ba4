//! What a frame carries, as far as decisions rest on it: read once, leniently, from its first bytes.
//!
//! A packet that is wrong in a way in which every host drops it may be taken for something else here; what a host
//! could take for more than is seen here is said to be [`Class::Unreadable`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_wire::ethernet::Header;
use weft_wire::{EtherType, Protocol, ipv6};

/// What kind of packet it is, to those who guard a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// Anything else.
    #[default]
    Other,
    /// ARP.
    Arp,
    /// From a DHCP client to servers, over IPv4.
    DhcpClient,
    /// From a DHCP server or relay, over IPv4 or IPv6.
    DhcpServer,
    /// Neighbour and router solicitations, and neighbour advertisements (RFC 4861).
    Neighbour,
    /// Router advertisements and redirects (RFC 4861).
    Router,
    /// Multicast listener reports and queries (RFC 2710, RFC 3810).
    Listener,
    /// An IPv6 packet whose transport header cannot be found.
    Unreadable,
}

/// A packet, or that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) class: Class,
    pub(crate) addresses: Option<Addresses>,
    pub(crate) protocol: u8,
    pub(crate) fragment: Piece,
    /// The ports, the sender's first; of ICMP type and code in the lower half.
    pub(crate) ports: u32,
    /// Of TCP.
    pub(crate) flags: u8,
    /// Where the transport header starts, in bytes from the frame's first; 0 where it was not found.
    pub(crate) transport_at: u16,
}

/// Who sends a packet, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    V4 { src: Ipv4Addr, dst: Ipv4Addr },
    V6 { src: Ipv6Addr, dst: Ipv6Addr },
}

/// Which piece of a packet it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Piece {
    #[default]
    Whole,
    First,
    Later,
}

/// How many extension headers are walked; real packets have one or two.
const MAX_EXTENSIONS: usize = 8;

impl Packet {
    /// Reads the packet in a frame whose header is `link`. What two tags hide is nobody's business here. In place, for
    /// the copy of what was written a moment ago in pieces costs more than the reading.
    #[inline]
    pub(crate) fn read(&mut self, head: &[u8], link: &Header) {
        let at = link.len_bytes();
        match link.ethertype {
            EtherType::IPV4 => self.read_v4(head, at),
            EtherType::IPV6 => self.read_v6(head, at),
            EtherType::ARP => (self.class, self.transport_at) = (Class::Arp, at as u16),
            _ => {}
        }
    }

    #[inline]
    fn read_v4(&mut self, head: &[u8], at: usize) {
        let Some(header) = head.get(at..).and_then(|packet| packet.first_chunk::<20>()) else { return };
        let header_len = usize::from(header[0] & 0xf) * 4;
        if header[0] >> 4 != 4 || header_len < 20 {
            return;
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let (src, dst) = (quad(&header[12..]), quad(&header[16..]));
        self.addresses = Some(Addresses::V4 { src: src.into(), dst: dst.into() });
        self.protocol = header[9];
        self.fragment = match fragment & 0x3fff {
            0 => Piece::Whole,
            0x2000 => Piece::First,
            _ => Piece::Later,
        };
        if self.fragment != Piece::Later {
            self.transport(head, at + header_len);
            self.class = match (Protocol(self.protocol), self.ports) {
                (Protocol::UDP, 0x0044_0043) => Class::DhcpClient,
                (Protocol::UDP, 0x0043_0000..=0x0043_ffff) => Class::DhcpServer,
                _ => Class::Other,
            };
        }
    }

    fn read_v6(&mut self, head: &[u8], at: usize) {
        let Some(header) = head.get(at..).and_then(|packet| packet.first_chunk::<40>()) else { return };
        if header[0] >> 4 != 6 {
            return;
        }
        let (src, dst) = header[8..].split_at(16);
        let address = |bytes: &[u8]| bytes.first_chunk().copied().unwrap_or([0; 16]).into();
        self.addresses = Some(Addresses::V6 { src: address(src), dst: address(dst) });
        self.protocol = header[6];
        let mut next = at + ipv6::HEADER_BYTES;
        for _ in 0..=MAX_EXTENSIONS {
            if !matches!(self.protocol, 0 | 43 | 44 | 60) {
                self.transport(head, next);
                self.class = self.class_v6();
                return;
            }
            let Some(extension) = head.get(next..).and_then(|rest| rest.first_chunk::<8>()) else { break };
            if self.protocol == 44 {
                let place = u16::from_be_bytes([extension[2], extension[3]]);
                self.fragment = match (place & 0xfff8, place & 1) {
                    (0, 0) => self.fragment, // a whole packet that only says so (RFC 6946)
                    (0, _) => Piece::First,
                    _ => Piece::Later,
                };
                next += 8;
            } else {
                next += 8 + usize::from(extension[1]) * 8;
            }
            self.protocol = extension[0];
            if self.fragment == Piece::Later {
                return;
            }
        }
        self.class = Class::Unreadable;
    }

    fn class_v6(&self) -> Class {
        if self.transport_at == 0 {
            return Class::Unreadable;
        }
        match (Protocol(self.protocol), self.ports) {
            (Protocol::UDP, 0x0223_0000..=0x0223_ffff) => Class::DhcpServer,
            (Protocol::ICMPV6, code) => match code >> 8 {
                133 | 135 | 136 => Class::Neighbour,
                134 | 137 => Class::Router,
                130..=132 | 143 => Class::Listener,
                _ => Class::Other,
            },
            _ => Class::Other,
        }
    }

    /// Reads the transport header at `at`, as far as it is there.
    #[inline]
    fn transport(&mut self, head: &[u8], at: usize) {
        let Some(first) = head.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return };
        self.transport_at = at as u16;
        match Protocol(self.protocol) {
            Protocol::TCP => {
                self.ports = u32::from_be_bytes(*first);
                self.flags = head.get(at + 13).copied().unwrap_or(0);
            }
            Protocol::UDP | Protocol(132 | 33 | 136) => self.ports = u32::from_be_bytes(*first),
            Protocol::ICMP | Protocol::ICMPV6 => self.ports = u32::from(first[0]) << 8 | u32::from(first[1]),
            _ => {}
        }
    }

    /// Who sends it.
    pub(crate) fn src(&self) -> Option<IpAddr> {
        self.addresses.map(|addresses| match addresses {
            Addresses::V4 { src, .. } => src.into(),
            Addresses::V6 { src, .. } => src.into(),
        })
    }

    /// To whom it goes.
    pub(crate) fn dst(&self) -> Option<IpAddr> {
        self.addresses.map(|addresses| match addresses {
            Addresses::V4 { dst, .. } => dst.into(),
            Addresses::V6 { dst, .. } => dst.into(),
        })
    }

    /// The packet that an ICMP error quotes.
    pub(crate) fn quoted(bytes: &[u8], is_v6: bool) -> Self {
        let mut packet = Self::default();
        if is_v6 {
            packet.read_v6(bytes, 0)
        } else {
            packet.read_v4(bytes, 0)
        }
        packet
    }

    /// Sender and receiver as numbers for a key; and whether they are of IPv6.
    #[inline]
    pub(crate) fn numbers(&self) -> (u128, u128, bool) {
        match self.addresses {
            None => (0, 0, false),
            Some(Addresses::V4 { src, dst }) => (src.to_bits().into(), dst.to_bits().into(), false),
            Some(Addresses::V6 { src, dst }) => (src.to_bits(), dst.to_bits(), true),
        }
    }
}

fn quad(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk().copied().unwrap_or([0; 4])
}
