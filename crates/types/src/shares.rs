use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// The weight of who asks for none (Linux' Documentation/admin-guide/cgroup-v2.rst).
const DEFAULT_WEIGHT: u16 = 100;
/// The most CPUs that a set may name.
const MAX_CPUS: u16 = 4096;

/// What a machine may take of its host, and how much of it when others want it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// Its part of the processors' time against that of others who want it: 1 to 10,000.
    pub cpu_weight: u16,
    /// The most processor time that it gets.
    pub cpu_limit: Option<CpuLimit>,
    /// The processors that it runs on; any, if `None`.
    pub cpu_pin: Option<CpuSet>,
    /// Its part of the disks' time against that of others who want it: 1 to 10,000.
    pub io_weight: u16,
    /// The most memory that its process takes, caches of its disk included.
    pub memory_limit: Option<ByteSize>,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            cpu_weight: DEFAULT_WEIGHT,
            cpu_limit: None,
            cpu_pin: None,
            io_weight: DEFAULT_WEIGHT,
            memory_limit: None,
        }
    }
}

/// Processor time, in hundredths of one processor's; written `150%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuLimit(u32);

/// A text that limits nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no processor time: write percents of one processor, 1% to 12800%, like `150%`")]
pub struct CpuLimitError(String);

impl CpuLimit {
    /// Hundredths of one processor's time.
    pub fn percent(self) -> u32 {
        self.0
    }
}

impl FromStr for CpuLimit {
    type Err = CpuLimitError;

    fn from_str(text: &str) -> Result<Self, CpuLimitError> {
        let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        number.filter(|percent| (1..=12_800).contains(percent)).map(Self).ok_or_else(|| CpuLimitError(text.to_owned()))
    }
}

impl TryFrom<String> for CpuLimit {
    type Error = CpuLimitError;

    fn try_from(text: String) -> Result<Self, CpuLimitError> {
        text.parse()
    }
}

impl From<CpuLimit> for String {
    fn from(limit: CpuLimit) -> Self {
        limit.to_string()
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// Processors of the host by number, never none; written `0,2-3`, as the kernel does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u16>);

/// A text that names no processors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no processors: write their numbers from 0, and ranges, like `0,2-3`")]
pub struct CpuSetError(String);

impl CpuSet {
    /// Their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let run = |piece: &str| {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let number = |text: &str| text.trim().parse::<u16>().ok().filter(|number| *number < MAX_CPUS);
            Some(number(first)?..=number(last)?).filter(|run| !run.is_empty())
        };
        let runs: Option<Vec<_>> = text.split(',').map(run).collect();
        runs.map(|runs| Self(runs.into_iter().flatten().collect())).ok_or_else(|| CpuSetError(text.to_owned()))
    }
}

impl TryFrom<String> for CpuSet {
    type Error = CpuSetError;

    fn try_from(text: String) -> Result<Self, CpuSetError> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for cpu in self.iter() {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => runs.push((cpu, cpu)),
            }
        }
        for (index, (first, last)) in runs.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_percents_of_one_processor() {
        for (text, percent) in [("1%", Some(1)), ("150 %", Some(150)), ("12800%", Some(12_800))] {
            assert_eq!(text.parse::<CpuLimit>().ok().map(CpuLimit::percent), percent, "{text}");
        }
        for text in ["", "%", "0%", "12801%", "1.5", "150", "-1%", "99999999999%"] {
            assert!(text.parse::<CpuLimit>().is_err(), "{text}");
        }
        assert_eq!("150%".parse::<CpuLimit>().unwrap().to_string(), "150%");
    }

    #[test]
    fn sets_are_numbers_and_ranges() {
        for (text, shown) in [("0", "0"), ("3,1-2, 0", "0-3"), ("7,5-5,0-1", "0-1,5,7"), ("1-3,2", "1-3")] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), shown);
        }
        for text in ["", ",", "a", "2-1", "1-", "-1", "4096", "70000"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_of_before_there_were_any_are_the_usual_ones() {
        assert_eq!(serde_json::from_str::<Shares>("{}").unwrap(), Shares::default());
    }
}
