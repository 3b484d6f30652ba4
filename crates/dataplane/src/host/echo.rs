//! ICMP echoes of guests: datagram sockets where `net.ipv4.ping_group_range` permits, which rules IPv6, too; else one raw
//! socket for all of IPv4.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto, socket_with};
use rustix::rand::{GetRandomFlags, getrandom};
use weft_services::nat::{FlowId, Nat, Transit};
use weft_types::Instant;
use weft_wire::icmpv4::{self, Message};
use weft_wire::{Protocol, icmpv6, ipv4};

use super::transit::{Report, Traveller};
use super::{DATAGRAM_TURN, RAW_ECHO, error, family_of};

/// The sockets of echoes. Those of IPv6 are datagram sockets, where they are permitted.
pub(super) struct Echoes {
    v4: Way,
    v6: Way,
}

/// How echoes of one family go out.
enum Way {
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

fn open(kind: SocketType, to: IpAddr) -> Result<OwnedFd, Errno> {
    let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
    socket_with(family_of(to), kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(protocol))
}

impl Echoes {
    /// Finds out what this user may.
    pub(super) fn probe() -> Self {
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        let has = |kind, ip| open(kind, ip).is_ok();
        Self {
            v4: match (has(SocketType::DGRAM, v4), has(SocketType::RAW, v4)) {
                (true, _) => Way::Datagram(HashMap::new()),
                (false, true) => Way::Raw(Raw::default()),
                (false, false) => Way::Closed,
            },
            v6: if has(SocketType::DGRAM, v6) { Way::Datagram(HashMap::new()) } else { Way::Closed },
        }
    }

    pub(super) fn are_open(&self) -> bool {
        !matches!(self.v4, Way::Closed)
    }

    /// The same of ICMPv6.
    pub(super) fn are_open_v6(&self) -> bool {
        !matches!(self.v6, Way::Closed)
    }

    /// What does not work, and how to make it work.
    pub(super) fn note(&self) -> Option<String> {
        let note = "ICMP sockets are closed to this user, so guests cannot ping the outside: \
                    sudo sysctl net.ipv4.ping_group_range=\"0 2147483647\" opens them";
        (!self.are_open()).then(|| note.to_owned())
    }

    /// Sends an echo request with this sequence number and payload.
    pub(super) fn send(
        &mut self,
        epoll: &OwnedFd,
        now: Instant,
        nat: &mut Nat,
        flow: FlowId,
        (to, transit): (IpAddr, Transit),
        (seq, payload): (u16, &[u8]),
    ) {
        for _ in 0..2 {
            let (socket, ident) = match self.socket_and_ident(epoll, flow, to) {
                Ok(place) => place,
                Err(errno) => return nat.echo_failed(now, flow, to, seq, error::of(errno)),
            };
            let mut request = Vec::with_capacity(icmpv4::HEADER_BYTES + payload.len());
            match to {
                IpAddr::V4(_) => Message::EchoRequest { ident, seq, payload }.emit(&mut request),
                // The kernel knows the sender's address, and makes the checksum.
                IpAddr::V6(to) => {
                    icmpv6::Message::EchoRequest { ident, seq, payload }.emit(&mut request, Ipv6Addr::UNSPECIFIED, to);
                }
            }
            let sent = socket.travel(transit);
            match sent.and_then(|()| sendto(&socket.fd, &request, SendFlags::NOSIGNAL, &SocketAddr::new(to, 0))) {
                Ok(_) | Err(Errno::AGAIN) => return, // a full socket loses requests, as networks do
                Err(errno) => {
                    let is_told = self.way(to).tell_errors(now, nat, Some(flow), seq);
                    match errno {
                        Errno::MSGSIZE if is_told => return,
                        _ if is_told => {} // an earlier request's error: once more
                        _ => return nat.echo_failed(now, flow, to, seq, error::of(errno)),
                    }
                }
            }
        }
    }

