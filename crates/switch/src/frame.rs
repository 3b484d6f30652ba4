//! A frame as the pipeline sees it, and the fields by which frames are told apart.

use weft_types::{MacAddr, PortId};
use weft_wire::Malformed;
use weft_wire::ethernet::{Header, Tag};

use crate::DropReason;
use crate::pipeline::Fields;

/// The longest frame, in bytes: the largest IP packet behind an Ethernet header with one tag, which is what a
/// segmentation offload can hold.
pub const MAX_FRAME_BYTES: usize = 18 + 65_535;

/// A frame that could be forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) link: Header,
}

impl Frame {
    /// The frame of `len` bytes that starts with `head`, or why it is none.
    #[inline]
    pub(crate) fn admit(head: &[u8], len: usize) -> Result<Self, (DropReason, Option<Malformed>)> {
        if len > MAX_FRAME_BYTES {
            return Err((DropReason::TooLong, None));
        }
        if len < head.len() {
            return Err((DropReason::Malformed, None));
        }
        let (link, _) = Header::parse(head).map_err(|problem| (DropReason::Malformed, Some(problem)))?;
        Ok(Self { link })
    }

    /// Whether another tag follows the outermost.
    pub(crate) fn is_double(&self) -> bool {
        self.link.tag.is_some() && self.link.ethertype.is_tag()
    }
}

/// The fields of a frame that count for its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowKey(pub(crate) [u64; 3]);

impl FlowKey {
    /// The fields of a frame from `ingress` that are in `fields`, and zeros for all others.
    #[inline]
    pub(crate) fn new(ingress: PortId, frame: &Frame, fields: Fields) -> Self {
        let mac = |mac: MacAddr| {
            let [a, b, c, d, e, f] = mac.octets();
            u64::from_be_bytes([a, b, c, d, e, f, 0, 0])
        };
        let Header { dst, src, tag, ethertype } = frame.link;
        let (tag_kind, tag_control) = tag.map_or((0, 0), |Tag { kind, control }| (kind.0, control));
        let keep = |field: Fields, value: u64| if fields.contains(field) { value } else { 0 };
        Self([
            keep(Fields::DST, mac(dst)) | keep(Fields::TAG, tag_control.into()),
            keep(Fields::SRC, mac(src)) | keep(Fields::ETHERTYPE, ethertype.0.into()),
            keep(Fields::INGRESS, u64::from(ingress.0) << 32) | keep(Fields::TAG, tag_kind.into()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_consulted_field_counts_and_no_other() {
        let plain = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 8, 0];
        let key = |port, bytes: &[u8; 18], fields| {
            FlowKey::new(PortId(port), &Frame::admit(bytes, bytes.len()).unwrap(), fields)
        };
        // The last byte of each field in a tagged frame.
        for (field, at) in [(Fields::DST, 5), (Fields::SRC, 11), (Fields::TAG, 15), (Fields::ETHERTYPE, 17)] {
            let mut other = plain;
            other[at] ^= 1;
            for fields in [Fields::DST, Fields::SRC, Fields::TAG, Fields::ETHERTYPE] {
                let is_same = key(1, &plain, fields) == key(1, &other, fields);
                assert_eq!(is_same, field != fields, "{field:?} in a key of {fields:?}");
            }
        }
        assert_ne!(key(1, &plain, Fields::INGRESS), key(2, &plain, Fields::INGRESS));
    }
}
