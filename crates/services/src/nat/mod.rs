//! The NAT device: flows of guests end here, and go on in ordinary sockets of the host; and flows of clients that a port
//! forward leads to a guest go on from here. Nothing about it needs a privilege or a firewall rule.
//!
//! [`Nat`] is sans-IO. Frames of guests come in by [`Nat::handle_packet`] and go out by [`Nat::poll_frame`]. The
//! driver of the host's sockets takes its work from [`Nat::poll_host`], and tells what sockets say by the `tcp_…`,
//! `udp_…` and `echo_…` methods; a [`FlowId`] that is no more is ignored everywhere, so neither side waits for the other.
//!
//! Bytes of a TCP connection are copied twice in each direction: from the guest's frame into the flow's ring and from
//! there by the kernel, and the same way back. Pressure runs from end to end: a ring that is full closes the guest's
//! window, or keeps bytes in the host's socket.

mod cause;
mod emit;
mod flows;
mod forward;
mod fragments;
mod host;
mod icmp;
pub(crate) mod neighbours;
pub(crate) mod packet;
mod policy;
mod ring;
mod tcp;
#[cfg(test)]
mod tests;
mod timers;
mod udp;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use sha2::{Digest, Sha256};
use weft_types::{Instant, IpNet, Ipv4Net, Ipv6Net, MacAddr};
use weft_wire::{Malformed, Offload, Problem, Protocol, ethernet};

pub use self::cause::{Cause, Counters};
pub use self::flows::FlowId;
pub use self::forward::{Callee, ForwardId, Place};
pub use self::host::{HostError, HostLimits, HostOp, IcmpError, PacketFate, Transit};
pub use self::tcp::TcpOutgoing;

use self::emit::Envelope;
use self::flows::{Flow, FlowTable, Kind, Owner};
use self::fragments::Fragments;
use self::icmp::Refusal;
use self::neighbours::Neighbours;
use self::packet::{Packet, header_bytes};
use self::ring::Memory;
use self::timers::Timers;
use crate::budget::Budget;
use crate::ipv6::gateway_address;
use crate::{NetworkId, OutFrame};

/// What the rings of all connections may take, beyond their first bytes.
const MEMORY_BYTES: usize = 128 << 20;
/// Datagrams, errors and resets that wait for the switch.
const MAX_QUEUED_FRAMES: usize = 1024;
/// Their bytes.
const MAX_QUEUED_BYTES: usize = 4 << 20;
/// Work that waits for the driver; what would make more is refused.
const MAX_OPS: usize = 4096;
/// The bytes of datagrams in it.
const MAX_DATAGRAM_BYTES: usize = 4 << 20;
/// The share of a guest's idle flows that make room at a time, so that looking for them is worth it.
const EVICTED_SHARE: usize = 8;

/// A network whose packets may leave, or whose guests reach services of the gateway by TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatNetwork {
    /// Its id.
    pub id: NetworkId,
    /// The gateway's MAC address.
    pub mac: MacAddr,
    /// The gateway's address.
    pub ip: Ipv4Addr,
    /// The network's addresses.
    pub subnet: Ipv4Net,
    /// Its IPv6 prefix, in which the gateway's address is the first.
    pub subnet6: Option<Ipv6Net>,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Whether packets may leave.
    pub outside: bool,
    /// Whether a name server of ours answers at the gateway's address, and never one of the host's.
    pub dns: bool,
    /// Whether machines are told of themselves at the metadata address.
    pub metadata: bool,
    /// Whether the host's own services are reachable at the gateway's address.
    pub host_access: bool,
    /// The port forwards to it.
    pub forwards: Vec<ForwardId>,
}

impl NatNetwork {
    /// The gateway's address in the family of `ip`.
    fn gateway(&self, ip: IpAddr) -> Option<IpAddr> {
        match ip {
            IpAddr::V4(_) => Some(self.ip.into()),
            IpAddr::V6(_) => self.subnet6.map(|net| gateway_address(net).into()),
        }
    }

