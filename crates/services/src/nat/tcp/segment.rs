//! Segments for guests, and what a guest's segments say.

use weft_wire::tcp::{CHECKSUM_OFFSET, Flags, Options, Repr, Segment};
use weft_wire::{Csum, Gso, GsoKind, Offload, Protocol};

use super::seq::Seq;
use crate::OutFrame;
use crate::nat::emit::Envelope;
use crate::nat::packet::pseudo_header;

/// The sequence space's view of a segment from a guest.
pub(super) trait Numbers {
    /// The number of its first byte.
    fn first(&self) -> Seq;
    /// What it acknowledges, if anything.
    fn acknowledges(&self) -> Option<Seq>;
    /// Whether `flag` is set.
    fn has(&self, flag: Flags) -> bool;
}

impl Numbers for Segment<'_> {
    fn first(&self) -> Seq {
        Seq(self.seq)
    }

    fn acknowledges(&self) -> Option<Seq> {
        self.has(Flags::ACK).then_some(Seq(self.ack))
    }

    fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }
}

/// A segment for a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) seq: Seq,
    pub(super) ack: Option<Seq>,
    /// All but ACK, which follows from `ack`.
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) options: Options,
    pub(super) payload: [&'a [u8]; 2],
    /// Most payload bytes per segment; what is longer is left to the port to cut.
    pub(super) mss: u16,
}

impl<'a> Outgoing<'a> {
    /// A segment of nothing but a header.
    pub(super) fn bare(seq: Seq, ack: Option<Seq>, flags: Flags, window: u16) -> Self {
        let options = Options::default();
        Self { seq, ack, flags, window, options, payload: [&[], &[]], mss: u16::MAX }
    }

    /// What RFC 9293, section 3.10.7.1, answers to a segment of no connection; nothing answers a reset.
    pub(super) fn reset_for(segment: &Segment<'_>) -> Option<Self> {
        let (seq, ack) = match segment.acknowledges() {
            _ if segment.has(Flags::RST) => return None,
            Some(ack) => (ack, None),
            None => (Seq(0), Some(segment.first() + segment.sequence_len())),
        };
        Some(Self::bare(seq, ack, Flags::RST, 0))
    }

    /// The frame. The checksum is left to the port: it knows whether anyone needs it.
    pub(super) fn frame(&self, envelope: &Envelope, src_port: u16, dst_port: u16) -> OutFrame {
        let ack_flag = if self.ack.is_some() { Flags::ACK } else { Flags::default() };
        let header = Repr {
            src_port,
            dst_port,
            seq: self.seq.0,
            ack: self.ack.unwrap_or_default().0,
            flags: self.flags | ack_flag,
            window: self.window,
            options: self.options,
        };
        let payload_bytes = self.payload[0].len() + self.payload[1].len();
        let segment_bytes = header.header_len() + payload_bytes;
        let mut bytes = envelope.open(segment_bytes);
        header.emit_bare(&mut bytes);
        self.payload.iter().for_each(|part| bytes.extend_from_slice(part));
        let pseudo = pseudo_header(envelope.from, envelope.to, Protocol::TCP, segment_bytes as u16);
        let start = envelope.transport_at();
        let field = start + usize::from(CHECKSUM_OFFSET);
        bytes[field..field + 2].copy_from_slice(&pseudo.folded().to_be_bytes());

        let ecn = false;
        let kind = if envelope.to.is_ipv4() { GsoKind::Tcp4 { ecn } } else { GsoKind::Tcp6 { ecn } };
        let gso = Gso { kind, size: self.mss };
        let offload = Offload {
            csum: Csum::Partial { start: start as u16, offset: CHECKSUM_OFFSET },
            gso: (payload_bytes > usize::from(self.mss)).then_some(gso),
        };
        OutFrame { bytes, offload }
    }
}
