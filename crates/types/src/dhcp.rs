//! What a DHCP server is told about its clients.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{MacAddr, MacAddrError};

/// The longest client identifier: what fits into one option.
const MAX_ID_BYTES: usize = 255;

/// A run of IPv4 addresses, both ends included; written `10.20.0.150-10.20.0.160`, or as its only address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Run {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// A text that is no run of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no range of addresses, the lower end first, like `10.20.0.150-10.20.0.160`")]
pub struct Ipv4RunError(String);

impl Ipv4Run {
    /// Its lowest address.
    pub const fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// Its highest address.
    pub const fn last(&self) -> Ipv4Addr {
        self.last
    }

    /// Whether `ip` is one of its addresses.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&ip)
    }
}

impl From<Ipv4Addr> for Ipv4Run {
    fn from(ip: Ipv4Addr) -> Self {
        Self { first: ip, last: ip }
    }
}

impl FromStr for Ipv4Run {
    type Err = Ipv4RunError;

    fn from_str(text: &str) -> Result<Self, Ipv4RunError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ends = first.trim().parse().ok().zip(last.trim().parse().ok());
        let run = ends.map(|(first, last)| Self { first, last }).filter(|run| run.first <= run.last);
        run.ok_or_else(|| Ipv4RunError(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// What a DHCP client is known by for which an address is kept.
///
/// Written as a MAC address, as `id:TEXT`, or as `id:hex:DIGITS` where the identifier is no text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ClientKey {
    /// Its adapter.
    Mac(MacAddr),
    /// The identifier that it sends (option 61), byte for byte.
    Id(Vec<u8>),
}

/// A text that names no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientKeyError {
    /// Not a MAC address, nor an identifier.
    #[error("`{text}` names no client: write its MAC address, `id:TEXT` or `id:hex:DIGITS`")]
    Mac {
        /// The text.
        text: String,
        /// Why it is no MAC address.
        source: MacAddrError,
    },
    /// An identifier that cannot be sent.
    #[error("`{0}` is no client identifier: 1 to 255 bytes, as text or as two hexadecimal digits each")]
    Id(String),
}

impl FromStr for ClientKey {
    type Err = ClientKeyError;

    fn from_str(text: &str) -> Result<Self, ClientKeyError> {
        let Some(id) = text.strip_prefix("id:") else {
            let mac = text.parse::<MacAddr>();
            return mac.map(Self::Mac).map_err(|source| ClientKeyError::Mac { text: text.to_owned(), source });
        };
        let bytes = match id.strip_prefix("hex:") {
            Some(digits) => parse_hex(digits),
            None => Some(id.as_bytes().to_vec()),
        };
        let bytes = bytes.filter(|bytes| (1..=MAX_ID_BYTES).contains(&bytes.len()));
        bytes.map(Self::Id).ok_or_else(|| ClientKeyError::Id(text.to_owned()))
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Id(id) => match std::str::from_utf8(id) {
                Ok(text) if !text.starts_with("hex:") && !text.contains(char::is_control) => write!(f, "id:{text}"),
                _ => {
                    f.write_str("id:hex:")?;
                    id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
                }
            },
        }
    }
}

/// The bytes that pairs of hexadecimal digits stand for; colons may stand between pairs.
pub fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

macro_rules! text {
    ($($name:ident: $error:ident;)*) => {$(
        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

text! {
    Ipv4Run: Ipv4RunError;
    ClientKey: ClientKeyError;
}

/// What clients boot that ask the network for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The TFTP server; `None` where nothing is loaded from one.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = "ipv4"))]
    pub server: Option<Ipv4Addr>,
    /// The file for a BIOS, and for whoever has none of the others.
    pub file: Option<String>,
    /// The file for UEFI of a PC.
    pub efi: Option<String>,
    /// The file for UEFI of a 64-bit Arm machine.
    pub arm64: Option<String>,
    /// The URL for UEFI that boots over HTTP.
    pub http: Option<String>,
    /// The file or URL for iPXE.
    pub ipxe: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_and_clients_as_text() {
        for text in ["10.0.0.1", "10.0.0.1-10.0.0.9", "02:00:00:00:00:01", "id:printer 7", "id:hex:00ff"] {
            let run = text.parse::<Ipv4Run>().map(|run| run.to_string());
            let client = text.parse::<ClientKey>().map(|client| client.to_string());
            assert_eq!(run.ok().or(client.ok()).as_deref(), Some(text));
        }
        assert_eq!("id:hex:01:ab".parse::<ClientKey>().unwrap(), ClientKey::Id(vec![1, 0xab]));
        for text in ["10.0.0.9-10.0.0.1", "10.0.0.1-", "10.0.0.300", ""] {
            text.parse::<Ipv4Run>().unwrap_err();
        }
        for text in ["id:", "id:hex:0", "id:hex:0g", "id:hex:", "printer", "02:00"] {
            text.parse::<ClientKey>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn any_identifier_is_written_so_that_it_is_read_again(id in proptest::collection::vec(any::<u8>(), 1..40)) {
            let key = ClientKey::Id(id);
            prop_assert_eq!(key.to_string().parse::<ClientKey>(), Ok(key));
        }
    }
}
