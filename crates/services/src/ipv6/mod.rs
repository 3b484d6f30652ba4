//! IPv6 at a gateway: what comes for it, and what it says of itself.

mod advertiser;
mod neighbours;
mod stations;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use weft_types::Ipv6Net;
use weft_wire::icmpv6::{self, Message, Parameter, Unreachable};
use weft_wire::{Csum, Protocol, ethernet, ipv6, ndp, udp};

use self::advertiser::Answer;
pub(crate) use self::advertiser::{Advertiser, Link};
pub use self::stations::Station;
pub(crate) use self::stations::Stations;
use crate::gateway::{Arrival, Gateway};
use crate::services::Services;
use crate::{Reason, dhcp6, dns};

/// The address of every gateway on its own link. The same everywhere, so that whoever meets it knows what it is, and a
/// machine that moves from one network to another finds its router under the name that it knows.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The address of a gateway among those of its network's prefix: the first.
pub fn gateway_address(prefix: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.network().to_bits() | 1)
}

/// A packet, and what stands behind its extension headers.
pub(crate) struct Packet<'a> {
    header: ipv6::Packet<'a>,
    /// All of the packet.
    bytes: &'a [u8],
    protocol: Protocol,
    is_fragment: bool,
    /// Whether it is a fragment other than the first.
    is_later: bool,
    /// From the transport header on.
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let header = ipv6::parse(bytes)?;
        let bytes = &bytes[..ipv6::HEADER_BYTES + header.payload.len()];
        let walked = ipv6::transport(header.next_header, header.payload, false)?.ok_or(Reason::Malformed)?;
        // A fragment that is the whole packet is one (RFC 6946).
        let fragment = walked.fragment.filter(|(more, at)| *more || *at > 0);
        Ok(Self {
            header,
            bytes,
            protocol: walked.protocol,
            is_fragment: fragment.is_some(),
            is_later: fragment.is_some_and(|(_, at)| at > 0),
            payload: header.payload.get(walked.at..).ok_or(Reason::Malformed)?,
        })
    }
}

impl Gateway {
    /// Whether the gateway has this IPv6 address.
    fn has_ipv6(&self, ip: Ipv6Addr) -> bool {
        ip == LINK_LOCAL || self.config.subnet6.is_some_and(|net| ip == gateway_address(net))
    }

    /// Whether a station of this network can have this IPv6 address: of a prefix that went, for as long as it is told of it.
    fn can_have_ipv6(&self, ip: Ipv6Addr) -> bool {
        let is_inside = |net: Ipv6Net| net.contains(&ip) && ip != net.network();
        let is_ours = self.config.subnet6.into_iter().chain(self.advertiser.withdrawn()).any(is_inside);
        (is_ours || ip.is_unicast_link_local()) && !self.has_ipv6(ip)
    }
}

impl Services {
    /// Says who has which IPv6 address on a network: names stand for these and no others. The switch knows them from
    /// duplicate address detection, and sees to it that nobody takes another's.
    pub fn set_stations(&mut self, network: crate::NetworkId, stations: Vec<Station>) {
        if let Some(gateway) = self.gateways.get_mut(&network) {
            gateway.stations = Stations::new(stations);
        }
    }

    pub(crate) fn take_ipv6(&mut self, arrival: &Arrival<'_>) -> Result<(), Reason> {
        if !self.gateway(arrival.net)?.advertiser.is_active() {
            return Err(Reason::EtherType);
        }
        let packet = Packet::parse(arrival.frame.payload)?;
        let (src, dst) = (packet.header.src, packet.header.dst);
        if src.is_multicast() {
            return Err(Reason::ForgedSource);
        }
        if packet.protocol == Protocol::ICMPV6 && !packet.is_later && ndp::is_ndp(packet.payload) {
            return match packet.is_fragment {
                true => Err(Reason::Fragment), // RFC 6980, section 5
                false => self.take_ndp(arrival, &packet),
            };
        }
        if dst == dhcp6::SERVERS && packet.protocol == Protocol::UDP && !packet.is_fragment {
            return self.take_servers(arrival, &packet);
        }
        if dst.is_multicast() {
            return Err(Reason::Multicast);
        }
        if arrival.frame.dst.is_group() {
            return Err(Reason::NotForGateway);
        }
        let gateway = self.gateway(arrival.net)?;
        if !gateway.can_have_ipv6(src) {
            return Err(Reason::ForgedSource);
        }
        if gateway.has_ipv6(dst) { self.take_local_ipv6(arrival, &packet) } else { self.route_ipv6(arrival, &packet) }
    }

