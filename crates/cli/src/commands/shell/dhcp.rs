//! A small DHCPv4 client (RFC 2131, section 4.4): frames and time in, frames and leases out.
//!
//! Servers are taken for hostile: what they say is read with checked indices, and only what is used is kept.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use weft_types::{Ipv4Net, MacAddr};
use weft_wire::{EtherType, Protocol, ethernet, ipv4, udp};

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
/// The fixed part and the magic cookie (RFC 2131, section 2).
const HEADER_BYTES: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// How long an answer is waited for, at first and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// How often an offer is asked for before another is looked for.
const MAX_REQUESTS: u32 = 4;
/// A lease is not renewed more often than this, whatever the server wishes.
const SHORTEST_LEASE_S: u32 = 10;
/// The most routes and name servers that are taken of a server.
const MAX_LISTED: usize = 16;

/// Options (RFC 2132, RFC 3442, RFC 3397).
mod code {
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const WANTED: u8 = 55;
    pub(super) const ROUTES: u8 = 121;
    pub(super) const END: u8 = 255;
}

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;

/// What a server has lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The address, and the network's prefix.
    pub(crate) address: Ipv4Net,
    /// Where to send what is not for that prefix: destinations and routers.
    pub(crate) routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Who resolves names.
    pub(crate) dns: Vec<Ipv4Addr>,
    /// The domain in which short names are looked for.
    pub(crate) domain: Option<String>,
    /// The largest IP packet, in bytes, if the server says it.
    pub(crate) mtu: Option<u16>,
    /// Who has lent it: the address, and the station by which it was heard.
    server: (Ipv4Addr, MacAddr),
    lasts: Duration,
}

/// What the client does now.
#[derive(Clone, Debug)]
enum State {
    /// Looks for servers.
    Selecting,
    /// Asks for what was offered.
    Requesting { ip: Ipv4Addr, server: Ipv4Addr },
    /// Has a lease since then, and asks for more of it when it is time.
    Bound { lease: Lease, since: Instant },
}

/// A client for one adapter.
#[derive(Debug)]
pub(crate) struct Client {
    mac: MacAddr,
    host_name: String,
    xid: u32,
    state: State,
    /// When the next message is due, and how many there were in this state.
    due: Instant,
    tries: u32,
    /// When what was asked last was: a lease counts from there (section 4.4.1).
    asked: Instant,
    changed: bool,
}

impl Client {
    /// A client that begins at once; `xid` is a number that others do not have.
    pub(crate) fn new(mac: MacAddr, host_name: &str, xid: u32, now: Instant) -> Self {
        let host_name = host_name.chars().take(63).collect();
        Self { mac, host_name, xid, state: State::Selecting, due: now, tries: 0, asked: now, changed: false }
    }

