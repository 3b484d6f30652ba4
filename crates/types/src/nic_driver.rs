use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How frames get to and from a network interface of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicDriver {
    /// Whatever fits the interface.
    #[default]
    Auto,
    /// A packet socket (AF_PACKET): the host goes on using the interface.
    Packet,
    /// AF_XDP: the interface is the switch's alone.
    Xdp,
}

impl NicDriver {
    /// Every driver.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Packet, Self::Xdp];

    /// The word by which files know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Packet => "packet",
            Self::Xdp => "xdp",
        }
    }
}

/// A word that is no driver of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no driver of a network interface: choose `auto`, `packet` or `xdp`")]
pub struct NicDriverError(String);

impl FromStr for NicDriver {
    type Err = NicDriverError;

    fn from_str(text: &str) -> Result<Self, NicDriverError> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| NicDriverError(text.to_owned()))
    }
}
