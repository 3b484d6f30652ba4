//! A packet's way across a router.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use weft_types::{Instant, MacAddr, Permission};
use weft_wire::icmpv4::{self, Message, Unreachable};
use weft_wire::segment::{longest_frame, segment};
use weft_wire::tcp::{self, Flags};
use weft_wire::{Offload, Protocol, arp, checksum, ethernet, ipv4};

use super::cut::cut;
use super::packet::Packet;
use super::rules::Station;
use super::{By, Held, Judgement, Passage, Router, RouterConfig};
use crate::dhcp;
use crate::gateway::Arrival;
use crate::nat::neighbours::Due;
use crate::services::Services;
use crate::{NetworkId, OutFrame, Reason};

/// Where an IPv4 header has the time to live, in bytes from the frame's first.
const TTL_AT: usize = ethernet::HEADER_BYTES + 8;
/// And the checksum.
const CHECKSUM_AT: usize = ethernet::HEADER_BYTES + 10;
/// Stations that are known or asked for by ARP, of all networks.
const MAX_NEIGHBOURS: usize = 1024;
/// Packets that wait for one of them; RFC 1122, section 2.3.2.2, asks for one.
const MAX_WAITING: usize = 4;
/// How often what has lapsed is forgotten.
const SWEEP: Duration = Duration::from_secs(10);

/// From which network to which, and across which router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crossing {
    pub(super) router: usize,
    pub(super) from: NetworkId,
    pub(super) to: NetworkId,
}

/// What stands at an address behind a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextHop {
    /// The other network's gateway itself.
    Gateway(MacAddr),
    /// A station.
    Station(MacAddr),
    /// Nobody knows: ARP will tell.
    Unknown,
    /// Nobody can stand there.
    Nobody,
}

impl Services {
    /// Makes `configs` all the routers there are; to be called after [`Self::configure`], whose networks they join. What
    /// stays (matched by name) keeps its connections, unless its rules would not let them begin any more.
    pub fn set_routers(&mut self, configs: Vec<RouterConfig>) {
        self.routers.configure(configs);
        let subnets: Vec<_> = self.gateways.values().map(|it| (it.config.id, it.config.subnet)).collect();
        for (id, gateway) in &mut self.gateways {
            let beside = self.routers.beside(*id);
            let subnet = |network| subnets.iter().find(|(known, _)| *known == network).map(|(_, subnet)| *subnet);
            gateway.joined = beside.filter_map(subnet).collect();
        }
    }

    /// The routers, to look at.
    pub fn routers(&self) -> &[Router] {
        &self.routers.all
    }

    /// The way from a network to the one that has an address; `None` where no router joins the two.
    pub(crate) fn crossing(&self, from: NetworkId, to: NetworkId) -> Option<Crossing> {
        let router = self.routers.joining(from, to)?;
        Some(Crossing { router, from, to })
    }

    /// What stands at `ip` on the other network.
    pub(super) fn next_hop(&self, now: Instant, crossing: Crossing, ip: Ipv4Addr) -> NextHop {
        let Some(gateway) = self.gateways.get(&crossing.to) else { return NextHop::Nobody };
        if ip == gateway.config.ip {
            return NextHop::Gateway(gateway.config.mac);
        }
        if !dhcp::is_station(gateway.config.subnet, ip) {
            return NextHop::Nobody;
        }
        let network = self.routers.all[crossing.router].network(crossing.to);
        let registered = network.and_then(|network| network.stations.get(&IpAddr::V4(ip)).copied());
        let leased = || gateway.leases.holder(ip, self.unix_s(now));
        let told = || self.routers.neighbours.find(now, (crossing.to, ip));
        registered.or_else(leased).or_else(told).map_or(NextHop::Unknown, NextHop::Station)
    }

    /// A packet, and between whom it is.
    pub(super) fn passage(crossing: Crossing, from: MacAddr, to: MacAddr, packet: Packet) -> Passage {
        let station = |network, mac| Station { network, mac };
        Passage { packet, from: station(crossing.from, from), to: station(crossing.to, to) }
    }

