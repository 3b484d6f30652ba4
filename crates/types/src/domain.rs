use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name as text: 255 bytes on the wire (RFC 1035, section 2.3.4) with one more for each end.
const MAX_NAME_BYTES: usize = 253;
/// The longest label (RFC 1035, section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// A DNS name in lower case, without the last dot: labels of letters, digits, hyphens and underscores.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(Box<str>);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainNameError {
    /// Something else than labels with dots between them.
    #[error("`{0}` is no DNS name: it consists of letters, digits, `-` and `_`, with dots between them")]
    NotAName(String),
    /// Longer than DNS can say.
    #[error("`{0}` is too long for a DNS name: 63 characters between dots, and 253 in all")]
    TooLong(String),
    /// An address where a name should be.
    #[error("`{0}` is an address, not a DNS name")]
    Address(String),
}

impl DomainName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, from the host to the root.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it has no dot.
    pub fn is_bare(&self) -> bool {
        !self.0.contains('.')
    }
}

impl FromStr for DomainName {
    type Err = DomainNameError;

    fn from_str(text: &str) -> Result<Self, DomainNameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(is_legal) && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(DomainNameError::Address(text.to_owned()));
        }
        if !name.split('.').all(is_label) {
            return Err(DomainNameError::NotAName(text.to_owned()));
        }
        if name.len() > MAX_NAME_BYTES || name.split('.').any(|label| label.len() > MAX_LABEL_BYTES) {
            return Err(DomainNameError::TooLong(text.to_owned()));
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl TryFrom<String> for DomainName {
    type Error = DomainNameError;

    fn try_from(text: String) -> Result<Self, DomainNameError> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What the members of a network can ask for beside the names of its machines. A name of one label stands in the network's
/// zone; one with a dot stands for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DnsNames {
    /// Names with addresses.
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Vec<String>>))]
    pub hosts: BTreeMap<DomainName, Vec<IpAddr>>,
    /// Other names for machines, for `hosts`, or for each other.
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, DomainName>))]
    pub cnames: BTreeMap<DomainName, DomainName>,
    /// Domains of which other servers than the host's know, in the order in which they are asked.
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Vec<String>>))]
    pub forward: BTreeMap<DomainName, Vec<SocketAddr>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, expected: &str| {
            let found = text.parse::<DomainName>();
            assert_eq!(found.map_or_else(|error| error.to_string(), |name| name.to_string()), expected);
        };
        check("Git.Example.ORG.", "git.example.org");
        check("_sip._tcp.x-1", "_sip._tcp.x-1");
        for bad in ["", ".", "a..b", ".a", "a b", "a/b", "-a.b", "a-.b", "ä"] {
            check(
                bad,
                &format!("`{bad}` is no DNS name: it consists of letters, digits, `-` and `_`, with dots between them"),
            );
        }
        check("10.20.0.9", "`10.20.0.9` is an address, not a DNS name");
        let (label, long) = ("a".repeat(63), "a".repeat(64));
        check(&label, &label);
        check(&long, &format!("`{long}` is too long for a DNS name: 63 characters between dots, and 253 in all"));
        assert!([label.as_str(); 4].join(".").parse::<DomainName>().is_err());
        assert_eq!(serde_json::from_str::<DomainName>("\"A.b\"").unwrap().as_str(), "a.b");
        assert!(serde_json::from_str::<DomainName>("\"a b\"").is_err());
    }
}
