//! UDP: one host socket per guest socket (RFC 4787).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use weft_types::{Instant, MacAddr};
use weft_wire::{Csum, GsoKind, Offload, Protocol, udp};

use super::flows::{ANY_REMOTE, Flow, FlowId, Key, Kind, Owner};
use super::icmp::{Refusal, quote_ports, unreachable};
use super::packet::{Endpoint, Packet, header_bytes, mapped, pseudo_header};
use super::{Arrival, Cause, HostError, HostOp, IcmpError, Nat, Transit, policy};
use crate::{NetworkId, OutFrame};

/// How long a mapping lives without traffic (RFC 4787, REQ-5 recommends five minutes).
const IDLE: Duration = Duration::from_secs(300);
/// The same for a mapping that only ever asked name servers: one question, one answer.
const DNS_IDLE: Duration = Duration::from_secs(20);
const DNS_PORT: u16 = 53;
/// What follows the ports of a datagram without payload: its length, and no checksum.
const EMPTY: u32 = (udp::HEADER_BYTES as u32) << 16;
/// The remote hosts whose answers a mapping lets through.
const MAX_REMOTES: usize = 64;

/// The remote hosts that a guest's socket wrote to, the latest first. Only they are let in: filtering is
/// address-dependent (RFC 4787, REQ-8).
#[derive(Debug, Default)]
pub(super) struct Remotes(Vec<Ipv6Addr>);

impl Remotes {
    /// The guest wrote to `ip`.
    pub(super) fn note(&mut self, ip: IpAddr) {
        let ip = mapped(ip);
        if self.0.first() == Some(&ip) {
            return;
        }
        match self.0.iter().position(|known| *known == ip) {
            Some(at) => drop(self.0.remove(at)),
            None => self.0.truncate(MAX_REMOTES - 1),
        }
        self.0.insert(0, ip);
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&mapped(ip))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(Ipv6Addr::to_canonical)
    }
}

/// A guest's socket.
#[derive(Debug)]
pub(super) struct Mapping {
    /// As the guest knows them.
    pub(super) remotes: Remotes,
    is_dns_only: bool,
    pub(super) expires: Instant,
}

impl Mapping {
    fn refresh(&mut self, now: Instant) {
        self.expires = now + if self.is_dns_only { DNS_IDLE } else { IDLE };
    }
}

impl Nat {
    /// A UDP packet of a guest.
    pub(super) fn take_udp(&mut self, arrival: &Arrival, packet: &Packet<'_>) -> Result<(), Cause> {
        let datagram = udp::parse(packet.payload)?;
        if arrival.offload.csum == Csum::Unverified && !is_right(&datagram, packet) {
            return Err(Cause::BadChecksum);
        }
        let guest = Endpoint::new(packet.src, datagram.src_port);
        let network = &self.network(arrival.network)?.config;
        if network.has(packet.dst) {
            let remote = Endpoint::new(packet.dst, datagram.dst_port);
            let key = Key { network: arrival.network, protocol: Protocol::UDP, guest, remote };
            if let Some(flow) = self.flows.find(&key) {
                return self.take_answer(arrival, flow, datagram.payload);
            }
        }
        let ip = match policy::destination(network, &self.subnets, packet.dst) {
            // A query in pieces: the name server puts nothing together, and the host's is none of the guest's.
            Ok(_) if policy::is_name_server(network, Endpoint::new(packet.dst, datagram.dst_port)) => {
                return Err(self.refuse(arrival, packet, Refusal::Port, Cause::Fragment));
            }
            Ok(ip) => ip,
            Err(Cause::NoHostAccess) => {
                return Err(self.refuse(arrival, packet, Refusal::Port, Cause::NoHostAccess));
            }
            Err(cause) => return Err(self.refuse(arrival, packet, Refusal::Prohibited, cause)),
        };
        let key = Key { network: arrival.network, protocol: Protocol::UDP, guest, remote: ANY_REMOTE };
        let flow = match self.flows.find(&key) {
            Some(flow) => flow,
            None => {
                if let Err(cause) = self.make_room(Owner::new(arrival.network, guest, arrival.mac)) {
                    return Err(self.refuse(arrival, packet, Refusal::Host, cause));
                }
                let mapping = Mapping { remotes: Remotes::default(), is_dns_only: true, expires: arrival.now };
                self.flows.insert(key, arrival.mac, Kind::Udp(mapping))
            }
        };
        if let Some(Flow { kind: Kind::Udp(mapping), mac, .. }) = self.flows.get_mut(flow) {
            *mac = arrival.mac;
            mapping.remotes.note(packet.dst);
            mapping.is_dns_only &= datagram.dst_port == DNS_PORT;
            mapping.refresh(arrival.now);
        }
        self.settle(flow);
        let (to, transit) = (SocketAddr::new(ip, datagram.dst_port), Transit::of(packet));
        self.push_datagrams(arrival.offload, datagram.payload, |payload| HostOp::UdpSend { flow, to, transit, payload })
    }

