use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit IEEE 802 MAC address (IEEE 802-2014, clause 8.2).
///
/// Written as six hexadecimal octets, `02:00:5e:10:00:01`; `-` is accepted as a separator too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

/// A text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: write six octets like `02:00:5e:10:00:01`")]
pub struct MacAddrError(String);

impl MacAddr {
    /// The address that every station listens to.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zero: no station's address.
    pub const ZERO: Self = Self([0; 6]);

    /// The address with these octets, first transmitted first.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The octets, first transmitted first.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether the group bit is set (multicast, and broadcast with it).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is the broadcast address.
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }

    /// Whether a station may own this address: neither a group address nor all zero.
    pub const fn is_station(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// A stable, locally administered unicast address for `seed`: the same text gives the same address in
    /// every run and on every host (FNV-1a over the text; 46 bits, so clashes must still be checked for).
    pub fn derive(seed: &str) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in seed.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash ^= hash >> 29; // FNV's high bits vary little on short texts
        let [.., a, b, c, d, e, f] = hash.to_be_bytes();
        Self([(a & 0xfc) | 0x02, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || MacAddrError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacAddrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let mac: MacAddr = "02:00:5E-10:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:01");
        for bad in ["", "02:00:5e:10:00", "02:00:5e:10:00:01:02", "02:00:5e:10:00:1", "02:00:5e:10:00:+1"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_addresses_are_local_stations() {
        let a = MacAddr::derive("home/web/0");
        assert_eq!(a, MacAddr::derive("home/web/0"));
        assert_ne!(a, MacAddr::derive("home/web/1"));
        assert!(a.is_station() && a.octets()[0] & 2 != 0);
    }
}
