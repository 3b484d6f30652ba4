//! The NAT device.

use weft_types::{Instant, Ipv4Net, MacAddr};
use weft_wire::Offload;
use std::net::Ipv4Addr;

use crate::{NetworkId, OutFrame};

/// A network whose packets may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatNetwork {
    /// Its id.
    pub id: NetworkId,
    /// The gateway's MAC address.
    pub mac: MacAddr,
    /// The gateway's address.
    pub ip: Ipv4Addr,
    /// The network's addresses.
    pub subnet: Ipv4Net,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Whether the host's own services are reachable at the gateway's address.
    pub host_access: bool,
}

/// The NAT device.
pub struct Nat {}

#[allow(unused_variables, reason = "the signatures come first")]
impl Nat {
    /// New.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {}
    }
    /// Configure.
    pub fn configure(&mut self, now: Instant, networks: &[NatNetwork], all_subnets: &[Ipv4Net]) {}
    /// Handle.
    pub fn handle_packet(&mut self, now: Instant, net: NetworkId, frame: &[u8], offload: Offload) {}
    /// Poll.
    pub fn poll_frame(&mut self) -> Option<(NetworkId, OutFrame)> {
        None
    }
    /// Timeout.
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }
    /// Timeout.
    pub fn handle_timeout(&mut self, now: Instant) {}
    /// Flows.
    pub fn flows(&self) -> usize {
        0
    }
}