    /// A packet for another network.
    pub(crate) fn cross(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &ipv4::Packet<'_>,
        crossing: Crossing,
    ) -> Result<(), Reason> {
        let looked_at = Packet::v4(packet)?;
        let to = match self.next_hop(arrival.now, crossing, packet.dst) {
            NextHop::Gateway(mac) | NextHop::Station(mac) => mac,
            NextHop::Unknown => return self.find_station(arrival, packet, crossing),
            NextHop::Nobody => return self.refuse(arrival, packet, Unreachable::HOST, Reason::RouterNobody),
        };
        let router = &mut self.routers.all[crossing.router];
        let passage = Self::passage(crossing, arrival.frame.src, to, looked_at);
        let judgement = router.judge(arrival.now, &passage);
        router.settle(arrival.now, &passage, &judgement);
        self.routers.sweep_at.get_or_insert(arrival.now + SWEEP);
        match judgement {
            Judgement { permission: Permission::Allow, .. } => {}
            Judgement { by: By::Full, .. } => return Err(Reason::RouterLimit),
            Judgement { permission: Permission::Deny, .. } => return Err(Reason::RouterDenied),
            Judgement { permission: Permission::Reject, .. } => return self.reject(arrival, packet),
        }
        let gateway = self.gateways.get(&crossing.to).ok_or(Reason::UnknownNetwork)?;
        if to == gateway.config.mac {
            return self.answer_for_gateway(arrival, packet);
        }
        let (from, mtu) = (gateway.config.mac, gateway.config.mtu);
        let frame = onward(arrival.bytes, packet, from, to);
        let longest = longest_frame(&frame, frame.len(), &arrival.offload)?;
        if longest > ethernet::HEADER_BYTES + usize::from(mtu) {
            return self.shorten(arrival, packet, crossing, &frame, mtu);
        }
        self.send_across(crossing, OutFrame { bytes: frame, offload: arrival.offload })
    }

    /// A packet that is too long for the other network: its sender is told, or it goes in pieces.
    fn shorten(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &ipv4::Packet<'_>,
        crossing: Crossing,
        frame: &[u8],
        mtu: u16,
    ) -> Result<(), Reason> {
        if packet.dont_fragment {
            let (code, quote) = (Unreachable::FRAGMENTATION_NEEDED, icmpv4::quote(packet.bytes));
            self.send_error(arrival, packet, &Message::DestinationUnreachable { code, next_hop_mtu: mtu, quote })?;
            return Err(Reason::RouterTooLong);
        }
        let mut pieces = Vec::new();
        segment(frame, arrival.offload, &mut |whole| cut(whole, mtu, &mut |piece| pieces.push(piece)))?;
        for bytes in pieces {
            self.send_across(crossing, OutFrame { bytes, offload: Offload::default() })?;
        }
        Ok(())
    }

    fn send_across(&mut self, crossing: Crossing, frame: OutFrame) -> Result<(), Reason> {
        let bytes = frame.bytes.len() as u64;
        self.routers.send(crossing.to, frame)?;
        let router = &mut self.routers.all[crossing.router];
        (router.packets, router.bytes) = (router.packets + 1, router.bytes + bytes);
        Ok(())
    }

    /// A packet for the other network's gateway: to those beyond a router it is an address that can be pinged, and no more.
    fn answer_for_gateway(&mut self, arrival: &Arrival<'_>, packet: &ipv4::Packet<'_>) -> Result<(), Reason> {
        if packet.protocol == Protocol::ICMP {
            return self.take_icmp(arrival, packet);
        }
        self.refuse(arrival, packet, Unreachable::PORT, Reason::NoService)
    }

    /// Tells the sender of a packet that rules reject it: by a TCP reset, or by ICMP.
    fn reject(&mut self, arrival: &Arrival<'_>, packet: &ipv4::Packet<'_>) -> Result<(), Reason> {
        let reset = match packet.protocol {
            Protocol::TCP => tcp::parse(packet.payload).ok().map(|segment| reset(&segment)),
            _ => None,
        };
        let Some(reset) = reset else {
            return self.refuse(arrival, packet, Unreachable::ADMIN_PROHIBITED, Reason::RouterRejected);
        };
        if let Some(reset) = reset
            && self.may_send_error(arrival)?
        {
            let mut segment = Vec::with_capacity(tcp::HEADER_BYTES);
            reset.emit(&mut segment, packet.dst, packet.src, &[]);
            let link = self.gateway(arrival.net)?.back(&arrival.frame);
            self.send(arrival.net, link.ipv4(packet.dst, packet.src, Protocol::TCP, &segment))?;
        }
        Err(Reason::RouterRejected)
    }

