use serde::{Deserialize, Serialize};
use weft_types::{MacAddr, PortName};

/// What the vNIC behind a port listens to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListensRequest {
    /// The port.
    pub port: PortName,
    /// What its guest asks for; `None` where nothing is known (any more).
    pub filter: Option<ReceiveFilter>,
}

/// The receive filter of a vNIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveFilter {
    /// Every unicast address that it listens to.
    pub stations: Vec<MacAddr>,
    /// The groups that it listens to.
    pub groups: Vec<MacAddr>,
    /// Whether it listens to every group.
    pub all_multicast: bool,
    /// Whether it listens to everything.
    pub promiscuous: bool,
}
