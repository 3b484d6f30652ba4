use std::fmt;

use crate::VlanId;

const WORDS: usize = 64;

/// Some VLANs, a bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VlanSet(Box<[u64; WORDS]>);

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

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<T: IntoIterator<Item = VlanId>>(vlans: T) -> Self {
        let mut set = Self::none();
        vlans.into_iter().for_each(|vlan| set.insert(vlan));
        set
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
        assert!(set(&[1, 4094]).intersects(&set(&[4094])) && !set(&[1, 64]).intersects(&set(&[2, 65])));
    }
}
