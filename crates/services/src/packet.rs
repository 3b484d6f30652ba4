//! The few packet forms that the gateway itself reads and writes.

use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::MacAddr;
use weft_wire::{Csum, Offload};

use crate::Reason;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;

pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// The time to live of packets of ours.
const TTL: u8 = 64;

/// An Ethernet II frame.
pub(crate) struct Frame<'a> {
    pub(crate) destination: MacAddr,
    pub(crate) source: MacAddr,
    pub(crate) ethertype: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, payload) = bytes.split_first_chunk::<ETHERNET_BYTES>()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        Some(Self {
            destination: MacAddr::new([d0, d1, d2, d3, d4, d5]),
            source: MacAddr::new([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([t0, t1]),
            payload,
        })
    }
}

/// The addresses of a frame of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) from: MacAddr,
    pub(crate) to: MacAddr,
}

impl Link {
    fn header(self, ethertype: u16, room: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ETHERNET_BYTES + room);
        bytes.extend_from_slice(&self.to.octets());
        bytes.extend_from_slice(&self.from.octets());
        bytes.extend_from_slice(&ethertype.to_be_bytes());
        bytes
    }
}

/// An ARP request for an IPv4 address (RFC 826).
pub(crate) struct ArpRequest {
    pub(crate) sender_mac: MacAddr,
    pub(crate) sender_ip: Ipv4Addr,
    pub(crate) target_ip: Ipv4Addr,
}

impl ArpRequest {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = bytes.first_chunk::<28>()?;
        // Ethernet, IPv4, their address lengths, request.
        if packet[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
            return None;
        }
        let ip = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let sender_mac = MacAddr::new([packet[8], packet[9], packet[10], packet[11], packet[12], packet[13]]);
        Some(Self { sender_mac, sender_ip: ip(14), target_ip: ip(24) })
    }

    /// The frame that says: the address you ask for is at `mac`.
    pub(crate) fn reply(&self, mac: MacAddr) -> Vec<u8> {
        let mut bytes = Link { from: mac, to: self.sender_mac }.header(ETHERTYPE_ARP, 28);
        bytes.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
        bytes.extend_from_slice(&mac.octets());
        bytes.extend_from_slice(&self.target_ip.octets());
        bytes.extend_from_slice(&self.sender_mac.octets());
        bytes.extend_from_slice(&self.sender_ip.octets());
        bytes
    }
}

/// An IPv4 packet whose header is right (RFC 791).
pub(crate) struct Packet<'a> {
    /// The packet without what Ethernet added to fill its smallest frame.
    pub(crate) bytes: &'a [u8],
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// Whether it is a piece of a packet.
    pub(crate) is_fragment: bool,
    /// Whether it is a piece, and not the first.
    pub(crate) is_later_fragment: bool,
    pub(crate) payload: &'a [u8],
}

impl<'a> Packet<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let header = bytes.first_chunk::<IPV4_BYTES>().ok_or(Reason::Malformed)?;
        let header_bytes = usize::from(header[0] & 0xf) * 4;
        let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_bytes < IPV4_BYTES || total_bytes < header_bytes {
            return Err(Reason::Malformed);
        }
        let bytes = bytes.get(..total_bytes).ok_or(Reason::Malformed)?;
        let (whole_header, payload) = bytes.split_at(header_bytes);
        if checksum(&[whole_header]) != 0 {
            return Err(Reason::BadChecksum);
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        Ok(Self {
            bytes,
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
            ttl: header[8],
            protocol: header[9],
            is_fragment: fragment & 0x3fff != 0,
            is_later_fragment: fragment & 0x1fff != 0,
            payload,
        })
    }
}

/// A UDP datagram (RFC 768).
pub(crate) struct Datagram<'a> {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    pub(crate) fn parse(packet: &Packet<'a>, offload: Offload) -> Result<Self, Reason> {
        let header = packet.payload.first_chunk::<UDP_BYTES>().ok_or(Reason::Malformed)?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let datagram = packet.payload.get(..usize::from(word(4))).ok_or(Reason::Malformed)?;
        let payload = datagram.get(UDP_BYTES..).ok_or(Reason::Malformed)?;
        let is_summed = offload.csum == Csum::Unverified && word(6) != 0;
        if is_summed && checksum(&[&pseudo_header(packet.source, packet.destination, word(4)), datagram]) != 0 {
            return Err(Reason::BadChecksum);
        }
        Ok(Self { source_port: word(0), destination_port: word(2), payload })
    }
}

/// A frame with a UDP datagram.
pub(crate) fn udp_frame(link: Link, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(UDP_BYTES + payload.len()).unwrap_or(u16::MAX);
    let mut datagram = Vec::with_capacity(len.into());
    for word in [from.port(), to.port(), len, 0] {
        datagram.extend_from_slice(&word.to_be_bytes());
    }
    datagram.extend_from_slice(payload);
    // A sum of zero would mean that there is none.
    let sum = match checksum(&[&pseudo_header(*from.ip(), *to.ip(), len), &datagram]) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ipv4_frame(link, *from.ip(), *to.ip(), PROTOCOL_UDP, &datagram)
}

/// A frame with the ICMP message `kind`, `code` (RFC 792); `body` is all behind the checksum.
pub(crate) fn icmp_frame(link: Link, from: Ipv4Addr, to: Ipv4Addr, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(4 + body.len());
    message.extend_from_slice(&[kind, code, 0, 0]);
    message.extend_from_slice(body);
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4_frame(link, from, to, PROTOCOL_ICMP, &message)
}

fn ipv4_frame(link: Link, from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; IPV4_BYTES];
    header[0] = 0x45;
    let total = u16::try_from(IPV4_BYTES + payload.len()).unwrap_or(u16::MAX);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6] = 0x40; // never in pieces, so it needs no identification (RFC 6864, section 4.1)
    header[8] = TTL;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut bytes = link.header(ETHERTYPE_IPV4, header.len() + payload.len());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(payload);
    bytes
}

fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, len: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&from.octets());
    bytes[4..8].copy_from_slice(&to.octets());
    bytes[9] = PROTOCOL_UDP;
    bytes[10..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// The Internet checksum (RFC 1071) of `parts`, each but the last of even length; zero over data that includes
/// its right checksum.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let sum: u64 = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    !(folded as u16)
}
