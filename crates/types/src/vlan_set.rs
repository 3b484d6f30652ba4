use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::VlanId;

const WORDS: usize = 64;

/// Some VLANs, a bit each; written as ranges, `1-9,20`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VlanSet(Box<[u64; WORDS]>);

/// A text that names no VLANs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no VLANs: write numbers from 1 to 4094 and ranges, like `10-20,30`")]
pub struct VlanSetError(String);

impl Default for VlanSet {
    fn default() -> Self {
        Self::none()
    }
}

impl VlanSet {
    /// No VLAN.
    pub fn none() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// Every VLAN, 1 to 4094.
    pub fn all() -> Self {
        let mut words = Box::new([u64::MAX; WORDS]);
        words[0] &= !1;
        words[WORDS - 1] &= !(1 << 63);
        Self(words)
    }

    /// Adds a VLAN.
    pub fn insert(&mut self, vlan: VlanId) {
        let (word, bit) = place(vlan.into());
        self.0[word] |= bit;
    }

    /// Whether `vlan` is one of them.
    pub fn contains(&self, vlan: VlanId) -> bool {
        let (word, bit) = place(vlan.into());
        self.0[word] & bit != 0
    }

    /// Whether a VLAN is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(a, b)| a & b != 0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The VLANs in order.
    pub fn iter(&self) -> impl Iterator<Item = VlanId> {
        (1..4095).filter_map(|raw| VlanId::try_from(raw).ok()).filter(|vlan| self.contains(*vlan))
    }
}

/// Where a VLAN's bit is.
fn place(raw: u16) -> (usize, u64) {
    (usize::from(raw >> 6) % WORDS, 1 << (raw & 63))
}

impl Extend<VlanId> for VlanSet {
    fn extend<T: IntoIterator<Item = VlanId>>(&mut self, vlans: T) {
        vlans.into_iter().for_each(|vlan| self.insert(vlan));
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<T: IntoIterator<Item = VlanId>>(vlans: T) -> Self {
        let mut set = Self::none();
        set.extend(vlans);
        set
    }
}

impl FromStr for VlanSet {
    type Err = VlanSetError;

    fn from_str(text: &str) -> Result<Self, VlanSetError> {
        let number = |text: &str| {
            let digits = text.trim();
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|number| is_plain && VlanId::try_from(*number).is_ok())
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        };
        let mut set = Self::none();
        for part in text.split(',') {
            let range = range(part).ok_or_else(|| VlanSetError(text.to_owned()))?;
            range.filter_map(|raw| VlanId::try_from(raw).ok()).for_each(|vlan| set.insert(vlan));
        }
        Ok(set)
    }
}

impl TryFrom<String> for VlanSet {
    type Error = VlanSetError;

    fn try_from(text: String) -> Result<Self, VlanSetError> {
        match text.as_str() {
            "" => Ok(Self::none()), // nobody writes that, but it is what none is written as
            text => text.parse(),
        }
    }
}

impl From<VlanSet> for String {
    fn from(set: VlanSet) -> Self {
        set.to_string()
    }
}

impl fmt::Display for VlanSet {
    /// As ranges: `1-9,20`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut vlans = self.iter().map(u16::from).peekable();
        let mut comma = "";
        while let Some(first) = vlans.next() {
            let mut last = first;
            while let Some(next) = vlans.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VlanSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(raw: &[u16]) -> VlanSet {
        raw.iter().map(|raw| VlanId::try_from(*raw).unwrap()).collect()
    }

    #[test]
    fn members_and_text() {
        assert_eq!(set(&[4094, 1, 2, 3, 64, 65, 100]).to_string(), "1-3,64-65,100,4094");
        assert_eq!(VlanSet::all().to_string(), "1-4094");
        assert_eq!(VlanSet::all(), set(&(1..4095).collect::<Vec<_>>()));
        assert!(VlanSet::none().is_empty() && VlanSet::none().to_string().is_empty());
        for text in ["1-3,64-65,100,4094", "1-4094", "7"] {
            assert_eq!(text.parse::<VlanSet>().unwrap().to_string(), text);
        }
        assert_eq!(" 20 , 10-12,11".parse::<VlanSet>().unwrap(), set(&[10, 11, 12, 20]));
        for set in [VlanSet::none(), set(&[10, 20])] {
            assert_eq!(serde_json::from_str::<VlanSet>(&serde_json::to_string(&set).unwrap()).unwrap(), set);
        }
        for bad in ["", ",", "0", "4095", "9-1", "1-", "-1", "+1", "1-2-3", "ten", "1,,2", "70000"] {
            assert!(bad.parse::<VlanSet>().is_err(), "{bad}");
        }
        assert!(set(&[1, 4094]).intersects(&set(&[4094])) && !set(&[1, 64]).intersects(&set(&[2, 65])));
    }
}
