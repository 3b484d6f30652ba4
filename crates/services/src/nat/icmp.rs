//! ICMP (RFC 792): echoes of guests, and errors for them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use weft_types::{Instant, MacAddr};
use weft_wire::icmpv4::{self, Message, Unreachable};
use weft_wire::{Protocol, ipv4};

use super::flows::{ANY_REMOTE, Flow, FlowId, Key, Kind};
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

/// What a router would have told, had it been one that failed.
pub(super) fn unreachable(error: HostError) -> Option<Unreachable> {
    match error {
        HostError::HostUnreachable => Some(Unreachable::HOST),
        HostError::NetUnreachable => Some(Unreachable::NETWORK),
        HostError::Prohibited => Some(Unreachable::ADMIN_PROHIBITED),
        HostError::Refused | HostError::TimedOut | HostError::Exhausted => None,
    }
}

/// The start of a packet of a flow, made up from what is known: an error quotes it, and a guest looks at nothing in
/// it but addresses and the start of the transport header.
pub(super) fn quote(key: &Key, transport: &[u8; QUOTED_TRANSPORT_BYTES]) -> Vec<u8> {
    let header = ipv4::Repr {
        src: *key.guest.ip(),
        dst: *key.remote.ip(),
        protocol: key.protocol,
        ttl: 1,
        ident: 0,
        dont_fragment: true,
        payload_len: QUOTED_TRANSPORT_BYTES as u16,
    };
    [&header.header()[..], transport].concat()
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
    Message::EchoRequest { ident: key.guest.port(), seq: sequence, payload: &[] }.emit(&mut request);
    quote(key, request.first_chunk().unwrap_or(&[0; QUOTED_TRANSPORT_BYTES]))
}

impl Nat {
    /// Tells a guest why its packet went nowhere, unless it was told much already; gives `cause` back.
    pub(super) fn refuse(
        &mut self,
        arrival: &Arrival,
        packet: &ipv4::Packet<'_>,
        code: Unreachable,
        cause: Cause,
    ) -> Cause {
        let is_question = match packet.protocol {
            Protocol::ICMP => matches!(icmpv4::parse(packet.payload), Ok(Message::EchoRequest { .. })),
            _ => true,
        };
        if is_question {
            self.send_unreachable(arrival.network, arrival.mac, code, packet.bytes);
        }
        cause
    }

    /// Sends "destination unreachable" to the sender of a packet, from the gateway.
    pub(super) fn send_unreachable(&mut self, id: NetworkId, mac: MacAddr, code: Unreachable, packet: &[u8]) {
        let error = IcmpError { from: Ipv4Addr::LOCALHOST, fate: PacketFate::Unreachable(code) };
        self.send_error(id, mac, error, packet);
    }

    /// Tells the sender of a packet what became of it, in the name of who knows.
    fn send_error(&mut self, id: NetworkId, mac: MacAddr, error: IcmpError, packet: &[u8]) {
        let now = self.now;
        let Some(network) = self.networks.get_mut(&id) else { return };
        let Some(&[a, b, c, d]) = packet.get(12..16) else { return };
        if !network.errors.take(now) {
            network.counters.count(Cause::IcmpRateLimited);
            return;
        }
        let quote = icmpv4::quote(packet);
        let message = match error.fate {
            PacketFate::Unreachable(code) => Message::DestinationUnreachable { code, next_hop_mtu: 0, quote },
            PacketFate::TooLong { mtu } => {
                let code = Unreachable::FRAGMENTATION_NEEDED;
                Message::DestinationUnreachable { code, next_hop_mtu: mtu, quote }
            }
            PacketFate::Expired { code } => Message::TimeExceeded { code, quote },
        };
        let from = policy::as_guest_sees(&network.config, SocketAddrV4::new(error.from, 0));
        let envelope = network.envelope(mac, *from.ip(), Ipv4Addr::new(a, b, c, d), Protocol::ICMP);
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        self.send_packet(id, &envelope, &bytes);
    }

