//! The Internet Protocol, version 4 (RFC 791).

use std::net::Ipv4Addr;

use crate::read::{ipv4_at, u16_at};
use crate::{Layer, Malformed, Problem, Protocol, checksum};

/// The length of a header without options.
pub const HEADER_BYTES: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A packet whose header is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The sender.
    pub src: Ipv4Addr,
    /// The receiver.
    pub dst: Ipv4Addr,
    /// What the payload is.
    pub protocol: Protocol,
    /// How many more routers may forward it.
    pub ttl: u8,
    /// Which packet a fragment belongs to.
    pub ident: u16,
    /// Differentiated services and congestion notification (RFC 2474, RFC 3168).
    pub traffic_class: u8,
    /// Whether routers may not cut it.
    pub dont_fragment: bool,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// Where a fragment's payload belongs in the whole, in bytes.
    pub fragment_offset: u16,
    /// The header with its options.
    pub header: &'a [u8],
    /// What the packet carries, without what Ethernet added to fill its smallest frame.
    pub payload: &'a [u8],
    /// Header and payload.
    pub bytes: &'a [u8],
}

impl Packet<'_> {
    /// Whether this is only a piece of a packet.
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

/// The packet at the start of `bytes`.
///
/// # Errors
/// When the bytes end inside of it, its lengths contradict each other, or the header's checksum is wrong.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let fixed = bytes.first_chunk::<HEADER_BYTES>().ok_or(Layer::Ipv4.is(Problem::Truncated))?;
    let (header_len, total_len) = lengths(fixed)?;
    let bytes = bytes.get(..total_len).ok_or(Layer::Ipv4.is(Problem::Length))?;
    let (header, payload) = bytes.split_at_checked(header_len).ok_or(Layer::Ipv4.is(Problem::Length))?;
    if checksum::checksum(header) != 0 {
        return Err(Layer::Ipv4.is(Problem::Checksum));
    }
    let fragment = u16_at::<6, _>(fixed);
    Ok(Packet {
        src: ipv4_at::<12, _>(fixed),
        dst: ipv4_at::<16, _>(fixed),
        protocol: Protocol(fixed[9]),
        ttl: fixed[8],
        ident: u16_at::<4, _>(fixed),
        traffic_class: fixed[1],
        dont_fragment: fragment & DONT_FRAGMENT != 0,
        more_fragments: fragment & MORE_FRAGMENTS != 0,
        fragment_offset: (fragment & FRAGMENT_OFFSET) * 8,
        header,
        payload,
        bytes,
    })
}

/// The lengths of the header and of the whole packet, in bytes; the former is never the larger.
pub(crate) fn lengths(header: &[u8; HEADER_BYTES]) -> Result<(usize, usize), Malformed> {
    if header[0] >> 4 != 4 {
        return Err(Layer::Ipv4.is(Problem::Version));
    }
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header_len < HEADER_BYTES {
        return Err(Layer::Ipv4.is(Problem::HeaderLength));
    }
    let total_len = usize::from(u16_at::<2, _>(header));
    if total_len < header_len {
        return Err(Layer::Ipv4.is(Problem::Length));
    }
    Ok((header_len, total_len))
}

/// A fragment's place: (whether more follow, its offset in bytes).
pub(crate) fn fragment(header: &[u8; HEADER_BYTES]) -> (bool, u16) {
    let word = u16_at::<6, _>(header);
    (word & MORE_FRAGMENTS != 0, (word & FRAGMENT_OFFSET) * 8)
}

/// A header to write: no options, no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The sender.
    pub src: Ipv4Addr,
    /// The receiver.
    pub dst: Ipv4Addr,
    /// What the payload is.
    pub protocol: Protocol,
    /// How many routers may forward it; 64 is usual.
    pub ttl: u8,
    /// Which packet its fragments will belong to; has no meaning when it may not be cut (RFC 6864).
    pub ident: u16,
    /// Whether routers may not cut it.
    pub dont_fragment: bool,
    /// The length of what follows, in bytes; at most 65,515.
    pub payload_len: u16,
}

impl Repr {
    /// The header's bytes, with the checksum.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&self.payload_len.saturating_add(HEADER_BYTES as u16).to_be_bytes());
        header[4..6].copy_from_slice(&self.ident.to_be_bytes());
        header[6..8].copy_from_slice(&(if self.dont_fragment { DONT_FRAGMENT } else { 0 }).to_be_bytes());
        header[8] = self.ttl;
        header[9] = self.protocol.0;
        header[12..16].copy_from_slice(&self.src.octets());
        header[16..20].copy_from_slice(&self.dst.octets());
        let sum = checksum::checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    /// Appends the header to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Vec<u8> {
        let repr = Repr {
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, 2),
            protocol: Protocol::UDP,
            ttl: 64,
            ident: 7,
            dont_fragment: true,
            payload_len: 4,
        };
        let mut bytes = Vec::new();
        repr.emit(&mut bytes);
        bytes.extend_from_slice(b"data");
        bytes
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let cases: [(usize, u8, &str); 7] = [
            (0, 0x65, "ipv4-version"),
            (0, 0x44, "ipv4-header-length"),
            (0, 0x4f, "ipv4-length"),
            (3, 19, "ipv4-length"),
            (3, 25, "ipv4-length"),
            (2, 0xff, "ipv4-length"),
            (8, 63, "ipv4-checksum"),
        ];
        for (at, value, expected) in cases {
            let mut bytes = packet();
            bytes[at] = value;
            assert_eq!(parse(&bytes).unwrap_err().to_string(), expected, "byte {at} = {value:#x}");
        }
        assert_eq!(parse(&packet()[..19]).unwrap_err().to_string(), "ipv4-truncated");
        assert_eq!(parse(&packet()[..23]).unwrap_err().to_string(), "ipv4-length");
    }

    #[test]
    fn padding_is_no_payload() {
        let mut bytes = packet();
        bytes.extend_from_slice(&[0; 22]);
        assert_eq!(parse(&bytes).unwrap().payload, b"data");
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(
            src: [u8; 4], dst: [u8; 4], protocol: u8, ttl: u8, ident: u16, dont_fragment: bool,
            payload in vec(any::<u8>(), 0..64),
        ) {
            let payload_len = payload.len() as u16;
            let protocol = Protocol(protocol);
            let repr = Repr { src: src.into(), dst: dst.into(), protocol, ttl, ident, dont_fragment, payload_len };
            let mut bytes = Vec::new();
            repr.emit(&mut bytes);
            bytes.extend_from_slice(&payload);
            let packet = parse(&bytes).unwrap();
            prop_assert!(!packet.is_fragment() && packet.payload == payload && packet.bytes == bytes);
            let Packet { src, dst, protocol, ttl, ident, dont_fragment, .. } = packet;
            prop_assert_eq!(Repr { src, dst, protocol, ttl, ident, dont_fragment, payload_len }, repr);
        }

        #[test]
        fn any_bytes_are_safe(bytes in vec(any::<u8>(), 0..128)) {
            let _ = parse(&bytes);
        }
    }
}
