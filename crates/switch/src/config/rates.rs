use std::fmt;

use weft_types::{BitRate, Excess};

/// How fast a port may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rates {
    /// How fast what stands behind the port may send.
    pub from_port: Option<Rate>,
    /// How fast it may be sent to.
    pub to_port: Option<Rate>,
}

/// A rate and what may exceed it for a moment. Frames count as long as they are between ports, large segments whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// In bits a second, from 1 to [`Rate::MAX_BITS_PER_S`].
    pub bits_per_s: u64,
    /// In bytes, from 1 to [`Rate::MAX_BURST_BYTES`]; where longer frames come, as much as one of them.
    pub burst_bytes: u64,
    /// What becomes of the rest. What waits is not kept by the switch, but by a [`Shaper`](crate::Shaper) beside it.
    pub excess: Excess,
}

impl Rate {
    /// A terabit a second.
    pub const MAX_BITS_PER_S: u64 = 1_000_000_000_000;
    /// A gibibyte.
    pub const MAX_BURST_BYTES: u64 = 1 << 30;
}

impl fmt::Display for Rate {
    /// How fast, as people write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BitRate::new(self.bits_per_s) {
            Some(rate) => rate.fmt(f),
            None => write!(f, "{}bit/s", self.bits_per_s),
        }
    }
}
