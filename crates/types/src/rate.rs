use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// A speed in bits a second, from 64 kbit/s to 1 Tbit/s, written with a decimal unit: `100Mbit/s`, `2.5Gbit/s`.
///
/// Anything slower would hold up a frame of 64 KiB, which segmentation offloads make, for longer than TCP waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BitRate(u64);

/// A text that is no speed of a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BitRateError {
    /// It cannot be read.
    #[error("`{0}` is not a rate: write a number and a unit, like `100Mbit/s` or `2.5Gbit/s`")]
    Unreadable(String),
    /// It is too slow or too fast.
    #[error("a rate of {0} is too slow or too fast: choose 64kbit/s to 1Tbit/s")]
    OutOfRange(String),
}

const UNITS: [(&str, u64); 4] =
    [("Tbit/s", 1_000_000_000_000), ("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1000)];

impl BitRate {
    const MIN: u64 = 64_000;
    const MAX: u64 = 1_000_000_000_000;

    /// So many bits a second, if a port can be so slow or fast.
    pub fn new(bits_per_s: u64) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&bits_per_s).then_some(Self(bits_per_s))
    }

    /// The rate in bits a second.
    pub const fn bits_per_s(self) -> u64 {
        self.0
    }
}

impl FromStr for BitRate {
    type Err = BitRateError;

    fn from_str(text: &str) -> Result<Self, BitRateError> {
        let unreadable = || BitRateError::Unreadable(text.escape_debug().to_string());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim();
        let is_unit = |name: &str| name.eq_ignore_ascii_case(unit);
        let known = UNITS.into_iter().chain([("bit/s", 1)]).find(|(name, _)| is_unit(name));
        let (_, factor) = known.ok_or_else(unreadable)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // Thousandths of the unit, and so whole bits of every unit that is written with a fraction.
        if fraction.len() > 3 || whole.len() > 15 || whole.is_empty() || (fraction.is_empty() && number.contains('.')) {
            return Err(unreadable());
        }
        let thousandths: u64 = format!("{whole}{fraction:0<3}").parse().map_err(|_| unreadable())?;
        let bits = u128::from(thousandths) * u128::from(factor) / 1000;
        let bits = u64::try_from(bits).ok().filter(|bits| (Self::MIN..=Self::MAX).contains(bits));
        bits.map(Self).ok_or_else(|| BitRateError::OutOfRange(trimmed.to_owned()))
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &(&str, u64)| self.0 >= *factor && (self.0 * 1000 / factor * factor == self.0 * 1000);
        let (unit, factor) = UNITS.into_iter().find(fits).unwrap_or(("bit/s", 1));
        let (whole, thousandths) = (self.0 / factor, self.0 % factor * 1000 / factor);
        let fraction = format!(".{thousandths:03}");
        write!(f, "{whole}{}{unit}", fraction.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl TryFrom<String> for BitRate {
    type Error = BitRateError;

    fn try_from(text: String) -> Result<Self, BitRateError> {
        text.parse()
    }
}

impl From<BitRate> for String {
    fn from(rate: BitRate) -> Self {
        rate.to_string()
    }
}

/// What becomes of frames that come faster than a port may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Excess {
    /// They wait for their time (shaping), as long as there is room; then some are dropped.
    #[default]
    Wait,
    /// They are dropped (policing).
    Drop,
}

/// How fast a port may be, each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortRates {
    /// How fast what stands behind the port may send into the switch.
    #[serde(rename = "in")]
    pub inward: Option<BitRate>,
    /// How fast the switch may send to it.
    #[serde(rename = "out")]
    pub outward: Option<BitRate>,
    /// What may exceed that for a moment; what the rate gives in 10 ms, and 16 KiB at least, where it is not said.
    pub burst: Option<ByteSize>,
    /// What becomes of the rest.
    pub excess: Excess,
}

impl PortRates {
    /// The most that `burst` can be.
    pub const MAX_BURST: ByteSize = ByteSize::from_mib(1024);

