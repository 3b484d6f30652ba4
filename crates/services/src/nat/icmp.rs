//! ICMP (RFC 792): echoes of guests, and errors for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use weft_types::{Instant, MacAddr};
use weft_wire::{Protocol, icmpv4, icmpv6, ipv4, ipv6};

use super::flows::{ANY_REMOTE, Flow, FlowId, Key, Kind, Owner};
use super::packet::{Endpoint, Packet};
use super::udp::{Mapping, Remotes};
use super::{Arrival, Cause, HostError, HostOp, IcmpError, Nat, PacketFate, Transit, policy};
use crate::NetworkId;

/// How long an identifier is kept for a guest (RFC 5508, REQ-2).
const IDLE: Duration = Duration::from_secs(60);
/// How much of a transport header an error quotes at least (RFC 792).
const QUOTED_TRANSPORT_BYTES: usize = 8;

/// An identifier that a guest's echo requests carry.
#[derive(Debug)]
pub(super) struct Echo {
    pub(super) remotes: Remotes,
    pub(super) expires: Instant,
}

/// Why the gateway, as a router, does not forward something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No way leads there.
    Network,
    /// Nobody there, or too much to do.
    Host,
    /// Nothing but TCP, UDP and echoes passes.
    Protocol,
    /// Nobody listens.
    Port,
    /// It is forbidden.
    Prohibited,
}

impl Refusal {
    /// As it is said about a packet to `ip`.
    fn fate(self, ip: IpAddr) -> PacketFate {
        use {icmpv4::Unreachable as V4, icmpv6::Unreachable as V6};
        let (v4, v6) = match self {
            Self::Network => (V4::NETWORK, V6::NO_ROUTE),
            Self::Host => (V4::HOST, V6::ADDRESS),
            Self::Protocol => (V4::PROTOCOL, V6::ADMIN_PROHIBITED),
            Self::Port => (V4::PORT, V6::PORT),
            Self::Prohibited => (V4::ADMIN_PROHIBITED, V6::ADMIN_PROHIBITED),
        };
        if ip.is_ipv4() { PacketFate::Unreachable(v4) } else { PacketFate::UnreachableV6(v6) }
    }
}

/// What a router would have told, had it been one that failed.
pub(super) fn unreachable(error: HostError) -> Option<Refusal> {
    match error {
        HostError::HostUnreachable => Some(Refusal::Host),
        HostError::NetUnreachable => Some(Refusal::Network),
        HostError::Prohibited => Some(Refusal::Prohibited),
        HostError::Refused | HostError::TimedOut | HostError::Exhausted => None,
    }
}

/// The start of a packet of a flow, made up from what is known: an error quotes it, and a guest looks at nothing in
/// it but addresses and the start of the transport header.
pub(super) fn quote(key: &Key, transport: &[u8; QUOTED_TRANSPORT_BYTES]) -> Vec<u8> {
    let payload_len = QUOTED_TRANSPORT_BYTES as u16;
    let (protocol, mut bytes) = (key.protocol, Vec::new());
    match (key.guest.ip(), key.remote.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv4::Repr { src, dst, protocol, ttl: 1, ident: 0, dont_fragment: true, payload_len }.emit(&mut bytes);
        }
        _ => {
            let (src, dst) = (key.guest.mapped(), key.remote.mapped());
            ipv6::Repr { src, dst, next_header: protocol, hop_limit: 1, payload_len }.emit(&mut bytes);
        }
    }
    bytes.extend_from_slice(transport);
    bytes
}

/// The start of a transport header: the ports, and what follows them.
pub(super) fn quote_ports(key: &Key, rest: u32) -> Vec<u8> {
    let mut transport = [0; QUOTED_TRANSPORT_BYTES];
    transport[..2].copy_from_slice(&key.guest.port().to_be_bytes());
    transport[2..4].copy_from_slice(&key.remote.port().to_be_bytes());
    transport[4..].copy_from_slice(&rest.to_be_bytes());
    quote(key, &transport)
}

/// The start of an echo request of a flow.
fn quote_request(key: &Key, sequence: u16) -> Vec<u8> {
    let mut request = Vec::new();
    put_echo(&mut request, (key.guest, key.remote), false, (key.guest.port(), sequence), &[]);
    quote(key, request.first_chunk().unwrap_or(&[0; QUOTED_TRANSPORT_BYTES]))
}

/// Appends an echo request or reply, of the family of the two that talk.
fn put_echo(
    out: &mut Vec<u8>,
    (from, to): (Endpoint, Endpoint),
    is_reply: bool,
    (ident, seq): (u16, u16),
    payload: &[u8],
) {
    use {icmpv4::Message as V4, icmpv6::Message as V6};
    match (to.ip(), is_reply) {
        (IpAddr::V4(_), false) => V4::EchoRequest { ident, seq, payload }.emit(out),
        (IpAddr::V4(_), true) => V4::EchoReply { ident, seq, payload }.emit(out),
        (IpAddr::V6(to), false) => V6::EchoRequest { ident, seq, payload }.emit(out, from.mapped(), to),
        (IpAddr::V6(to), true) => V6::EchoReply { ident, seq, payload }.emit(out, from.mapped(), to),
    }
}

