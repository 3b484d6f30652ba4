//! The headers before a mirrored frame in ERSPAN of type II over GRE (RFC 2784, RFC 2890, draft-foschiano-erspan-03).

use crate::ethernet::Tag;

/// The length of both headers, which the frame follows.
pub const HEADER_BYTES: usize = 16;

/// The largest session number.
pub const MAX_SESSION: u16 = 0x3ff;

/// GRE: there is a sequence number, and nothing else that is optional.
const HAS_SEQUENCE: u16 = 0x1000;

/// What GRE carries: ERSPAN of type II.
const PROTOCOL: u16 = 0x88be;

/// ERSPAN's version field of type II.
const VERSION: u16 = 1;

/// The frame still has its tag.
const TAG_PRESERVED: u16 = 0b11;

/// The headers of the copy of this number: a frame with such a tag, or none, of which not everything is there if it was
/// cut. Of the session the lower 10 bits count.
pub fn header(sequence: u32, session: u16, tag: Option<Tag>, is_cut: bool) -> [u8; HEADER_BYTES] {
    let (vlan, priority, kind) =
        tag.map_or((0, 0, 0), |tag| (tag.control & 0xfff, u16::from(tag.priority()), TAG_PRESERVED));
    let session = session & MAX_SESSION | priority << 13 | kind << 11 | u16::from(is_cut) << 10;
    let mut header = [0; HEADER_BYTES];
    header[..2].copy_from_slice(&HAS_SEQUENCE.to_be_bytes());
    header[2..4].copy_from_slice(&PROTOCOL.to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[8..10].copy_from_slice(&(VERSION << 12 | vlan).to_be_bytes());
    header[10..12].copy_from_slice(&session.to_be_bytes());
    header // the index, by which some switches tell their ports, stays 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_for_byte() {
        let plain = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 9, 0x10, 0, 0x00, 0x07, 0, 0, 0, 0];
        assert_eq!(header(9, 7, None, false), plain);
        let tag = Tag { kind: crate::EtherType::C_TAG, control: 0xbabc };
        let tagged = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 9, 0x1a, 0xbc, 0b1011_1111, 0xff, 0, 0, 0, 0];
        assert_eq!(header(9, u16::MAX, Some(tag), true), tagged);
    }
}
