//! ICMP echoes of guests: datagram sockets where `net.ipv4.ping_group_range` permits, else one raw socket for all.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto, socket_with,
};
use rustix::rand::{GetRandomFlags, getrandom};
use weft_services::nat::{FlowId, Nat, Transit};
use weft_types::Instant;
use weft_wire::icmpv4::{self, Message};
use weft_wire::{Protocol, ipv4};

use super::transit::{Report, Traveller};
use super::{DATAGRAM_TURN, RAW_ECHO, error};

/// The sockets of echoes.
pub(super) enum Echoes {
    /// One socket per flow; the kernel chooses identifiers.
    Datagram(HashMap<FlowId, Traveller>),
    /// One socket for all flows.
    Raw(Raw),
    /// None is permitted.
    Closed,
}

/// A raw socket sees every echo reply that comes to the host, so it is open only while a guest waits for one.
#[derive(Default)]
pub(super) struct Raw {
    socket: Option<Traveller>,
    ident_of: HashMap<FlowId, u16>,
    flow_of: HashMap<u16, FlowId>,
}

fn open(kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::INET, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(ipproto::ICMP))
}

impl Echoes {
    /// Finds out what this user may.
    pub(super) fn probe() -> Self {
        if open(SocketType::DGRAM).is_ok() {
            Self::Datagram(HashMap::new())
        } else if open(SocketType::RAW).is_ok() {
            Self::Raw(Raw::default())
        } else {
            Self::Closed
        }
    }

    pub(super) fn are_open(&self) -> bool {
        !matches!(self, Self::Closed)
    }

    /// What does not work, and how to make it work.
    pub(super) fn note(&self) -> Option<String> {
        let note = "ICMP sockets are closed to this user, so guests cannot ping the outside: \
                    sudo sysctl net.ipv4.ping_group_range=\"0 2147483647\" opens them";
        matches!(self, Self::Closed).then(|| note.to_owned())
    }

    /// Sends an echo request with this sequence number and payload.
    pub(super) fn send(
        &mut self,
        epoll: &OwnedFd,
        now: Instant,
        nat: &mut Nat,
        flow: FlowId,
        (to, transit): (Ipv4Addr, Transit),
        (seq, payload): (u16, &[u8]),
    ) {
        for _ in 0..2 {
            let (socket, ident) = match self.socket_and_ident(epoll, flow) {
                Ok(place) => place,
                Err(errno) => return nat.echo_failed(now, flow, to, seq, error::of(errno)),
            };
            let mut request = Vec::with_capacity(icmpv4::HEADER_BYTES + payload.len());
            Message::EchoRequest { ident, seq, payload }.emit(&mut request);
            let sent = socket.travel(transit);
            match sent.and_then(|()| sendto(&socket.fd, &request, SendFlags::NOSIGNAL, &SocketAddrV4::new(to, 0))) {
                Ok(_) | Err(Errno::AGAIN) => return, // a full socket loses requests, as networks do
                Err(errno) => {
                    let is_told = self.tell_errors(now, nat, Some(flow), seq);
                    match errno {
                        Errno::MSGSIZE if is_told => return,
                        _ if is_told => {} // an earlier request's error: once more
                        _ => return nat.echo_failed(now, flow, to, seq, error::of(errno)),
                    }
                }
            }
        }
    }

    fn socket_and_ident(&mut self, epoll: &OwnedFd, flow: FlowId) -> Result<(&mut Traveller, u16), Errno> {
        match self {
            Self::Datagram(sockets) => Ok((Self::socket_of(sockets, epoll, flow)?, 0)),
            Self::Raw(raw) => raw.socket_and_ident(epoll, flow),
            Self::Closed => Err(Errno::ACCESS),
        }
    }

    /// Tells what became of requests, of this flow or of all that share a socket; `sequence` is that of the request which
    /// is being sent. Whether there was something to tell.
    fn tell_errors(&self, now: Instant, nat: &mut Nat, flow: Option<FlowId>, sequence: u16) -> bool {
        let socket = match self {
            Self::Datagram(sockets) => flow.and_then(|flow| sockets.get(&flow)),
            Self::Raw(raw) => raw.socket.as_ref(),
            Self::Closed => None,
        };
        let mut is_told = false;
        for Report { to, error, start } in socket.into_iter().flat_map(Traveller::reports) {
            is_told = true;
            let (flow, sequence) = match (start.as_ref().map(|start| icmpv4::parse(start)), self) {
                (None, _) => (flow, sequence), // it never left
                (Some(Ok(Message::EchoRequest { ident, seq, .. })), Self::Raw(raw)) => {
                    (raw.flow_of.get(&ident).copied(), seq)
                }
                (Some(Ok(Message::EchoRequest { seq, .. })), _) => (flow, seq),
                (Some(_), _) => continue, // of somebody else on this host
            };
            if let Some(flow) = flow {
                nat.echo_lost(now, flow, *to.ip(), sequence, error);
            }
        }
        is_told
    }