/// An echo request of a guest.
struct Request<'a> {
    ident: u16,
    sequence: u16,
    payload: &'a [u8],
    is_right: bool,
}

/// What an echo request says, and whether its checksum is right; `None` for any other message.
fn echo_request<'a>(packet: &Packet<'a>) -> Result<Option<Request<'a>>, Cause> {
    match (packet.src, packet.dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => match icmpv6::parse(packet.payload)? {
            icmpv6::Message::EchoRequest { ident, seq: sequence, payload } => {
                let is_right = icmpv6::checksum_ok(src, dst, packet.payload);
                Ok(Some(Request { ident, sequence, payload, is_right }))
            }
            _ => Ok(None),
        },
        _ => match icmpv4::parse(packet.payload)? {
            icmpv4::Message::EchoRequest { ident, seq: sequence, payload } => {
                let is_right = icmpv4::checksum_ok(packet.payload);
                Ok(Some(Request { ident, sequence, payload, is_right }))
            }
            _ => Ok(None),
        },
    }
}

/// Who sent a packet.
fn sender(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16)?.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
        _ => packet.get(8..24)?.first_chunk().map(|octets: &[u8; 16]| Ipv6Addr::from(*octets).into()),
    }
}

impl Nat {
    /// Tells a guest why its packet went nowhere, unless it was told much already; gives `cause` back.
    pub(super) fn refuse(&mut self, arrival: &Arrival, packet: &Packet<'_>, why: Refusal, cause: Cause) -> Cause {
        let is_question = match packet.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => matches!(echo_request(packet), Ok(Some(_))),
            _ => true,
        };
        if is_question {
            self.send_unreachable(arrival.network, arrival.mac, why, packet.bytes);
        }
        cause
    }

    /// Sends "destination unreachable" to the sender of a packet, from the gateway.
    pub(super) fn send_unreachable(&mut self, id: NetworkId, mac: MacAddr, why: Refusal, packet: &[u8]) {
        if let Some(to) = sender(packet) {
            self.send_error(id, mac, None, why.fate(to), packet);
        }
    }

    /// Tells the sender of a packet what became of it, in the name of who knows: `None` is the gateway, as is the host itself.
    fn send_error(&mut self, id: NetworkId, mac: MacAddr, from: Option<IpAddr>, fate: PacketFate, packet: &[u8]) {
        let now = self.now;
        let Some(network) = self.networks.get_mut(&id) else { return };
        let Some(to) = sender(packet) else { return };
        let Some(gateway) = network.config.gateway(to) else { return };
        let from = from.filter(|from| !from.is_loopback() && from.is_ipv4() == to.is_ipv4()).unwrap_or(gateway);
        if !network.errors.take(now) {
            network.counters.count(Cause::IcmpRateLimited);
            return;
        }
        let mut bytes = Vec::new();
        let protocol = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                error_v6(fate, icmpv6::quote(packet)).into_iter().for_each(|error| error.emit(&mut bytes, from, to));
                Protocol::ICMPV6
            }
            _ => {
                error_v4(fate, icmpv4::quote(packet)).into_iter().for_each(|error| error.emit(&mut bytes));
                Protocol::ICMP
            }
        };
        let envelope = network.envelope(mac, from, to, protocol);
        if !bytes.is_empty() {
            self.send_packet(id, &envelope, &bytes);
        }
    }

    /// Passes on what was said about a packet of a flow that went to `to`, unless the guest never wrote there; `quote` makes
    /// up the packet.
    pub(super) fn pass_error(
        &mut self,
        flow: FlowId,
        to: SocketAddr,
        error: IcmpError,
        quote: impl FnOnce(&Key) -> Vec<u8>,
    ) {
        let Some(Flow { kind, key, mac, .. }) = self.flows.get(flow) else { return };
        let (mut key, mac) = (*key, *mac);
        let Some(network) = self.networks.get(&key.network) else { return };
        key.remote = policy::as_guest_sees(&network.config, to);
        let (Kind::Udp(Mapping { remotes, .. }) | Kind::Echo(Echo { remotes, .. })) = kind else { return };
        if !remotes.contains(key.remote.ip()) {
            return self.count(key.network, Cause::Unsolicited);
        }
        self.count(key.network, error.fate.cause());
        self.send_error(key.network, mac, Some(error.from), error.fate, &quote(&key));
    }

    /// An ICMP packet of a guest: only echo requests go anywhere.
    pub(super) fn take_icmp(&mut self, arrival: &Arrival, packet: &Packet<'_>) -> Result<(), Cause> {
        let Request { ident, sequence, payload, is_right } = echo_request(packet)?.ok_or(Cause::Protocol)?;
        if !is_right {
            return Err(Cause::BadChecksum);
        }
        let config = &self.network(arrival.network)?.config;
        if config.has(packet.dst) {
            return Err(Cause::Protocol); // the gateway answers for itself
        }
        if let Err(cause) = policy::destination(config, &self.subnets, packet.dst) {
            return Err(self.refuse(arrival, packet, Refusal::Prohibited, cause));
        }
        let is_open = if packet.dst.is_ipv4() { self.limits.echo } else { self.limits.echo_v6 };
        if !is_open {
            return Err(self.refuse(arrival, packet, Refusal::Prohibited, Cause::EchoClosed));
        }
        let guest = Endpoint::new(packet.src, ident);
        let key = Key { network: arrival.network, protocol: packet.protocol, guest, remote: ANY_REMOTE };
        let expires = arrival.now + IDLE;
        let flow = match self.flows.find(&key) {
            Some(flow) => flow,
            None => {
                if let Err(cause) = self.make_room(Owner::new(arrival.network, guest, arrival.mac)) {
                    return Err(self.refuse(arrival, packet, Refusal::Host, cause));
                }
                let echo = Echo { remotes: Remotes::default(), expires };
                self.flows.insert(key, arrival.mac, Kind::Echo(echo))
            }
        };
        if let Some(Flow { kind: Kind::Echo(echo), mac, .. }) = self.flows.get_mut(flow) {
            *mac = arrival.mac;
            echo.expires = expires;
            echo.remotes.note(packet.dst);
        }
        self.settle(flow);
        let transit = Transit::of(packet);
        self.push_datagram(HostOp::EchoSend { flow, to: packet.dst, transit, sequence, payload: payload.to_vec() })
    }

    /// An echo reply for a flow came from `from`; `payload` is what follows the sequence number.
    pub fn echo_received(&mut self, now: Instant, flow: FlowId, from: IpAddr, sequence: u16, payload: &[u8]) {
        self.now = now;
        let Some(Flow { kind: Kind::Echo(echo), key, mac, .. }) = self.flows.get(flow) else { return };
        if !echo.remotes.contains(from) {
            let network = key.network;
            self.count(network, Cause::Unsolicited);
            return;
        }
        let (key, mac) = (*key, *mac);
        let Some(network) = self.networks.get(&key.network) else { return };
        let envelope = network.envelope(mac, from, key.guest.ip(), key.protocol);
        let mut bytes = Vec::with_capacity(icmpv4::HEADER_BYTES + payload.len());
        let ends = (Endpoint::new(from, 0), key.guest);
        put_echo(&mut bytes, ends, true, (key.guest.port(), sequence), payload);
        self.send_packet(key.network, &envelope, &bytes);
    }

    /// An echo request could not be sent to `to`.
    pub fn echo_failed(&mut self, now: Instant, flow: FlowId, to: IpAddr, sequence: u16, error: HostError) {
        self.now = now;
        let Some(Flow { kind: Kind::Echo(_), key, mac, .. }) = self.flows.get(flow) else { return };
        let (mut key, mac) = (*key, *mac);
        key.remote = Endpoint::new(to, 0);
        self.count(key.network, error.cause());
        if let Some(why) = unreachable(error) {
            self.send_unreachable(key.network, mac, why, &quote_request(&key, sequence));
        }
    }

    /// An echo request to `to` came to nothing, as somebody on its way says.
    pub fn echo_lost(&mut self, now: Instant, flow: FlowId, to: IpAddr, sequence: u16, error: IcmpError) {
        self.now = now;
        self.pass_error(flow, SocketAddr::new(to, 0), error, |key| quote_request(key, sequence));
    }
}

/// What became of an IPv4 packet, in a message.
fn error_v4(fate: PacketFate, quote: &[u8]) -> Option<icmpv4::Message<'_>> {
    use icmpv4::{Message, Unreachable};
    match fate {
        PacketFate::Unreachable(code) => Some(Message::DestinationUnreachable { code, next_hop_mtu: 0, quote }),
        PacketFate::UnreachableV6(_) => None,
        PacketFate::TooLong { mtu } => {
            Some(Message::DestinationUnreachable { code: Unreachable::FRAGMENTATION_NEEDED, next_hop_mtu: mtu, quote })
        }
        PacketFate::Expired { code } => Some(Message::TimeExceeded { code, quote }),
    }
}

/// What became of an IPv6 packet, in a message.
fn error_v6(fate: PacketFate, quote: &[u8]) -> Option<icmpv6::Message<'_>> {
    use icmpv6::Message;
    match fate {
        PacketFate::Unreachable(_) => None,
        PacketFate::UnreachableV6(code) => Some(Message::DestinationUnreachable { code, quote }),
        PacketFate::TooLong { mtu } => Some(Message::PacketTooBig { mtu: mtu.into(), quote }),
        PacketFate::Expired { code } => Some(Message::TimeExceeded { code, quote }),
    }
}
