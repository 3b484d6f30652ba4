//! Port forwards: which machine a client of the host's network means.

use std::net::{IpAddr, SocketAddr};

use weft_types::Instant;

use crate::nat::{Callee, Cause, FlowId, ForwardId};
use crate::services::Services;

impl Services {
    /// A client asks for a connection at the `offset`-th port of a forward, and the driver has accepted it: from now on
    /// the flow is driven as one that a guest began. `None` when it cannot be: the client is to see a reset.
    pub fn accept(&mut self, now: Instant, forward: ForwardId, offset: u16) -> Option<FlowId> {
        let callee = self.callee(now, forward, offset)?;
        self.nat.dial(now, forward, callee)
    }

    /// A client sent a datagram to the `offset`-th port of a forward. What the guest answers comes as
    /// [`HostOp::UdpAnswer`](crate::nat::HostOp::UdpAnswer).
    pub fn deliver(&mut self, now: Instant, forward: ForwardId, offset: u16, client: SocketAddr, payload: &[u8]) {
        if let Some(callee) = self.callee(now, forward, offset) {
            self.nat.deliver(now, (forward, offset, client), callee, payload);
        }
    }

    /// The guest that a port leads to, where the configuration has it and the guest has an address.
    fn callee(&mut self, now: Instant, id: ForwardId, offset: u16) -> Option<Callee> {
        let unix_s = self.unix_s(now);
        let found = self.gateways.values().find_map(|gateway| {
            let forward = gateway.config.forwards.iter().find(|forward| forward.id == id)?;
            Some((gateway, forward))
        });
        let (gateway, forward) = found?;
        let network = gateway.config.id;
        let leased = || gateway.leases.held_by(forward.mac?, unix_s);
        // A machine that has no IPv4 address may have one of IPv6, which is known with its adapter.
        let in_prefix = || gateway.stations.address_of(forward.mac?, gateway.config.subnet6?);
        let v4 = forward.ip.or_else(leased);
        let Some(ip) = v4.map(IpAddr::V4).or_else(|| in_prefix().map(IpAddr::V6)) else {
            self.nat.count(network, Cause::NoAddress);
            return None;
        };
        let port = forward.port.checked_add(offset)?;
        let mac = match v4 {
            Some(ip) => gateway.leases.holder(ip, unix_s),
            None => forward.mac,
        };
        Some(Callee { network, guest: SocketAddr::new(ip, port), mac })
    }
}