    /// The bytes by which a rate may be exceeded for a moment.
    pub fn burst_bytes(&self, rate: BitRate) -> u64 {
        const MIN_BYTES: u64 = 16 << 10;
        let default = || (rate.bits_per_s() / 8 / 100).max(MIN_BYTES);
        self.burst.map_or_else(default, ByteSize::bytes).clamp(1, Self::MAX_BURST.bytes())
    }
}

impl fmt::Display for PortRates {
    /// In a few words: `any`, `in 100Mbit/s, the rest waits`, `in 1Gbit/s, out 10Mbit/s, burst 64KiB, the rest is dropped`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways = [("in", self.inward), ("out", self.outward)].into_iter();
        let mut words: Vec<_> = ways.filter_map(|(way, rate)| Some(format!("{way} {}", rate?))).collect();
        if words.is_empty() {
            return f.write_str("any");
        }
        words.extend(self.burst.map(|burst| format!("burst {burst}")));
        words.push(match self.excess {
            Excess::Wait => "the rest waits".to_owned(),
            Excess::Drop => "the rest is dropped".to_owned(),
        });
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_as_people_write_them() {
        for (text, bits_per_s, shown) in [
            ("100Mbit/s", 100_000_000, "100Mbit/s"),
            ("2.5 gbit/s", 2_500_000_000, "2.5Gbit/s"),
            ("0.064Mbit/s", 64_000, "64kbit/s"),
            ("1Tbit/s", 1_000_000_000_000, "1Tbit/s"),
            ("64001bit/s", 64_001, "64.001kbit/s"),
            ("1234567bit/s", 1_234_567, "1234.567kbit/s"),
        ] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!((rate.bits_per_s(), rate.to_string().as_str()), (bits_per_s, shown));
            assert_eq!(shown.parse(), Ok(rate));
            assert_eq!(serde_json::from_str::<BitRate>(&format!("\"{shown}\"")).unwrap(), rate);
        }
        for bad in ["", "100", "Mbit/s", "100Mbps", "100MB/s", "-1Mbit/s", "1.Mbit/s", ".5Mbit/s", "1.2345Mbit/s"] {
            assert!(matches!(bad.parse::<BitRate>(), Err(BitRateError::Unreadable(_))), "{bad}");
        }
        for bad in ["0bit/s", "63.999kbit/s", "2Tbit/s", "999999999999999Tbit/s"] {
            assert!(matches!(bad.parse::<BitRate>(), Err(BitRateError::OutOfRange(_))), "{bad}");
        }
        let long = format!("{}Mbit/s", "9".repeat(10_000));
        assert!(long.parse::<BitRate>().is_err());
    }

    #[test]
    fn a_port_s_rates_in_words() {
        let rate = |text: &str| text.parse::<BitRate>().ok();
        let both = PortRates { inward: rate("1Gbit/s"), outward: rate("10Mbit/s"), ..PortRates::default() };
        assert_eq!(PortRates::default().to_string(), "any");
        assert_eq!(both.to_string(), "in 1Gbit/s, out 10Mbit/s, the rest waits");
        let bursts = [both.inward, both.outward].map(|rate| both.burst_bytes(rate.unwrap()));
        assert_eq!(bursts, [1_250_000, 16 << 10]);
        let hard = PortRates { burst: "64KiB".parse().ok(), excess: Excess::Drop, inward: None, ..both };
        assert_eq!(hard.to_string(), "out 10Mbit/s, burst 64KiB, the rest is dropped");
        let json = r#"{"in":null,"out":"10Mbit/s","burst":"64KiB","excess":"drop"}"#;
        assert_eq!(serde_json::to_string(&hard).unwrap(), json);
        assert_eq!(serde_json::from_str::<PortRates>(json).unwrap(), hard);
        assert_eq!(serde_json::from_str::<PortRates>("{}").unwrap(), PortRates::default());
    }
}
