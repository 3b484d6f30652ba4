//! What one network's gateway does with a frame.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::{Dhcp6, Instant, Ipv4Net};
use weft_wire::icmpv4::{self, Message, Unreachable};
use weft_wire::{Csum, EtherType, Malformed, Offload, Problem, Protocol, arp, ethernet, ipv4, udp};

use crate::budget::Budget;
use crate::dhcp::{self, Leases};
use crate::dhcp6::Addresses;
use crate::dns::{self, View, Zone};
use crate::frame::Link;
use crate::ipv6::{Advertiser, Stations};
use crate::services::Services;
use crate::{Counters, NetworkId, NetworkServices, Reason, ipv6, metadata};

/// A network's configuration and state.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) config: NetworkServices,
    pub(crate) zone: Zone,
    pub(crate) leases: Leases,
    pub(crate) counters: Counters,
    /// The networks that routers join with this one.
    pub(crate) joined: Vec<Ipv4Net>,
    errors: Budget,
    /// Router advertisements to single stations.
    pub(crate) solicited: Budget,
    /// What it says of its IPv6, and when.
    pub(crate) advertiser: Advertiser,
    /// Who has which IPv6 address.
    pub(crate) stations: Stations,
    /// Which IPv6 addresses clients get that ask for some.
    pub(crate) addresses6: Addresses,
    /// Somebody was turned away because no address was free, and nobody got one since.
    pub(crate) is_exhausted: bool,
}

impl Gateway {
    pub(crate) fn new(now: Instant, config: NetworkServices, before: Option<Self>) -> Self {
        let (leases, counters, advertiser, stations, addresses6) = before.map_or_else(Default::default, |before| {
            (before.leases, before.counters, before.advertiser, before.stations, before.addresses6)
        });
        Self {
            zone: Zone::new(&config),
            config,
            leases,
            counters,
            joined: Vec::new(),
            errors: Budget::new(now),
            solicited: Budget::new(now),
            advertiser,
            stations,
            addresses6,
            is_exhausted: false,
        }
    }

    /// What there is to say of its IPv6.
    pub(crate) fn link(&self) -> ipv6::Link {
        let config = &self.config;
        ipv6::Link {
            mac: config.mac,
            mtu: config.mtu,
            leads_out: config.nat,
            has_addresses: config.dhcp6 == Some(Dhcp6::Stateful),
            has_other: config.dhcp6.is_some(),
            prefix: config.subnet6,
            name_server: config.subnet6.filter(|_| config.dns).map(ipv6::gateway_address),
            search: if config.dns && config.subnet6.is_some() { dns::zone_name(&config.name) } else { Vec::new() },
        }
    }

    /// The network as DNS sees it.
    fn view(&self) -> View<'_> {
        let Self { config, zone, leases, stations, .. } = self;
        View {
            id: config.id,
            name: config.name.as_str(),
            subnet: config.subnet,
            subnet6: config.subnet6,
            zone,
            leases,
            stations,
            forward: &config.names.forward,
        }
    }

    /// The way back to the sender of `frame`.
    pub(crate) fn back(&self, frame: &ethernet::Frame<'_>) -> Link {
        Link { from: self.config.mac, to: frame.src }
    }
}

/// A frame on its way through the services.
pub(crate) struct Arrival<'a> {
    pub(crate) now: Instant,
    pub(crate) net: NetworkId,
    pub(crate) bytes: &'a [u8],
    pub(crate) frame: ethernet::Frame<'a>,
    pub(crate) offload: Offload,
}

impl Arrival<'_> {
    /// The datagram that `packet` carries, if it is whole and right.
    fn datagram<'a>(&self, packet: &ipv4::Packet<'a>) -> Result<udp::Datagram<'a>, Reason> {
        let datagram = udp::parse(packet.payload)?;
        // The sum of the others was found right already, or is not made yet.
        if self.offload.csum == Csum::Unverified && !datagram.checksum_ok(packet.src, packet.dst) {
            return Err(Reason::BadChecksum);
        }
        Ok(datagram)
    }
}

