use serde::{Deserialize, Serialize};
use weft_types::VlanId;

/// What the switch at the other end of an uplink's cable says about itself (LLDP). Its texts come as it sent them,
/// without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourStatus {
    /// Which device it is: a MAC address, an IP address or a name.
    pub chassis: String,
    /// Which of its ports the cable is in.
    pub port: String,
    /// The device's name.
    pub system: Option<String>,
    /// What its owner says about the port.
    pub port_description: Option<String>,
    /// The VLAN that it has untagged frames in.
    pub port_vlan: Option<VlanId>,
    /// The VLANs that it has names for, in order. Many switches name none.
    pub vlans: Vec<VlanId>,
    /// The largest frame that it takes, in bytes.
    pub max_frame_bytes: Option<u16>,
}
