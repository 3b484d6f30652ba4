//! Port forwards: clients of the host's network that ask for something in a guest's.
//!
//! To the guest, all of them are the gateway, at a port of its own for each: the route back to a client is the host's
//! alone, and a client on the host's loopback has no address that a guest could answer to.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_types::{Instant, MacAddr};
use weft_wire::{Protocol, arp, udp};

use super::flows::{Flow, FlowId, Key, Kind, Owner};
use super::neighbours::Due;
use super::packet::{Endpoint, header_bytes, v4};
use super::tcp::Connection;
use super::{Arrival, Cause, HostOp, Nat};
use crate::{NetworkId, OutFrame};

/// A forward, as the driver of the host's sockets calls it; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwardId(pub u32);

/// The gateway's ports for clients: the dynamic ones (RFC 6335, section 6).
const FIRST_PORT: u16 = 49_152;
const PORTS: u16 = 16_384;
/// Ports that are tried for one client.
const PORT_TRIES: usize = 64;
/// How long a client's datagrams keep their port without traffic (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(300);
/// Datagrams of a client that wait for the guest to be found; RFC 1122, section 2.3.2.2, asks for one.
const MAX_WAITING: usize = 4;
/// The longest payload of a packet in IPv4, and in IPv6 without an extension.
const MAX_PACKET: usize = 65_535;

/// To whom a client is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callee {
    /// Its network.
    pub network: NetworkId,
    /// The guest's socket.
    pub guest: SocketAddr,
    /// The guest's adapter. When it is not known, it is found by ARP; over IPv6 it has to be known.
    pub mac: Option<MacAddr>,
}

impl Callee {
    fn owner(&self) -> Owner {
        Owner::new(self.network, self.guest.into(), self.mac.unwrap_or(MacAddr::ZERO))
    }
}

/// A client's place: a socket of the host, by its forward and its distance from the forward's first port, and the
/// client's own address.
pub type Place = (ForwardId, u16, SocketAddr);

/// A client that sends datagrams.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) place: Place,
    pub(super) expires: Instant,
    /// What waits for the guest's adapter to be found; `None` as soon as it is.
    waiting: Option<Vec<Vec<u8>>>,
}

impl Nat {
    /// A client asks for a connection, which the driver has accepted: everything else is told about the flow, as if
    /// it were a guest's whose socket has just been connected. `None` when it cannot be, and the client is to see a reset.
    pub fn dial(&mut self, now: Instant, forward: ForwardId, to: Callee) -> Option<FlowId> {
        self.now = now;
        let flow = self.try_dial(now, forward, to);
        flow.map_err(|cause| self.count(to.network, cause)).ok()
    }

    fn try_dial(&mut self, now: Instant, forward: ForwardId, to: Callee) -> Result<FlowId, Cause> {
        self.make_room(to.owner())?;
        let key = self.free_key(to, Protocol::TCP)?;
        let isn = self.initial_sequence_number(now, &key);
        let room = self.network(to.network)?.config.room(to.guest.ip());
        let connection = Connection::dial(now, forward, isn, room);
        let flow = self.flows.insert(key, to.mac.unwrap_or(MacAddr::ZERO), Kind::Tcp(Box::new(connection)));
        self.note_client(forward);
        self.find_guest(now, flow, to);
        Ok(flow)
    }

    /// A client sent a datagram.
    pub fn deliver(&mut self, now: Instant, place: Place, to: Callee, payload: &[u8]) {
        self.now = now;
        if let Err(cause) = self.try_deliver(now, place, to, payload) {
            self.count(to.network, cause);
        }
    }

    fn try_deliver(&mut self, now: Instant, place: Place, to: Callee, payload: &[u8]) -> Result<(), Cause> {
        if header_bytes(to.guest.ip()) + udp::HEADER_BYTES + payload.len() > MAX_PACKET {
            return Err(Cause::Malformed);
        }
        let flow = match self.client_at(place, to) {
            Some(flow) => flow,
            None => {
                self.make_room(to.owner())?;
                let key = self.free_key(to, Protocol::UDP)?;
                let client = Client { place, expires: now + IDLE, waiting: Some(Vec::new()) };
                let flow = self.flows.insert(key, to.mac.unwrap_or(MacAddr::ZERO), Kind::Client(client));
                self.clients.insert(place, flow);
                self.note_client(place.0);
                self.find_guest(now, flow, to);
                flow
            }
        };
        let Some(Flow { kind: Kind::Client(client), key, mac, .. }) = self.flows.get_mut(flow) else { return Ok(()) };
        client.expires = now + IDLE;
        match &mut client.waiting {
            Some(waiting) if waiting.len() == MAX_WAITING => return Err(Cause::QueueFull),
            Some(waiting) => waiting.push(payload.to_vec()),
            None => {
                let (key, mac) = (*key, *mac);
                self.send_datagram(key.network, mac, key.remote, key.guest, payload)?;
            }
        }
        self.settle(flow);
        Ok(())
    }