impl From<Malformed> for Reason {
    fn from(malformed: Malformed) -> Self {
        if malformed.problem == Problem::Checksum { Self::BadChecksum } else { Self::Malformed }
    }
}

impl Services {
    /// The body of [`Self::handle_frame`]: an error is the reason why nothing but a refusal came of the frame.
    pub(crate) fn take_frame(
        &mut self,
        now: Instant,
        net: NetworkId,
        bytes: &[u8],
        offload: Offload,
    ) -> Result<(), Reason> {
        let gateway = self.gateways.get(&net).ok_or(Reason::UnknownNetwork)?;
        let frame = ethernet::parse(bytes)?;
        if frame.dst != gateway.config.mac && !frame.dst.is_group() {
            return Err(Reason::NotForGateway);
        }
        if !frame.src.is_station() || frame.src == gateway.config.mac {
            return Err(Reason::ForgedSource);
        }
        match frame.ethertype {
            _ if frame.tag.is_some() => Err(Reason::EtherType),
            EtherType::ARP => self.take_arp(now, net, &frame),
            EtherType::IPV4 => self.take_ipv4(&Arrival { now, net, bytes, frame, offload }),
            EtherType::IPV6 => self.take_ipv6(&Arrival { now, net, bytes, frame, offload }),
            _ => Err(Reason::EtherType),
        }
    }

    pub(crate) fn gateway(&mut self, net: NetworkId) -> Result<&mut Gateway, Reason> {
        self.gateways.get_mut(&net).ok_or(Reason::UnknownNetwork)
    }

    /// Answers for the gateway's own address, and for no other: there is no proxy ARP here. Whoever asks for it, or
    /// answers it, says who he is.
    fn take_arp(&mut self, now: Instant, net: NetworkId, frame: &ethernet::Frame<'_>) -> Result<(), Reason> {
        let config = &self.gateway(net)?.config;
        let request = arp::parse(frame.payload).map_err(|_| Reason::ArpIgnored)?;
        if request.sender_mac != frame.src || request.sender_ip == config.ip {
            return Err(Reason::ForgedSource);
        }
        let is_metadata = config.tells_machines() && request.target_ip == metadata::ADDRESS;
        if request.target_ip != config.ip && !is_metadata {
            return self.hear_of_conflict(now, net, &request);
        }
        let (reply, subnet) = (request.reply(config.mac).frame(frame.src), config.subnet);
        let is_known = dhcp::is_station(subnet, request.sender_ip)
            && (self.nat.hear_neighbour(now, net, request.sender_ip, request.sender_mac)
                | self.hear_routed_neighbour(now, net, request.sender_ip, request.sender_mac));
        match request.operation {
            arp::Operation::Request => self.send(net, reply),
            arp::Operation::Reply if is_known => Ok(()),
            arp::Operation::Reply => Err(Reason::ArpIgnored),
        }
    }

    fn take_ipv4(&mut self, arrival: &Arrival<'_>) -> Result<(), Reason> {
        let packet = ipv4::parse(arrival.frame.payload)?;
        let config = &self.gateway(arrival.net)?.config;
        let (ip, subnet, tells_machines) = (config.ip, config.subnet, config.tells_machines());
        let is_everyone = packet.dst.is_broadcast() || packet.dst == subnet.broadcast();

        // A DHCP client may not have an address yet, or one of another network.
        if config.dhcp.is_some()
            && packet.protocol == Protocol::UDP
            && (is_everyone || packet.dst == ip)
            && let Ok(datagram) = arrival.datagram(&packet)
            && datagram.dst_port == dhcp::SERVER_PORT
        {
            return match packet.is_fragment() {
                true => Err(Reason::Fragment),
                false => self.take_dhcp(arrival.now, arrival.net, arrival.frame.src, &datagram),
            };
        }
        if is_everyone || packet.dst.is_multicast() {
            return Err(Reason::Multicast);
        }
        if arrival.frame.dst.is_group() {
            return Err(Reason::NotForGateway); // a unicast packet for everyone (RFC 1122, section 3.3.6)
        }
        if !dhcp::is_station(subnet, packet.src) || packet.src == ip {
            return Err(Reason::ForgedSource);
        }
        if packet.dst == metadata::ADDRESS && tells_machines {
            return self.take_metadata(arrival, &packet);
        }
        if packet.dst == ip { self.take_local(arrival, &packet) } else { self.route(arrival, &packet) }
    }

