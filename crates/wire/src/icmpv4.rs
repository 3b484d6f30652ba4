//! The Internet Control Message Protocol (RFC 792).

use crate::read::u16_at;
use crate::{Layer, Malformed, Problem, checksum};

/// The length of a message's header.
pub const HEADER_BYTES: usize = 8;

/// The longest quotation that keeps an error message within 576 bytes (RFC 1812, section 4.3.2.3).
const QUOTE_BYTES: usize = 576 - 20 - HEADER_BYTES;

/// The messages' numbers.
mod kind {
    pub(super) const ECHO_REPLY: u8 = 0;
    pub(super) const DESTINATION_UNREACHABLE: u8 = 3;
    pub(super) const ECHO_REQUEST: u8 = 8;
    pub(super) const TIME_EXCEEDED: u8 = 11;
}

/// Why a destination cannot be reached: the codes of [`Message::DestinationUnreachable`] (RFC 792, RFC 1122 section
/// 3.2.2.1, RFC 1812 section 5.2.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unreachable(pub u8);

impl Unreachable {
    /// No way leads to its network.
    pub const NETWORK: Self = Self(0);
    /// The host does not answer.
    pub const HOST: Self = Self(1);
    /// The host does not speak the protocol.
    pub const PROTOCOL: Self = Self(2);
    /// Nobody listens at the port.
    pub const PORT: Self = Self(3);
    /// The packet is too long and may not be cut (RFC 1191).
    pub const FRAGMENTATION_NEEDED: Self = Self(4);
    /// It is forbidden.
    pub const ADMIN_PROHIBITED: Self = Self(13);
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
        /// The longest packet that would pass, with [`Unreachable::FRAGMENTATION_NEEDED`]; otherwise zero.
        next_hop_mtu: u16,
        /// The packet's start.
        quote: &'a [u8],
    },
    /// A packet was under way for too long.
    TimeExceeded {
        /// 0: by its time to live; 1: while it waited for its fragments.
        code: u8,
        /// The packet's start.
        quote: &'a [u8],
    },
    /// Any other message.
    Other {
        /// The kind.
        kind: u8,
        /// The kind's variant.
        code: u8,
        /// The header's second half.
        rest: [u8; 4],
        /// What follows.
        payload: &'a [u8],
    },
}

/// The message in `bytes`, all of an IPv4 packet's payload. The checksum is not looked at: see [`checksum_ok`].
///
/// # Errors
/// When the bytes end inside its header.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Layer::Icmpv4.is(Problem::Truncated))?;
    let (ident, seq) = (u16_at::<4, _>(header), u16_at::<6, _>(header));
    let [kind, code, _, _, rest @ ..] = *header;
    Ok(match (kind, code) {
        (kind::ECHO_REQUEST, 0) => Message::EchoRequest { ident, seq, payload },
        (kind::ECHO_REPLY, 0) => Message::EchoReply { ident, seq, payload },
        (kind::DESTINATION_UNREACHABLE, _) => {
            Message::DestinationUnreachable { code: Unreachable(code), next_hop_mtu: seq, quote: payload }
        }
        (kind::TIME_EXCEEDED, _) => Message::TimeExceeded { code, quote: payload },
        _ => Message::Other { kind, code, rest, payload },
    })
}

/// Whether a message's checksum is right.
pub fn checksum_ok(bytes: &[u8]) -> bool {
    checksum::checksum(bytes) == 0
}

/// As much of a packet as an error message should quote.
pub fn quote(packet: &[u8]) -> &[u8] {
    &packet[..packet.len().min(QUOTE_BYTES)]
}

impl Message<'_> {
    /// Appends the message to `out`, with its checksum.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let words = |ident: u16, seq: u16| {
            let ([a, b], [c, d]) = (ident.to_be_bytes(), seq.to_be_bytes());
            [a, b, c, d]
        };
        let (kind, code, rest, payload) = match *self {
            Self::EchoRequest { ident, seq, payload } => (kind::ECHO_REQUEST, 0, words(ident, seq), payload),
            Self::EchoReply { ident, seq, payload } => (kind::ECHO_REPLY, 0, words(ident, seq), payload),
            Self::DestinationUnreachable { code, next_hop_mtu, quote } => {
                (kind::DESTINATION_UNREACHABLE, code.0, words(0, next_hop_mtu), quote)
            }
            Self::TimeExceeded { code, quote } => (kind::TIME_EXCEEDED, code, [0; 4], quote),
            Self::Other { kind, code, rest, payload } => (kind, code, rest, payload),
        };
        let start = out.len();
        out.extend_from_slice(&[kind, code, 0, 0]);
        out.extend_from_slice(&rest);
        out.extend_from_slice(payload);
        let message = &mut out[start..];
        let checksum = checksum::checksum(message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cut_messages() {
        for len in 0..HEADER_BYTES {
            assert_eq!(parse(&[8; HEADER_BYTES][..len]).unwrap_err().to_string(), "icmpv4-truncated");
        }
        assert_eq!(quote(&[0; 1500]).len(), 548);
        assert_eq!(quote(&[0; 20]).len(), 20);
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(which in 0..5u8, ident: u16, seq: u16, code: u8, payload in vec(any::<u8>(), 0..99)) {
            let payload = &payload[..];
            let message = match which {
                0 => Message::EchoRequest { ident, seq, payload },
                1 => Message::EchoReply { ident, seq, payload },
                2 => Message::DestinationUnreachable { code: Unreachable(code), next_hop_mtu: seq, quote: payload },
                3 => Message::TimeExceeded { code, quote: payload },
                _ => Message::Other { kind: 13, code, rest: [1, 2, 3, code], payload },
            };
            let mut bytes = Vec::new();
            message.emit(&mut bytes);
            prop_assert_eq!(parse(&bytes), Ok(message));
            prop_assert!(checksum_ok(&bytes));
        }
    }
}
