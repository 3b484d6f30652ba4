//! Ethernet II headers and their VLAN tags (IEEE 802.3, clause 3; IEEE 802.1Q, clause 9).

use weft_types::MacAddr;

use crate::Malformed;

/// Bytes of an untagged header.
pub const HEADER_BYTES: usize = 14;

/// Bytes of a VLAN tag.
pub const TAG_BYTES: usize = 4;

/// EtherTypes that Weft knows.
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
    /// Up to here, the field is a length and the frame is an 802.3 one with an LLC header.
    pub const LARGEST_LENGTH: u16 = 0x05ff;
}

/// The head of a frame. A second tag is payload: it is opaque to a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the frame goes.
    pub destination: MacAddr,
    /// Where it comes from.
    pub source: MacAddr,
    /// The outermost tag, if there is one.
    pub tag: Option<Tag>,
    /// What the payload is, or its length (see [`ethertype::LARGEST_LENGTH`]).
    pub ethertype: u16,
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The tag protocol identifier: [`ethertype::VLAN`] or [`ethertype::SERVICE_VLAN`].
    pub protocol: u16,
    /// Priority, drop-eligible bit and VLAN identifier as they stand.
    pub control: u16,
}

impl Tag {
    /// The VLAN identifier's 12 bits; 0 means that the tag is there only for its priority.
    pub fn vid(self) -> u16 {
        self.control & 0x0fff
    }
}

impl Header {
    /// Reads the head of a frame.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if the frame ends before its header does.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]) = frame.first_chunk::<HEADER_BYTES>() else {
            return Err(Malformed::Truncated);
        };
        let destination = MacAddr::new([*d0, *d1, *d2, *d3, *d4, *d5]);
        let source = MacAddr::new([*s0, *s1, *s2, *s3, *s4, *s5]);
        let ethertype = u16::from_be_bytes([*t0, *t1]);
        if !matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
            return Ok(Self { destination, source, tag: None, ethertype });
        }
        let Some([c0, c1, e0, e1]) = frame[HEADER_BYTES..].first_chunk::<TAG_BYTES>() else {
            return Err(Malformed::Truncated);
        };
        let tag = Tag { protocol: ethertype, control: u16::from_be_bytes([*c0, *c1]) };
        Ok(Self { destination, source, tag: Some(tag), ethertype: u16::from_be_bytes([*e0, *e1]) })
    }

    /// Bytes of the header with its tag.
    pub fn len(&self) -> usize {
        HEADER_BYTES + if self.tag.is_some() { TAG_BYTES } else { 0 }
    }

    /// A header is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends the header's bytes.
    pub fn emit(&self, frame: &mut Vec<u8>) {
        frame.extend_from_slice(&self.destination.octets());
        frame.extend_from_slice(&self.source.octets());
        if let Some(tag) = self.tag {
            frame.extend_from_slice(&tag.protocol.to_be_bytes());
            frame.extend_from_slice(&tag.control.to_be_bytes());
        }
        frame.extend_from_slice(&self.ethertype.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(
            d in any::<[u8; 6]>(), s in any::<[u8; 6]>(), control in any::<Option<u16>>(), ethertype in 0x0600u16..0x8100,
        ) {
            let tag = control.map(|control| Tag { protocol: ethertype::VLAN, control });
            let header = Header { destination: MacAddr::new(d), source: MacAddr::new(s), tag, ethertype };
            let mut frame = Vec::new();
            header.emit(&mut frame);
            prop_assert_eq!(frame.len(), header.len());
            prop_assert_eq!(Header::parse(&frame), Ok(header));
            prop_assert_eq!(Header::parse(&frame[..frame.len() - 1]), Err(Malformed::Truncated));
        }
    }
}
