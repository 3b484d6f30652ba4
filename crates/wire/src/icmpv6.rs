//! The Internet Control Message Protocol for IPv6 (RFC 4443). Neighbour discovery, which speaks it, is in
//! [`ndp`](crate::ndp).

use std::net::Ipv6Addr;

use crate::checksum::Sum;
use crate::read::{u16_at, u32_at};
use crate::{Layer, Malformed, Problem, Protocol};

/// The length of a message's header.
pub const HEADER_BYTES: usize = 8;

/// The longest quotation that keeps an error message within the smallest MTU of IPv6 (RFC 4443, section 2.4 c).
const QUOTE_BYTES: usize = 1280 - crate::ipv6::HEADER_BYTES - HEADER_BYTES;

/// The messages' numbers.
mod kind {
    pub(super) const DESTINATION_UNREACHABLE: u8 = 1;
    pub(super) const PACKET_TOO_BIG: u8 = 2;
    pub(super) const TIME_EXCEEDED: u8 = 3;
    pub(super) const PARAMETER_PROBLEM: u8 = 4;
    pub(super) const ECHO_REQUEST: u8 = 128;
    pub(super) const ECHO_REPLY: u8 = 129;
}

/// Why a destination cannot be reached: a code of type 1 (RFC 4443, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unreachable(pub u8);

impl Unreachable {
    /// No way leads there.
    pub const NO_ROUTE: Self = Self(0);
    /// It is forbidden.
    pub const ADMIN_PROHIBITED: Self = Self(1);
    /// The sender's address means nothing there.
    pub const BEYOND_SCOPE: Self = Self(2);
    /// The host does not answer.
    pub const ADDRESS: Self = Self(3);
    /// Nobody listens at the port.
    pub const PORT: Self = Self(4);
}

/// What is wrong with a packet: a code of type 4 (RFC 4443, section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parameter(pub u8);

impl Parameter {
    /// A next header that the receiver does not speak.
    pub const NEXT_HEADER: Self = Self(1);
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Please send this back.
    EchoRequest {
        /// Whose request it is.
        ident: u16,
        /// Which of them.
        seq: u16,
        /// What is to be sent back.
        payload: &'a [u8],
    },
    /// As requested.
    EchoReply {
        /// Whose request it was.
        ident: u16,
        /// Which of them.
        seq: u16,
        /// What was to be sent back.
        payload: &'a [u8],
    },
    /// A packet did not arrive.
    DestinationUnreachable {
        /// Why.
        code: Unreachable,
        /// The packet's start.
        quote: &'a [u8],
    },
    /// A packet is longer than a link on its way takes, and nobody cuts it but its sender.
    PacketTooBig {
        /// The longest that the link takes, in bytes.
        mtu: u32,
        /// The packet's start.
        quote: &'a [u8],
    },
    /// A packet was under way for too long.
    TimeExceeded {
        /// 0: by its hop limit; 1: while it waited for its fragments.
        code: u8,
        /// The packet's start.
        quote: &'a [u8],
    },
    /// A packet that is not understood.
    ParameterProblem {
        /// What is wrong.
        code: Parameter,
        /// Where, in bytes from the packet's first.
        at: u32,
        /// The packet's start.
        quote: &'a [u8],
    },
    /// Any other message.
    Other {
        /// The kind; from 128 on it is no error.
        kind: u8,
        /// The kind's variant.
        code: u8,
        /// The header's second half.
        rest: [u8; 4],
        /// What follows.
        payload: &'a [u8],
    },
}

/// The message in `bytes`, all that stands behind an IPv6 packet's extension headers. The checksum is not looked at: see
/// [`checksum_ok`].
///
/// # Errors
/// When the bytes end inside its header.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Layer::Icmpv6.is(Problem::Truncated))?;
    let (ident, seq, word) = (u16_at::<4, _>(header), u16_at::<6, _>(header), u32_at::<4, _>(header));
    let [kind, code, _, _, rest @ ..] = *header;
    Ok(match (kind, code) {
        (kind::ECHO_REQUEST, 0) => Message::EchoRequest { ident, seq, payload },
        (kind::ECHO_REPLY, 0) => Message::EchoReply { ident, seq, payload },
        (kind::DESTINATION_UNREACHABLE, _) => {
            Message::DestinationUnreachable { code: Unreachable(code), quote: payload }
        }
        (kind::PACKET_TOO_BIG, _) => Message::PacketTooBig { mtu: word, quote: payload },
        (kind::TIME_EXCEEDED, _) => Message::TimeExceeded { code, quote: payload },
        (kind::PARAMETER_PROBLEM, _) => Message::ParameterProblem { code: Parameter(code), at: word, quote: payload },
        _ => Message::Other { kind, code, rest, payload },
    })
}

