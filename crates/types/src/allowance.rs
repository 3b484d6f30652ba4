use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! allowances {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// One thing beyond the ordinary that a port of a vSwitch may be allowed; each is denied by default.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Allowance {
            $($(#[$doc])* $variant,)*
        }

        impl Allowance {
            /// All of them, in the order of their declaration.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            /// The word by which files and listings know it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

allowances! {
    /// It may send from MAC addresses that are not its own.
    ForgedMac = "forged-mac",
    /// It may send from IP addresses that are not its own.
    ForgedIp = "forged-ip",
    /// It may say in ARP that it has IP addresses that are not its own.
    ForgedArp = "forged-arp",
    /// It may say the same in neighbour discovery.
    ForgedNd = "forged-nd",
    /// Its guest may register other MAC addresses than the configured ones.
    MacChange = "mac-change",
    /// It may hear frames for other ports.
    Promiscuous = "promiscuous",
    /// It may be a DHCP server or relay.
    DhcpServer = "dhcp-server",
    /// It may be a router that advertises itself.
    RouterAdvertisement = "router-advertisement",
}

/// A word that allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing that a port can be allowed")]
pub struct AllowanceError(String);

impl FromStr for Allowance {
    type Err = AllowanceError;

    fn from_str(text: &str) -> Result<Self, AllowanceError> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| AllowanceError(text.to_owned()))
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_json_use_the_same_words() {
        for known in Allowance::ALL {
            assert_eq!(known.to_string().parse(), Ok(known));
            assert_eq!(serde_json::to_string(&known).unwrap(), format!("\"{known}\""));
        }
        assert!("everything".parse::<Allowance>().is_err());
    }
}
