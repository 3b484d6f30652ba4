//! The host's side of NAT, port forwards and DNS: non-blocking sockets behind one epoll instance.
//!
//! Sockets of TCP flows are watched edge-triggered: each remembers whether it may be read and written, so that a flow
//! whose guest does not read costs no wake-up while bytes wait for it. All others are watched level-triggered, and
//! read in bounded turns.

mod echo;
mod error;
mod listeners;
mod lookup;
mod names;
mod resolver;
mod tcp;
mod transit;
mod udp;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::epoll;
use rustix::fs::Timespec;
use rustix::net::AddressFamily;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weft_services::Services;
use weft_services::nat::{FlowId, HostLimits, HostOp, Nat};
use weft_types::{Instant, Transport};

use self::echo::Echoes;
use self::listeners::Listeners;
use self::names::HostNames;
use self::resolver::Resolver;
use self::tcp::TcpSocket;
use self::udp::UdpSocket;

pub(crate) use self::listeners::{Entrance, Place, open as open_listener};

/// Events that are taken at a time.
const EVENTS: usize = 256;
/// Open files that the rest of the process may need.
const RESERVED_FILES: u64 = 256;
/// More flows are never allowed: each may take some KiB of memory, whatever the limits of the host.
const MAX_FLOWS: u64 = 32_768;
/// What every guest leaves to the others: one flow in so many.
const OTHERS_SHARE: usize = 4;
/// The largest datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams that are read from one socket at a time.
const DATAGRAM_TURN: usize = 64;
/// Clients that are accepted from one socket at a time.
const ACCEPT_TURN: usize = 64;
/// Set in epoll's data for sockets that are no flow's; the rest is a name server lookup's number.
const OWN: u64 = 1 << 63;
/// Set in epoll's data for sockets that listen for clients of forwards; the rest is their number.
const LISTENING: u64 = OWN | 1 << 62;
/// Epoll's data for the raw socket of all echoes.
const RAW_ECHO: u64 = u64::MAX;
/// Epoll's data for the socket at which the host asks for names.
const HOST_NAMES: u64 = u64::MAX - 1;

/// Drives the sockets that the NAT device and the DNS forwarder of [`Services`] ask for.
pub struct HostSockets {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    tcp: HashMap<FlowId, TcpSocket>,
    udp: HashMap<FlowId, UdpSocket>,
    echoes: Echoes,
    resolver: Resolver,
    listeners: Listeners,
    names: HostNames,
    limits: HostLimits,
    buffer: Box<[u8]>,
}

impl HostSockets {
    /// No sockets yet; raises the soft limit of open files to the hard one.
    ///
    /// # Errors
    /// When the host gives no epoll instance.
    pub fn new() -> io::Result<Self> {
        Self::with_resolv_conf(Path::new("/etc/resolv.conf"))
    }

