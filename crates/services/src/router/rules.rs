//! Which rule of a router fits.

use std::net::IpAddr;

use weft_types::{IpNet, MacAddr, Traffic};

use super::packet::{Packet, What};
use super::{RouteEnd, RouteRule};
use crate::NetworkId;

/// The ICMP types of echo messages (RFC 792).
const ECHO: [u8; 2] = [8, 0];

/// An adapter on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Station {
    pub(super) network: NetworkId,
    pub(super) mac: MacAddr,
}

/// A packet that may begin something, between whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    pub(super) from: Station,
    pub(super) to: Station,
    pub(super) packet: &'a Packet,
}

impl Query<'_> {
    /// Whether a rule is about it.
    pub(super) fn fits(&self, rule: &RouteRule) -> bool {
        let Packet { src, dst, .. } = *self.packet;
        is_at(&rule.from, self.from, src) && is_at(&rule.to, self.to, dst) && self.is_traffic(&rule.traffic)
    }

    fn is_traffic(&self, traffic: &Traffic) -> bool {
        let Packet { protocol: own, what, .. } = *self.packet;
        match traffic {
            Traffic::Any => true,
            Traffic::Protocol { protocol } => *protocol == own,
            Traffic::Ports { protocol, src: from, dst: to } => {
                *protocol == own
                    && matches!(what, What::Ports { src, dst, .. } if from.contains(&src) && to.contains(&dst))
            }
            Traffic::Icmp { protocol, kind } => {
                let own_kind = match what {
                    What::Echo { is_reply, .. } => Some(ECHO[usize::from(is_reply)]),
                    What::Icmp(kind) => Some(kind),
                    _ => None,
                };
                *protocol == own && own_kind == Some(*kind)
            }
        }
    }
}

fn is_at(end: &RouteEnd, station: Station, address: IpAddr) -> bool {
    match end {
        RouteEnd::Any => true,
        RouteEnd::Network(network) => *network == station.network,
        RouteEnd::Stations(stations) => stations.contains(&(station.network, station.mac)),
        RouteEnd::Prefix(IpNet::V4(prefix)) => matches!(address, IpAddr::V4(address) if prefix.contains(&address)),
        RouteEnd::Prefix(IpNet::V6(prefix)) => matches!(address, IpAddr::V6(address) if prefix.contains(&address)),
    }
}
