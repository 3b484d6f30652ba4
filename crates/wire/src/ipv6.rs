//! The header of the Internet Protocol, version 6, and the way through its extension headers (RFC 8200).

use std::net::Ipv6Addr;

use crate::read::{bytes, u16_at};
use crate::{Layer, Malformed, Problem, Protocol};

/// The length of the fixed header.
pub const HEADER_BYTES: usize = 40;

/// How many extension headers are walked; real packets have one or two.
const MAX_EXTENSIONS: usize = 8;

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The sender.
    pub src: Ipv6Addr,
    /// The receiver.
    pub dst: Ipv6Addr,
    /// What the payload starts with: a transport protocol, or an extension header.
    pub next_header: Protocol,
    /// How many more routers may forward it.
    pub hop_limit: u8,
    /// What follows the fixed header, without what Ethernet added to fill its smallest frame.
    pub payload: &'a [u8],
}

/// The packet at the start of `bytes`.
///
/// # Errors
/// When the bytes end inside of it.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Layer::Ipv6.is(Problem::Truncated))?;
    let payload = rest.get(..payload_len(header)?).ok_or(Layer::Ipv6.is(Problem::Length))?;
    let (src, dst) = addresses(header);
    Ok(Packet { src, dst, next_header: Protocol(header[6]), hop_limit: header[7], payload })
}

/// The payload's length by the header's word.
pub(crate) fn payload_len(header: &[u8; HEADER_BYTES]) -> Result<usize, Malformed> {
    if header[0] >> 4 != 6 {
        return Err(Layer::Ipv6.is(Problem::Version));
    }
    Ok(u16_at::<4, _>(header).into())
}

/// The sender and the receiver.
pub(crate) fn addresses(header: &[u8; HEADER_BYTES]) -> (Ipv6Addr, Ipv6Addr) {
    (Ipv6Addr::from_octets(bytes::<8, 16, _>(header)), Ipv6Addr::from_octets(bytes::<24, 16, _>(header)))
}

/// A header to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The sender.
    pub src: Ipv6Addr,
    /// The receiver.
    pub dst: Ipv6Addr,
    /// What the payload starts with.
    pub next_header: Protocol,
    /// How many routers may forward it; 64 is usual.
    pub hop_limit: u8,
    /// The length of what follows, in bytes.
    pub payload_len: u16,
}

impl Repr {
    /// Appends the header to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0x60, 0, 0, 0]);
        out.extend_from_slice(&self.payload_len.to_be_bytes());
        out.extend_from_slice(&[self.next_header.0, self.hop_limit]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&self.dst.octets());
    }
}

/// What stands behind a packet's extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The protocol; an extension header's number where the walk could not go on.
    pub protocol: Protocol,
    /// Where it starts, in bytes from the end of the fixed header.
    pub at: usize,
    /// The fragment header's (more fragments, offset in bytes), if there is one.
    pub fragment: Option<(bool, u16)>,
}

/// Walks over extension headers to the transport header; a fragment that is not the first has none, so the walk
/// ends behind its fragment header. `payload` may be cut: `is_cut` says that more bytes exist than are given.
///
/// # Errors
/// When an extension header ends behind the payload's end.
pub fn transport(first: Protocol, payload: &[u8], is_cut: bool) -> Result<Option<Transport>, Malformed> {
    let mut found = Transport { protocol: first, at: 0, fragment: None };
    for _ in 0..MAX_EXTENSIONS {
        let is_fragment_header = found.protocol.0 == 44;
        if !is_fragment_header && !matches!(found.protocol.0, 0 | 43 | 60) {
            return Ok(Some(found));
        }
        let Some(header) = payload.get(found.at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return if is_cut { Ok(None) } else { Err(Layer::Ipv6.is(Problem::Truncated)) };
        };
        found.protocol = Protocol(header[0]);
        if is_fragment_header {
            found.at += 8;
            let word = u16_at::<2, _>(header);
            let offset = word & 0xfff8;
            found.fragment = Some((word & 1 != 0, offset));
            if offset != 0 {
                return Ok(Some(found));
            }
        } else {
            found.at += 8 + usize::from(header[1]) * 8;
        }
    }
    Err(Layer::Ipv6.is(Problem::Unsupported))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_way_to_the_transport_header() {
        let hop_by_hop = [60, 0, 0, 0, 0, 0, 0, 0];
        let options = [6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let later_fragment = [60, 0, 0x01, 0x01, 0, 0, 0, 1];
        let check = |first, bytes: &[u8], is_cut| transport(Protocol(first), bytes, is_cut);
        let at = |protocol, at, fragment| Ok(Some(Transport { protocol: Protocol(protocol), at, fragment }));
        assert_eq!(check(17, &[], false), at(17, 0, None));
        assert_eq!(check(0, &[&hop_by_hop[..], &options].concat(), false), at(6, 24, None));
        assert_eq!(check(44, &later_fragment, false), at(60, 8, Some((true, 256))));
        assert_eq!(check(0, &hop_by_hop, true), Ok(None));
        assert_eq!(check(0, &hop_by_hop, false), Err(Layer::Ipv6.is(Problem::Truncated)));
        assert_eq!(check(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(9), false), Err(Layer::Ipv6.is(Problem::Unsupported)));
    }

    #[test]
    fn what_is_written_is_read() {
        let (src, dst) = (Ipv6Addr::LOCALHOST, Ipv6Addr::from_bits(7));
        let repr = Repr { src, dst, next_header: Protocol::TCP, hop_limit: 64, payload_len: 3 };
        let mut bytes = Vec::new();
        repr.emit(&mut bytes);
        bytes.extend([1, 2, 3, 4]);
        let expected = Packet { src, dst, next_header: Protocol::TCP, hop_limit: 64, payload: &[1, 2, 3] };
        assert_eq!(parse(&bytes), Ok(expected));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(first: u8, bytes in vec(any::<u8>(), 0..128), is_cut: bool) {
            let _ = parse(&bytes);
            let _ = transport(Protocol(first), &bytes, is_cut);
        }
    }
}
