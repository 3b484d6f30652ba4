//! Neighbour discovery and router advertisements at a gateway: who comes here, and what goes back.

use std::net::Ipv6Addr;

use weft_types::Instant;
use weft_wire::{Problem, ndp};

use super::{Answer, LINK_LOCAL, Packet, mac_for};
use crate::frame::Link;
use crate::gateway::Arrival;
use crate::services::Services;
use crate::{NetworkId, Reason};

impl Services {
    /// A message of neighbour discovery. What RFC 4861 has a receiver drop in silence is.
    pub(super) fn take_ndp(&mut self, arrival: &Arrival<'_>, packet: &Packet<'_>) -> Result<(), Reason> {
        let message = ndp::parse(&packet.header, packet.payload).map_err(|malformed| match malformed.problem {
            Problem::Checksum => Reason::BadChecksum,
            _ => Reason::NdMalformed,
        })?;
        let src = packet.header.src;
        let gateway = self.gateway(arrival.net)?;
        if !src.is_unspecified() && !gateway.can_have_ipv6(src) {
            return Err(Reason::ForgedSource);
        }
        // Each station speaks for itself, and there is no proxy.
        let says = match message {
            ndp::Message::RouterSolicitation { mac } | ndp::Message::NeighbourSolicitation { mac, .. } => mac,
            ndp::Message::NeighbourAdvertisement { target, mac, .. } => {
                if gateway.has_ipv6(target) {
                    return Err(Reason::ForgedSource);
                }
                mac
            }
            ndp::Message::RouterAdvertisement | ndp::Message::Redirect => return Err(Reason::NdRogue),
        };
        if says.is_some_and(|mac| mac != arrival.frame.src) {
            return Err(Reason::ForgedSource);
        }
        match message {
            ndp::Message::RouterSolicitation { .. } => self.take_solicitation(arrival, src),
            ndp::Message::NeighbourSolicitation { target, .. } => self.answer_neighbour(arrival, src, target),
            _ => Err(Reason::NdIgnored),
        }
    }

    fn take_solicitation(&mut self, arrival: &Arrival<'_>, src: Ipv6Addr) -> Result<(), Reason> {
        let Self { gateways, random, .. } = self;
        let gateway = gateways.get_mut(&arrival.net).ok_or(Reason::UnknownNetwork)?;
        match gateway.advertiser.ask(arrival.now, src, random) {
            Answer::Soon => {
                self.note_advertisements();
                Ok(())
            }
            Answer::Now if !gateway.solicited.take(arrival.now) => Err(Reason::IcmpRateLimited),
            Answer::Now => {
                let link = gateway.back(&arrival.frame);
                let frame = link.ndp(LINK_LOCAL, src, |out| gateway.advertiser.emit(out, LINK_LOCAL, src));
                self.send(arrival.net, frame)
            }
        }
    }

    /// Who asks for the gateway learns where it is. Who has no address yet and is about to take the gateway's hears that it
    /// is taken, and so does everybody (RFC 4862, section 5.4.3; RFC 4861, section 7.2.4).
    fn answer_neighbour(&mut self, arrival: &Arrival<'_>, src: Ipv6Addr, target: Ipv6Addr) -> Result<(), Reason> {
        let gateway = self.gateway(arrival.net)?;
        if !gateway.has_ipv6(target) {
            return Err(Reason::NdIgnored);
        }
        let is_solicited = !src.is_unspecified();
        let to = if is_solicited { src } else { ndp::ALL_NODES };
        let link = Link { from: gateway.config.mac, to: mac_for(to, &arrival.frame) };
        let is_router = gateway.config.nat && gateway.config.subnet6.is_some();
        let answer = ndp::Advertisement { target, mac: gateway.config.mac, is_router, is_solicited };
        let frame = link.ndp(target, to, |out| answer.emit(out, target, to));
        self.send(arrival.net, frame)
    }

    /// Sends the advertisements that are due.
    pub(crate) fn advertise(&mut self, now: Instant) {
        if self.next_advertisement.is_none_or(|next| next > now) {
            return;
        }
        let Self { gateways, random, .. } = self;
        let due: Vec<(NetworkId, Vec<u8>)> = gateways
            .values_mut()
            .filter_map(|gateway| {
                let is_due = gateway.advertiser.is_due(now, random);
                let link = Link { from: gateway.config.mac, to: ndp::group_mac(ndp::ALL_NODES) };
                let emit = |out: &mut Vec<u8>| gateway.advertiser.emit(out, LINK_LOCAL, ndp::ALL_NODES);
                is_due.then(|| (gateway.config.id, link.ndp(LINK_LOCAL, ndp::ALL_NODES, emit)))
            })
            .collect();
        for (net, frame) in due {
            if let Err(reason) = self.send(net, frame) {
                self.count(net, reason);
            }
        }
        self.note_advertisements();
    }

    /// Remembers when the next advertisement is due, which is looked at often.
    pub(crate) fn note_advertisements(&mut self) {
        self.next_advertisement = self.gateways.values().filter_map(|gateway| gateway.advertiser.next_timeout()).min();
    }
}