    /// Whether `ip` is the gateway's.
    fn has(&self, ip: IpAddr) -> bool {
        self.gateway(ip) == Some(ip)
    }

    /// Whether `ip` is one of the network's addresses.
    fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.subnet.contains(&ip),
            IpAddr::V6(ip) => self.subnet6.is_some_and(|net| net.contains(&ip) || ip.is_unicast_link_local()),
        }
    }

    /// What fits into a packet to `ip`, in bytes.
    fn room(&self, ip: IpAddr) -> u16 {
        self.mtu.saturating_sub(header_bytes(ip) as u16)
    }
}

/// A network and what is known of it.
struct Network {
    config: NatNetwork,
    errors: Budget,
    /// Of the last packet that was sent in pieces.
    identification: u32,
    counters: Counters,
}

impl Network {
    fn envelope(&self, to_mac: MacAddr, from: IpAddr, to: IpAddr, protocol: Protocol) -> Envelope {
        Envelope { from_mac: self.config.mac, to_mac, from, to, protocol }
    }
}

/// Where a packet came from, and when.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    now: Instant,
    network: NetworkId,
    mac: MacAddr,
    offload: Offload,
}

/// The NAT device.
pub struct Nat {
    seed: [u8; 32],
    /// The latest time that anyone told.
    now: Instant,
    networks: BTreeMap<NetworkId, Network>,
    subnets: Vec<IpNet>,
    limits: HostLimits,
    flows: FlowTable,
    timers: Timers,
    memory: Memory,
    fragments: Fragments,
    /// Clients of forwards that send datagrams. They choose their addresses, so the hash is seeded.
    clients: HashMap<Place, FlowId, SeedableRandomState>,
    /// How many clients each forward has, and has had.
    served: BTreeMap<ForwardId, (u64, u64)>,
    neighbours: Neighbours<FlowId>,
    /// The gateway's port for the last client, counted from the first of them.
    next_port: u16,
    /// Connections that have segments to send, in turn.
    ready: VecDeque<FlowId>,
    /// Other frames.
    queue: VecDeque<(NetworkId, OutFrame)>,
    queue_bytes: usize,
    ops: VecDeque<HostOp>,
    /// Work for the gateway's own services, which stand in place of the host's sockets.
    local_ops: VecDeque<HostOp>,
    datagram_bytes: usize,
}

impl Nat {
    /// No networks yet. `seed` feeds whatever guests must not guess.
    pub fn new(seed: [u8; 32]) -> Self {
        let digest = Sha256::new_with_prefix(seed).chain_update("flow table").finalize();
        let table_seed = digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        Self {
            seed,
            now: Instant::ZERO,
            networks: BTreeMap::new(),
            subnets: Vec::new(),
            limits: HostLimits::default(),
            flows: FlowTable::new(table_seed),
            timers: Timers::default(),
            memory: Memory::new(MEMORY_BYTES),
            fragments: Fragments::default(),
            clients: HashMap::with_hasher(SeedableRandomState::with_seed(!table_seed, SharedSeed::global_fixed())),
            served: BTreeMap::new(),
            neighbours: Neighbours::default(),
            next_port: table_seed as u16,
            ready: VecDeque::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            ops: VecDeque::new(),
            local_ops: VecDeque::new(),
            datagram_bytes: 0,
        }
    }

