use std::fmt;

use crate::MacAddr;

/// A run of station addresses, both ends included; all have the first octet in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacRange {
    first: MacAddr,
    last: MacAddr,
}

/// Two addresses that are no range of stations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{first} to {last} is no range of stations: both ends need the same, even first octet, the lower end first")]
pub struct MacRangeError {
    first: MacAddr,
    last: MacAddr,
}

impl MacRange {
    /// The addresses from `first` to `last`.
    ///
    /// # Errors
    /// When they are in the wrong order, or when not every one of them is a station's.
    pub fn new(first: MacAddr, last: MacAddr) -> Result<Self, MacRangeError> {
        let is_fine = first <= last && first.is_station() && first.octets()[0] == last.octets()[0];
        if is_fine { Ok(Self { first, last }) } else { Err(MacRangeError { first, last }) }
    }

    /// The lowest address.
    pub const fn first(&self) -> MacAddr {
        self.first
    }

    /// The highest address.
    pub const fn last(&self) -> MacAddr {
        self.last
    }

    /// Whether `mac` is one of them.
    pub fn contains(&self, mac: MacAddr) -> bool {
        (self.first..=self.last).contains(&mac)
    }
}

impl fmt::Display for MacRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stations() {
        let mac = |first: u8, last: u8| MacAddr::new([first, 0, 0, 0, 0, last]);
        let range = MacRange::new(mac(2, 1), mac(2, 9)).unwrap();
        assert!(range.contains(mac(2, 1)) && range.contains(mac(2, 9)) && !range.contains(mac(2, 10)));
        for (first, last) in
            [(mac(2, 9), mac(2, 1)), (mac(0, 0), mac(0, 1)), (mac(1, 0), mac(1, 1)), (mac(2, 0), mac(4, 0))]
        {
            assert!(MacRange::new(first, last).is_err(), "{first} {last}");
        }
    }
}
