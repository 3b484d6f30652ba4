//! Error messages of the Internet Control Message Protocol for IPv6 (RFC 4443), as far as they are written here.

use std::net::Ipv6Addr;

use crate::Protocol;
use crate::checksum::Sum;

/// The length of a message's header.
pub const HEADER_BYTES: usize = 8;

/// The longest quotation that keeps an error message within the smallest MTU of IPv6 (RFC 4443, section 2.4 c).
const QUOTE_BYTES: usize = 1280 - crate::ipv6::HEADER_BYTES - HEADER_BYTES;

const DESTINATION_UNREACHABLE: u8 = 1;

/// Why a destination cannot be reached: a code of type 1 (RFC 4443, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unreachable(pub u8);

impl Unreachable {
    /// It is forbidden.
    pub const ADMIN_PROHIBITED: Self = Self(1);
}

/// As much of a packet as an error message should quote.
pub fn quote(packet: &[u8]) -> &[u8] {
    &packet[..packet.len().min(QUOTE_BYTES)]
}

/// Appends the message from `src` to `dst` that the packet which starts with `quote` did not arrive, with its checksum.
pub fn emit_unreachable(out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr, code: Unreachable, quote: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[DESTINATION_UNREACHABLE, code.0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(quote);
    let message = &mut out[start..];
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let checksum = Sum::ZERO.pseudo_ipv6(src, dst, Protocol::ICMPV6, len).bytes(message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_the_receiver_accepts() {
        let (src, dst) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        let mut message = Vec::new();
        emit_unreachable(&mut message, src, dst, Unreachable::ADMIN_PROHIBITED, quote(&[7; 2000]));
        assert_eq!(message.len(), 1280 - 40);
        assert_eq!(message[..2], [1, 1]);
        let sum = Sum::ZERO.pseudo_ipv6(src, dst, Protocol::ICMPV6, message.len() as u16).bytes(&message);
        assert_eq!(sum.checksum(), 0);
    }
}
