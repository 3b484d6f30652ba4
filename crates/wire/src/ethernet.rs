//! Ethernet II frames, without preamble and FCS, and VLAN tags (IEEE 802.3 clause 3, IEEE 802.1Q clause 9).

use std::fmt;

use weft_types::{MacAddr, VlanId};

use crate::read::{mac_at, u16_at};
use crate::{Layer, Malformed, Problem};

/// The length of an untagged header.
pub const HEADER_BYTES: usize = 14;

/// The length of one tag.
pub const TAG_BYTES: usize = 4;

/// An EtherType (IEEE 802 numbers); values below 0x600 are lengths of 802.3 frames instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// LLDP.
    pub const LLDP: Self = Self(0x88cc);
    /// A customer VLAN tag follows (802.1Q).
    pub const C_TAG: Self = Self(0x8100);
    /// A service VLAN tag follows (802.1ad, "QinQ").
    pub const S_TAG: Self = Self(0x88a8);

    /// Whether a VLAN tag follows.
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::C_TAG | Self::S_TAG)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4 => f.write_str("IPv4"),
            Self::ARP => f.write_str("ARP"),
            Self::IPV6 => f.write_str("IPv6"),
            Self::C_TAG => f.write_str("802.1Q"),
            Self::S_TAG => f.write_str("802.1ad"),
            Self(number) => write!(f, "EtherType {number:#06x}"),
        }
    }
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Which kind of tag: [`EtherType::C_TAG`] or [`EtherType::S_TAG`].
    pub kind: EtherType,
    /// Priority (3 bits), drop eligibility (1 bit) and VLAN identifier (12 bits).
    pub control: u16,
}

impl Tag {
    /// The tag's VLAN; `None` for a tag that only carries a priority, and for the reserved 4095.
    pub fn vlan(self) -> Option<VlanId> {
        VlanId::try_from(self.control & 0xfff).ok()
    }

    /// The tag's priority, 0 to 7.
    pub const fn priority(self) -> u8 {
        (self.control >> 13) as u8
    }
}

/// A frame's header with its outermost tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Where it goes.
    pub dst: MacAddr,
    /// Where it comes from.
    pub src: MacAddr,
    /// The outermost tag.
    pub tag: Option<Tag>,
    /// What follows, behind that tag; again a tag's in a frame that has two.
    pub ethertype: EtherType,
}

impl Header {
    /// The header at the start of `frame`, and what follows it.
    ///
    /// # Errors
    /// When the frame ends inside its header or its outermost tag.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (header, rest) = frame.split_first_chunk::<HEADER_BYTES>().ok_or(Layer::Ethernet.is(Problem::Truncated))?;
        let (tag, ethertype, payload) = split_tag(EtherType(u16_at::<12, _>(header)), rest)?;
        Ok((Self { dst: mac_at::<0, _>(header), src: mac_at::<6, _>(header), tag, ethertype }, payload))
    }

    /// The header's length.
    pub const fn len_bytes(&self) -> usize {
        HEADER_BYTES + if self.tag.is_some() { TAG_BYTES } else { 0 }
    }

    /// Appends the header to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.dst.octets());
        out.extend_from_slice(&self.src.octets());
        if let Some(tag) = self.tag {
            out.extend_from_slice(&tag.kind.0.to_be_bytes());
            out.extend_from_slice(&tag.control.to_be_bytes());
        }
        out.extend_from_slice(&self.ethertype.0.to_be_bytes());
    }
}

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where it goes.
    pub dst: MacAddr,
    /// Where it comes from.
    pub src: MacAddr,
    /// The outermost tag.
    pub tag: Option<Tag>,
    /// What follows, behind that tag.
    pub ethertype: EtherType,
    /// All that follows, with what was added to fill the smallest frame.
    pub payload: &'a [u8],
}

/// The frame in `bytes`.
///
/// # Errors
/// When it ends inside its header or its outermost tag.
pub fn parse(bytes: &[u8]) -> Result<Frame<'_>, Malformed> {
    let (Header { dst, src, tag, ethertype }, payload) = Header::parse(bytes)?;
    Ok(Frame { dst, src, tag, ethertype, payload })
}

/// Appends an untagged header to `out`.
pub fn emit(out: &mut Vec<u8>, dst: MacAddr, src: MacAddr, ethertype: EtherType) {
    Header { dst, src, tag: None, ethertype }.emit(out);
}

/// Takes a tag off the front of `rest` when `ethertype` says that there is one; returns the tag, the EtherType
/// behind it and what follows.
///
/// # Errors
/// When the bytes end inside the tag.
#[inline]
pub fn split_tag(ethertype: EtherType, rest: &[u8]) -> Result<(Option<Tag>, EtherType, &[u8]), Malformed> {
    if !ethertype.is_tag() {
        return Ok((None, ethertype, rest));
    }
    let (tag, rest) = rest.split_first_chunk::<TAG_BYTES>().ok_or(Layer::Vlan.is(Problem::Truncated))?;
    Ok((Some(Tag { kind: ethertype, control: u16_at::<0, _>(tag) }), EtherType(u16_at::<2, _>(tag)), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cut_frames() {
        let tagged = [&[0xff; 12][..], &[0x81, 0x00, 0x60, 0x0a, 0x08, 0x00, 7]].concat();
        for len in 0..14 {
            assert_eq!(parse(&tagged[..len]).unwrap_err().to_string(), "ethernet-truncated", "{len}");
        }
        for len in 14..18 {
            assert_eq!(parse(&tagged[..len]).unwrap_err().to_string(), "vlan-truncated", "{len}");
        }
        let frame = parse(&tagged).unwrap();
        let tag = frame.tag.unwrap();
        assert_eq!((tag.vlan().map(u16::from), tag.priority()), (Some(10), 3));
        assert_eq!((frame.ethertype, frame.payload), (EtherType::IPV4, &[7][..]));
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(dst: [u8; 6], src: [u8; 6], tag: Option<(bool, u16)>, ethertype: u16, payload: Vec<u8>) {
            prop_assume!(!EtherType(ethertype).is_tag());
            let kind = |service| if service { EtherType::S_TAG } else { EtherType::C_TAG };
            let header = Header {
                dst: MacAddr::new(dst),
                src: MacAddr::new(src),
                tag: tag.map(|(service, control)| Tag { kind: kind(service), control }),
                ethertype: EtherType(ethertype),
            };
            let mut bytes = Vec::new();
            header.emit(&mut bytes);
            prop_assert_eq!(bytes.len(), header.len_bytes());
            bytes.extend_from_slice(&payload);
            prop_assert_eq!(Header::parse(&bytes), Ok((header, &payload[..])));
        }
    }
}
