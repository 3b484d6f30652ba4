use serde::{Deserialize, Serialize};

/// How a vSwitch is attached to an interface of the host that is its uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Attach {
    /// To a pNIC of which the host and the vSwitch hear nothing of each other.
    #[default]
    Apart,
    /// To a pNIC that the host goes on using: it is one of the stations that the vSwitch's ports talk with.
    Shared,
    /// To a bridge that the host's kernel has already, as one of its ports.
    ExistingBridge,
    /// To a pNIC that a macvtap device takes over: the host hears nothing there any more.
    Macvtap,
}

impl Attach {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Apart, Self::Shared, Self::ExistingBridge, Self::Macvtap];

    /// The word by which files and listings know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Shared => "shared",
            Self::ExistingBridge => "existing-bridge",
            Self::Macvtap => "macvtap",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_json() {
        for attach in Attach::ALL {
            assert_eq!(serde_json::to_string(&attach).unwrap(), format!("\"{}\"", attach.as_str()));
        }
    }
}