    /// Lets a packet wait until it is known who has the address that it is for.
    fn find_station(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &ipv4::Packet<'_>,
        crossing: Crossing,
    ) -> Result<(), Reason> {
        let at = (crossing.to, packet.dst);
        let waiting = self.routers.neighbours.waiting(at);
        if waiting == MAX_WAITING || waiting == 0 && self.routers.neighbours.len() >= MAX_NEIGHBOURS {
            return Err(Reason::QueueFull);
        }
        let frame = OutFrame { bytes: arrival.bytes.to_vec(), offload: arrival.offload };
        self.routers.neighbours.wait(arrival.now, at, Held { network: arrival.net, frame });
        self.mind_routed_neighbours(arrival.now);
        Ok(())
    }

    /// A station told by ARP which address it has; whether a router asked for it.
    pub(crate) fn hear_routed_neighbour(&mut self, now: Instant, net: NetworkId, ip: Ipv4Addr, mac: MacAddr) -> bool {
        let Some(waiting) = self.routers.neighbours.hear(now, (net, ip), mac) else { return false };
        for Held { network, frame } in waiting {
            self.handle_frame(now, network, &frame.bytes, frame.offload);
        }
        true
    }

    /// Asks who is to be asked for, and refuses what waited in vain.
    fn mind_routed_neighbours(&mut self, now: Instant) {
        while let Some(due) = self.routers.neighbours.next(now) {
            match due {
                Due::Ask((net, ip)) => {
                    let Some(config) = self.gateways.get(&net).map(|gateway| &gateway.config) else { continue };
                    let question = arp::Packet::request(config.mac, config.ip, ip).frame(MacAddr::BROADCAST);
                    if let Err(reason) = self.send(net, question) {
                        self.count(net, reason);
                    }
                }
                Due::Nobody(_, waiting) => {
                    for Held { network, frame } in waiting {
                        if let Err(reason) = self.refuse_held(now, network, &frame) {
                            self.count(network, reason);
                        }
                    }
                }
            }
        }
    }

    fn refuse_held(&mut self, now: Instant, net: NetworkId, held: &OutFrame) -> Result<(), Reason> {
        let frame = ethernet::parse(&held.bytes)?;
        let arrival = Arrival { now, net, bytes: &held.bytes, frame, offload: held.offload };
        self.refuse(&arrival, &ipv4::parse(frame.payload)?, Unreachable::HOST, Reason::RouterNobody)
    }

    /// When [`Self::mind_routers`] wants to be called.
    pub(crate) fn next_router_timeout(&self) -> Option<Instant> {
        self.routers.neighbours.next_timeout().into_iter().chain(self.routers.sweep_at).min()
    }

    /// Does what is due about routers.
    pub(crate) fn mind_routers(&mut self, now: Instant) {
        self.mind_routed_neighbours(now);
        if self.routers.sweep_at.is_some_and(|at| at <= now) {
            self.routers.all.iter_mut().for_each(|router| router.connections.sweep(now));
            let is_used = self.routers.all.iter().any(|router| router.connections.len() > 0);
            self.routers.sweep_at = is_used.then(|| now + SWEEP);
        }
    }
}

/// The frame with which a packet goes on, one hop nearer to its end.
pub(super) fn onward(frame: &[u8], packet: &ipv4::Packet<'_>, from: MacAddr, to: MacAddr) -> Vec<u8> {
    let mut frame = frame[..(ethernet::HEADER_BYTES + packet.bytes.len()).min(frame.len())].to_vec();
    frame[..6].copy_from_slice(&to.octets());
    frame[6..12].copy_from_slice(&from.octets());
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let old = word(&frame, TTL_AT);
    frame[TTL_AT] = packet.ttl.saturating_sub(1);
    let sum = checksum::update(word(&frame, CHECKSUM_AT), old, word(&frame, TTL_AT)); // RFC 1624
    frame[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The segment that ends what a segment would begin (RFC 9293, section 3.5.2); nothing answers a reset.
fn reset(segment: &tcp::Segment<'_>) -> Option<tcp::Repr> {
    let ports = tcp::Repr { src_port: segment.dst_port, dst_port: segment.src_port, ..tcp::Repr::default() };
    match segment.flags {
        flags if flags.contains(Flags::RST) => None,
        flags if flags.contains(Flags::ACK) => Some(tcp::Repr { seq: segment.ack, flags: Flags::RST, ..ports }),
        _ => {
            let ack = segment.seq.wrapping_add(segment.sequence_len());
            Some(tcp::Repr { ack, flags: Flags::RST | Flags::ACK, ..ports })
        }
    }
}
