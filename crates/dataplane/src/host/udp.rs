//! The host's socket of a guest's UDP socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, connect_unspec, recvfrom, send, sendto, socket_with,
    sockopt,
};
use rustix::rand::{GetRandomFlags, getrandom};
use weft_services::nat::{FlowId, Nat, Transit};
use weft_types::Instant;

use super::transit::Traveller;
use super::{DATAGRAM_TURN, error, family_of};

/// Ports that sockets get: those that Linux gives out itself, by default.
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = 28_232;
/// How many ports are tried before the kernel has to find one.
const PORT_TRIES: usize = 16;
/// TFTP: answers come from another port (RFC 1350, section 4).
const TFTP_PORT: u16 = 69;

/// A socket of a flow.
pub(super) struct UdpSocket {
    socket: Traveller,
    peers: Peers,
}

/// Whom the guest writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peers {
    /// Only to this one: the socket is connected, so that nobody else is heard, and the way is looked up once.
    One(SocketAddr),
    Many,
}

impl UdpSocket {
    /// Opens a socket. Its port is bound by number, because then it outlives a disconnection.
    fn open(epoll: &OwnedFd, flow: FlowId, to: SocketAddr) -> Result<Self, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family_of(to.ip()), SocketType::DGRAM, flags, None)?;
        bind_random(&fd, to.ip())?;
        let peers = match to.port() {
            TFTP_PORT => Peers::Many,
            _ => {
                connect(&fd, &to)?;
                Peers::One(to)
            }
        };
        epoll::add(epoll, &fd, EventData::new_u64(flow.to_bits()), EventFlags::IN)?;
        Ok(Self { socket: Traveller::new(fd, to.ip())?, peers })
    }

    /// Sends a datagram, from a new socket if need be.
    pub(super) fn send(
        epoll: &OwnedFd,
        sockets: &mut HashMap<FlowId, Self>,
        now: Instant,
        nat: &mut Nat,
        flow: FlowId,
        (to, transit): (SocketAddr, Transit),
        payload: &[u8],
    ) {
        if let std::collections::hash_map::Entry::Vacant(place) = sockets.entry(flow) {
            match Self::open(epoll, flow, to) {
                Ok(socket) => drop(place.insert(socket)),
                Err(errno) => return nat.udp_failed(now, flow, to, error::of(errno)),
            }
        }
        let Some(socket) = sockets.get_mut(&flow) else { return };
        for _ in 0..2 {
            match socket.try_send(to, transit, payload) {
                Ok(()) | Err(Errno::AGAIN) => return, // a full socket loses datagrams, as networks do
                Err(errno) => {
                    let is_told = socket.tell_errors(now, nat, flow);
                    match errno {
                        Errno::MSGSIZE if is_told => return,
                        _ if is_told => {} // an earlier datagram's error: once more
                        _ => return nat.udp_failed(now, flow, to, error::of(errno)),
                    }
                }
            }
        }
    }

    /// Tells what became of datagrams; whether there was something to tell.
    fn tell_errors(&mut self, now: Instant, nat: &mut Nat, flow: FlowId) -> bool {
        let mut is_told = false;
        for report in self.socket.reports() {
            nat.udp_lost(now, flow, report.to, report.error);
            is_told = true;
        }
        is_told
    }

    fn try_send(&mut self, to: SocketAddr, transit: Transit, payload: &[u8]) -> Result<(), Errno> {
        self.socket.travel(transit)?;
        let fd = &self.socket.fd;
        if let Peers::One(peer) = self.peers
            && peer != to
        {
            connect_unspec(fd)?;
            self.peers = Peers::Many;
        }
        match self.peers {
            Peers::One(_) => send(fd, payload, SendFlags::NOSIGNAL)?,
            Peers::Many => sendto(fd, payload, SendFlags::NOSIGNAL, &to)?,
        };
        Ok(())
    }

    /// Takes datagrams and errors from the socket.
    pub(super) fn receive(&mut self, now: Instant, nat: &mut Nat, flow: FlowId, flags: EventFlags, buffer: &mut [u8]) {
        if flags.contains(EventFlags::ERR) {
            self.tell_errors(now, nat, flow);
        }
        for _ in 0..DATAGRAM_TURN {
            match recvfrom(&self.socket.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _, from)) => {
                    if let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                        nat.udp_received(now, flow, from, &buffer[..count]);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(_) => {} // interrupted, or an error that is told already
            }
        }
    }
}

/// Binds a socket to a port that nobody can guess, at all addresses of the family of `to`.
fn bind_random(fd: &OwnedFd, to: IpAddr) -> Result<(), Errno> {
    let any_at = |port| match to {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    };
    if to.is_ipv6() {
        sockopt::set_ipv6_v6only(fd, true)?; // the same port of IPv4 may be somebody else's
    }
    for _ in 0..PORT_TRIES {
        let mut random = [0; 2];
        getrandom(&mut random, GetRandomFlags::empty())?;
        match bind(fd, &any_at(FIRST_PORT + u16::from_ne_bytes(random) % PORTS)) {
            Err(Errno::ADDRINUSE | Errno::ACCESS) => {}
            result => return result,
        }
    }
    bind(fd, &any_at(0))
}
