//! Where clients of port forwards come in: the host's sockets that listen.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recvfrom, sendto,
    socket_with, sockopt,
};
use weft_services::Services;
use weft_services::nat::ForwardId;
use weft_types::{Instant, Transport};

use super::{DATAGRAM_TURN, LISTENING};

/// Clients that the kernel keeps while the worker is busy.
const BACKLOG: i32 = 1024;
/// How long nobody is accepted after the host had no file left for a client.
const PAUSE: Duration = Duration::from_millis(100);

/// A place of the host that has one owner.
pub(crate) type Place = (Transport, SocketAddr);

/// A place that is to be listened at, and what comes in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entrance {
    pub(crate) place: Place,
    pub(crate) forward: ForwardId,
    /// The distance from the forward's first port.
    pub(crate) offset: u16,
}

/// Listens at a place; nobody is accepted yet.
pub(crate) fn open((transport, address): Place) -> io::Result<OwnedFd> {
    let (family, flags) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC),
        SocketAddr::V6(_) => (AddressFamily::INET6, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC),
    };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let fd = socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?; // what is meant for both is said for both
    }
    if transport == Transport::Tcp {
        sockopt::set_socket_reuseaddr(&fd, true)?; // earlier connections may linger; who listens is in the way still
    }
    bind(&fd, &address)?;
    if transport == Transport::Tcp {
        listen(&fd, BACKLOG)?;
    }
    Ok(fd)
}

/// A socket that listens.
struct Listener {
    fd: OwnedFd,
    entrance: Entrance,
}

/// All of them, each with a number for epoll.
#[derive(Default)]
pub(super) struct Listeners {
    sockets: HashMap<u32, Listener>,
    by_place: BTreeMap<Place, u32>,
    by_port: HashMap<(ForwardId, u16), u32>,
    /// Why nobody listens at a place where somebody should.
    broken: BTreeMap<Place, io::Error>,
    next_number: u32,
    /// Those that accept nobody for a while.
    paused: Option<(Instant, Vec<u32>)>,
}

impl Listeners {
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn is_open(&self, place: &Place) -> bool {
        self.by_place.contains_key(place)
    }

    pub(super) fn error(&self, place: &Place) -> Option<&io::Error> {
        self.broken.get(place)
    }

    /// Listens at these places and no others. What is open stays open; what is not is in `opened`, or is opened now,
    /// because something else of ours was in its way.
    pub(super) fn set(&mut self, epoll: &OwnedFd, entrances: &[Entrance], mut opened: BTreeMap<Place, OwnedFd>) {
        let mut old = std::mem::take(&mut self.sockets);
        let places = std::mem::take(&mut self.by_place);
        self.by_port.clear();
        self.broken.clear();
        for entrance in entrances {
            if let Some((number, socket)) = places.get(&entrance.place).and_then(|number| old.remove_entry(number)) {
                self.keep(number, Listener { entrance: *entrance, ..socket });
            }
        }
        drop(old); // closes what nobody wants
        for entrance in entrances {
            if self.by_place.contains_key(&entrance.place) {
                continue;
            }
            let fd = opened.remove(&entrance.place).map_or_else(|| open(entrance.place), Ok);
            let number = self.next_number;
            self.next_number = number.wrapping_add(1);
            let data = EventData::new_u64(LISTENING | u64::from(number));
            match fd.and_then(|fd| epoll::add(epoll, &fd, data, EventFlags::IN).map(|()| fd).map_err(Into::into)) {
                Ok(fd) => self.keep(number, Listener { fd, entrance: *entrance }),
                Err(error) => drop(self.broken.insert(entrance.place, error)),
            }
        }
    }

    fn keep(&mut self, number: u32, socket: Listener) {
        let Entrance { place, forward, offset } = socket.entrance;
        self.by_place.insert(place, number);
        self.by_port.insert((forward, offset), number);
        self.sockets.insert(number, socket);
    }

    /// The protocol of a socket; `None` if it is closed meanwhile.
    pub(super) fn transport(&self, number: u32) -> Option<Transport> {
        Some(self.sockets.get(&number)?.entrance.place.0)
    }

    /// The next client that wants to be connected.
    pub(super) fn accept(&mut self, now: Instant, epoll: &OwnedFd, number: u32) -> Option<(OwnedFd, Entrance)> {
        let socket = self.sockets.get(&number)?;
        loop {
            match accept_with(&socket.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(client) => return Some((client, socket.entrance)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // The client stays in the backlog, and would wake us again and again.
                    let data = EventData::new_u64(LISTENING | u64::from(number));
                    if epoll::modify(epoll, &socket.fd, data, EventFlags::empty()).is_ok() {
                        self.paused.get_or_insert_with(|| (now + PAUSE, Vec::new())).1.push(number);
                    }
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// When [`Self::resume`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.paused.as_ref().map(|(until, _)| *until)
    }

    /// Accepts clients again where it is time.
    pub(super) fn resume(&mut self, now: Instant, epoll: &OwnedFd) {
        if self.paused.as_ref().is_none_or(|(until, _)| now < *until) {
            return;
        }
        for number in self.paused.take().map(|(_, numbers)| numbers).unwrap_or_default() {
            if let Some(socket) = self.sockets.get(&number) {
                let data = EventData::new_u64(LISTENING | u64::from(number));
                let _ = epoll::modify(epoll, &socket.fd, data, EventFlags::IN); // it worked a moment ago
            }
        }
    }

    /// Takes datagrams of clients.
    pub(super) fn receive(&self, now: Instant, number: u32, services: &mut Services, buffer: &mut [u8]) {
        let Some(Listener { fd, entrance }) = self.sockets.get(&number) else { return };
        for _ in 0..DATAGRAM_TURN {
            match recvfrom(fd, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _, from)) => {
                    if let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                        services.deliver(now, entrance.forward, entrance.offset, from, &buffer[..count]);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Sends a client what the guest answers.
    pub(super) fn answer(&self, forward: ForwardId, offset: u16, to: SocketAddr, payload: &[u8]) {
        let number = self.by_port.get(&(forward, offset));
        if let Some(socket) = number.and_then(|number| self.sockets.get(number)) {
            // A full socket loses datagrams, as networks do; and of a client that is gone, nobody need be told.
            let _ = sendto(&socket.fd, payload, SendFlags::NOSIGNAL, &to);
        }
    }
}