    /// What it has.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound { lease, .. } => Some(lease),
            State::Selecting | State::Requesting { .. } => None,
        }
    }

    /// Whether that is another than when this was asked last.
    pub(crate) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// When [`Self::poll`] has something to do.
    pub(crate) fn next_timeout(&self) -> Instant {
        self.due
    }

    /// The frame that is due, if one is.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        if let State::Bound { lease, since } = &self.state
            && now >= *since + lease.lasts
        {
            self.changed = true;
            self.restart(now);
        }
        if matches!(self.state, State::Requesting { .. }) && self.tries >= MAX_REQUESTS {
            self.restart(now);
        }
        self.tries += 1;
        self.asked = now;
        let (first, most) = PATIENCE;
        let patience = first.saturating_mul(1 << self.tries.min(5).saturating_sub(1)).min(most);
        self.due = now + patience;
        let broadcast = (MacAddr::BROADCAST, Ipv4Addr::BROADCAST);
        let none = Ipv4Addr::UNSPECIFIED;
        Some(match &self.state {
            State::Selecting => self.message(DISCOVER, none, broadcast, &[]),
            State::Requesting { ip, server } => {
                let options = [(code::REQUESTED, *ip), (code::SERVER, *server)];
                self.message(REQUEST, none, broadcast, &options)
            }
            State::Bound { lease, since } => {
                // Half of what is left is waited for, at least a minute (section 4.4.5), where so much is left.
                let end = *since + lease.lasts;
                let left = end.saturating_duration_since(now);
                self.due = (now + (left / 2).max(Duration::from_secs(60))).min(end);
                let rebinding = *since + lease.lasts * 7 / 8;
                let to = if now < rebinding { (lease.server.1, lease.server.0) } else { broadcast };
                self.message(REQUEST, lease.address.addr(), to, &[])
            }
        })
    }

    /// Hears a frame; whether it was for this client, and for nobody else.
    pub(crate) fn hear(&mut self, now: Instant, frame: &[u8]) -> bool {
        let Some((from, payload)) = self.datagram(frame) else { return false };
        let Some(answer) = Answer::parse(payload).filter(|answer| answer.xid == self.xid && answer.mac == self.mac)
        else {
            return false;
        };
        match (&self.state, answer.kind) {
            (State::Selecting, OFFER) => {
                let (Some(server), true) = (answer.server(), is_host(answer.ip)) else { return true };
                self.state = State::Requesting { ip: answer.ip, server };
                (self.due, self.tries) = (now, 0);
            }
            (State::Requesting { server, .. }, ACK) if answer.server() == Some(*server) => self.bind(&answer, from),
            // Nobody who was not asked has anything to say, and nobody gives another address to who has one.
            (State::Bound { .. }, _) if self.tries == 0 => {}
            (State::Bound { lease, .. }, ACK) if answer.ip == lease.address.addr() => self.bind(&answer, from),
            (State::Requesting { server, .. }, NAK) if answer.server() == Some(*server) => self.restart(now),
            (State::Bound { .. }, NAK) => {
                self.changed = true;
                self.restart(now);
            }
            _ => {}
        }
        true
    }

    /// Gives back what it has; the frame that says so.
    pub(crate) fn release(&self) -> Option<Vec<u8>> {
        let lease = self.lease()?;
        let (ip, mac) = lease.server;
        Some(self.message(RELEASE, lease.address.addr(), (mac, ip), &[(code::SERVER, ip)]))
    }

    fn restart(&mut self, now: Instant) {
        self.xid = self.xid.wrapping_add(1);
        self.state = State::Selecting;
        // A server that refuses what it offers is not asked without pause.
        let pause = if self.tries == 0 { Duration::ZERO } else { PATIENCE.0 };
        (self.due, self.tries) = (now + pause, 0);
    }

    fn bind(&mut self, answer: &Answer<'_>, from: MacAddr) {
        let Some(lease) = answer.lease(from) else { return };
        let said = |lease: &Lease| Lease { lasts: Duration::ZERO, ..lease.clone() };
        self.changed |= self.lease().map(said) != Some(said(&lease));
        // T1 (section 4.4.5).
        self.due = self.asked + lease.lasts / 2;
        self.tries = 0;
        self.state = State::Bound { lease, since: self.asked };
    }

    /// A message to `to`, from `ciaddr`, which the client has, or has not yet.
    fn message(&self, kind: u8, ciaddr: Ipv4Addr, to: (MacAddr, Ipv4Addr), more: &[(u8, Ipv4Addr)]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[12..16].copy_from_slice(&ciaddr.octets());
        bytes[28..34].copy_from_slice(&self.mac.octets());
        bytes[236..].copy_from_slice(&MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            bytes.extend([code, value.len() as u8]);
            bytes.extend(value);
        };
        option(code::TYPE, &[kind]);
        for (code, ip) in more {
            option(*code, &ip.octets());
        }
        if kind != RELEASE {
            option(code::HOST_NAME, self.host_name.as_bytes());
            let wanted = [code::SUBNET_MASK, code::ROUTES, code::ROUTER, code::DNS, code::DOMAIN, code::MTU];
            option(code::WANTED, &wanted);
        }
        bytes.push(code::END);
        let (src, dst) = (SocketAddrV4::new(ciaddr, CLIENT_PORT), SocketAddrV4::new(to.1, SERVER_PORT));
        let mut datagram = Vec::new();
        udp::emit(&mut datagram, src, dst, &bytes);
        let mut frame = Vec::new();
        ethernet::emit(&mut frame, to.0, self.mac, EtherType::IPV4);
        let payload_len = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        let (src, dst, protocol) = (ciaddr, to.1, Protocol::UDP);
        ipv4::Repr { src, dst, protocol, ttl: 64, ident: 0, dont_fragment: true, payload_len }.emit(&mut frame);
        frame.extend(datagram);
        frame
    }

    /// What a frame to a DHCP client carries, and the station that it came by.
    fn datagram<'a>(&self, frame: &'a [u8]) -> Option<(MacAddr, &'a [u8])> {
        let frame = ethernet::parse(frame).ok()?;
        let is_for_us = frame.dst == self.mac || frame.dst.is_broadcast();
        if frame.ethertype != EtherType::IPV4 || frame.tag.is_some() || !is_for_us {
            return None;
        }
        let packet = ipv4::parse(frame.payload).ok().filter(|it| it.protocol == Protocol::UDP && !it.is_fragment())?;
        let datagram = udp::parse(packet.payload).ok()?;
        let fits = (datagram.src_port, datagram.dst_port) == (SERVER_PORT, CLIENT_PORT);
        fits.then_some((frame.src, datagram.payload))
    }
}

