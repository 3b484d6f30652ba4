//! The internet checksum (RFC 1071): the one's complement of the one's complement sum of 16-bit words.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A sum that is not folded to 16 bits yet. Parts may be added in any order, each starting at an even offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum with these bytes; an odd last byte counts as if a zero followed.
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Words of 32 bits into 64: 2^32 of them would have to come before it overflows, and no frame is that long.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = self.0 + words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum::<u64>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_be_bytes(last));
        Self((sum & 0xffff_ffff) + (sum >> 32))
    }

    /// The sum with one 16-bit word.
    #[inline]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// The sum with an IPv4 pseudo-header (RFC 9293, section 3.1); `len` is the transport header and its payload.
    #[inline]
    pub fn pseudo_v4(self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Self {
        self.bytes(&src.octets()).bytes(&dst.octets()).word(u16::from(protocol)).word(len)
    }

    /// The sum with an IPv6 pseudo-header (RFC 8200, section 8.1).
    #[inline]
    pub fn pseudo_v6(self, src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, len: u32) -> Self {
        self.bytes(&src.octets()).bytes(&dst.octets()).bytes(&len.to_be_bytes()).word(u16::from(next_header))
    }

    /// The sum in 16 bits, not complemented: what a sender leaves in the field for an offload to complete.
    #[inline]
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum to write into a header whose checksum field was zero when it was summed.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// Whether bytes that contain their own checksum are intact.
    #[inline]
    pub fn is_intact(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The checksum of these bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::ZERO.bytes(bytes).checksum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    proptest! {
        #[test]
        fn as_the_naive_one(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn parts_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..150) {
            let (a, b) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::ZERO.bytes(b).bytes(a).checksum(), checksum(&bytes));
        }

        #[test]
        fn what_carries_its_checksum_is_intact(mut bytes in proptest::collection::vec(any::<u8>(), 2..300)) {
            bytes[..2].fill(0);
            let sum = checksum(&bytes);
            bytes[..2].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(Sum::ZERO.bytes(&bytes).is_intact());
        }
    }
}
