//! Frames of the NAT device: one allocation each.

use std::net::IpAddr;

use weft_types::MacAddr;
use weft_wire::{EtherType, Protocol, checksum, ethernet, ipv4, ipv6};

use super::packet::{FRAGMENT, FRAGMENT_BYTES, header_bytes, mapped};

/// The time to live of packets of ours.
const TTL: u8 = 64;
/// More bytes of the same packet follow (RFC 791, section 3.1; RFC 8200, section 4.5).
const MORE_FRAGMENTS: u16 = 0x2000;
const MORE_FRAGMENTS_V6: u16 = 1;

/// The addresses of a frame, both of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) from_mac: MacAddr,
    pub(super) to_mac: MacAddr,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) protocol: Protocol,
}

impl Envelope {
    /// Where the transport header of a frame that is no piece starts.
    pub(super) fn transport_at(&self) -> usize {
        ethernet::HEADER_BYTES + header_bytes(self.to)
    }

    /// A frame that lacks its `payload_bytes` yet.
    pub(super) fn open(&self, payload_bytes: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.transport_at() + payload_bytes);
        match (self.from, self.to) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                ethernet::emit(&mut frame, self.to_mac, self.from_mac, EtherType::IPV4);
                let payload_len = u16::try_from(payload_bytes).unwrap_or(u16::MAX);
                // Never in pieces, so it needs no identification (RFC 6864, section 4.1).
                let (protocol, ident, dont_fragment) = (self.protocol, 0, true);
                let header = ipv4::Repr { src, dst, protocol, ttl: TTL, ident, dont_fragment, payload_len };
                frame.extend_from_slice(&header.header());
            }
            _ => self.open_v6(&mut frame, self.protocol, payload_bytes),
        }
        frame
    }

    fn open_v6(&self, frame: &mut Vec<u8>, next_header: Protocol, payload_bytes: usize) {
        ethernet::emit(frame, self.to_mac, self.from_mac, EtherType::IPV6);
        let payload_len = u16::try_from(payload_bytes).unwrap_or(u16::MAX);
        let (src, dst) = (mapped(self.from), mapped(self.to));
        ipv6::Repr { src, dst, next_header, hop_limit: TTL, payload_len }.emit(frame);
    }

    /// The frames of a packet, cut where it is larger than `mtu` (RFC 791, section 3.2; RFC 8200, section 4.5).
    pub(super) fn frames(&self, payload: &[u8], mtu: u16, ident: u32) -> Vec<Vec<u8>> {
        let room = usize::from(mtu).saturating_sub(header_bytes(self.to));
        if payload.len() <= room {
            let mut frame = self.open(payload.len());
            frame.extend_from_slice(payload);
            return vec![frame];
        }
        let room = if self.to.is_ipv4() { room } else { room.saturating_sub(FRAGMENT_BYTES) };
        let piece_bytes = (room & !7).max(8);
        let pieces = payload.chunks(piece_bytes).enumerate().map(|(index, piece)| {
            let at = index * piece_bytes;
            self.piece(piece, at, at + piece.len() < payload.len(), ident)
        });
        pieces.collect()
    }

    fn piece(&self, piece: &[u8], at: usize, has_more: bool, ident: u32) -> Vec<u8> {
        let mut frame = if self.to.is_ipv4() {
            let mut frame = self.open(piece.len());
            let header = &mut frame[ethernet::HEADER_BYTES..];
            let place = (at / 8) as u16 | if has_more { MORE_FRAGMENTS } else { 0 };
            let old = [header[4], header[5], header[6], header[7]];
            let [_, _, i0, i1] = ident.to_be_bytes();
            let [p0, p1] = place.to_be_bytes();
            let sum = u16::from_be_bytes([header[10], header[11]]);
            header[4..8].copy_from_slice(&[i0, i1, p0, p1]);
            header[10..12].copy_from_slice(&checksum::update_bytes(sum, old, [i0, i1, p0, p1]).to_be_bytes());
            frame
        } else {
            let mut frame = Vec::with_capacity(self.transport_at() + FRAGMENT_BYTES + piece.len());
            self.open_v6(&mut frame, FRAGMENT, FRAGMENT_BYTES + piece.len());
            let place = at as u16 & !7 | if has_more { MORE_FRAGMENTS_V6 } else { 0 };
            frame.extend_from_slice(&[self.protocol.0, 0]);
            frame.extend_from_slice(&place.to_be_bytes());
            frame.extend_from_slice(&ident.to_be_bytes());
            frame
        };
        frame.extend_from_slice(piece);
        frame
    }
}
