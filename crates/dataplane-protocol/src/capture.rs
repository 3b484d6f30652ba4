use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weft_types::{IpNet, NetworkName, PortName, VlanId};

/// A capture: copies of frames, as long as the other end of the descriptor that travels beside the request is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Whose frames.
    pub of: CaptureOf,
    /// Only those in these VLANs; none named: in all, and in none.
    #[serde(default)]
    pub vlans: Vec<VlanId>,
    /// Which of them.
    #[serde(default)]
    pub direction: CaptureDirection,
    /// Only packets like this.
    #[serde(default)]
    pub filter: Option<CaptureFilter>,
    /// How many bytes of each at most.
    #[serde(default)]
    pub snap_bytes: Option<u32>,
    /// Where copies go.
    pub to: CaptureTo,
}

/// Whose frames are captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureOf {
    /// A port's.
    Port(PortName),
    /// All of a network.
    Network(NetworkName),
}

/// Which way captured frames go, as the switch sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureDirection {
    /// In by the port.
    In,
    /// Out by it.
    Out,
    /// Either.
    #[default]
    Both,
}

/// Which packets are captured: those between two ends, whoever sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureFilter {
    /// The addresses at one end; `None`: any.
    #[serde(default)]
    pub from: Option<IpNet>,
    /// The addresses at the other.
    #[serde(default)]
    pub to: Option<IpNet>,
    /// The IP protocol's number.
    #[serde(default)]
    pub protocol: Option<u8>,
    /// The port at the second end, with `protocol`.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Where a capture's copies go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureTo {
    /// Into the descriptor (a pipe or a stream socket), as pcapng.
    Stream,
    /// To a collector that speaks VXLAN (RFC 7348).
    Vxlan {
        /// Where it listens; the port is usually 4789.
        collector: SocketAddr,
        /// The network identifier that it tells them by, 24 bits.
        vni: u32,
    },
}