    /// The flow of a client, if it still leads to the same guest.
    fn client_at(&mut self, place: Place, to: Callee) -> Option<FlowId> {
        let flow = *self.clients.get(&place)?;
        let key = self.flows.get(flow)?.key;
        if (key.network, key.guest) != (to.network, to.guest.into()) {
            self.forget(flow);
            return None;
        }
        Some(flow)
    }

    /// The guest answers a client's datagram.
    pub(super) fn take_answer(&mut self, arrival: &Arrival, flow: FlowId, payload: &[u8]) -> Result<(), Cause> {
        let Some(Flow { kind: Kind::Client(client), mac, .. }) = self.flows.get_mut(flow) else { return Ok(()) };
        *mac = arrival.mac;
        client.expires = arrival.now + IDLE;
        let (forward, offset, to) = client.place;
        self.settle(flow);
        self.push_datagrams(arrival.offload, payload, |payload| HostOp::UdpAnswer { forward, offset, to, payload })
    }

    /// A key that no other flow has, with a port of the gateway's for the client.
    fn free_key(&mut self, to: Callee, protocol: Protocol) -> Result<Key, Cause> {
        let gateway = self.network(to.network)?.config.gateway(to.guest.ip()).ok_or(Cause::NoAddress)?;
        for _ in 0..PORT_TRIES {
            self.next_port = (self.next_port + 1) % PORTS;
            let remote = Endpoint::new(gateway, FIRST_PORT + self.next_port);
            let key = Key { network: to.network, protocol, guest: to.guest.into(), remote };
            if self.flows.find(&key).is_none() {
                return Ok(key);
            }
        }
        Err(Cause::FlowLimit)
    }

    fn find_guest(&mut self, now: Instant, flow: FlowId, to: Callee) {
        let at = v4(to.guest.ip()).map(|ip| (to.network, ip));
        match (to.mac.or_else(|| self.neighbours.find(now, at?)), at) {
            (Some(mac), _) => self.reach(flow, mac),
            (None, Some(at)) => {
                self.neighbours.wait(now, at, flow);
                self.mind_neighbours(now);
            }
            (None, None) => {
                self.count(to.network, Cause::NoNeighbour);
                self.abort(flow);
            }
        }
    }

    fn note_client(&mut self, forward: ForwardId) {
        let (now, ever) = self.served.entry(forward).or_default();
        (*now, *ever) = (*now + 1, *ever + 1);
    }

    /// A flow is over.
    pub(super) fn note_end(&mut self, flow: &Flow) {
        let forward = match &flow.kind {
            Kind::Tcp(connection) => connection.forward,
            Kind::Client(client) => Some(client.place.0),
            Kind::Udp(_) | Kind::Echo(_) => None,
        };
        if let Some((now, _)) = forward.and_then(|forward| self.served.get_mut(&forward)) {
            *now = now.saturating_sub(1);
        }
    }

    /// The guest's adapter is known: what waited for that goes out.
    fn reach(&mut self, flow: FlowId, to: MacAddr) {
        let now = self.now;
        let Some(Flow { kind, key, mac, .. }) = self.flows.get_mut(flow) else { return };
        *mac = to;
        let key = *key;
        match kind {
            Kind::Tcp(connection) => connection.call(now),
            Kind::Client(client) => {
                for payload in client.waiting.take().unwrap_or_default() {
                    if let Err(cause) = self.send_datagram(key.network, to, key.remote, key.guest, &payload) {
                        self.count(key.network, cause);
                    }
                }
            }
            Kind::Udp(_) | Kind::Echo(_) => {}
        }
        self.settle(flow);
    }

    /// A station told by ARP which address it has; whether that was asked for.
    pub(crate) fn hear_neighbour(&mut self, now: Instant, network: NetworkId, ip: Ipv4Addr, mac: MacAddr) -> bool {
        self.now = now;
        let Some(waiting) = self.neighbours.hear(now, (network, ip), mac) else { return false };
        waiting.into_iter().for_each(|flow| self.reach(flow, mac));
        true
    }

    /// Asks who is to be asked for, and ends what waited in vain.
    pub(super) fn mind_neighbours(&mut self, now: Instant) {
        while let Some(due) = self.neighbours.next(now) {
            match due {
                Due::Ask((id, ip)) => {
                    let Some(network) = self.networks.get(&id) else { continue };
                    let request = arp::Packet::request(network.config.mac, network.config.ip, ip);
                    self.send(id, OutFrame { bytes: request.frame(MacAddr::BROADCAST), offload: Default::default() });
                }
                Due::Nobody(network, flows) => {
                    for flow in flows {
                        self.count(network, Cause::NoNeighbour);
                        self.forget(flow);
                    }
                }
            }
        }
    }
}