    fn way(&mut self, to: IpAddr) -> &mut Way {
        if to.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    fn socket_and_ident(&mut self, epoll: &OwnedFd, flow: FlowId, to: IpAddr) -> Result<(&mut Traveller, u16), Errno> {
        match self.way(to) {
            Way::Datagram(sockets) => Ok((Way::socket_of(sockets, epoll, flow, to)?, 0)),
            Way::Raw(raw) => raw.socket_and_ident(epoll, flow),
            Way::Closed => Err(Errno::ACCESS),
        }
    }

    /// Forgets a flow.
    pub(super) fn close(&mut self, flow: FlowId) {
        for way in [&mut self.v4, &mut self.v6] {
            match way {
                Way::Datagram(sockets) => drop(sockets.remove(&flow)),
                Way::Raw(raw) => raw.close(flow),
                Way::Closed => {}
            }
        }
    }

    /// Takes replies from a flow's own socket.
    pub(super) fn receive(&self, now: Instant, nat: &mut Nat, flow: FlowId, flags: EventFlags, buffer: &mut [u8]) {
        for way in [&self.v4, &self.v6] {
            way.receive(now, nat, flow, flags, buffer);
        }
    }

    /// Takes replies from the raw socket.
    pub(super) fn receive_raw(&self, now: Instant, nat: &mut Nat, flags: EventFlags, buffer: &mut [u8]) {
        self.v4.receive_raw(now, nat, flags, buffer);
    }
}

impl Way {
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
            let (flow, sequence) = match (start.as_ref().map(|start| request(to.ip(), start)), self) {
                (None, _) => (flow, sequence), // it never left
                (Some(Some((ident, seq))), Self::Raw(raw)) => (raw.flow_of.get(&ident).copied(), seq),
                (Some(Some((_, seq))), _) => (flow, seq),
                (Some(None), _) => continue, // of somebody else on this host
            };
            if let Some(flow) = flow {
                nat.echo_lost(now, flow, to.ip(), sequence, error);
            }
        }
        is_told
    }

    fn socket_of<'a>(
        sockets: &'a mut HashMap<FlowId, Traveller>,
        epoll: &OwnedFd,
        flow: FlowId,
        to: IpAddr,
    ) -> Result<&'a mut Traveller, Errno> {
        use std::collections::hash_map::Entry;
        match sockets.entry(flow) {
            Entry::Occupied(place) => Ok(place.into_mut()),
            Entry::Vacant(place) => {
                let fd = open(SocketType::DGRAM, to)?;
                epoll::add(epoll, &fd, EventData::new_u64(flow.to_bits()), EventFlags::IN)?;
                Ok(place.insert(Traveller::new(fd, to)?))
            }
        }
    }

    /// Takes replies from a flow's own socket.
    fn receive(&self, now: Instant, nat: &mut Nat, flow: FlowId, flags: EventFlags, buffer: &mut [u8]) {
        if flags.contains(EventFlags::ERR) {
            self.tell_errors(now, nat, Some(flow), 0);
        }
        let Self::Datagram(sockets) = self else { return };
        let Some(socket) = sockets.get(&flow) else { return };
        receive_all(&socket.fd, buffer, |from, message| {
            if let Some((seq, payload)) = reply(from, message) {
                nat.echo_received(now, flow, from, seq, payload);
            }
        });
    }

    /// Takes replies from the raw socket.
    fn receive_raw(&self, now: Instant, nat: &mut Nat, flags: EventFlags, buffer: &mut [u8]) {
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
            let to = Ipv4Addr::UNSPECIFIED.into();
            let fd = open(SocketType::RAW, to)?;
            epoll::add(epoll, &fd, EventData::new_u64(RAW_ECHO), EventFlags::IN)?;
            self.socket = Some(Traveller::new(fd, to)?);
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
fn receive_all(fd: &OwnedFd, buffer: &mut [u8], mut take: impl FnMut(IpAddr, &[u8])) {
    for _ in 0..DATAGRAM_TURN {
        match recvfrom(fd, &mut *buffer, RecvFlags::empty()) {
            Ok((count, _, from)) => {
                if let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                    take(from.ip(), &buffer[..count]);
                }
            }
            Err(Errno::AGAIN) => return,
            Err(_) => {} // an error that is told already: taken with this
        }
    }
}

/// The identifier and sequence number of a request to `to` that starts like this.
fn request(to: IpAddr, start: &[u8]) -> Option<(u16, u16)> {
    match to {
        IpAddr::V4(_) => match icmpv4::parse(start) {
            Ok(Message::EchoRequest { ident, seq, .. }) => Some((ident, seq)),
            _ => None,
        },
        IpAddr::V6(_) => match icmpv6::parse(start) {
            Ok(icmpv6::Message::EchoRequest { ident, seq, .. }) => Some((ident, seq)),
            _ => None,
        },
    }
}

/// The sequence number and payload of a reply from `from`.
fn reply(from: IpAddr, message: &[u8]) -> Option<(u16, &[u8])> {
    match from {
        IpAddr::V4(_) => match icmpv4::parse(message) {
            Ok(Message::EchoReply { seq, payload, .. }) => Some((seq, payload)),
            _ => None,
        },
        IpAddr::V6(_) => match icmpv6::parse(message) {
            Ok(icmpv6::Message::EchoReply { seq, payload, .. }) => Some((seq, payload)),
            _ => None,
        },
    }
}
