use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::MacAddr;

/// A run of station addresses, both ends included; all have the first octet in common.
///
/// Written as `02:00:5e:10:00:00 to 02:00:5e:10:00:ff`; `-` between the ends is accepted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacRange {
    first: MacAddr,
    last: MacAddr,
}

/// What is no range of stations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacRangeError {
    /// Two addresses that are none.
    #[error(
        "{first} to {last} is no range of stations: both ends need the same, even first octet, the lower end first"
    )]
    Ends {
        /// The first.
        first: MacAddr,
        /// The last.
        last: MacAddr,
    },
    /// A text that does not name two addresses.
    #[error("`{0}` is no range of MAC addresses: write both ends, like `02:00:5e:10:00:00 to 02:00:5e:10:00:ff`")]
    Text(String),
}

impl MacRange {
    /// The addresses from `first` to `last`.
    ///
    /// # Errors
    /// When they are in the wrong order, or when not every one of them is a station's.
    pub fn new(first: MacAddr, last: MacAddr) -> Result<Self, MacRangeError> {
        let is_fine = first <= last && first.is_station() && first.octets()[0] == last.octets()[0];
        if is_fine { Ok(Self { first, last }) } else { Err(MacRangeError::Ends { first, last }) }
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

impl FromStr for MacRange {
    type Err = MacRangeError;

    fn from_str(text: &str) -> Result<Self, MacRangeError> {
        let ends = text.split_once(" to ").or_else(|| text.split_once('-'));
        let parsed = ends.and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        let (first, last) = parsed.ok_or_else(|| MacRangeError::Text(text.to_owned()))?;
        Self::new(first, last)
    }
}

impl TryFrom<String> for MacRange {
    type Error = MacRangeError;

    fn try_from(text: String) -> Result<Self, MacRangeError> {
        text.parse()
    }
}

impl From<MacRange> for String {
    fn from(range: MacRange) -> Self {
        range.to_string()
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
        assert_eq!(range.to_string().parse(), Ok(range));
        assert_eq!("02:00:00:00:00:01-02:00:00:00:00:09".parse(), Ok(range));
        for bad in ["", "02:00:00:00:00:01", "02-00-00-00-00-01", "a to b", "02:00:00:00:00:09 to 02:00:00:00:00:01"] {
            assert!(bad.parse::<MacRange>().is_err(), "{bad}");
        }
    }
}