    fn socket_of<'a>(
        sockets: &'a mut HashMap<FlowId, Traveller>,
        epoll: &OwnedFd,
        flow: FlowId,
    ) -> Result<&'a mut Traveller, Errno> {
        use std::collections::hash_map::Entry;
        match sockets.entry(flow) {
            Entry::Occupied(place) => Ok(place.into_mut()),
            Entry::Vacant(place) => {
                let fd = open(SocketType::DGRAM)?;
                epoll::add(epoll, &fd, EventData::new_u64(flow.to_bits()), EventFlags::IN)?;
                Ok(place.insert(Traveller::new(fd)?))
            }
        }
    }

    /// Forgets a flow.
    pub(super) fn close(&mut self, flow: FlowId) {
        match self {
            Self::Datagram(sockets) => drop(sockets.remove(&flow)),
            Self::Raw(raw) => raw.close(flow),
            Self::Closed => {}
        }
    }

    /// Takes replies from a flow's own socket.
    pub(super) fn receive(&self, now: Instant, nat: &mut Nat, flow: FlowId, flags: EventFlags, buffer: &mut [u8]) {
        if flags.contains(EventFlags::ERR) {
            self.tell_errors(now, nat, Some(flow), 0);
        }
        let Self::Datagram(sockets) = self else { return };
        let Some(socket) = sockets.get(&flow) else { return };
        receive_all(&socket.fd, buffer, |from, message| {
            if let Ok(Message::EchoReply { seq, payload, .. }) = icmpv4::parse(message) {
                nat.echo_received(now, flow, from, seq, payload);
            }
        });
    }

    /// Takes replies from the raw socket.
    pub(super) fn receive_raw(&self, now: Instant, nat: &mut Nat, flags: EventFlags, buffer: &mut [u8]) {
        if flags.contains(EventFlags::ERR) {
            self.tell_errors(now, nat, None, 0);
        }
        let Self::Raw(Raw { socket: Some(socket), flow_of, .. }) = self else { return };
        receive_all(&socket.fd, buffer, |from, packet| {
            if let Ok(packet) = ipv4::parse(packet)
                && packet.protocol == Protocol::ICMP
                && icmpv4::checksum_ok(packet.payload)
                && let Ok(Message::EchoReply { ident, seq, payload }) = icmpv4::parse(packet.payload)
                && let Some(flow) = flow_of.get(&ident)
            {
                nat.echo_received(now, *flow, from, seq, payload);
            }
        });
    }
}

impl Raw {
    fn socket_and_ident(&mut self, epoll: &OwnedFd, flow: FlowId) -> Result<(&mut Traveller, u16), Errno> {
        let ident = match self.ident_of.get(&flow) {
            Some(ident) => *ident,
            None => self.new_ident(flow)?,
        };
        if self.socket.is_none() {
            let fd = open(SocketType::RAW)?;
            epoll::add(epoll, &fd, EventData::new_u64(RAW_ECHO), EventFlags::IN)?;
            self.socket = Some(Traveller::new(fd)?);
        }
        Ok((self.socket.as_mut().ok_or(Errno::BADF)?, ident))
    }

    /// An identifier that no other flow has, and that nobody can guess.
    fn new_ident(&mut self, flow: FlowId) -> Result<u16, Errno> {
        let mut random = [0; 2];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let first = u16::from_ne_bytes(random);
        let ident = (0..=u16::MAX)
            .map(|step| first.wrapping_add(step))
            .find(|ident| !self.flow_of.contains_key(ident))
            .ok_or(Errno::ADDRNOTAVAIL)?;
        self.flow_of.insert(ident, flow);
        self.ident_of.insert(flow, ident);
        Ok(ident)
    }

    fn close(&mut self, flow: FlowId) {
        if let Some(ident) = self.ident_of.remove(&flow) {
            self.flow_of.remove(&ident);
        }
        if self.ident_of.is_empty() {
            self.socket = None;
        }
    }
}

/// Hands a bounded number of messages, with their senders, to `take`.
fn receive_all(fd: &OwnedFd, buffer: &mut [u8], mut take: impl FnMut(Ipv4Addr, &[u8])) {
    for _ in 0..DATAGRAM_TURN {
        match recvfrom(fd, &mut *buffer, RecvFlags::empty()) {
            Ok((count, _, from)) => {
                if let Some(from) = from.and_then(|from| SocketAddrV4::try_from(from).ok()) {
                    take(*from.ip(), &buffer[..count]);
                }
            }
            Err(Errno::AGAIN) => return,
            Err(_) => {} // an error that is told already: taken with this
        }
    }
}
