use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest label of a host name (RFC 1035, section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// The longest label, and `-gateway` or the number of a vNIC.
const MAX_PORT_NAME_BYTES: usize = MAX_LABEL_BYTES + 8;

/// A text that is no host name label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Nothing was written.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than DNS allows.
    #[error("`{0}` is too long for a host name: at most 63 characters")]
    TooLong(String),
    /// A character that host names do not have, or a hyphen at an end.
    #[error("`{text}` is not a host name: use a-z, 0-9 and `-` inside, for example `{suggestion}`")]
    NotAHostName {
        /// What was written.
        text: String,
        /// The nearest legal name.
        suggestion: String,
    },
}

/// One label of a host name: 1 to 63 of `a-z`, `0-9` and inner `-` (RFC 1123, section 2.1), lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Box<str>);

impl Label {
    /// The label's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        check(text, MAX_LABEL_BYTES)?;
        Ok(Self(text.into()))
    }
}

/// Whether `text` is written as a label is, and has at most `max_bytes`.
fn check(text: &str, max_bytes: usize) -> Result<(), LabelError> {
    if text.is_empty() {
        return Err(LabelError::Empty);
    }
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !text.bytes().all(legal) || text.starts_with('-') || text.ends_with('-') {
        return Err(LabelError::NotAHostName { text: text.to_owned(), suggestion: nearest_label(text) });
    }
    if text.len() > max_bytes {
        return Err(LabelError::TooLong(text.to_owned()));
    }
    Ok(())
}

/// The legal label that looks most like `text`.
fn nearest_label(text: &str) -> String {
    let mut label: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(MAX_LABEL_BYTES)
        .collect();
    while label.contains("--") {
        label = label.replace("--", "-");
    }
    match label.trim_matches('-') {
        "" => "vm-1".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0.into()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

macro_rules! label_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Label);

        impl $name {
            /// The name's text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = LabelError;

            fn from_str(text: &str) -> Result<Self, LabelError> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

label_name! {
    /// A virtual machine's name, which is also its host name.
    VmName
}
label_name! {
    /// A network's name, which is also its DNS zone under `weft`.
    NetworkName
}
/// A port's name: written like a label, with room for what is put behind the longest one. The port of a VM's vNIC
/// is called `<vm>-<index>`, the gateway's `<network>-gateway`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortName(Box<str>);

impl PortName {
    /// The port into which vNIC `index` of `vm` plugs.
    pub fn of_vnic(vm: &VmName, index: usize) -> Self {
        Self(format!("{vm}-{index}").into())
    }

    /// The port behind which a network's services stand.
    pub fn of_gateway(network: &NetworkName) -> Self {
        Self(format!("{network}-gateway").into())
    }

    /// The port of an adapter of the host, which has this name there.
    pub fn of_adapter(adapter: &Label) -> Self {
        Self(format!("{adapter}-host").into())
    }

    /// The port by which a bridged network reaches the LAN.
    pub fn of_uplink(network: &NetworkName) -> Self {
        Self(format!("{network}-uplink").into())
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PortName {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        check(text, MAX_PORT_NAME_BYTES)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for PortName {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<PortName> for String {
    fn from(name: PortName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_only() {
        assert!("web-1".parse::<VmName>().is_ok());
        assert!("9".parse::<VmName>().is_ok());
        for (bad, hint) in [("Web Server", "web-server"), ("-web", "web"), ("wéb", "w-b"), ("..", "vm-1")] {
            match bad.parse::<VmName>().unwrap_err() {
                LabelError::NotAHostName { suggestion, .. } => assert_eq!(suggestion, hint),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!("".parse::<Label>(), Err(LabelError::Empty));
        assert!(matches!("a".repeat(64).parse::<Label>(), Err(LabelError::TooLong(_))));
    }

    #[test]
    fn the_longest_names_have_ports() {
        let (vm, network) = ("v".repeat(63).parse().unwrap(), "n".repeat(63).parse().unwrap());
        for name in [PortName::of_vnic(&vm, 999), PortName::of_gateway(&network), PortName::of_uplink(&network)] {
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<PortName>(&json).unwrap(), name);
        }
        assert!("p".repeat(72).parse::<PortName>().is_err() && "p p".parse::<PortName>().is_err());
    }

    #[test]
    fn json_is_validated_too() {
        assert!(serde_json::from_str::<VmName>("\"web\"").is_ok());
        assert!(serde_json::from_str::<VmName>("\"w b\"").is_err());
    }
}