    /// A datagram for all DHCP servers of the link.
    fn take_servers(&mut self, arrival: &Arrival<'_>, packet: &Packet<'_>) -> Result<(), Reason> {
        let (src, dst) = (packet.header.src, packet.header.dst);
        let gateway = self.gateway(arrival.net)?;
        if !gateway.can_have_ipv6(src) {
            return Err(Reason::ForgedSource);
        }
        let datagram = udp::parse(packet.payload)?;
        if arrival.offload.csum == Csum::Unverified && !datagram.checksum_ok_v6(src, dst) {
            return Err(Reason::BadChecksum);
        }
        if gateway.config.dhcp6.is_none() || datagram.dst_port != dhcp6::SERVER_PORT {
            return Err(Reason::Multicast);
        }
        self.take_dhcp6(arrival, src, &datagram)
    }

    /// A packet for one of the gateway's own addresses.
    fn take_local_ipv6(&mut self, arrival: &Arrival<'_>, packet: &Packet<'_>) -> Result<(), Reason> {
        let (src, dst) = (packet.header.src, packet.header.dst);
        let config = &self.gateway(arrival.net)?.config;
        let (has_dns, is_nat) = (config.dns, config.nat && !dst.is_unicast_link_local());
        if packet.is_fragment {
            return if is_nat { self.pass_ipv6(arrival) } else { Err(Reason::Fragment) };
        }
        match packet.protocol {
            Protocol::ICMPV6 => {
                if !icmpv6::checksum_ok(src, dst, packet.payload) {
                    return Err(Reason::BadChecksum);
                }
                let Message::EchoRequest { ident, seq, payload } = icmpv6::parse(packet.payload)? else {
                    return Err(Reason::IcmpIgnored);
                };
                let link = self.gateway(arrival.net)?.back(&arrival.frame);
                self.send(arrival.net, link.icmpv6(dst, src, &Message::EchoReply { ident, seq, payload }))
            }
            Protocol::UDP => {
                let datagram = udp::parse(packet.payload)?;
                if arrival.offload.csum == Csum::Unverified && !datagram.checksum_ok_v6(src, dst) {
                    return Err(Reason::BadChecksum);
                }
                if has_dns && datagram.dst_port == dns::PORT {
                    let from = SocketAddr::V6(SocketAddrV6::new(src, datagram.src_port, 0, 0));
                    let way = dns::Way::Udp { from, at: IpAddr::V6(dst) };
                    let asker = dns::Asker { network: arrival.net, mac: arrival.frame.src, way };
                    return self.take_dns(arrival.now, asker, &datagram);
                }
                if is_nat {
                    return self.pass_ipv6(arrival);
                }
                self.refuse_ipv6(arrival, packet, Unreachable::PORT, Reason::NoService)
            }
            Protocol::TCP if is_nat => self.pass_ipv6(arrival),
            // Connections to the name server end in the NAT device too, also where no others leave.
            Protocol::TCP
                if has_dns
                    && !dst.is_unicast_link_local()
                    && packet.payload.get(2..4) == Some(&dns::PORT.to_be_bytes()) =>
            {
                self.pass_ipv6(arrival)
            }
            Protocol::TCP => self.refuse_ipv6(arrival, packet, Unreachable::PORT, Reason::NoService),
            _ => {
                let (code, quote) = (Parameter::NEXT_HEADER, icmpv6::quote(packet.bytes));
                // Where the number of what is not spoken stands; behind extension headers it is the last one's first byte.
                let at = match packet.payload.len() == packet.header.payload.len() {
                    true => 6,
                    false => ipv6::HEADER_BYTES as u32,
                };
                self.send_error_ipv6(arrival, packet, &Message::ParameterProblem { code, at, quote })?;
                Err(Reason::NoService)
            }
        }
    }

