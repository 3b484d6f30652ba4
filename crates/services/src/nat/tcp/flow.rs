//! Connections as flows of the NAT device: what guests begin, and what the host's sockets say.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use weft_types::{Instant, MacAddr};
use weft_wire::tcp::{self, Flags, Options, Segment};
use weft_wire::{Csum, Protocol};

use super::segment::{Numbers, Outgoing};
use super::{Connection, Fate, HostHalf, Seq};
use crate::nat::flows::{Flow, FlowId, Key, Kind, Owner};
use crate::nat::icmp::{Refusal, quote_ports, unreachable};
use crate::nat::packet::{Endpoint, Packet, pseudo_header};
use crate::nat::{Arrival, Cause, HostError, HostOp, Nat, policy};
use crate::{NetworkId, OutFrame};

/// What the host's socket is to do next.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpOutgoing<'a> {
    /// Bytes to write, the front first.
    pub bytes: [&'a [u8]; 2],
    /// Whether nothing comes behind them, so that the socket's sending half is to be shut.
    pub then_shut: bool,
}

impl TcpOutgoing<'_> {
    /// How many bytes there are to write.
    pub fn len(&self) -> usize {
        self.bytes[0].len() + self.bytes[1].len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Nat {
    /// A TCP packet of a guest.
    pub(in crate::nat) fn take_tcp(&mut self, arrival: &Arrival, packet: &Packet<'_>) -> Result<(), Cause> {
        let segment = tcp::parse(packet.payload)?;
        if arrival.offload.csum == Csum::Unverified {
            let pseudo = pseudo_header(packet.src, packet.dst, Protocol::TCP, segment.bytes.len() as u16);
            if pseudo.bytes(segment.bytes).checksum() != 0 {
                return Err(Cause::BadChecksum);
            }
        }
        let guest = Endpoint::new(packet.src, segment.src_port);
        let remote = Endpoint::new(packet.dst, segment.dst_port);
        let key = Key { network: arrival.network, protocol: Protocol::TCP, guest, remote };
        if let Some(id) = self.flows.find(&key)
            && let Some(Flow { kind: Kind::Tcp(connection), mac, .. }) = self.flows.get_mut(id)
        {
            *mac = arrival.mac;
            let (fate, cause) = connection.handle(arrival.now, &segment, &mut self.memory);
            self.conclude(id, fate);
            if cause == Some(Cause::NoConnection) {
                self.reset(arrival, key, &segment);
            }
            if fate != Fate::Reborn {
                return cause.map_or(Ok(()), Err);
            }
        }
        if segment.has(Flags::SYN) && !segment.has(Flags::ACK) && !segment.has(Flags::RST) {
            return self.begin_tcp(arrival, packet, &segment, key);
        }
        self.reset(arrival, key, &segment);
        Err(Cause::NoConnection)
    }

    fn begin_tcp(
        &mut self,
        arrival: &Arrival,
        packet: &Packet<'_>,
        segment: &Segment<'_>,
        key: Key,
    ) -> Result<(), Cause> {
        let options = Options::parse(segment.options)?;
        let network = &self.network(arrival.network)?.config;
        let room = network.room(packet.dst);
        let is_local = policy::is_local(network, key.remote);
        let ip = match policy::destination(network, &self.subnets, key.remote.ip()) {
            _ if is_local => key.remote.ip(),
            Ok(ip) => ip,
            Err(Cause::NoHostAccess) => {
                self.reset(arrival, key, segment);
                return Err(Cause::NoHostAccess);
            }
            Err(cause) => return Err(self.refuse(arrival, packet, Refusal::Prohibited, cause)),
        };
        if let Err(cause) = self.make_room(Owner::new(arrival.network, key.guest, arrival.mac)) {
            self.reset(arrival, key, segment);
            return Err(cause);
        }
        let isn = self.initial_sequence_number(arrival.now, &key);
        let connection = Connection { is_local, ..Connection::new(arrival.now, segment, options, isn, room) };
        let flow = self.flows.insert(key, arrival.mac, Kind::Tcp(Box::new(connection)));
        let to = SocketAddr::new(ip, key.remote.port());
        let ops = if is_local { &mut self.local_ops } else { &mut self.ops };
        ops.push_back(HostOp::TcpConnect { flow, to });
        Ok(())
    }

    /// Where a connection starts to count: a clock plus a keyed hash of its sockets (RFC 6528).
    pub(in crate::nat) fn initial_sequence_number(&self, now: Instant, key: &Key) -> Seq {
        let digest = Sha256::new_with_prefix(self.seed)
            .chain_update("initial sequence numbers")
            .chain_update(key.network.0.to_be_bytes())
            .chain_update(key.guest.mapped().octets())
            .chain_update(key.guest.port().to_be_bytes())
            .chain_update(key.remote.mapped().octets())
            .chain_update(key.remote.port().to_be_bytes())
            .finalize();
        let clock = now.as_nanos() / 4000; // ticks of 4 microseconds
        Seq(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])) + clock as u32
    }

    /// Answers a segment of no connection.
    fn reset(&mut self, arrival: &Arrival, key: Key, segment: &Segment<'_>) {
        if let Some(reset) = Outgoing::reset_for(segment)
            && let Ok(network) = self.network(arrival.network)
        {
            let envelope = network.envelope(arrival.mac, key.remote.ip(), key.guest.ip(), Protocol::TCP);
            let frame = reset.frame(&envelope, key.remote.port(), key.guest.port());
            self.send(arrival.network, frame);
        }
    }

    /// Resets the guest's side of a connection.
    fn reset_guest(&mut self, id: FlowId) {
        if let Some(Flow { kind: Kind::Tcp(connection), key, mac, .. }) = self.flows.get(id)
            && !connection.is_dialing()
            && let Some(network) = self.networks.get(&key.network)
        {
            let envelope = network.envelope(*mac, key.remote.ip(), key.guest.ip(), Protocol::TCP);
            let frame = connection.reset().frame(&envelope, key.remote.port(), key.guest.port());
            self.send(key.network, frame);
        }
    }

    /// Resets both sides of a connection and forgets it.
    pub(in crate::nat) fn abort(&mut self, id: FlowId) {
        self.reset_guest(id);
        self.forget(id);
    }

    /// Does what the fate of a connection asks for.
    pub(in crate::nat) fn conclude(&mut self, id: FlowId, fate: Fate) {
        match fate {
            Fate::Alive => self.settle(id),
            Fate::ResetByGuest | Fate::Over | Fate::Reborn => self.forget(id),
            Fate::Lost => {
                self.count_of(id, Cause::GuestSilent);
                self.abort(id);
            }
        }
    }

    /// The next frame of a connection.
    pub(in crate::nat) fn poll_tcp(&mut self, id: FlowId) -> Option<(NetworkId, OutFrame)> {
        let Flow { kind: Kind::Tcp(connection), key, mac, .. } = self.flows.get_mut(id)? else { return None };
        let network = self.networks.get(&key.network)?;
        let outgoing = connection.poll(self.now, &self.memory)?;
        let envelope = network.envelope(*mac, key.remote.ip(), key.guest.ip(), Protocol::TCP);
        Some((key.network, outgoing.frame(&envelope, key.remote.port(), key.guest.port())))
    }

    fn count_of(&mut self, id: FlowId, cause: Cause) {
        if let Some(network) = self.flows.get(id).map(|flow| flow.key.network) {
            self.count(network, cause);
        }
    }

    /// Whose connection it is: the network, the adapter that its frames come from now, and the guest's socket.
    pub(crate) fn caller(&self, flow: FlowId) -> Option<(NetworkId, MacAddr, SocketAddr)> {
        let Flow { key, mac, .. } = self.flows.get(flow)?;
        Some((key.network, *mac, key.guest.into()))
    }

    fn connection(&mut self, id: FlowId) -> Option<&mut Connection> {
        match &mut self.flows.get_mut(id)?.kind {
            Kind::Tcp(connection) => Some(connection),
            _ => None,
        }
    }

    /// The socket of [`HostOp::TcpConnect`] is connected.
    pub fn tcp_connected(&mut self, now: Instant, flow: FlowId) {
        self.now = now;
        if let Some(connection) = self.connection(flow) {
            connection.connected(now);
            self.settle(flow);
        }
    }

    /// The socket did not connect, or broke. The driver has closed it.
    pub fn tcp_failed(&mut self, now: Instant, flow: FlowId, error: HostError) {
        self.now = now;
        self.count_of(flow, error.cause());
        let Some(connection) = self.connection(flow) else { return };
        if connection.break_off() {
            return self.settle(flow);
        }
        let answer = if connection.is_connecting() { unreachable(error) } else { None };
        let syn = connection.first_number(); // guests look whether an error knows it
        let is_silent = connection.is_connecting() && error == HostError::TimedOut;
        match (answer, self.flows.get(flow)) {
            (Some(why), Some(Flow { key, mac, .. })) => {
                let (key, mac) = (*key, *mac);
                self.send_unreachable(key.network, mac, why, &quote_ports(&key, syn.0));
            }
            _ if is_silent => {} // as silent as the remote side
            _ => self.reset_guest(flow),
        }
        self.forget(flow);
    }

    /// What the socket is to do.
    pub fn tcp_outgoing(&self, flow: FlowId) -> TcpOutgoing<'_> {
        match self.flows.get(flow).map(|flow| &flow.kind) {
            Some(Kind::Tcp(connection)) => {
                let (bytes, half) = connection.outgoing();
                TcpOutgoing { bytes, then_shut: half == HostHalf::ToShut }
            }
            _ => TcpOutgoing::default(),
        }
    }

    /// The socket took the first `count` bytes of [`Self::tcp_outgoing`].
    pub fn tcp_written(&mut self, now: Instant, flow: FlowId, count: usize) {
        self.now = now;
        if let Some(connection) = self.connection(flow) {
            connection.written(now, count);
            self.settle(flow);
        }
    }

    /// The socket's sending half was shut, as [`Self::tcp_outgoing`] asked.
    pub fn tcp_shut(&mut self, now: Instant, flow: FlowId) {
        self.now = now;
        if let Some(connection) = self.connection(flow) {
            let fate = connection.shut();
            self.conclude(flow, fate);
        }
    }

    /// Where to put bytes from the socket, the front first. When it is empty, [`HostOp::TcpProgress`] tells that
    /// there is room again.
    pub fn tcp_room(&mut self, now: Instant, flow: FlowId) -> [&mut [u8]; 2] {
        self.now = now;
        if let Some(Flow { kind: Kind::Tcp(connection), .. }) = self.flows.get_mut(flow) {
            connection.make_room(now, &mut self.memory);
            self.arm(flow);
        }
        self.connection(flow).map_or([&mut [], &mut []], Connection::room)
    }

    /// How many bytes the flow takes by [`Self::tcp_take`]: some as long as it holds no memory for what comes from the socket.
    /// Read elsewhere and handed over, a few bytes take no more memory than they need.
    pub fn tcp_fits(&self, flow: FlowId) -> usize {
        match self.flows.get(flow).map(|flow| &flow.kind) {
            Some(Kind::Tcp(connection)) => connection.fits(&self.memory),
            _ => 0,
        }
    }

    /// The socket gave `bytes`, at most as many as [`Self::tcp_fits`] said.
    pub fn tcp_take(&mut self, now: Instant, flow: FlowId, bytes: &[u8]) {
        self.now = now;
        if let Some(Flow { kind: Kind::Tcp(connection), .. }) = self.flows.get_mut(flow) {
            connection.take(now, bytes, &mut self.memory);
            self.settle(flow);
        }
    }

    /// The socket filled the first `count` bytes of [`Self::tcp_room`].
    pub fn tcp_read(&mut self, now: Instant, flow: FlowId, count: usize) {
        self.now = now;
        if let Some(connection) = self.connection(flow) {
            connection.read(now, count);
            self.settle(flow);
        }
    }

    /// The remote side sends no more.
    pub fn tcp_finished(&mut self, now: Instant, flow: FlowId) {
        self.now = now;
        if let Some(connection) = self.connection(flow) {
            connection.finished_by_host();
            self.settle(flow);
        }
    }
}