    /// A packet for the address at which machines are told of themselves.
    fn take_metadata(&mut self, arrival: &Arrival<'_>, packet: &ipv4::Packet<'_>) -> Result<(), Reason> {
        match packet.protocol {
            Protocol::ICMP | Protocol::UDP if packet.is_fragment() => Err(Reason::Fragment),
            Protocol::ICMP => self.take_icmp(arrival, packet),
            Protocol::UDP => self.refuse(arrival, packet, Unreachable::PORT, Reason::NoService),
            Protocol::TCP => {
                self.nat.handle_packet(arrival.now, arrival.net, arrival.bytes, arrival.offload);
                self.serve_streams(arrival.now);
                Ok(())
            }
            _ => self.refuse(arrival, packet, Unreachable::PROTOCOL, Reason::NoService),
        }
    }

    /// A packet for the gateway's own address.
    fn take_local(&mut self, arrival: &Arrival<'_>, packet: &ipv4::Packet<'_>) -> Result<(), Reason> {
        let Gateway { config, .. } = self.gateway(arrival.net)?;
        let (nat, dns) = (config.nat, config.dns);
        match packet.protocol {
            Protocol::ICMP if packet.is_fragment() => Err(Reason::Fragment),
            Protocol::ICMP => self.take_icmp(arrival, packet),
            Protocol::UDP if packet.fragment_offset != 0 && !nat => Err(Reason::Fragment),
            Protocol::UDP => match arrival.datagram(packet) {
                Ok(datagram) if datagram.dst_port == dhcp::SERVER_PORT => Err(Reason::DhcpIgnored),
                Ok(datagram) if dns && datagram.dst_port == dns::PORT => {
                    let from = SocketAddrV4::new(packet.src, datagram.src_port).into();
                    let way = dns::Way::Udp { from, at: packet.dst.into() };
                    let asker = dns::Asker { network: arrival.net, mac: arrival.frame.src, way };
                    self.take_dns(arrival.now, asker, &datagram)
                }
                Ok(_) => self.pass_to_host(arrival, packet, nat),
                // The first piece of a datagram holds less than its header says, and its sum covers all pieces.
                Err(_) if packet.is_fragment() => self.pass_to_host(arrival, packet, nat),
                Err(reason) => Err(reason),
            },
            // Connections to the name server end in the NAT device too, also where no others leave.
            Protocol::TCP => {
                let is_dns = dns && packet.payload.get(2..4) == Some(&dns::PORT.to_be_bytes());
                self.pass_to_host(arrival, packet, nat || is_dns)?;
                self.serve_streams(arrival.now);
                Ok(())
            }
            _ => self.refuse(arrival, packet, Unreachable::PROTOCOL, Reason::NoService),
        }
    }

    /// A packet for the NAT device, if the network `has` it: for the host at a port of the gateway at which none of our
    /// services stands, maybe.
    fn pass_to_host(&mut self, arrival: &Arrival<'_>, packet: &ipv4::Packet<'_>, has: bool) -> Result<(), Reason> {
        if !has {
            return self.refuse(arrival, packet, Unreachable::PORT, Reason::NoService);
        }
        self.nat.handle_packet(arrival.now, arrival.net, arrival.bytes, arrival.offload);
        Ok(())
    }