    /// A packet for somewhere else.
    fn route_ipv6(&mut self, arrival: &Arrival<'_>, packet: &Packet<'_>) -> Result<(), Reason> {
        let (src, dst) = (packet.header.src, packet.header.dst);
        // What is meant for a link never leaves it (RFC 4291, section 2.5.6).
        if dst.is_unicast_link_local() || src.is_unicast_link_local() {
            return self.refuse_ipv6(arrival, packet, Unreachable::BEYOND_SCOPE, Reason::NoRoute);
        }
        if packet.header.hop_limit <= 1 {
            let quote = icmpv6::quote(packet.bytes);
            self.send_error_ipv6(arrival, packet, &Message::TimeExceeded { code: 0, quote })?;
            return Err(Reason::TtlExpired);
        }
        // Networks do not meet here, and neighbours talk to each other without a gateway.
        let is_inside = |gateway: &Gateway| gateway.config.subnet6.is_some_and(|net| net.contains(&dst));
        if self.gateways.values().any(is_inside) {
            return self.refuse_ipv6(arrival, packet, Unreachable::ADMIN_PROHIBITED, Reason::NoRoute);
        }
        if !self.gateway(arrival.net)?.config.nat || !is_routable(dst) {
            return self.refuse_ipv6(arrival, packet, Unreachable::NO_ROUTE, Reason::NoRoute);
        }
        self.pass_ipv6(arrival)
    }

    /// A packet for the NAT device.
    fn pass_ipv6(&mut self, arrival: &Arrival<'_>) -> Result<(), Reason> {
        self.nat.handle_packet(arrival.now, arrival.net, arrival.bytes, arrival.offload);
        self.serve_streams(arrival.now);
        Ok(())
    }

    fn refuse_ipv6(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &Packet<'_>,
        code: Unreachable,
        reason: Reason,
    ) -> Result<(), Reason> {
        let quote = icmpv6::quote(packet.bytes);
        self.send_error_ipv6(arrival, packet, &Message::DestinationUnreachable { code, quote })?;
        Err(reason)
    }

    /// Sends an ICMPv6 error about `packet`, unless its sender was told much already (RFC 4443, section 2.4 e and f).
    fn send_error_ipv6(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &Packet<'_>,
        error: &Message<'_>,
    ) -> Result<(), Reason> {
        let is_error = packet.protocol == Protocol::ICMPV6 && icmpv6::is_error(packet.payload);
        if packet.is_later || is_error || !self.may_send_error(arrival)? {
            return Ok(());
        }
        let gateway = self.gateway(arrival.net)?;
        let to = packet.header.src;
        let own = gateway.config.subnet6.filter(|_| !to.is_unicast_link_local());
        let from = own.map_or(LINK_LOCAL, gateway_address);
        let answer = gateway.back(&arrival.frame).icmpv6(from, to, error);
        self.send(arrival.net, answer)
    }
}

/// Whether packets to `ip` may leave for the host's network.
fn is_routable(ip: Ipv6Addr) -> bool {
    ip.octets()[0] != 0 && !ip.is_unicast_link_local() && !ip.is_multicast()
}

/// The MAC address to which a packet for `dst` goes, where `station` is that of a station.
fn mac_for(dst: Ipv6Addr, station: &ethernet::Frame<'_>) -> weft_types::MacAddr {
    if dst.is_multicast() { ndp::group_mac(dst) } else { station.src }
}
