//! What a sender hears whose packet a rule rejects: a TCP reset (RFC 9293, section 3.10.7.1), or that its destination
//! is prohibited (ICMP type 3 code 13, RFC 1812; ICMPv6 type 1 code 1, RFC 4443).
//!
//! Nobody hears anything about an ICMP error, a reset, a later fragment, or what is from or for more than one host (RFC
//! 1122, section 3.2.2; RFC 4443, section 2.4 e).

use std::net::IpAddr;

use weft_wire::ethernet::Header;
use weft_wire::tcp::{self, Flags};
use weft_wire::{EtherType, Protocol, icmpv4, icmpv6, ipv4, ipv6};

use crate::bucket::Limit;
use crate::frame::Frame;
use crate::packet::{Addresses, Piece};

/// How many answers the guest behind a port gets. Each is hardly longer than what it answers.
pub(crate) const ANSWERS: Limit = Limit { per_s: 100, burst: 20 };

/// What follows behind so many bytes of a frame is not quoted.
const MAX_QUOTED_BYTES: usize = 128;

/// The longest answer.
pub(crate) const MAX_ANSWER_BYTES: usize = MAX_QUOTED_BYTES + ipv6::HEADER_BYTES + icmpv6::HEADER_BYTES;

const HOP_LIMIT: u8 = 64;

/// Writes what answers a frame of `frame_len` bytes into `out`; `false` when nothing does.
pub(crate) fn answer(frame: &Frame<'_>, frame_len: usize, out: &mut Vec<u8>) -> bool {
    out.clear();
    let packet = frame.packet;
    let Some(addresses) = packet.addresses.filter(|_| may_be_answered(frame)) else { return false };
    let Header { dst, src, .. } = frame.link;
    let link = Header { dst: src, src: dst, ..frame.link };
    let reset = if packet.protocol == Protocol::TCP.0 && packet.fragment == Piece::Whole {
        let Some(reset) = reset(frame, frame_len) else { return false };
        Some(reset)
    } else {
        None
    };
    let (protocol, payload_len) = match reset {
        Some(_) => (Protocol::TCP, tcp::HEADER_BYTES),
        None if link.ethertype == EtherType::IPV4 => {
            (Protocol::ICMP, icmpv4::HEADER_BYTES + icmpv4::quote(quoted(frame, frame_len)).len())
        }
        None => (Protocol::ICMPV6, icmpv6::HEADER_BYTES + icmpv6::quote(quoted(frame, frame_len)).len()),
    };
    link.emit(out);
    let payload_len = payload_len as u16;
    match addresses {
        Addresses::V4 { src: dst, dst: src } => {
            ipv4::Repr { src, dst, protocol, ttl: HOP_LIMIT, ident: 0, dont_fragment: true, payload_len }.emit(out);
            match reset {
                Some(reset) => reset.emit(out, src, dst, &[]),
                None => icmpv4::Message::DestinationUnreachable {
                    code: icmpv4::Unreachable::ADMIN_PROHIBITED,
                    next_hop_mtu: 0,
                    quote: icmpv4::quote(quoted(frame, frame_len)),
                }
                .emit(out),
            }
        }
        Addresses::V6 { src: dst, dst: src } => {
            ipv6::Repr { src, dst, next_header: protocol, hop_limit: HOP_LIMIT, payload_len }.emit(out);
            match reset {
                Some(reset) => reset.emit_v6(out, src, dst, &[]),
                None => {
                    let (code, quote) = (icmpv6::Unreachable::ADMIN_PROHIBITED, quoted(frame, frame_len));
                    icmpv6::emit_unreachable(out, src, dst, code, icmpv6::quote(quote));
                }
            }
        }
    }
    true
}

/// Whether it is from one host to one host, and no error itself.
fn may_be_answered(frame: &Frame<'_>) -> bool {
    let packet = frame.packet;
    let hosts = packet.src().zip(packet.dst()).is_some_and(|(src, dst)| is_host(src) && is_host(dst));
    let is_error = match (Protocol(packet.protocol), packet.ports >> 8) {
        (Protocol::TCP, _) => Flags(packet.flags).contains(Flags::RST),
        (Protocol::ICMP, kind) => !matches!(kind, 0 | 8 | 13..=18),
        (Protocol::ICMPV6, kind) => kind < 128 || kind == 137,
        _ => false,
    };
    hosts && frame.link.dst.is_station() && packet.fragment != Piece::Later && packet.transport_at != 0 && !is_error
}

/// Whether it can be the address of one host, as far as that can be told from itself.
fn is_host(address: IpAddr) -> bool {
    let is_nobody = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !is_nobody && !matches!(address, IpAddr::V4(v4) if v4.octets()[0] >= 240)
}

/// The segment that ends what the frame's segment would begin.
fn reset(frame: &Frame<'_>, frame_len: usize) -> Option<tcp::Repr> {
    let transport_at = usize::from(frame.packet.transport_at);
    let header = frame.head.get(transport_at..)?.first_chunk::<{ tcp::HEADER_BYTES }>()?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let [src_port, dst_port] = [0, 2].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let ports = tcp::Repr { src_port: dst_port, dst_port: src_port, ..tcp::Repr::default() };
    let flags = Flags(header[13]);
    if flags.contains(Flags::ACK) {
        return Some(tcp::Repr { seq: number(8), flags: Flags::RST, ..ports });
    }
    let header_len = usize::from(header[12] >> 4) * 4;
    let payload = packet_end(frame, frame_len).saturating_sub(transport_at + header_len) as u32;
    let taken = payload + u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
    Some(tcp::Repr { ack: number(4).wrapping_add(taken), flags: Flags::RST | Flags::ACK, ..ports })
}

/// The packet as far as it was copied, without what fills a short frame.
fn quoted<'a>(frame: &Frame<'a>, frame_len: usize) -> &'a [u8] {
    let end = packet_end(frame, frame_len).min(frame.head.len()).min(MAX_QUOTED_BYTES);
    frame.head.get(frame.link.len_bytes()..end).unwrap_or_default()
}

/// Where the packet ends, in bytes from the frame's first, by its own word where that can be.
fn packet_end(frame: &Frame<'_>, frame_len: usize) -> usize {
    let at = frame.link.len_bytes();
    let is_v6 = frame.link.ethertype == EtherType::IPV6;
    let (word_at, before) = if is_v6 { (at + 4, ipv6::HEADER_BYTES) } else { (at + 2, 0) };
    let word = frame.head.get(word_at..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |w| u16::from_be_bytes(*w));
    match word {
        0 => frame_len, // longer than the word can say
        len => frame_len.min(at + before + usize::from(len)),
    }
}
