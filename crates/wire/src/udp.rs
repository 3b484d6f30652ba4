//! The User Datagram Protocol (RFC 768).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use crate::checksum::Sum;
use crate::read::u16_at;
use crate::{Layer, Malformed, Problem, Protocol};

/// The length of the header.
pub const HEADER_BYTES: usize = 8;

/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: u16 = 6;

/// A datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// The checksum; zero when the sender made none.
    pub checksum: u16,
    /// What it carries.
    pub payload: &'a [u8],
    /// Header and payload.
    pub bytes: &'a [u8],
}

/// The datagram at the start of `bytes`, an IP packet's payload.
///
/// # Errors
/// When the bytes end inside of it.
pub fn parse(bytes: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(Layer::Udp.is(Problem::Truncated))?;
    let bytes = bytes.get(..u16_at::<4, _>(header).into()).ok_or(Layer::Udp.is(Problem::Length))?;
    let payload = bytes.get(HEADER_BYTES..).ok_or(Layer::Udp.is(Problem::Length))?;
    Ok(Datagram {
        src_port: u16_at::<0, _>(header),
        dst_port: u16_at::<2, _>(header),
        checksum: u16_at::<6, _>(header),
        payload,
        bytes,
    })
}

impl Datagram<'_> {
    /// Whether the checksum, if there is one, is right for a datagram between these addresses.
    pub fn checksum_ok(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        let pseudo = Sum::ZERO.pseudo_ipv4(src, dst, Protocol::UDP, self.bytes.len() as u16);
        self.checksum == 0 || pseudo.bytes(self.bytes).checksum() == 0
    }

    /// Whether the checksum is right for a datagram between these addresses; over IPv6 there must be one (RFC 8200,
    /// section 8.1).
    pub fn checksum_ok_v6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        let pseudo = Sum::ZERO.pseudo_ipv6(src, dst, Protocol::UDP, self.bytes.len() as u16);
        self.checksum != 0 && pseudo.bytes(self.bytes).checksum() == 0
    }
}

/// Appends a datagram over IPv4 to `out`, with its checksum; its payload can have 65,507 bytes.
pub fn emit(out: &mut Vec<u8>, src: SocketAddrV4, dst: SocketAddrV4, payload: &[u8]) {
    let pseudo = |len| Sum::ZERO.pseudo_ipv4(*src.ip(), *dst.ip(), Protocol::UDP, len);
    emit_with(out, src.port(), dst.port(), payload, pseudo);
}

/// Appends a datagram over IPv6 to `out`, with its checksum; its payload can have 65,527 bytes.
pub fn emit_v6(out: &mut Vec<u8>, src: SocketAddrV6, dst: SocketAddrV6, payload: &[u8]) {
    let pseudo = |len| Sum::ZERO.pseudo_ipv6(*src.ip(), *dst.ip(), Protocol::UDP, len);
    emit_with(out, src.port(), dst.port(), payload, pseudo);
}

fn emit_with(out: &mut Vec<u8>, src: u16, dst: u16, payload: &[u8], pseudo: impl FnOnce(u16) -> Sum) {
    let start = out.len();
    let len = u16::try_from(HEADER_BYTES + payload.len()).unwrap_or(u16::MAX);
    for word in [src, dst, len, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(payload);
    let datagram = &mut out[start..];
    let checksum = pseudo(len).bytes(datagram).nonzero_checksum();
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_that_lie_are_refused() {
        let cases: [(&[u8], &str); 4] = [
            (&[0; 7], "udp-truncated"),
            (&[0, 1, 0, 2, 0, 7, 0, 0], "udp-length"),
            (&[0, 1, 0, 2, 0, 9, 0, 0], "udp-length"),
            (&[0, 1, 0, 2, 0xff, 0xff, 0, 0], "udp-length"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(bytes).unwrap_err().to_string(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn over_ipv6_there_is_a_checksum() {
        let [src, dst] = [1, 2].map(|last| SocketAddrV6::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last), 53, 0, 0));
        let mut bytes = Vec::new();
        emit_v6(&mut bytes, src, dst, b"hello");
        let check = |bytes: &[u8]| parse(bytes).unwrap().checksum_ok_v6(*src.ip(), *dst.ip());
        assert!(check(&bytes));
        assert!(!check(&[&bytes[..6], &[0, 0], &bytes[8..]].concat()), "none is wrong");
        *bytes.last_mut().unwrap() ^= 1;
        assert!(!check(&bytes));
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(
            ips: [[u8; 4]; 2], ports: [u16; 2], payload in vec(any::<u8>(), 0..100), flip in 0..800usize,
        ) {
            let src = SocketAddrV4::new(ips[0].into(), ports[0]);
            let dst = SocketAddrV4::new(ips[1].into(), ports[1]);
            let mut bytes = Vec::new();
            emit(&mut bytes, src, dst, &payload);
            let datagram = parse(&bytes).unwrap();
            prop_assert!(datagram.checksum_ok(*src.ip(), *dst.ip()) && datagram.checksum != 0);
            prop_assert_eq!((datagram.src_port, datagram.dst_port, datagram.payload), (ports[0], ports[1], &payload[..]));

            let flip = flip % (bytes.len() * 8);
            bytes[flip / 8] ^= 1 << (flip % 8);
            if let Ok(damaged) = parse(&bytes) {
                prop_assert!(damaged.checksum == 0 || !damaged.checksum_ok(*src.ip(), *dst.ip()), "bit {flip}");
            }
        }
    }
}