    /// Makes `networks` all that have NAT; no packet reaches any of `all_subnets` through it. Flows that the new
    /// configuration forbids end at once, the others stay.
    pub fn configure(&mut self, now: Instant, networks: &[NatNetwork], all_subnets: &[IpNet]) {
        self.now = now;
        self.subnets = all_subnets.to_vec();
        let mut old = std::mem::take(&mut self.networks);
        for config in networks {
            let network = match old.remove(&config.id) {
                Some(network) => Network { config: config.clone(), ..network },
                None => Network {
                    config: config.clone(),
                    errors: Budget::new(now),
                    identification: 0,
                    counters: Counters::default(),
                },
            };
            self.networks.insert(config.id, network);
        }
        let ended: Vec<FlowId> =
            self.flows.iter().filter(|(_, flow)| !self.is_permitted(flow)).map(|(id, _)| id).collect();
        ended.into_iter().for_each(|id| self.abort(id));
        let ids: Vec<FlowId> = self.flows.iter().map(|(id, _)| id).collect();
        for id in ids {
            if let Some(Flow { kind: Kind::Tcp(connection), key, .. }) = self.flows.get_mut(id)
                && let Some(network) = self.networks.get(&key.network)
            {
                connection.set_room(network.config.room(key.guest.ip()));
            }
        }
        let networks = &self.networks;
        self.served.retain(|forward, _| networks.values().any(|it| it.config.forwards.contains(forward)));
        self.neighbours.retain(|network| networks.contains_key(&network));
        self.queue.retain(|(network, _)| networks.contains_key(network));
        self.queue_bytes = self.queue.iter().map(|(_, frame)| frame.bytes.len()).sum();
    }

    /// Whether the configuration still allows a flow.
    fn is_permitted(&self, flow: &Flow) -> bool {
        let Some(Network { config, .. }) = self.networks.get(&flow.key.network) else { return false };
        let is_open = |ip| policy::destination(config, &self.subnets, ip).is_ok();
        let guest = flow.key.guest.ip();
        config.contains(guest)
            && !config.has(guest)
            && match &flow.kind {
                Kind::Tcp(connection) => match connection.forward {
                    Some(forward) => config.forwards.contains(&forward),
                    None if policy::is_local(config, flow.key.remote) => connection.is_local,
                    None => !connection.is_local && is_open(flow.key.remote.ip()),
                },
                Kind::Client(client) => config.forwards.contains(&client.place.0),
                Kind::Udp(mapping) => mapping.remotes.iter().all(is_open),
                Kind::Echo(echo) => echo.remotes.iter().all(is_open),
            }
    }

    /// What the host can bear, as the driver of its sockets found out. More flows than that end by themselves.
    pub fn set_limits(&mut self, limits: HostLimits) {
        self.limits = limits;
    }

    /// Takes in a frame with an IPv4 or IPv6 packet, sent by a station of the network to its gateway.
    pub fn handle_packet(&mut self, now: Instant, network: NetworkId, frame: &[u8], offload: Offload) {
        self.now = now;
        if let Err(cause) = self.take_packet(now, network, frame, offload) {
            self.count(network, cause);
        }
    }

    fn take_packet(&mut self, now: Instant, network: NetworkId, frame: &[u8], offload: Offload) -> Result<(), Cause> {
        let frame = ethernet::parse(frame)?;
        let packet = Packet::parse(frame.payload)?;
        self.network(network)?;
        let arrival = Arrival { now, network, mac: frame.src, offload };
        let Some(piece) = packet.piece else { return self.take_whole(&arrival, &packet) };
        match self.fragments.add(now, network, &packet, piece)? {
            Some(whole) => self.take_whole(&Arrival { offload: Offload::default(), ..arrival }, &whole.packet()),
            None => Ok(()),
        }
    }

    fn take_whole(&mut self, arrival: &Arrival, packet: &Packet<'_>) -> Result<(), Cause> {
        match packet.protocol {
            Protocol::TCP => self.take_tcp(arrival, packet),
            Protocol::UDP => self.take_udp(arrival, packet),
            Protocol::ICMP if packet.dst.is_ipv4() => self.take_icmp(arrival, packet),
            Protocol::ICMPV6 if packet.dst.is_ipv6() => self.take_icmp(arrival, packet),
            _ => Err(self.refuse(arrival, packet, Refusal::Protocol, Cause::Protocol)),
        }
    }

    fn network(&self, id: NetworkId) -> Result<&Network, Cause> {
        self.networks.get(&id).ok_or(Cause::UnknownNetwork)
    }

