//! Frames of the NAT device: one allocation each.

use std::net::Ipv4Addr;

use weft_types::MacAddr;
use weft_wire::{EtherType, Protocol, checksum, ethernet, ipv4};

/// Where the transport header of a frame of ours starts.
pub(super) const TRANSPORT_AT: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
/// The time to live of packets of ours.
const TTL: u8 = 64;
/// More bytes of the same packet follow (RFC 791, section 3.1).
const MORE_FRAGMENTS: u16 = 0x2000;

/// The addresses of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) from_mac: MacAddr,
    pub(super) to_mac: MacAddr,
    pub(super) from: Ipv4Addr,
    pub(super) to: Ipv4Addr,
    pub(super) protocol: Protocol,
}

impl Envelope {
    /// A frame that lacks its `payload_bytes` yet.
    pub(super) fn open(&self, payload_bytes: usize) -> Vec<u8> {
        let mut frame = self.link(payload_bytes);
        // Never in pieces, so it needs no identification (RFC 6864, section 4.1).
        frame.extend_from_slice(&self.header(payload_bytes, 0, true));
        frame
    }

    fn link(&self, payload_bytes: usize) -> Vec<u8> {
        let mut frame = Vec::with_capacity(TRANSPORT_AT + payload_bytes);
        ethernet::emit(&mut frame, self.to_mac, self.from_mac, EtherType::IPV4);
        frame
    }

    fn header(&self, payload_bytes: usize, ident: u16, dont_fragment: bool) -> [u8; ipv4::HEADER_BYTES] {
        let payload_len = u16::try_from(payload_bytes).unwrap_or(u16::MAX);
        let Self { from: src, to: dst, protocol, .. } = *self;
        ipv4::Repr { src, dst, protocol, ttl: TTL, ident, dont_fragment, payload_len }.header()
    }

    /// The frames of a packet, cut where it is larger than `mtu` (RFC 791, section 3.2).
    pub(super) fn frames(&self, payload: &[u8], mtu: u16, ident: u16) -> Vec<Vec<u8>> {
        let room = usize::from(mtu).saturating_sub(ipv4::HEADER_BYTES);
        if payload.len() <= room {
            let mut frame = self.open(payload.len());
            frame.extend_from_slice(payload);
            return vec![frame];
        }
        let piece_bytes = (room & !7).max(8);
        let pieces = payload.chunks(piece_bytes).enumerate().map(|(index, piece)| {
            let at = index * piece_bytes;
            let more = if at + piece.len() < payload.len() { MORE_FRAGMENTS } else { 0 };
            let place = more | (at / 8) as u16;
            let mut header = self.header(piece.len(), ident, false);
            let sum = u16::from_be_bytes([header[10], header[11]]);
            header[6..8].copy_from_slice(&place.to_be_bytes());
            header[10..12].copy_from_slice(&checksum::update(sum, 0, place).to_be_bytes());
            let mut frame = self.link(ipv4::HEADER_BYTES + piece.len());
            frame.extend_from_slice(&header);
            frame.extend_from_slice(piece);
            frame
        });
        pieces.collect()
    }
}
