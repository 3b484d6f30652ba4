//! Copies of frames: those that a configuration asks for, and captures, which last as long as somebody reads them.

use serde::{Deserialize, Serialize};
use weft_types::{Collector, Direction, Label, MirrorFilter, NetworkName, PortName, Provenance, VlanId};

/// A mirror of a network's vSwitch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// Its name, unique on its network.
    pub name: Label,
    /// Whose frames: those of these ports; `None`: of all. Ports that do not exist (any more) have none.
    pub ports: Option<Vec<PortName>>,
    /// Only those in these VLANs; none named: in all, and in none.
    pub vlans: Vec<VlanId>,
    /// Which of them.
    pub direction: Direction,
    /// Of those, which packets; `None`: all frames.
    pub filter: Option<MirrorFilter>,
    /// How many bytes of each at most; `None`: all.
    pub snap_bytes: Option<u32>,
    /// Who gets the copies.
    pub to: MirrorTo,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// Who gets a mirror's copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorTo {
    /// What stands behind a port of the same network. While there is none of this name, nobody does.
    Port(PortName),
    /// Somebody on the host's networks.
    Collector(Collector),
}

/// A capture: copies of frames as pcapng, written into the descriptor (a pipe or a stream socket) that travels beside
/// the request, as long as its other end is open. Once that end has shut down its writing half, what is under way is
/// written, and how much was lost, and then the capture ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Whose frames: those of these ports,
    pub ports: Vec<PortName>,
    /// and all of these networks.
    pub networks: Vec<NetworkName>,
    /// Only those in these VLANs; none named: in all, and in none.
    pub vlans: Vec<VlanId>,
    /// Which of them.
    pub direction: Direction,
    /// Only packets like this.
    pub filter: Option<MirrorFilter>,
    /// How many bytes of each at most.
    pub snap_bytes: Option<u32>,
}

/// How a mirror or a capture does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// Its name.
    pub name: String,
    /// The networks whose frames it copies.
    pub networks: Vec<NetworkName>,
    /// Who gets them; `None`: the reader of a capture.
    pub to: Option<MirrorTo>,
    /// How many copies were handed over.
    pub copies: u64,
    /// How many were lost, because whoever takes them was slower than the traffic, or not there.
    pub lost: u64,
    /// Where it was declared.
    pub provenance: Provenance,
}