    /// The next frame for a guest. To be called until it gives `None` after each call that takes something in.
    pub fn poll_frame(&mut self) -> Option<(NetworkId, OutFrame)> {
        loop {
            if let Some((network, frame)) = self.queue.pop_front() {
                self.queue_bytes -= frame.bytes.len();
                return Some((network, frame));
            }
            let id = self.ready.pop_front()?;
            let frame = self.poll_tcp(id);
            self.arm(id);
            if frame.is_some() {
                self.ready.push_back(id);
                return frame;
            }
            if let Some(Flow { kind: Kind::Tcp(connection), is_ready, .. }) = self.flows.get_mut(id) {
                *is_ready = false;
                if connection.is_broken_off() {
                    self.abort(id); // the reset stands in the queue now
                }
            }
        }
    }

    /// The next piece of work for the driver of the host's sockets.
    pub fn poll_host(&mut self) -> Option<HostOp> {
        let op = self.ops.pop_front()?;
        match &op {
            HostOp::TcpProgress { flow } => self.note_told(*flow),
            HostOp::UdpSend { payload, .. } | HostOp::UdpAnswer { payload, .. } | HostOp::EchoSend { payload, .. } => {
                self.datagram_bytes -= payload.len();
            }
            _ => {}
        }
        Some(op)
    }

    /// The next piece of work for the gateway's own services: about connections, as for a socket of the host.
    pub(crate) fn poll_local(&mut self) -> Option<HostOp> {
        let op = self.local_ops.pop_front()?;
        if let HostOp::TcpProgress { flow } = &op {
            self.note_told(*flow);
        }
        Some(op)
    }

