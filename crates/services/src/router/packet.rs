//! What a router's rules and connections look at.

use std::net::IpAddr;

use weft_wire::{Protocol, icmpv4, ipv4, tcp, udp};

use super::connections::Tuple;
use crate::Reason;

/// What ports look like at the start of those headers that have them: TCP, UDP, SCTP and DCCP.
const PORTS_BYTES: usize = 4;

/// The longest packet, and where a piece of one ends at most.
const MAX_PACKET_BYTES: usize = 65_535;

/// A packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) what: What,
    /// The number that its pieces have in common, and whether it is the first of them.
    pub(super) ident: u16,
    pub(super) is_first_piece: bool,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Of a protocol with ports; the control bits are TCP's.
    Ports { src: u16, dst: u16, flags: tcp::Flags },
    /// An ICMP echo request or reply.
    Echo { ident: u16, is_reply: bool },
    /// An ICMP error about a packet of this connection, as that packet's sender sees it, where that can be told.
    Error(Option<Tuple>),
    /// Another ICMP message, of this type.
    Icmp(u8),
    /// Of a protocol without ports.
    Bare,
    /// Not the first piece of a packet: its ports cannot be seen.
    LaterPiece,
}

impl Packet {
    /// Looks at an IPv4 packet.
    ///
    /// # Errors
    /// When it hides what rules look at, or would have a router do what none does.
    pub(super) fn v4(packet: &ipv4::Packet<'_>) -> Result<Self, Reason> {
        if has_source_route(packet) {
            return Err(Reason::RouterSourceRoute);
        }
        let protocol = packet.protocol;
        if usize::from(packet.fragment_offset) + packet.bytes.len() > MAX_PACKET_BYTES {
            return Err(Reason::Malformed);
        }
        let what = match packet.fragment_offset {
            0 => what(packet)?,
            // A piece that would be put over the TCP header of the first (RFC 3128).
            at if protocol == Protocol::TCP && usize::from(at) < tcp::HEADER_BYTES => return Err(Reason::Fragment),
            _ => What::LaterPiece,
        };
        Ok(Self {
            src: packet.src.into(),
            dst: packet.dst.into(),
            protocol: protocol.0,
            what,
            ident: packet.ident,
            is_first_piece: packet.more_fragments && packet.fragment_offset == 0,
        })
    }

    /// The connection, as this packet's sender sees it.
    pub(super) fn tuple(&self) -> Tuple {
        let (src, dst) = match self.what {
            What::Ports { src, dst, .. } => (src, dst),
            What::Echo { ident, .. } => (ident, ident),
            What::Error(_) | What::Icmp(_) | What::Bare | What::LaterPiece => (0, 0),
        };
        Tuple { protocol: self.protocol, src: (self.src, src), dst: (self.dst, dst) }
    }

    /// What it may answer, as rules see it.
    pub(super) fn answered(&self) -> Self {
        let what = match self.what {
            What::Ports { src, dst, flags } => What::Ports { src: dst, dst: src, flags },
            What::Echo { ident, .. } => What::Echo { ident, is_reply: false },
            what => what,
        };
        Self { src: self.dst, dst: self.src, what, ..*self }
    }

    /// Whether it may go on in a connection in the direction of answers, or in the other. Of echoes only a request begins
    /// and only a reply answers, for both ends may choose the same identifier; and who opens a connection answers none.
    pub(super) fn may_be(&self, answer: bool) -> bool {
        match self.what {
            What::Echo { is_reply, .. } => is_reply == answer,
            What::Ports { flags, .. } if self.protocol == Protocol::TCP.0 && answer => {
                !flags.contains(tcp::Flags::SYN) || flags.contains(tcp::Flags::ACK)
            }
            _ => true,
        }
    }
}

/// What the first piece of a packet, or all of it, is.
fn what(packet: &ipv4::Packet<'_>) -> Result<What, Reason> {
    match packet.protocol {
        Protocol::ICMP => icmp(packet.payload),
        protocol => ports(protocol, packet.payload, needed(protocol)).ok_or(Reason::Malformed),
    }
}

/// How much of a header has to be there, so that no later piece can say anything else.
fn needed(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => tcp::HEADER_BYTES,
        Protocol::UDP => udp::HEADER_BYTES,
        _ => PORTS_BYTES,
    }
}

/// The ports, if `needed` bytes of the header are there.
fn ports(protocol: Protocol, payload: &[u8], needed: usize) -> Option<What> {
    if !weft_types::Traffic::has_ports(protocol.0) {
        return Some(What::Bare);
    }
    let word = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let flags = match protocol {
        Protocol::TCP => tcp::Flags(payload.get(13).copied().unwrap_or(0)),
        _ => tcp::Flags::default(),
    };
    (payload.len() >= needed).then_some(What::Ports { src: word(0)?, dst: word(2)?, flags })
}

fn icmp(payload: &[u8]) -> Result<What, Reason> {
    Ok(match icmpv4::parse(payload)? {
        icmpv4::Message::EchoRequest { ident, .. } => What::Echo { ident, is_reply: false },
        icmpv4::Message::EchoReply { ident, .. } => What::Echo { ident, is_reply: true },
        icmpv4::Message::DestinationUnreachable { quote, .. } | icmpv4::Message::TimeExceeded { quote, .. } => {
            What::Error(quoted(quote))
        }
        icmpv4::Message::Other { kind: 12, payload, .. } => What::Error(quoted(payload)), // parameter problem
        icmpv4::Message::Other { kind: 5, .. } => return Err(Reason::IcmpIgnored), // a redirect is for neighbours
        icmpv4::Message::Other { kind, .. } => What::Icmp(kind),
    })
}

/// The connection of a packet of which an ICMP error quotes the start (RFC 792: the header and eight bytes).
fn quoted(quote: &[u8]) -> Option<Tuple> {
    let header = quote.first_chunk::<{ ipv4::HEADER_BYTES }>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let is_later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] >> 4 != 4 || header_len < ipv4::HEADER_BYTES || is_later {
        return None;
    }
    let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (protocol, payload) = (Protocol(header[9]), quote.get(header_len..)?);
    let (src, dst) = match protocol {
        Protocol::ICMP => match icmpv4::parse(payload).ok()? {
            icmpv4::Message::EchoRequest { ident, .. } => (ident, ident),
            _ => return None, // nobody is told of errors about answers
        },
        protocol => match ports(protocol, payload, PORTS_BYTES)? {
            What::Ports { src, dst, .. } => (src, dst),
            _ => (0, 0),
        },
    };
    Some(Tuple { protocol: protocol.0, src: (address(12), src), dst: (address(16), dst) })
}

/// Whether a packet asks to take another way than routers find (RFC 7126, sections 4.3 and 4.4: that is dropped).
fn has_source_route(packet: &ipv4::Packet<'_>) -> bool {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let mut options = packet.header.get(ipv4::HEADER_BYTES..).unwrap_or_default();
    loop {
        options = match options {
            [] | [0, ..] => return false,
            [1, rest @ ..] => rest,
            [LOOSE | STRICT, ..] => return true,
            [_, len, ..] => options.get(usize::from(*len).max(2)..).unwrap_or_default(),
            [_] => return false,
        };
    }
}
