//! What a vNIC listens to, as its driver says.

use std::fmt;

use weft_types::MacAddr;

/// The most unicast addresses that a filter may name; those behind them are denied.
pub const MAX_FILTER_STATIONS: usize = 64;

/// The most groups that a filter may name; a longer list counts as all multicast, as virtio-net has it.
pub const MAX_FILTER_GROUPS: usize = 64;

/// The receive filter of a vNIC (virtio 1.2, section 5.1.6.5.1 and 5.1.6.5.2; QEMU's `query-rx-filter`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveFilter {
    /// Every unicast address that it listens to: its own, and those that were added.
    pub stations: Vec<MacAddr>,
    /// The groups that it listens to; broadcast always is one.
    pub groups: Vec<MacAddr>,
    /// Whether it listens to every group.
    pub all_multicast: bool,
    /// Whether it wants to hear everything.
    pub promiscuous: bool,
}

/// Something that a guest asked for and that its port's policy does not allow. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Denial {
    /// To listen to an address that is not configured for its port, or that is another port's.
    MacChange,
    /// To hear everything.
    Promiscuous,
}

impl Denial {
    /// Every denial.
    pub const ALL: [Self; 2] = [Self::MacChange, Self::Promiscuous];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MacChange => "mac-change",
            Self::Promiscuous => "promiscuous",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What became of a receive filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterReport {
    /// The unicast addresses that are registered for the port now.
    pub registered: Vec<MacAddr>,
    /// The unicast addresses that were denied.
    pub denied: Vec<MacAddr>,
    /// Whether hearing everything was denied.
    pub promiscuous_denied: bool,
}

/// A receive filter in force: what was granted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Sorted.
    pub(crate) stations: Vec<MacAddr>,
    /// Sorted; `None` is every group.
    pub(crate) groups: Option<Vec<MacAddr>>,
    /// What it asked for; whether it gets it is the policy's.
    pub(crate) promiscuous: bool,
}