    fn note_told(&mut self, flow: FlowId) {
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.is_told = false;
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        [self.timers.next(), self.neighbours.next_timeout()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some(id) = self.timers.pop(now) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.armed = None;
            match &mut flow.kind {
                Kind::Tcp(connection) => {
                    let fate = connection.handle_timeout(now, &mut self.memory);
                    self.conclude(id, fate);
                }
                Kind::Udp(mapping) if mapping.expires <= now => self.forget(id),
                Kind::Client(client) if client.expires <= now => self.forget(id),
                Kind::Echo(echo) if echo.expires <= now => self.forget(id),
                Kind::Udp(_) | Kind::Client(_) | Kind::Echo(_) => self.arm(id),
            }
        }
        self.mind_neighbours(now);
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// What was dropped, refused or ended of a network's traffic, and why; `None` for a network that is not here.
    pub fn counters(&self, network: NetworkId) -> Option<&Counters> {
        Some(&self.networks.get(&network)?.counters)
    }

    pub(crate) fn count(&mut self, network: NetworkId, cause: Cause) {
        if let Some(network) = self.networks.get_mut(&network) {
            network.counters.count(cause);
        }
    }

    /// How many clients a forward has, and has had: connections, and senders of datagrams.
    pub fn clients(&self, forward: ForwardId) -> (u64, u64) {
        self.served.get(&forward).copied().unwrap_or_default()
    }

    /// Bytes that the buffers of all connections take.
    pub fn buffer_bytes(&self) -> usize {
        self.memory.used()
    }

    /// Sees to it that whoever has to do something for a flow now knows it.
    fn settle(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if let Kind::Tcp(connection) = &mut flow.kind {
            let ops = if connection.is_local { &mut self.local_ops } else { &mut self.ops };
            if connection.has_socket && connection.is_host_done() {
                connection.has_socket = false;
                ops.push_back(HostOp::TcpClose { flow: id, reset: false });
            }
            if std::mem::take(&mut connection.has_host_work) && connection.has_socket && !flow.is_told {
                flow.is_told = true;
                ops.push_back(HostOp::TcpProgress { flow: id });
            }
            if !flow.is_ready && connection.wants_poll(&self.memory) {
                flow.is_ready = true;
                self.ready.push_back(id);
            }
        }
        self.arm(id);
    }

    fn arm(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let deadline = match &flow.kind {
            Kind::Tcp(connection) => connection.deadline(),
            Kind::Udp(mapping) => Some(mapping.expires),
            Kind::Client(client) => Some(client.expires),
            Kind::Echo(echo) => Some(echo.expires),
        };
        self.timers.arm(id, &mut flow.armed, deadline);
    }

    /// Removes a flow, and what the host holds for it: a connection that is not over ends with a reset.
    fn forget(&mut self, id: FlowId) {
        let Some(mut flow) = self.flows.remove(id) else { return };
        self.timers.disarm(id, &mut flow.armed);
        self.note_end(&flow);
        match flow.kind {
            Kind::Tcp(mut connection) => {
                connection.release(&mut self.memory);
                if connection.has_socket {
                    let ops = if connection.is_local { &mut self.local_ops } else { &mut self.ops };
                    ops.push_back(HostOp::TcpClose { flow: id, reset: !connection.is_host_done() });
                }
            }
            Kind::Udp(_) => self.ops.push_back(HostOp::UdpClose { flow: id }),
            Kind::Client(client) => drop(self.clients.remove(&client.place)),
            Kind::Echo(_) => self.ops.push_back(HostOp::EchoClose { flow: id }),
        }
    }

    /// Makes room for one more flow of a guest: old datagram flows of the same guest have to go.
    fn make_room(&mut self, owner: Owner) -> Result<(), Cause> {
        if self.ops.len() >= MAX_OPS {
            return Err(Cause::QueueFull);
        }
        let cause = if self.flows.of_guest(owner).all >= self.limits.flows_per_guest {
            Cause::GuestLimit
        } else if self.flows.len() >= self.limits.flows {
            Cause::FlowLimit
        } else {
            return Ok(());
        };
        let evictable = self.flows.of_guest(owner).evictable;
        if evictable == 0 {
            return Err(cause);
        }
        let of_guest = self.flows.iter().filter(|(_, flow)| flow.owner == owner && flow.key.protocol != Protocol::TCP);
        let mut oldest: Vec<(Instant, FlowId, NetworkId)> =
            of_guest.filter_map(|(id, flow)| Some((flow.expires()?, id, flow.key.network))).collect();
        oldest.sort_unstable();
        for (_, id, network) in oldest.into_iter().take(evictable.div_ceil(EVICTED_SHARE)) {
            self.count(network, Cause::Evicted);
            self.forget(id);
        }
        Ok(())
    }

    /// Queues a frame, if there is room.
    fn send(&mut self, network: NetworkId, frame: OutFrame) {
        if self.queue.len() >= MAX_QUEUED_FRAMES || self.queue_bytes + frame.bytes.len() > MAX_QUEUED_BYTES {
            self.count(network, Cause::QueueFull);
            return;
        }
        self.queue_bytes += frame.bytes.len();
        self.queue.push_back((network, frame));
    }

    /// Queues a packet, in pieces where it is larger than the network's MTU.
    fn send_packet(&mut self, id: NetworkId, envelope: &Envelope, payload: &[u8]) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        network.identification = network.identification.wrapping_add(1);
        for bytes in envelope.frames(payload, network.config.mtu, network.identification) {
            self.send(id, OutFrame { bytes, offload: Offload::default() });
        }
    }

    /// Queues a datagram or an echo for the host.
    fn push_datagram(&mut self, op: HostOp) -> Result<(), Cause> {
        let (HostOp::UdpSend { payload, .. } | HostOp::UdpAnswer { payload, .. } | HostOp::EchoSend { payload, .. }) =
            &op
        else {
            return Ok(());
        };
        if self.ops.len() >= MAX_OPS || self.datagram_bytes + payload.len() > MAX_DATAGRAM_BYTES {
            return Err(Cause::QueueFull);
        }
        self.datagram_bytes += payload.len();
        self.ops.push_back(op);
        Ok(())
    }
}

impl From<Malformed> for Cause {
    fn from(malformed: Malformed) -> Self {
        if malformed.problem == Problem::Checksum { Self::BadChecksum } else { Self::Malformed }
    }
}
