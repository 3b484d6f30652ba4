//! A frame as the pipeline sees it, and the fields by which frames are told apart.

use weft_types::PortId;
use weft_wire::ethernet::Header;
use weft_wire::{Malformed, Protocol};

use crate::DropReason;
use crate::packet::Packet;
use crate::pipeline::{Fields, TCP_CONTROL};

/// The longest frame, in bytes: the largest IP packet behind an Ethernet header with one tag, which is what a
/// segmentation offload can hold.
pub const MAX_FRAME_BYTES: usize = 18 + 65_535;

/// A frame that could be forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) link: Header,
    /// What it carries; nothing where nobody wants to know.
    pub(crate) packet: &'a Packet,
}

impl<'a> Frame<'a> {
    /// The frame of `len` bytes that starts with `head`, or why it is none; of it `fields` will be looked at. What it
    /// carries is written to `packet`.
    #[inline(always)] // or the frame would be passed on through memory
    pub(crate) fn admit(
        head: &'a [u8],
        len: usize,
        fields: Fields,
        packet: &'a mut Packet,
    ) -> Result<Self, (DropReason, Option<Malformed>)> {
        if len > MAX_FRAME_BYTES {
            return Err((DropReason::TooLong, None));
        }
        if len < head.len() {
            return Err((DropReason::Malformed, None));
        }
        let (link, _) = Header::parse(head).map_err(|problem| (DropReason::Malformed, Some(problem)))?;
        if fields.contains(Fields::CLASS) {
            packet.read(head, &link);
        }
        Ok(Self { head, link, packet })
    }

    /// Whether another tag follows the outermost.
    pub(crate) fn is_double(&self) -> bool {
        self.link.tag.is_some() && self.link.ethertype.is_tag()
    }
}

/// The fields of a frame that count for its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowKey(pub(crate) [u64; 8]);

/// The bytes of a frame up to the flags of TCP; what has fewer takes the long way.
const PLAIN_BYTES: usize = 48;

/// How a frame begins that may be plain.
pub(crate) type PlainStart = [u8; PLAIN_BYTES];

/// The bits on which [`FlowKey::of_plain`] depends, of frames that are plain as this one is: where they are the same,
/// the key is.
pub(crate) fn plain_mask(start: &PlainStart) -> PlainStart {
    let mut mask = [0; PLAIN_BYTES];
    mask[..15].fill(0xff); // addresses and type; version and length of the IP header
    mask[20..22].copy_from_slice(&[0x3f, 0xff]); // of a fragment?
    mask[23] = 0xff;
    mask[26..38].fill(0xff); // addresses and ports
    if Protocol(start[23]) == Protocol::TCP {
        mask[47] = TCP_CONTROL;
    }
    mask
}

/// Of a key, the words that say what the frame carries.
pub(crate) const PACKET_WORDS: std::ops::Range<usize> = 4..8;

impl FlowKey {
    /// The key of what nearly every frame is: TCP or UDP over IPv4 in one piece, without options, tags or anything that
    /// is guarded. `None` for others; else the same as [`FlowKey::new`], without a look at what no key has.
    #[inline(always)]
    pub(crate) fn of_plain(ingress: PortId, head: &PlainStart, fields: Fields) -> Option<Self> {
        let at = |at: usize| u64::from_be_bytes(*head[at..].first_chunk().expect("a fixed place inside"));
        let (kind, fragment, ports) = (at(12) >> 40, at(16) >> 16 & 0x3fff, at(34) >> 32);
        let protocol = head[23];
        let control = match Protocol(protocol) {
            Protocol::UDP if ports != 0x0044_0043 && ports >> 16 != 0x0043 => 0, // no DHCP
            Protocol::TCP => head[47] & TCP_CONTROL,
            _ => return None,
        };
        if kind != 0x08_0045 || fragment != 0 {
            return None;
        }
        let mut key = [at(0) & !0xffff, at(6) & !0xffff | 0x0800, u64::from(ingress.0) << 32, 0, 0, 0, 0, 0];
        if fields.contains(Fields::IP_SRC) {
            key[5] = at(26) >> 32;
        }
        if fields.contains(Fields::TRANSPORT) {
            key[3] = ports << 32 | u64::from(control) << 18 | u64::from(protocol) << 8;
            key[7] = at(30) >> 32;
        }
        Some(Self(key))
    }

