//! Putting packets together again (RFC 791, section 3.2; RFC 8200, section 4.5): few at a time, and not for long.

use std::net::IpAddr;
use std::time::Duration;

use weft_types::Instant;
use weft_wire::Protocol;

use super::Cause;
use super::packet::{Packet, Piece};
use crate::NetworkId;

/// Packets that may be incomplete at a time; the oldest makes room.
const MAX_ASSEMBLIES: usize = 16;
/// Pieces of one packet; 64 KiB come in 45 of the usual size.
const MAX_PIECES: usize = 64;
/// How long a packet may be incomplete.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest payload of a packet.
const MAX_PAYLOAD: usize = 65_535 - 20;
/// How much of the first piece is kept behind its IP header for those who quote it.
const QUOTE_BYTES: usize = 8;

/// Incomplete packets.
#[derive(Debug, Default)]
pub(super) struct Fragments(Vec<Assembly>);

/// What the pieces of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id {
    network: NetworkId,
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    ident: u32,
}

#[derive(Debug)]
struct Assembly {
    id: Id,
    since: Instant,
    ttl: u8,
    quote: Vec<u8>,
    payload: Vec<u8>,
    /// Start and end of each piece.
    pieces: Vec<(usize, usize)>,
    /// Known when the last piece came.
    len: Option<usize>,
}

/// A packet that is complete again.
#[derive(Debug)]
pub(super) struct Whole {
    id: Id,
    ttl: u8,
    quote: Vec<u8>,
    payload: Vec<u8>,
}

impl Whole {
    /// The packet. Of its bytes only the first are kept.
    pub(super) fn packet(&self) -> Packet<'_> {
        let Id { src, dst, protocol, .. } = self.id;
        let (payload, bytes) = (&self.payload[..], &self.quote[..]);
        Packet { src, dst, protocol, ttl: self.ttl, dont_fragment: false, piece: None, payload, bytes }
    }
}

impl Fragments {
    /// Takes in a piece, and gives the packet that it completes. Only datagrams and echoes are worth it: TCP never
    /// sends pieces.
    pub(super) fn add(
        &mut self,
        now: Instant,
        network: NetworkId,
        packet: &Packet<'_>,
        piece: Piece,
    ) -> Result<Option<Whole>, Cause> {
        if !matches!(packet.protocol, Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6) {
            return Err(Cause::Fragment);
        }
        let Packet { src, dst, protocol, .. } = *packet;
        let Piece { ident, at: start, has_more } = piece;
        let id = Id { network, src, dst, protocol, ident };
        let end = start + packet.payload.len();
        if end > MAX_PAYLOAD || packet.payload.is_empty() || (has_more && !packet.payload.len().is_multiple_of(8)) {
            return Err(Cause::Malformed);
        }

        self.0.retain(|assembly| now.since(assembly.since) < PATIENCE);
        let at = self.0.iter().position(|assembly| assembly.id == id).unwrap_or_else(|| {
            if self.0.len() == MAX_ASSEMBLIES {
                self.0.remove(0);
            }
            let (quote, payload, pieces) = Default::default();
            self.0.push(Assembly { id, since: now, ttl: packet.ttl, quote, payload, pieces, len: None });
            self.0.len() - 1
        });
        let assembly = &mut self.0[at];
        if assembly.pieces.contains(&(start, end)) {
            return Ok(None); // the same piece again
        }
        let overlaps = assembly.pieces.iter().any(|(from, to)| start < *to && *from < end);
        let ends_elsewhere = match assembly.len {
            Some(len) => end > len || !has_more,
            None => !has_more && assembly.pieces.iter().any(|(_, to)| *to > end),
        };
        if overlaps || ends_elsewhere || assembly.pieces.len() == MAX_PIECES {
            self.0.remove(at); // nobody honest sends that
            return Err(Cause::Fragment);
        }
        if !has_more {
            assembly.len = Some(end);
        }
        if start == 0 {
            // Up to the start of the transport header, whatever stands before it.
            let quoted = packet.bytes.len() - packet.payload.len() + QUOTE_BYTES;
            assembly.quote = packet.bytes[..packet.bytes.len().min(quoted)].to_vec();
        }
        if assembly.payload.len() < end {
            assembly.payload.resize(end, 0);
        }
        assembly.payload[start..end].copy_from_slice(packet.payload);
        assembly.pieces.push((start, end));
        let received: usize = assembly.pieces.iter().map(|(from, to)| to - from).sum();
        if assembly.len != Some(received) {
            return Ok(None);
        }
        let Assembly { id, ttl, quote, payload, .. } = self.0.remove(at);
        Ok(Some(Whole { id, ttl, quote, payload }))
    }
}