/// Whether a station can have this address.
fn is_host(ip: Ipv4Addr) -> bool {
    !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast() && !ip.is_loopback()
}

/// A server's message.
struct Answer<'a> {
    xid: u32,
    mac: MacAddr,
    kind: u8,
    ip: Ipv4Addr,
    options: &'a [u8],
}

impl<'a> Answer<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, options) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        if header[..3] != [2, 1, 6] || header[236..] != MAGIC {
            return None;
        }
        let four = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let [a, b, c, d] = four(28);
        let answer = Self {
            xid: u32::from_be_bytes(four(4)),
            mac: MacAddr::new([a, b, c, d, header[32], header[33]]),
            kind: 0,
            ip: four(16).into(),
            options,
        };
        let kind = *answer.option(code::TYPE).first()?;
        Some(Self { kind, ..answer })
    }

    /// An option's value, whose pieces count as one (RFC 3396); empty if there is none.
    fn option(&self, wanted: u8) -> Vec<u8> {
        let (mut value, mut rest) = (Vec::new(), self.options);
        while let [code, after @ ..] = rest {
            match (*code, after) {
                (0, _) => rest = after,
                (code::END, _) | (_, []) => break,
                (code, [len, after @ ..]) => {
                    let Some((piece, after)) = after.split_at_checked(usize::from(*len)) else { break };
                    if code == wanted {
                        value.extend(piece);
                    }
                    rest = after;
                }
            }
        }
        value
    }

    fn ips(&self, option: u8) -> Vec<Ipv4Addr> {
        let value = self.option(option);
        value.chunks_exact(4).take(MAX_LISTED).map(|it| Ipv4Addr::new(it[0], it[1], it[2], it[3])).collect()
    }

    fn server(&self) -> Option<Ipv4Addr> {
        self.ips(code::SERVER).first().copied().filter(|ip| is_host(*ip))
    }

    fn lease(&self, from: MacAddr) -> Option<Lease> {
        let seconds = <[u8; 4]>::try_from(self.option(code::LEASE_TIME)).map(u32::from_be_bytes).ok()?;
        let mask = u32::from(*self.ips(code::SUBNET_MASK).first()?);
        let is_mask = mask.leading_ones() + mask.trailing_zeros() == 32 && mask != 0;
        let prefix_len = mask.leading_ones() as u8;
        let address =
            Some(self.ip).filter(|ip| is_host(*ip) && is_mask).and_then(|ip| Ipv4Net::new(ip, prefix_len).ok())?;
        let routes = match routes(&self.option(code::ROUTES)) {
            Some(routes) if !routes.is_empty() => routes,
            _ => {
                let router = self.ips(code::ROUTER).first().copied().filter(|ip| is_host(*ip));
                router.map(|router| (Ipv4Net::default(), router)).into_iter().collect()
            }
        };
        Some(Lease {
            address,
            routes,
            dns: self.ips(code::DNS).into_iter().filter(|ip| is_host(*ip)).collect(),
            domain: domain(&self.option(code::DOMAIN)),
            mtu: <[u8; 2]>::try_from(self.option(code::MTU)).map(u16::from_be_bytes).ok().filter(|mtu| *mtu >= 576),
            server: (self.server()?, from),
            lasts: Duration::from_secs(seconds.max(SHORTEST_LEASE_S).into()),
        })
    }
}

