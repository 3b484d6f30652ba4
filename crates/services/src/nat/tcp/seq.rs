use std::ops::Add;

/// A TCP sequence number: arithmetic is modulo 2^32 (RFC 9293, section 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// How many numbers lie between `earlier` and this one.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    pub(crate) fn is_before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    pub(crate) fn is_after(self, other: Self) -> bool {
        other.is_before(self)
    }

    /// The later one.
    pub(crate) fn max(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }

    /// The number before.
    pub(crate) fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_goes_around_the_corner() {
        let late = Seq(u32::MAX - 1);
        assert!(late.is_before(late + 3) && (late + 3).is_after(late) && !late.is_before(late));
        assert_eq!((late + 3).since(late), 3);
        assert_eq!(late.max(late + 3), Seq(1));
        assert_eq!(Seq(0).previous(), Seq(u32::MAX));
    }
}
