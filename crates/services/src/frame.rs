use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use weft_types::MacAddr;
use weft_wire::{EtherType, Offload, Protocol, ethernet, icmpv4, icmpv6, ipv4, ipv6, ndp, udp};

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

    /// A frame with a UDP datagram over IPv6.
    pub(crate) fn udp_v6(self, from: SocketAddrV6, to: SocketAddrV6, payload: &[u8]) -> Vec<u8> {
        self.ipv6(*from.ip(), *to.ip(), Protocol::UDP, TTL, |out| udp::emit_v6(out, from, to, payload))
    }

    /// A frame with an ICMPv6 message.
    pub(crate) fn icmpv6(self, from: Ipv6Addr, to: Ipv6Addr, message: &icmpv6::Message<'_>) -> Vec<u8> {
        self.ipv6(from, to, Protocol::ICMPV6, TTL, |out| message.emit(out, from, to))
    }

    /// A frame with a message of neighbour discovery.
    pub(crate) fn ndp(self, from: Ipv6Addr, to: Ipv6Addr, emit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        self.ipv6(from, to, Protocol::ICMPV6, ndp::HOP_LIMIT, emit)
    }

    /// A frame with an IPv6 packet whose payload `emit` writes.
    fn ipv6(
        self,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        next_header: Protocol,
        hop_limit: u8,
        emit: impl FnOnce(&mut Vec<u8>),
    ) -> Vec<u8> {
        let mut payload = Vec::new();
        emit(&mut payload);
        let payload_len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let mut frame = Vec::with_capacity(ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + payload.len());
        ethernet::emit(&mut frame, self.to, self.from, EtherType::IPV6);
        ipv6::Repr { src, dst, next_header, hop_limit, payload_len }.emit(&mut frame);
        frame.extend_from_slice(&payload);
        frame
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