/// Routes without classes (RFC 3442); nothing if they end in the middle.
fn routes(mut bytes: &[u8]) -> Option<Vec<(Ipv4Net, Ipv4Addr)>> {
    let mut routes = Vec::new();
    while let [len, rest @ ..] = bytes {
        let significant = usize::from(*len).div_ceil(8);
        let mut to = [0; 4];
        let (prefix, rest) = rest.split_at_checked(significant)?;
        to.get_mut(..significant)?.copy_from_slice(prefix);
        let (router, rest) = rest.split_first_chunk::<4>()?;
        if routes.len() < MAX_LISTED {
            routes.push((Ipv4Net::new(to.into(), *len).ok()?.trunc(), Ipv4Addr::from(*router)));
        }
        bytes = rest;
    }
    Some(routes)
}

/// A domain that can stand in a line of resolv.conf.
fn domain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (!text.is_empty() && text.len() <= 253 && text.bytes().all(is_plain)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
    const SERVER_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 9]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

    /// A server's frame of this kind, with these options behind those that each has.
    fn answer(xid: u32, kind: u8, options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        bytes[16..20].copy_from_slice(&IP.octets());
        bytes[28..34].copy_from_slice(&MAC.octets());
        bytes[236..].copy_from_slice(&MAGIC);
        bytes.extend([code::TYPE, 1, kind, code::SERVER, 4, 10, 0, 0, 1]);
        bytes.extend(options);
        bytes.push(code::END);
        let mut datagram = Vec::new();
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
        udp::emit(&mut datagram, SocketAddrV4::new(SERVER, SERVER_PORT), to, &bytes);
        let mut frame = Vec::new();
        ethernet::emit(&mut frame, MAC, SERVER_MAC, EtherType::IPV4);
        let payload_len = datagram.len() as u16;
        let (dst, protocol) = (Ipv4Addr::BROADCAST, Protocol::UDP);
        ipv4::Repr { src: SERVER, dst, protocol, ttl: 64, ident: 0, dont_fragment: true, payload_len }.emit(&mut frame);
        frame.extend(datagram);
        frame
    }

    const GRANT: [u8; 27] = [
        51, 4, 0, 0, 0, 100, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 1, 6, 4, 10, 0, 0, 1, 26, 1,
        9, // an MTU that is cut
    ];

    /// The kind of a client's message.
    fn kind(frame: Option<Vec<u8>>) -> Option<u8> {
        frame.map(|frame| frame[14 + 20 + 8 + HEADER_BYTES + 2])
    }

    fn bound(start: Instant) -> Client {
        let mut client = Client::new(MAC, "shell-1", 7, start);
        assert_eq!(kind(client.poll(start)), Some(DISCOVER));
        assert!(client.hear(start, &answer(7, OFFER, &GRANT)));
        assert_eq!(kind(client.poll(start)), Some(REQUEST));
        assert!(client.hear(start, &answer(7, ACK, &GRANT)) && client.take_change());
        client
    }

    #[test]
    fn a_lease_from_its_offer_to_its_end() {
        let start = Instant::now();
        let mut client = bound(start);
        let lease = client.lease().unwrap().clone();
        assert_eq!(lease.address.to_string(), "10.0.0.7/24");
        assert_eq!((lease.routes, lease.dns, lease.mtu), (vec![(Ipv4Net::default(), SERVER)], vec![SERVER], None));
        assert_eq!(client.next_timeout(), start + Duration::from_secs(50));
        let renewal = client.poll(start + Duration::from_secs(50)).unwrap();
        assert_eq!(&renewal[..6], &SERVER_MAC.octets(), "the server alone is asked");
        assert!(client.hear(start + Duration::from_secs(51), &answer(7, ACK, &GRANT)));
        assert!(!client.take_change(), "the same lease is no news");
        assert_eq!(client.next_timeout(), start + Duration::from_secs(100));
        let rebinding = client.poll(start + Duration::from_secs(140)).unwrap();
        assert_eq!(&rebinding[..6], &[0xff; 6], "anybody is asked");
        assert_eq!(kind(client.release()), Some(RELEASE));
        assert_eq!(client.poll(start + Duration::from_secs(149)), None);
        assert_eq!(kind(client.poll(start + Duration::from_secs(150))), Some(DISCOVER));
        assert!(client.take_change() && client.lease().is_none());
    }

    #[test]
    fn a_refusal_ends_it() {
        let start = Instant::now();
        let mut client = bound(start);
        let renewal = client.next_timeout();
        assert_eq!(kind(client.poll(renewal)), Some(REQUEST));
        assert!(client.hear(renewal, &answer(7, NAK, &[])) && client.take_change() && client.lease().is_none());
        assert!(!client.hear(start, &answer(7, ACK, &GRANT)), "what the old number answers comes too late");
    }

    #[test]
    fn who_was_not_asked_changes_nothing() {
        let start = Instant::now();
        let mut client = bound(start);
        let (lease, due) = (client.lease().cloned(), client.next_timeout());
        for kind in [NAK, ACK, OFFER] {
            client.hear(start, &answer(7, kind, &[51, 4, 0, 0, 0, 9, 1, 4, 255, 255, 0, 0]));
        }
        assert!(!client.take_change());
        assert_eq!((client.lease().cloned(), client.next_timeout()), (lease.clone(), due));
        client.poll(due);
        let mut other = answer(7, ACK, &GRANT);
        other[14 + 20 + 8 + 16..][..4].copy_from_slice(&[10, 0, 0, 66]);
        client.hear(due, &other);
        assert_eq!(client.lease().cloned(), lease, "another address than it has");
    }

    #[test]
    fn what_is_not_answered_is_asked_again() {
        let start = Instant::now();
        let mut client = Client::new(MAC, "shell-1", 7, start);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let now = client.next_timeout();
            assert_eq!(kind(client.poll(now)), Some(DISCOVER));
            waits.push((client.next_timeout() - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 16]);
    }

    #[test]
    fn answers_that_are_for_others_or_make_no_sense() {
        let start = Instant::now();
        let mut client = Client::new(MAC, "shell-1", 7, start);
        client.poll(start);
        assert!(!client.hear(start, &answer(8, OFFER, &GRANT)), "another number");
        let whole = answer(7, OFFER, &GRANT);
        for len in 0..whole.len() {
            client.hear(start, &whole[..len]);
            assert!(client.lease().is_none());
        }
        let odd_masks = [[51, 4, 0, 0, 0, 9, 1, 4, 255, 0, 255, 0], [51, 4, 0, 0, 0, 9, 1, 4, 0, 0, 0, 0]];
        for options in odd_masks {
            let mut client = Client::new(MAC, "shell-1", 7, start);
            client.poll(start);
            assert!(client.hear(start, &answer(7, OFFER, &GRANT)) && client.hear(start, &answer(7, ACK, &options)));
            assert_eq!(client.lease(), None);
        }
    }

    #[test]
    fn routes_and_domains() {
        let told = |bytes: &[u8]| {
            let text = |(to, by): &(Ipv4Net, Ipv4Addr)| format!("{to} by {by}");
            routes(bytes).map(|routes| routes.iter().map(text).collect::<Vec<_>>().join(", "))
        };
        assert_eq!(told(&[0, 10, 0, 0, 1]).unwrap(), "0.0.0.0/0 by 10.0.0.1");
        assert_eq!(
            told(&[20, 10, 9, 0xff, 10, 0, 0, 1, 0, 10, 0, 0, 1]).unwrap(),
            "10.9.240.0/20 by 10.0.0.1, 0.0.0.0/0 by 10.0.0.1"
        );
        for cut in [&[33, 1, 1, 1, 1, 1, 1, 1, 1, 1][..], &[24, 10, 0], &[0, 10, 0, 0]] {
            assert_eq!(told(cut), None);
        }
        assert_eq!(domain(b"lab.weft\0").as_deref(), Some("lab.weft"));
        for bad in [&b"a b"[..], b"a\nnameserver 1.2.3.4", b"", &[0xff]] {
            assert_eq!(domain(bad), None);
        }
    }
}