/// Whether a message's checksum is right for a packet between these addresses.
pub fn checksum_ok(src: Ipv6Addr, dst: Ipv6Addr, bytes: &[u8]) -> bool {
    sum(src, dst, bytes) == 0
}

fn sum(src: Ipv6Addr, dst: Ipv6Addr, bytes: &[u8]) -> u16 {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    Sum::ZERO.pseudo_ipv6(src, dst, Protocol::ICMPV6, len).bytes(bytes).checksum()
}

/// Writes the checksum into a message for a packet between these addresses, where zeros stand.
pub(crate) fn finish(src: Ipv6Addr, dst: Ipv6Addr, message: &mut [u8]) {
    let checksum = sum(src, dst, message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// As much of a packet as an error message should quote.
pub fn quote(packet: &[u8]) -> &[u8] {
    &packet[..packet.len().min(QUOTE_BYTES)]
}

/// Whether a packet that carries this message is never answered by an error (RFC 4443, section 2.4 e).
pub fn is_error(message: &[u8]) -> bool {
    const REDIRECT: u8 = 137;
    message.first().is_none_or(|kind| *kind < 128 || *kind == REDIRECT)
}

impl Message<'_> {
    /// Appends the message for a packet from `src` to `dst` to `out`, with its checksum.
    pub fn emit(&self, out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr) {
        let words = |ident: u16, seq: u16| {
            let ([a, b], [c, d]) = (ident.to_be_bytes(), seq.to_be_bytes());
            [a, b, c, d]
        };
        let (kind, code, rest, payload) = match *self {
            Self::EchoRequest { ident, seq, payload } => (kind::ECHO_REQUEST, 0, words(ident, seq), payload),
            Self::EchoReply { ident, seq, payload } => (kind::ECHO_REPLY, 0, words(ident, seq), payload),
            Self::DestinationUnreachable { code, quote } => (kind::DESTINATION_UNREACHABLE, code.0, [0; 4], quote),
            Self::PacketTooBig { mtu, quote } => (kind::PACKET_TOO_BIG, 0, mtu.to_be_bytes(), quote),
            Self::TimeExceeded { code, quote } => (kind::TIME_EXCEEDED, code, [0; 4], quote),
            Self::ParameterProblem { code, at, quote } => (kind::PARAMETER_PROBLEM, code.0, at.to_be_bytes(), quote),
            Self::Other { kind, code, rest, payload } => (kind, code, rest, payload),
        };
        let start = out.len();
        out.extend_from_slice(&[kind, code, 0, 0]);
        out.extend_from_slice(&rest);
        out.extend_from_slice(payload);
        finish(src, dst, &mut out[start..]);
    }
}

/// Appends the message from `src` to `dst` that the packet which starts with `quote` did not arrive, with its checksum.
pub fn emit_unreachable(out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr, code: Unreachable, quote: &[u8]) {
    Message::DestinationUnreachable { code, quote }.emit(out, src, dst);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SRC: Ipv6Addr = Ipv6Addr::LOCALHOST;
    const DST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    #[test]
    fn a_message_that_the_receiver_accepts() {
        let mut message = Vec::new();
        emit_unreachable(&mut message, SRC, DST, Unreachable::ADMIN_PROHIBITED, quote(&[7; 2000]));
        assert_eq!(message.len(), 1280 - 40);
        assert_eq!(message[..2], [1, 1]);
        let sum = Sum::ZERO.pseudo_ipv6(SRC, DST, Protocol::ICMPV6, message.len() as u16).bytes(&message);
        assert_eq!(sum.checksum(), 0);
        assert!(!checksum_ok(SRC, SRC, &message), "the addresses count");
    }

    #[test]
    fn cut_messages() {
        for len in 0..HEADER_BYTES {
            assert_eq!(parse(&[128; HEADER_BYTES][..len]).unwrap_err().to_string(), "icmpv6-truncated");
        }
        assert!(is_error(&[]) && is_error(&[1]) && is_error(&[127]) && is_error(&[137]) && !is_error(&[128]));
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(which in 0..7u8, ident: u16, seq: u16, code: u8, payload in vec(any::<u8>(), 0..99)) {
            let payload = &payload[..];
            let message = match which {
                0 => Message::EchoRequest { ident, seq, payload },
                1 => Message::EchoReply { ident, seq, payload },
                2 => Message::DestinationUnreachable { code: Unreachable(code), quote: payload },
                3 => Message::PacketTooBig { mtu: seq.into(), quote: payload },
                4 => Message::TimeExceeded { code, quote: payload },
                5 => Message::ParameterProblem { code: Parameter(code), at: ident.into(), quote: payload },
                _ => Message::Other { kind: 143, code, rest: [1, 2, 3, code], payload },
            };
            let mut bytes = Vec::new();
            message.emit(&mut bytes, SRC, DST);
            prop_assert_eq!(parse(&bytes), Ok(message));
            prop_assert!(checksum_ok(SRC, DST, &bytes));
        }
    }
}
