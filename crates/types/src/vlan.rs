use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// An IEEE 802.1Q VLAN identifier, 1 to 4094; 0 and 4095 are reserved (table 9-2) and cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(NonZeroU16);

/// A number that is no VLAN identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("VLAN {0} cannot be used: choose 1 to 4094")]
pub struct VlanIdError(u16);

impl TryFrom<u16> for VlanId {
    type Error = VlanIdError;

    fn try_from(raw: u16) -> Result<Self, VlanIdError> {
        NonZeroU16::new(raw).filter(|id| id.get() <= 4094).map(Self).ok_or(VlanIdError(raw))
    }
}

impl From<VlanId> for u16 {
    fn from(id: VlanId) -> Self {
        id.0.get()
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const _: () = assert!(size_of::<Option<VlanId>>() == 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_1_to_4094() {
        assert!(VlanId::try_from(0).is_err() && VlanId::try_from(4095).is_err());
        assert_eq!(u16::from(VlanId::try_from(4094).unwrap()), 4094);
    }
}
