//! The Transmission Control Protocol's segments (RFC 9293) and the options of its handshake (RFC 7323, RFC 2018).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::BitOr;

use crate::checksum::Sum;
use crate::read::{u16_at, u32_at};
use crate::{Layer, Malformed, Problem, Protocol};

/// The length of a header without options.
pub const HEADER_BYTES: usize = 20;

/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: u16 = 16;

/// The control bits (RFC 9293, section 3.1).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender has no more to send.
    pub const FIN: Self = Self(0x01);
    /// Sequence numbers start here.
    pub const SYN: Self = Self(0x02);
    /// The connection is gone.
    pub const RST: Self = Self(0x04);
    /// The receiver should not wait for more before it reads.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number has a meaning.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer has a meaning.
    pub const URG: Self = Self(0x20);
    /// Congestion was seen (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// The congestion window was reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    const NAMES: [(Self, &str); 8] = [
        (Self::FIN, "FIN"),
        (Self::SYN, "SYN"),
        (Self::RST, "RST"),
        (Self::PSH, "PSH"),
        (Self::ACK, "ACK"),
        (Self::URG, "URG"),
        (Self::ECE, "ECE"),
        (Self::CWR, "CWR"),
    ];

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These bits without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join("|"))
    }
}

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// The first payload byte's sequence number.
    pub seq: u32,
    /// The next sequence number that the sender expects.
    pub ack: u32,
    /// The control bits.
    pub flags: Flags,
    /// How much the sender can take, not scaled.
    pub window: u16,
    /// The header's options; [`Options::parse`] reads them.
    pub options: &'a [u8],
    /// What it carries.
    pub payload: &'a [u8],
    /// Header and payload.
    pub bytes: &'a [u8],
}

/// The segment in `bytes`, all of an IP packet's payload.
///
/// # Errors
/// When the bytes end inside of its header.
pub fn parse(bytes: &[u8]) -> Result<Segment<'_>, Malformed> {
    let fixed = bytes.first_chunk::<HEADER_BYTES>().ok_or(Layer::Tcp.is(Problem::Truncated))?;
    let header_len = header_len(fixed)?;
    let (header, payload) = bytes.split_at_checked(header_len).ok_or(Layer::Tcp.is(Problem::HeaderLength))?;
    Ok(Segment {
        src_port: u16_at::<0, _>(fixed),
        dst_port: u16_at::<2, _>(fixed),
        seq: u32_at::<4, _>(fixed),
        ack: u32_at::<8, _>(fixed),
        flags: Flags(fixed[13]),
        window: u16_at::<14, _>(fixed),
        options: &header[HEADER_BYTES..],
        payload,
        bytes,
    })
}

/// The header's length with its options, by its own word.
pub(crate) fn header_len(fixed: &[u8; HEADER_BYTES]) -> Result<usize, Malformed> {
    let len = usize::from(fixed[12] >> 4) * 4;
    if len < HEADER_BYTES {
        return Err(Layer::Tcp.is(Problem::HeaderLength));
    }
    Ok(len)
}

impl Segment<'_> {
    /// Whether the checksum is right for a segment between these addresses.
    pub fn checksum_ok(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        let pseudo = Sum::ZERO.pseudo_ipv4(src, dst, Protocol::TCP, self.bytes.len() as u16);
        pseudo.bytes(self.bytes).checksum() == 0
    }

    /// How many sequence numbers it takes up: its payload, and one each for SYN and FIN.
    pub fn sequence_len(&self) -> u32 {
        let flag = |flag| u32::from(self.flags.contains(flag));
        self.payload.len() as u32 + flag(Flags::SYN) + flag(Flags::FIN)
    }
}

/// The options that are spoken here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// The largest payload that the sender takes in one segment.
    pub mss: Option<u16>,
    /// How far the sender's windows are to be shifted, at most 14 (RFC 7323, section 2.3).
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgements are understood.
    pub sack_permitted: bool,
}

impl Options {
    const MAX_WINDOW_SCALE: u8 = 14;

    /// Reads a header's options; unknown ones are skipped.
    ///
    /// # Errors
    /// When an option's length contradicts its kind or the header.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, Malformed> {
        const WRONG: Malformed = Layer::Tcp.is(Problem::Options);
        let mut options = Self::default();
        while let [kind, rest @ ..] = bytes {
            match kind {
                0 => break,
                1 => bytes = rest,
                _ => {
                    let len = usize::from(*rest.first().ok_or(WRONG)?);
                    let (option, behind) = bytes.split_at_checked(len).ok_or(WRONG)?;
                    match *option {
                        [2, _, high, low] => options.mss = Some(u16::from_be_bytes([high, low])),
                        [3, _, shift] => options.window_scale = Some(shift.min(Self::MAX_WINDOW_SCALE)),
                        [4, _] => options.sack_permitted = true,
                        [2..=4, ..] | [] | [_] => return Err(WRONG),
                        _ => {}
                    }
                    bytes = behind;
                }
            }
        }
        Ok(options)
    }

    /// The options' bytes, a multiple of four of them.
    fn bytes(self) -> ([u8; 12], usize) {
        let mut bytes = [1; 12]; // no-operation, for alignment
        let mut len = 0;
        let mut put = |option: &[u8]| {
            bytes[len..len + option.len()].copy_from_slice(option);
            len += 4;
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[2, 4, high, low]);
        }
        if self.sack_permitted {
            put(&[4, 2]);
        }
        if let Some(shift) = self.window_scale {
            put(&[3, 3, shift.min(Self::MAX_WINDOW_SCALE)]);
        }
        (bytes, len)
    }
}