    /// The fields of a frame from `ingress` that are in `fields`, and zeros for all others.
    #[inline]
    pub(crate) fn new(ingress: PortId, frame: &Frame<'_>, fields: Fields) -> Self {
        // Addresses and tag are read where they came from and not from the header, which was put together a moment
        // ago: a processor waits when it reads as one what was written in pieces.
        let number =
            |at: usize| frame.head.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b));
        let mac = |at: usize| {
            frame.head.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b)) & !0xffff
        };
        let (tag_kind, tag_control) = if frame.link.tag.is_some() { (number(12), number(14)) } else { (0, 0) };
        let keep = |field: Fields, value: u64| if fields.contains(field) { value } else { 0 };
        let mut key = [0; 8];
        key[0] = keep(Fields::DST, mac(0)) | keep(Fields::TAG, tag_control.into());
        key[1] = keep(Fields::SRC, mac(6)) | keep(Fields::ETHERTYPE, frame.link.ethertype.0.into());
        key[2] = keep(Fields::INGRESS, u64::from(ingress.0) << 32) | keep(Fields::TAG, tag_kind.into());
        let packet = frame.packet;
        key[3] = keep(Fields::CLASS, packet.class as u64);
        if fields.contains(Fields::IP_SRC) {
            let (src, _, _) = packet.numbers();
            (key[4], key[5]) = ((src >> 64) as u64, src as u64);
        }
        if fields.contains(Fields::TRANSPORT) {
            let (_, dst, is_v6) = packet.numbers();
            (key[6], key[7]) = ((dst >> 64) as u64, dst as u64);
            let is_hidden = packet.transport_at == 0;
            let control = if packet.protocol == Protocol::TCP.0 { packet.flags & TCP_CONTROL } else { 0 };
            key[3] |= u64::from(packet.protocol) << 8
                | (packet.fragment as u64) << 16
                | u64::from(control) << 18
                | u64::from(is_v6) << 22
                | u64::from(is_hidden) << 23
                | u64::from(packet.ports) << 32;
        }
        Self(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_consulted_field_counts_and_no_other() {
        let mut plain = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 8, 0];
        plain.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 68, 0, 67, 0, 8, 0, 0]);
        let all = [Fields::DST, Fields::SRC, Fields::TAG, Fields::CLASS, Fields::IP_SRC];
        let key = |port, bytes: &[u8], fields| {
            let mut packet = Packet::default();
            let frame = Frame::admit(bytes, bytes.len(), Fields::CLASS, &mut packet).unwrap();
            FlowKey::new(PortId(port), &frame, fields)
        };
        // The last byte of each field.
        for (field, at) in all.into_iter().zip([5, 11, 15, 41, 33]) {
            let mut other = plain.clone();
            other[at] ^= 1;
            for fields in all {
                let is_same = key(1, &plain, fields) == key(1, &other, fields);
                assert_eq!(is_same, field != fields, "{field:?} in a key of {fields:?}");
            }
        }
        assert_ne!(key(1, &plain, Fields::INGRESS), key(2, &plain, Fields::INGRESS));
    }

    proptest::proptest! {
        /// Where no bit of the mask differs, the key is the same, or none.
        #[test]
        fn what_is_masked_does_not_count(is_tcp: bool, at in 0..PLAIN_BYTES, byte: u8) {
            let mut start = [0x11; PLAIN_BYTES];
            start[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, if is_tcp { 6 } else { 17 }]);
            let mask = plain_mask(&start);
            let mut other = start;
            other[at] = start[at] & mask[at] | byte & !mask[at];
            for fields in [Fields::default(), Fields::PACKET] {
                let fields = crate::pipeline::LINK.and(fields);
                let key = FlowKey::of_plain(PortId(7), &start, fields);
                proptest::prop_assert!(key.is_some());
                proptest::prop_assert_eq!(key, FlowKey::of_plain(PortId(7), &other, fields));
            }
        }

        /// The short way is never different: whatever byte of a plain frame is another, and however it is cut.
        #[test]
        fn a_plain_key_is_the_key(
            is_tcp: bool,
            changes in proptest::collection::vec((12usize..54, proptest::prelude::any::<u8>()), 0..3),
            len in 14usize..=64,
        ) {
            let mut head = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64];
            head.extend([if is_tcp { 6 } else { 17 }, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 67, 0, 68, 0, 30, 0, 0]);
            head.resize(64, 0x11);
            changes.iter().for_each(|(at, byte)| head[*at] = *byte);
            let head = &head[..len];
            for more in [Fields::default(), Fields::CLASS, Fields::CLASS.and(Fields::IP_SRC), Fields::PACKET] {
                let fields = crate::pipeline::LINK.and(more);
                let mut packet = Packet::default();
                let frame = Frame::admit(head, head.len(), fields, &mut packet).unwrap();
                let start = head.first_chunk();
                if let Some(plain) = start.and_then(|start| FlowKey::of_plain(PortId(7), start, fields)) {
                    proptest::prop_assert_eq!(plain, FlowKey::new(PortId(7), &frame, fields));
                } else {
                    let is_plain = changes.is_empty() && len >= PLAIN_BYTES && is_tcp;
                    proptest::prop_assert!(!is_plain, "the short way is for TCP");
                }
            }
        }
    }
}