    /// Queues the payload of a datagram for the host, or of the many that it stands for.
    pub(super) fn push_datagrams(
        &mut self,
        offload: Offload,
        payload: &[u8],
        op: impl Fn(Vec<u8>) -> HostOp,
    ) -> Result<(), Cause> {
        match offload.gso {
            Some(gso) if gso.kind == GsoKind::UdpL4 && gso.size > 0 => {
                payload.chunks(gso.size.into()).try_for_each(|piece| self.push_datagram(op(piece.to_vec())))
            }
            _ => self.push_datagram(op(payload.to_vec())),
        }
    }

    /// The socket of a flow got a datagram.
    pub fn udp_received(&mut self, now: Instant, flow: FlowId, from: SocketAddr, payload: &[u8]) {
        self.now = now;
        let Some(Flow { kind: Kind::Udp(mapping), key, mac, .. }) = self.flows.get_mut(flow) else { return };
        let Some(network) = self.networks.get(&key.network) else { return };
        let from = policy::as_guest_sees(&network.config, from);
        if !mapping.remotes.contains(from.ip()) {
            let network = key.network;
            self.count(network, Cause::Unsolicited);
            return;
        }
        mapping.refresh(now);
        let (key, mac) = (*key, *mac);
        if let Err(cause) = self.send_datagram(key.network, mac, from, key.guest, payload) {
            self.count(key.network, cause);
        }
    }

    /// Sends a datagram to a guest.
    pub(super) fn send_datagram(
        &mut self,
        id: NetworkId,
        mac: MacAddr,
        from: Endpoint,
        to: Endpoint,
        payload: &[u8],
    ) -> Result<(), Cause> {
        let len = u16::try_from(udp::HEADER_BYTES + payload.len()).map_err(|_| Cause::Malformed)?;
        let network = self.network(id)?;
        let mtu = network.config.mtu;
        let envelope = network.envelope(mac, from.ip(), to.ip(), Protocol::UDP);
        if header_bytes(envelope.to) + usize::from(len) <= usize::from(mtu) {
            let mut bytes = envelope.open(len.into());
            let pseudo = pseudo_header(envelope.from, envelope.to, Protocol::UDP, len).folded();
            let header = [from.port(), to.port(), len, pseudo].map(u16::to_be_bytes);
            bytes.extend_from_slice(header.as_flattened());
            bytes.extend_from_slice(payload);
            let csum = Csum::Partial { start: envelope.transport_at() as u16, offset: udp::CHECKSUM_OFFSET };
            self.send(id, OutFrame { bytes, offload: Offload { csum, gso: None } });
        } else {
            let mut datagram = Vec::with_capacity(len.into());
            // Pieces cannot leave the sum to somebody else.
            match (from.into(), to.into()) {
                (SocketAddr::V4(from), SocketAddr::V4(to)) => udp::emit(&mut datagram, from, to, payload),
                (SocketAddr::V6(from), SocketAddr::V6(to)) => udp::emit_v6(&mut datagram, from, to, payload),
                _ => return Err(Cause::Malformed), // nobody writes to the other family
            }
            self.send_packet(id, &envelope, &datagram);
        }
        Ok(())
    }

    /// A datagram of a flow did not reach `to`; nor will more of it.
    pub fn udp_failed(&mut self, now: Instant, flow: FlowId, to: SocketAddr, error: HostError) {
        self.now = now;
        let Some(Flow { kind: Kind::Udp(_), key, mac, .. }) = self.flows.get(flow) else { return };
        let (mut key, mac) = (*key, *mac);
        let Some(network) = self.networks.get(&key.network) else { return };
        key.remote = policy::as_guest_sees(&network.config, to);
        self.count(key.network, error.cause());
        let why = if error == HostError::Refused { Some(Refusal::Port) } else { unreachable(error) };
        if let Some(why) = why {
            self.send_unreachable(key.network, mac, why, &quote_ports(&key, EMPTY));
        }
    }

    /// A datagram of a flow did not reach `to`, as somebody on its way says.
    pub fn udp_lost(&mut self, now: Instant, flow: FlowId, to: SocketAddr, error: IcmpError) {
        self.now = now;
        self.pass_error(flow, to, error, |key| quote_ports(key, EMPTY));
    }
}

/// Whether a datagram's checksum is right. Over IPv6 there must be one (RFC 8200, section 8.1).
fn is_right(datagram: &udp::Datagram<'_>, packet: &Packet<'_>) -> bool {
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => datagram.checksum_ok(src, dst),
        (src, dst) => datagram.checksum_ok_v6(mapped(src), mapped(dst)),
    }
}