/// A segment's header to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// The first payload byte's sequence number.
    pub seq: u32,
    /// The next sequence number that the sender expects.
    pub ack: u32,
    /// The control bits.
    pub flags: Flags,
    /// How much the sender can take, not scaled.
    pub window: u16,
    /// The options; for a SYN only.
    pub options: Options,
}

impl Repr {
    /// The header's length with its options.
    pub fn header_len(&self) -> usize {
        HEADER_BYTES + self.options.bytes().1
    }

    /// Appends a segment over IPv4 to `out`, with its checksum.
    pub fn emit(&self, out: &mut Vec<u8>, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) {
        let start = self.emit_partial(out, src, dst, payload);
        let checksum = Sum::ZERO.bytes(&out[start..]).checksum();
        self.set_checksum(out, start, checksum);
    }

    /// Appends a segment whose checksum field holds only the pseudo-header's sum: the receiver, or
    /// [`segment`](crate::segment::segment), completes it ([`Csum::Partial`](crate::Csum::Partial), with the place
    /// that is returned as its start and [`CHECKSUM_OFFSET`]).
    pub fn emit_partial(&self, out: &mut Vec<u8>, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> usize {
        let start = self.append(out, payload);
        let len = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
        self.set_checksum(out, start, Sum::ZERO.pseudo_ipv4(src, dst, Protocol::TCP, len).folded());
        start
    }

    /// Appends a segment over IPv6 to `out`, with its checksum.
    pub fn emit_v6(&self, out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr, payload: &[u8]) {
        let start = self.append(out, payload);
        let len = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
        let checksum = Sum::ZERO.pseudo_ipv6(src, dst, Protocol::TCP, len).bytes(&out[start..]).checksum();
        self.set_checksum(out, start, checksum);
    }

    /// Appends the header alone, its checksum zero, to be filled in by the caller; where it starts.
    pub fn emit_bare(&self, out: &mut Vec<u8>) -> usize {
        self.append(out, &[])
    }

    /// Appends the segment, its checksum zero; where it starts.
    fn append(&self, out: &mut Vec<u8>, payload: &[u8]) -> usize {
        let start = out.len();
        let (options, options_len) = self.options.bytes();
        let header_len = HEADER_BYTES + options_len;
        let mut fixed = [0; HEADER_BYTES];
        fixed[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        fixed[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.seq.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ack.to_be_bytes());
        fixed[12] = (header_len as u8 / 4) << 4;
        fixed[13] = self.flags.0;
        fixed[14..16].copy_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(&options[..options_len]);
        out.extend_from_slice(payload);
        start
    }

    fn set_checksum(&self, out: &mut [u8], start: usize, value: u16) {
        let field = start + usize::from(CHECKSUM_OFFSET);
        out[field..field + 2].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::complete_checksum;

    #[test]
    fn options() {
        let check = |bytes: &[u8]| Options::parse(bytes).map_err(|e| e.to_string());
        let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(check(&linux), Ok(Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true }));
        assert_eq!(check(&[0, 2, 9]), Ok(Options::default()), "nothing counts behind the end");
        assert_eq!(check(&[3, 3, 255]).unwrap().window_scale, Some(14));
        for bad in [&[2][..], &[2, 0], &[2, 1], &[2, 3, 1], &[2, 5, 1, 2, 3], &[254, 0], &[254, 9, 1], &[8, 1]] {
            assert_eq!(check(bad), Err("tcp-options".to_owned()), "{bad:?}");
        }
    }

    #[test]
    fn header_lengths_that_lie_are_refused() {
        let mut bytes = [0; 24];
        for (words, expected) in [(0, false), (4, false), (5, true), (6, true), (7, false), (15, false)] {
            bytes[12] = words << 4;
            assert_eq!(parse(&bytes).is_ok(), expected, "{words} words");
        }
        assert_eq!(parse(&bytes[..19]).unwrap_err().to_string(), "tcp-truncated");
    }

    fn any_repr() -> impl Strategy<Value = Repr> {
        let options = (any::<Option<u16>>(), proptest::option::of(0..=14u8), any::<bool>());
        let options =
            options.prop_map(|(mss, window_scale, sack_permitted)| Options { mss, window_scale, sack_permitted });
        let fields = (any::<(u16, u16, u32, u32, u8, u16)>(), options);
        fields.prop_map(|((src_port, dst_port, seq, ack, flags, window), options)| Repr {
            src_port,
            dst_port,
            seq,
            ack,
            flags: Flags(flags),
            window,
            options,
        })
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(repr in any_repr(), ips: [[u8; 4]; 2], payload in vec(any::<u8>(), 0..100)) {
            let [src, dst] = ips.map(Ipv4Addr::from);
            let mut bytes = Vec::new();
            repr.emit(&mut bytes, src, dst, &payload);
            let segment = parse(&bytes).unwrap();
            prop_assert!(segment.checksum_ok(src, dst));
            prop_assert_eq!(segment.payload, &payload[..]);
            let Segment { src_port, dst_port, seq, ack, flags, window, .. } = segment;
            let options = Options::parse(segment.options).unwrap();
            prop_assert_eq!(Repr { src_port, dst_port, seq, ack, flags, window, options }, repr);

            let mut partial = vec![0; 34];
            let start = repr.emit_partial(&mut partial, src, dst, &payload);
            complete_checksum(&mut partial, start as u16, CHECKSUM_OFFSET).unwrap();
            prop_assert!(parse(&partial[start..]).unwrap().checksum_ok(src, dst));
        }

        #[test]
        fn any_bytes_are_safe(bytes in vec(any::<u8>(), 0..128)) {
            if let Ok(segment) = parse(&bytes) {
                let _ = Options::parse(segment.options);
            }
            let _ = Options::parse(&bytes);
        }
    }
}
