//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the pseudo-headers of IPv4
//! (RFC 9293, section 3.1) and IPv6 (RFC 8200, section 8.1).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Layer, Malformed, Problem, Protocol};

/// A one's complement sum of 16-bit words that is still being added to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Nothing was added yet.
    pub const ZERO: Self = Self(0);

    /// Adds `bytes`, padded with a zero byte when their number is odd; so only the last addition may be odd.
    #[must_use]
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // The sum does not depend on byte order (RFC 1071, section 2 B), so words are added as this machine reads
        // them, eight bytes at a time, and only the folded result is turned round.
        let mut sum = 0u64;
        let mut add = |word: u64| {
            let (partial, carry) = sum.overflowing_add(word);
            sum = partial + u64::from(carry);
        };
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            add(u64::from_ne_bytes(*word));
        }
        if !tail.is_empty() {
            let mut last = [0; 8];
            last[..tail.len()].copy_from_slice(tail);
            add(u64::from_ne_bytes(last));
        }
        self.word(u16::from_be_bytes(fold(sum).to_ne_bytes()))
    }

    /// Adds one word.
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        // 2^48 words of headroom: no frame comes near.
        Self(self.0.wrapping_add(word as u64))
    }

    /// Adds the pseudo-header of `len` bytes of `protocol` over IPv4.
    #[must_use]
    pub fn pseudo_ipv4(self, src: Ipv4Addr, dst: Ipv4Addr, protocol: Protocol, len: u16) -> Self {
        self.bytes(&src.octets()).bytes(&dst.octets()).word(protocol.0.into()).word(len)
    }

    /// Adds the pseudo-header of `len` bytes of `protocol` over IPv6.
    #[must_use]
    pub fn pseudo_ipv6(self, src: Ipv6Addr, dst: Ipv6Addr, protocol: Protocol, len: u16) -> Self {
        self.bytes(&src.octets()).bytes(&dst.octets()).word(protocol.0.into()).word(len)
    }

    /// The sum so far in 16 bits: what a sender leaves in the checksum field when someone else completes it.
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum: the complement of the sum. Zero over bytes that include their right checksum.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum as UDP transmits it, where zero would say that there is none (RFC 768); 0xffff means the
    /// same sum.
    #[must_use]
    pub const fn nonzero_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// The one's complement sum of the four words of `sum`.
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::ZERO.bytes(bytes).checksum()
}

/// `checksum` after the word `old` was replaced by `new` (RFC 1624, equation 3).
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.word(!checksum).word(!old).word(new).checksum()
}

/// `checksum` after `old` was replaced by `new` at an even place.
#[must_use]
pub fn update_bytes<const N: usize>(checksum: u16, old: [u8; N], new: [u8; N]) -> u16 {
    const { assert!(N.is_multiple_of(2), "checksums are over words of two bytes") };
    // The complement of a sum is the sum of the complements.
    Sum::ZERO.word(!checksum).word(!Sum::ZERO.bytes(&old).folded()).bytes(&new).checksum()
}

/// Finishes a checksum that the sender left to others: sums `frame` from `start` to its end, with what the sender
/// put into the field (the pseudo-header's sum), and stores the result `offset` bytes behind `start`.
///
/// # Errors
/// When the field lies outside of the frame.
pub fn complete_checksum(frame: &mut [u8], start: u16, offset: u16) -> Result<(), Malformed> {
    let summed = frame.get_mut(usize::from(start)..).ok_or(Layer::Offload.is(Problem::Mismatch))?;
    let checksum = Sum::ZERO.bytes(summed).nonzero_checksum();
    let field = usize::from(offset)..usize::from(offset) + size_of::<u16>();
    let field = summed.get_mut(field).ok_or(Layer::Offload.is(Problem::Mismatch))?;
    field.copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 4.1, word for word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn worked_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.bytes(&bytes).folded(), 0xddf2);
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff; 65_536]), 0);
    }

    #[test]
    fn worked_example_of_rfc_1624() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn a_field_outside_of_the_frame_is_refused() {
        for (start, offset) in [(0, 9), (9, 0), (11, 0), (10, 0), (u16::MAX, u16::MAX)] {
            assert!(complete_checksum(&mut [0; 10], start, offset).is_err(), "{start} {offset}");
        }
        assert!(complete_checksum(&mut [0; 10], 0, 8).is_ok());
        assert!(complete_checksum(&mut [], 0, 0).is_err());
    }

    proptest! {
        #[test]
        fn fast_equals_naive(bytes in vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn parts_equal_the_whole(bytes in vec(any::<u8>(), 0..200), cut in 0..100usize) {
            let (front, back) = bytes.split_at((cut * 2).min(bytes.len() / 2 * 2));
            prop_assert_eq!(Sum::ZERO.bytes(front).bytes(back).checksum(), naive(&bytes));
        }

        #[test]
        fn update_equals_a_new_sum(bytes in vec(any::<u8>(), 1..40), at in 0..40usize, new: [u8; 4]) {
            let mut bytes = bytes;
            bytes.resize(bytes.len().max(8) + bytes.len() % 2, 1);
            let at = (at % (bytes.len() - 3)) / 2 * 2;
            let old: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            let before = naive(&bytes);
            bytes[at..at + 4].copy_from_slice(&new);
            let after = update_bytes(before, old, new);
            // A sum of zero can be written in two ways; both verify.
            prop_assert_eq!(after % 0xffff, naive(&bytes) % 0xffff);
            let step = update(before, u16::from_be_bytes([old[0], old[1]]), u16::from_be_bytes([new[0], new[1]]));
            let both = update(step, u16::from_be_bytes([old[2], old[3]]), u16::from_be_bytes([new[2], new[3]]));
            prop_assert_eq!(both % 0xffff, after % 0xffff);
        }

        #[test]
        fn a_completed_checksum_verifies(frame in vec(any::<u8>(), 2..300), start in 0..64u16, offset in 0..32u16) {
            let mut frame = frame;
            let field = usize::from(start + offset * 2);
            prop_assume!(field + 2 <= frame.len());
            let seed = u16::from_be_bytes([frame[field], frame[field + 1]]);
            prop_assert!(complete_checksum(&mut frame, start, offset * 2).is_ok());
            // What the receiver sums is the frame and the pseudo-header, whose sum the field held.
            let received = Sum::ZERO.bytes(&frame[start.into()..]).word(seed);
            prop_assert_eq!(received.checksum(), 0);
        }
    }
}
