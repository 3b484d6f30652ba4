use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::MacAddr;
use weft_wire::{EtherType, Offload, Protocol, ethernet, icmpv4, ipv4, udp};

/// The time to live of packets of ours.
const TTL: u8 = 64;

/// A frame from a gateway to a machine on its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutFrame {
    /// The bytes, from the destination MAC on.
    pub bytes: Vec<u8>,
    /// What the receiver still has to do to it.
    pub offload: Offload,
}

/// The MAC addresses of a frame of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) from: MacAddr,
    pub(crate) to: MacAddr,
}

impl Link {
    /// A frame with a UDP datagram.
    pub(crate) fn udp(self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(udp::HEADER_BYTES + payload.len());
        udp::emit(&mut datagram, from, to, payload);
        self.ipv4(*from.ip(), *to.ip(), Protocol::UDP, &datagram)
    }

    /// A frame with an ICMP message.
    pub(crate) fn icmp(self, from: Ipv4Addr, to: Ipv4Addr, message: &icmpv4::Message<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        self.ipv4(from, to, Protocol::ICMP, &bytes)
    }

    /// A frame with a packet of any protocol.
    pub(crate) fn ipv4(self, src: Ipv4Addr, dst: Ipv4Addr, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let payload_len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let mut frame = Vec::with_capacity(ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + payload.len());
        ethernet::emit(&mut frame, self.to, self.from, EtherType::IPV4);
        ipv4::Repr { src, dst, protocol, ttl: TTL, ident: 0, dont_fragment: true, payload_len }.emit(&mut frame);
        frame.extend_from_slice(payload);
        frame
    }
}