    /// As [`Self::new`], with name servers from another file.
    ///
    /// # Errors
    /// When the host gives no epoll instance.
    pub fn with_resolv_conf(path: &Path) -> io::Result<Self> {
        let echoes = Echoes::probe();
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            tcp: HashMap::new(),
            udp: HashMap::new(),
            limits: host_limits(&echoes),
            echoes,
            resolver: Resolver::new(path),
            listeners: Listeners::default(),
            names: HostNames::default(),
            buffer: vec![0; DATAGRAM_BYTES].into_boxed_slice(),
        })
    }

    /// Does what the services ask for, and tells them what the sockets say. To be called when this file descriptor
    /// is readable, when [`Self::next_timeout`] is due, and after frames went into the services.
    pub fn drive(&mut self, now: Instant, services: &mut Services) {
        services.nat_mut().set_limits(self.nat_limits());
        self.listeners.resume(now, &self.epoll);
        self.carry_out(now, services.nat_mut());
        self.take_events(now, services);
        self.resolver.drive(now, &self.epoll, services);
        self.carry_out(now, services.nat_mut());
    }

    /// When [`Self::drive`] wants to be called at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        [self.resolver.next_timeout(), self.listeners.next_timeout()].into_iter().flatten().min()
    }

    /// What does not work on this host, and how to make it work.
    pub fn notes(&self) -> Vec<String> {
        [self.echoes.note(), self.resolver.note(), self.names.note()].into_iter().flatten().collect()
    }

    /// How many flows the host can bear.
    pub fn nat_limits(&self) -> HostLimits {
        HostLimits { flows: self.limits.flows.saturating_sub(self.listeners.len()), ..self.limits }
    }

    /// Whether clients can come in there.
    pub(crate) fn listens_at(&self, place: &Place) -> bool {
        self.listeners.is_open(place)
    }

    /// Why clients cannot come in at a place where they should.
    pub(crate) fn listen_error(&self, place: &Place) -> Option<&io::Error> {
        self.listeners.error(place)
    }

    /// Lets clients in at these places and no others: what is open stays so, the rest is in `opened`, or is opened now.
    pub(crate) fn listen(&mut self, entrances: &[Entrance], opened: BTreeMap<Place, OwnedFd>) {
        self.listeners.set(&self.epoll, entrances, opened);
    }

    /// Answers programs of the host that ask for names at this address of its loopback, or none.
    pub(crate) fn answer_names(&mut self, address: Option<Ipv4Addr>) {
        self.names.set(&self.epoll, address);
    }

    /// Where programs of the host can ask for names.
    pub(crate) fn names_address(&self) -> Option<SocketAddrV4> {
        self.names.address()
    }

    /// Does what the NAT device asks for.
    fn carry_out(&mut self, now: Instant, nat: &mut Nat) {
        while let Some(op) = nat.poll_host() {
            match op {
                HostOp::TcpConnect { flow, to } => match TcpSocket::connect(&self.epoll, flow, to) {
                    Ok(mut socket) => {
                        socket.progress(now, nat, flow, &mut self.buffer);
                        self.keep(flow, socket);
                    }
                    Err(errno) => nat.tcp_failed(now, flow, error::of(errno)),
                },
                HostOp::TcpProgress { flow } => self.progress(now, nat, flow),
                HostOp::TcpClose { flow, reset } => {
                    if let Some(socket) = self.tcp.remove(&flow) {
                        socket.close(reset);
                    }
                }
                HostOp::UdpSend { flow, to, transit, payload } => {
                    UdpSocket::send(&self.epoll, &mut self.udp, now, nat, flow, (to, transit), &payload);
                }
                HostOp::UdpAnswer { forward, offset, to, payload } => {
                    self.listeners.answer(forward, offset, to, &payload);
                }
                HostOp::UdpClose { flow } => drop(self.udp.remove(&flow)),
                HostOp::EchoSend { flow, to, transit, sequence, payload } => {
                    self.echoes.send(&self.epoll, now, nat, flow, (to, transit), (sequence, &payload));
                }
                HostOp::EchoClose { flow } => self.echoes.close(flow),
            }
        }
    }

    fn keep(&mut self, flow: FlowId, socket: TcpSocket) {
        if !socket.is_broken() {
            self.tcp.insert(flow, socket);
        }
    }

    fn progress(&mut self, now: Instant, nat: &mut Nat, flow: FlowId) {
        if let Some(socket) = self.tcp.get_mut(&flow) {
            socket.progress(now, nat, flow, &mut self.buffer);
            if socket.is_broken() {
                self.tcp.remove(&flow);
            }
        }
    }

    /// Takes what the sockets say. What is left over makes the epoll instance readable again.
    fn take_events(&mut self, now: Instant, services: &mut Services) {
        self.events.clear();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&at_once)).is_err() {
            return; // interrupted: the events stay
        }
        for event in std::mem::take(&mut self.events) {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == RAW_ECHO {
                self.echoes.receive_raw(now, services.nat_mut(), flags, &mut self.buffer);
            } else if data == HOST_NAMES {
                self.names.receive(now, services, &mut self.buffer);
            } else if data & LISTENING == LISTENING {
                self.let_in(now, data as u32, services);
            } else if data & OWN != 0 {
                self.resolver.progress(now, data & !OWN, services, &mut self.buffer);
            } else {
                self.take_flow_event(now, services.nat_mut(), FlowId::from_bits(data), flags);
            }
        }
        self.events.reserve(EVENTS);
    }

    /// Takes what clients of forwards bring.
    fn let_in(&mut self, now: Instant, number: u32, services: &mut Services) {
        if self.listeners.transport(number) == Some(Transport::Udp) {
            return self.listeners.receive(now, number, services, &mut self.buffer);
        }
        for _ in 0..ACCEPT_TURN {
            let Some((client, entrance)) = self.listeners.accept(now, &self.epoll, number) else { return };
            let Some(flow) = services.accept(now, entrance.forward, entrance.offset) else {
                tcp::reset(client);
                continue;
            };
            match TcpSocket::accepted(&self.epoll, flow, client) {
                Ok(socket) => drop(self.tcp.insert(flow, socket)),
                Err(errno) => services.nat_mut().tcp_failed(now, flow, error::of(errno)),
            }
        }
    }

    fn take_flow_event(&mut self, now: Instant, nat: &mut Nat, flow: FlowId, flags: epoll::EventFlags) {
        if let Some(socket) = self.tcp.get_mut(&flow) {
            socket.note(flags);
            self.progress(now, nat, flow);
        } else if let Some(socket) = self.udp.get_mut(&flow) {
            socket.receive(now, nat, flow, flags, &mut self.buffer);
        } else {
            self.echoes.receive(now, nat, flow, flags, &mut self.buffer);
        }
    }
}

impl AsFd for HostSockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// The kind of socket that reaches `ip`.
fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Raises the soft limit of open files as far as it goes, and says how many flows fit.
fn host_limits(echoes: &Echoes) -> HostLimits {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    // Where there is no limit, ours holds.
    let flows = files.unwrap_or(u64::MAX).saturating_sub(RESERVED_FILES).clamp(16, MAX_FLOWS) as usize;
    HostLimits {
        flows,
        flows_per_guest: flows - flows / OTHERS_SHARE,
        echo: echoes.are_open(),
        echo_v6: echoes.are_open_v6(),
    }
}

#[cfg(test)]
mod tests;