    /// Passes on what was said about a packet of a flow that went to `to`, unless the guest never wrote there; `quote` makes
    /// up the packet.
    pub(super) fn pass_error(
        &mut self,
        flow: FlowId,
        to: SocketAddrV4,
        error: IcmpError,
        quote: impl FnOnce(&Key) -> Vec<u8>,
    ) {
        let Some(Flow { kind, key, mac, .. }) = self.flows.get(flow) else { return };
        let (mut key, mac) = (*key, *mac);
        let Some(network) = self.networks.get(&key.network) else { return };
        key.remote = policy::as_guest_sees(&network.config, to);
        let (Kind::Udp(Mapping { remotes, .. }) | Kind::Echo(Echo { remotes, .. })) = kind else { return };
        if !remotes.contains(*key.remote.ip()) {
            return self.count(key.network, Cause::Unsolicited);
        }
        self.count(key.network, error.fate.cause());
        self.send_error(key.network, mac, error, &quote(&key));
    }

    /// An ICMP packet of a guest: only echo requests go anywhere.
    pub(super) fn take_icmp(&mut self, arrival: &Arrival, packet: &ipv4::Packet<'_>) -> Result<(), Cause> {
        let Message::EchoRequest { ident, seq: sequence, payload } = icmpv4::parse(packet.payload)? else {
            return Err(Cause::Protocol);
        };
        if !icmpv4::checksum_ok(packet.payload) {
            return Err(Cause::BadChecksum);
        }
        let config = &self.network(arrival.network)?.config;
        if packet.dst == config.ip {
            return Err(Cause::Protocol); // the gateway answers for itself
        }
        if let Err(cause) = policy::destination(config, &self.subnets, packet.dst) {
            return Err(self.refuse(arrival, packet, Unreachable::ADMIN_PROHIBITED, cause));
        }
        if !self.limits.echo {
            return Err(self.refuse(arrival, packet, Unreachable::ADMIN_PROHIBITED, Cause::EchoClosed));
        }
        let guest = SocketAddrV4::new(packet.src, ident);
        let key = Key { network: arrival.network, protocol: Protocol::ICMP, guest, remote: ANY_REMOTE };
        let expires = arrival.now + IDLE;
        let flow = match self.flows.find(&key) {
            Some(flow) => flow,
            None => {
                if let Err(cause) = self.make_room(arrival.network, packet.src) {
                    return Err(self.refuse(arrival, packet, Unreachable::HOST, cause));
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
    pub fn echo_received(&mut self, now: Instant, flow: FlowId, from: Ipv4Addr, sequence: u16, payload: &[u8]) {
        self.now = now;
        let Some(Flow { kind: Kind::Echo(echo), key, mac, .. }) = self.flows.get(flow) else { return };
        if !echo.remotes.contains(from) {
            let network = key.network;
            self.count(network, Cause::Unsolicited);
            return;
        }
        let (key, mac) = (*key, *mac);
        let Some(network) = self.networks.get(&key.network) else { return };
        let envelope = network.envelope(mac, from, *key.guest.ip(), Protocol::ICMP);
        let mut bytes = Vec::with_capacity(icmpv4::HEADER_BYTES + payload.len());
        Message::EchoReply { ident: key.guest.port(), seq: sequence, payload }.emit(&mut bytes);
        self.send_packet(key.network, &envelope, &bytes);
    }

    /// An echo request could not be sent to `to`.
    pub fn echo_failed(&mut self, now: Instant, flow: FlowId, to: Ipv4Addr, sequence: u16, error: HostError) {
        self.now = now;
        let Some(Flow { kind: Kind::Echo(_), key, mac, .. }) = self.flows.get(flow) else { return };
        let (mut key, mac) = (*key, *mac);
        key.remote = SocketAddrV4::new(to, 0);
        self.count(key.network, error.cause());
        if let Some(code) = unreachable(error) {
            self.send_unreachable(key.network, mac, code, &quote_request(&key, sequence));
        }
    }

    /// An echo request to `to` came to nothing, as somebody on its way says.
    pub fn echo_lost(&mut self, now: Instant, flow: FlowId, to: Ipv4Addr, sequence: u16, error: IcmpError) {
        self.now = now;
        self.pass_error(flow, SocketAddrV4::new(to, 0), error, |key| quote_request(key, sequence));
    }
}