    /// A packet for somewhere else.
    fn route(&mut self, arrival: &Arrival<'_>, packet: &ipv4::Packet<'_>) -> Result<(), Reason> {
        if packet.ttl <= 1 {
            let quote = icmpv4::quote(packet.bytes);
            self.send_error(arrival, packet, &Message::TimeExceeded { code: 0, quote })?;
            return Err(Reason::TtlExpired);
        }
        // Networks meet only at a router, and neighbours talk to each other without a gateway.
        let beside = self.gateways.values().find(|gateway| gateway.config.subnet.contains(&packet.dst));
        if let Some(to) = beside.map(|gateway| gateway.config.id) {
            return match self.crossing(arrival.net, to) {
                Some(crossing) => self.cross(arrival, packet, crossing),
                None => self.refuse(arrival, packet, Unreachable::ADMIN_PROHIBITED, Reason::NoRoute),
            };
        }
        if !self.gateway(arrival.net)?.config.nat || !is_routable(packet.dst) {
            return self.refuse(arrival, packet, Unreachable::NETWORK, Reason::NoRoute);
        }
        self.nat.handle_packet(arrival.now, arrival.net, arrival.bytes, arrival.offload);
        Ok(())
    }

    /// An ICMP message for the gateway's own address, or for that of another one, in whose name it answers.
    pub(crate) fn take_icmp(&mut self, arrival: &Arrival<'_>, packet: &ipv4::Packet<'_>) -> Result<(), Reason> {
        if !icmpv4::checksum_ok(packet.payload) {
            return Err(Reason::BadChecksum);
        }
        let Message::EchoRequest { ident, seq, payload } = icmpv4::parse(packet.payload)? else {
            return Err(Reason::IcmpIgnored);
        };
        let gateway = self.gateway(arrival.net)?;
        let link = gateway.back(&arrival.frame);
        let reply = link.icmp(packet.dst, packet.src, &Message::EchoReply { ident, seq, payload });
        self.send(arrival.net, reply)
    }

    /// Tells the sender of `packet` that it cannot be delivered; gives `reason` back.
    pub(crate) fn refuse(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &ipv4::Packet<'_>,
        code: Unreachable,
        reason: Reason,
    ) -> Result<(), Reason> {
        let quote = icmpv4::quote(packet.bytes);
        self.send_error(arrival, packet, &Message::DestinationUnreachable { code, next_hop_mtu: 0, quote })?;
        Err(reason)
    }

    /// Sends an ICMP error about `packet`, unless its sender was told much already.
    pub(crate) fn send_error(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &ipv4::Packet<'_>,
        error: &Message<'_>,
    ) -> Result<(), Reason> {
        if packet.fragment_offset != 0 || is_icmp_error(packet) {
            return Ok(()); // RFC 1122, section 3.2.2
        }
        if !self.may_send_error(arrival)? {
            return Ok(());
        }
        let gateway = self.gateway(arrival.net)?;
        let answer = gateway.back(&arrival.frame).icmp(gateway.config.ip, packet.src, error);
        self.send(arrival.net, answer)
    }

    /// Whether senders were not told much already.
    pub(crate) fn may_send_error(&mut self, arrival: &Arrival<'_>) -> Result<bool, Reason> {
        let gateway = self.gateway(arrival.net)?;
        let may = gateway.errors.take(arrival.now);
        if !may {
            gateway.counters.count(Reason::IcmpRateLimited);
        }
        Ok(may)
    }
}

/// Every network as DNS sees it, in the order of their ids.
pub(crate) fn views(gateways: &BTreeMap<NetworkId, Gateway>) -> Vec<View<'_>> {
    gateways.values().map(Gateway::view).collect()
}

/// Whether packets to `ip` may leave for the host's network: no `this host`, loopback, or reserved address.
fn is_routable(ip: Ipv4Addr) -> bool {
    const RESERVED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4);
    ip.octets()[0] != 0 && !ip.is_loopback() && !RESERVED.contains(&ip)
}

/// Whether `packet` is an ICMP message that never gets an ICMP error for an answer: anything but a question.
fn is_icmp_error(packet: &ipv4::Packet<'_>) -> bool {
    const QUESTIONS: [u8; 4] = [8, 13, 15, 17];
    packet.protocol == Protocol::ICMP && !packet.payload.first().is_some_and(|kind| QUESTIONS.contains(kind))
}
