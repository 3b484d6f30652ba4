use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Traffic;

/// Which way a mirrored frame goes at a port, as the switch sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// In by it: what stands behind the port sends it.
    In,
    /// Out by it.
    Out,
    /// Either.
    #[default]
    Both,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::In, Self::Out, Self::Both];

    /// The word by which files and listings know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Direction {
    type Err = DirectionError;

    fn from_str(text: &str) -> Result<Self, DirectionError> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| DirectionError(text.to_owned()))
    }
}

/// A word that is no direction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no direction: choose `in` (what a port sends), `out` (what it hears) or `both`")]
pub struct DirectionError(String);

/// Which packets are copied: those between two ends, whoever sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorFilter {
    /// The addresses at one end; `None`: any.
    pub from: Option<IpNet>,
    /// The addresses at the other.
    pub to: Option<IpNet>,
    /// Of what kind they are, as the first end says it. What answers it is meant, too.
    pub traffic: Traffic,
}

impl fmt::Display for MirrorFilter {
    /// As it is written: `tcp/5432`, `10.0.0.5 -> any`, `any -> 10.0.0.0/8 udp/53`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: &Option<IpNet>| match end {
            None => "any".to_owned(),
            Some(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Some(net) => net.to_string(),
        };
        match (self.from, self.to, &self.traffic) {
            (None, None, traffic) => traffic.fmt(f),
            (from, to, Traffic::Any) => write!(f, "{} -> {}", end(&from), end(&to)),
            (from, to, traffic) => write!(f, "{} -> {} {traffic}", end(&from), end(&to)),
        }
    }
}

/// Who takes copies of frames somewhere on the host's networks. Its text is a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Collector {
    /// One that speaks VXLAN (RFC 7348): `vxlan://ADDRESS:PORT/VNI`.
    Vxlan {
        /// Where it listens; port 4789 if the text names none.
        to: SocketAddr,
        /// The network identifier by which it tells them, 24 bits.
        vni: u32,
    },
    /// One that speaks ERSPAN of type II, over GRE: `erspan://ADDRESS/SESSION`.
    Erspan {
        /// Where it is.
        to: Ipv4Addr,
        /// The session by which it tells them, 10 bits.
        session: u16,
    },
}

/// A text that names no collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no collector: write `vxlan://10.0.0.5:4789/42` or `erspan://10.0.0.5/7`")]
pub struct CollectorError(String);

impl Collector {
    /// The largest VXLAN network identifier.
    pub const MAX_VNI: u32 = 0xff_ffff;
    /// The largest ERSPAN session.
    pub const MAX_SESSION: u16 = 0x3ff;
    /// The UDP port at which VXLAN is expected.
    const VXLAN_PORT: u16 = 4789;
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let parse = || {
            let (scheme, rest) = text.split_once("://")?;
            let (place, number) = rest.rsplit_once('/')?;
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            match scheme {
                "vxlan" => {
                    let bare = || place.trim_start_matches('[').trim_end_matches(']').parse().ok();
                    let to = place.parse().ok().or_else(|| Some(SocketAddr::new(bare()?, Self::VXLAN_PORT)))?;
                    let vni = number.parse().ok().filter(|vni| *vni <= Self::MAX_VNI)?;
                    Some(Self::Vxlan { to, vni })
                }
                "erspan" => {
                    let session = number.parse().ok().filter(|session| *session <= Self::MAX_SESSION)?;
                    Some(Self::Erspan { to: place.parse().ok()?, session })
                }
                _ => None,
            }
        };
        parse().ok_or_else(|| CollectorError(text.escape_debug().to_string()))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan { to, vni } => write!(f, "vxlan://{to}/{vni}"),
            Self::Erspan { to, session } => write!(f, "erspan://{to}/{session}"),
        }
    }
}

impl TryFrom<String> for Collector {
    type Error = CollectorError;

    fn try_from(text: String) -> Result<Self, CollectorError> {
        text.parse()
    }
}

impl From<Collector> for String {
    fn from(collector: Collector) -> Self {
        collector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_their_text() {
        for text in ["vxlan://10.0.0.5:4789/42", "vxlan://[fd00::5]:8472/0", "erspan://10.0.0.5/1023"] {
            let collector: Collector = text.parse().unwrap();
            assert_eq!(collector.to_string(), text);
            assert_eq!(
                serde_json::from_str::<Collector>(&serde_json::to_string(&collector).unwrap()).unwrap(),
                collector
            );
        }
        for (short, text) in
            [("vxlan://10.0.0.5/1", "vxlan://10.0.0.5:4789/1"), ("vxlan://[::1]/1", "vxlan://[::1]:4789/1")]
        {
            assert_eq!(short.parse::<Collector>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "10.0.0.5",
            "vxlan://10.0.0.5",
            "vxlan://10.0.0.5/",
            "vxlan://10.0.0.5:99999/1",
            "vxlan://10.0.0.5/16777216",
            "vxlan://10.0.0.5/+1",
            "vxlan://collector/1",
            "erspan://10.0.0.5/1024",
            "erspan://fd00::1/1",
            "gre://10.0.0.5/1",
        ] {
            assert!(bad.parse::<Collector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn directions_are_words() {
        for known in Direction::ALL {
            assert_eq!(known.to_string().parse(), Ok(known));
            assert_eq!(serde_json::to_string(&known).unwrap(), format!("\"{known}\""));
        }
        assert!("sideways".parse::<Direction>().is_err());
    }
}
