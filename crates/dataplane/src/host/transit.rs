//! How datagrams and echo requests travel, and what is said about them on their way (Linux, ip(7): `IP_TTL`,
//! `IP_MTU_DISCOVER`, `IP_RECVERR`; ipv6(7) for their twins).

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{c_int, c_void, socklen_t};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use weft_services::nat::{IcmpError, PacketFate, Transit};

use super::DATAGRAM_TURN;

/// How much is kept of a packet that did not arrive: an ICMP header.
const KEPT_BYTES: usize = 8;
/// Who says something, as `sock_extended_err` has it (linux/errqueue.h).
const FROM_HOST: u8 = 1;
const FROM_NETWORK: u8 = 2;
const FROM_NETWORK_V6: u8 = 3;

/// A socket that is told what becomes of its packets.
#[derive(Debug)]
pub(super) struct Traveller {
    pub(super) fd: OwnedFd,
    is_v4: bool,
    transit: Option<Transit>,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Where it should have gone.
    pub(super) to: SocketAddr,
    pub(super) error: IcmpError,
    /// What it began with, behind the IP header and the header of UDP; nothing of a packet that never left.
    pub(super) start: Option<[u8; KEPT_BYTES]>,
}

impl Traveller {
    /// Has the kernel keep what is said to a socket of the family of `to`.
    pub(super) fn new(fd: OwnedFd, to: IpAddr) -> Result<Self, Errno> {
        keep_errors(&fd, to)?;
        Ok(Self { fd, is_v4: to.is_ipv4(), transit: None })
    }

    /// Has the packets from here on travel as the guest's did.
    pub(super) fn travel(&mut self, transit: Transit) -> Result<(), Errno> {
        let old = self.transit.replace(transit);
        if old.map(|old| old.ttl) != Some(transit.ttl) {
            match self.is_v4 {
                true => sockopt::set_ip_ttl(&self.fd, transit.ttl.into())?,
                false => sockopt::set_ipv6_unicast_hops(&self.fd, Some(transit.ttl))?,
            }
        }
        if old.map(|old| old.dont_fragment) != Some(transit.dont_fragment) {
            match (self.is_v4, transit.dont_fragment) {
                (true, true) => sockopt::set_ip_mtu_discover(&self.fd, Ipv4PathMtuDiscovery::DO)?,
                (true, false) => sockopt::set_ip_mtu_discover(&self.fd, Ipv4PathMtuDiscovery::DONT)?,
                (false, true) => sockopt::set_ipv6_mtu_discover(&self.fd, Ipv6PathMtuDiscovery::DO)?,
                // Only its sender cuts a packet of IPv6, and that is this host: to what it knows of the way.
                (false, false) => sockopt::set_ipv6_mtu_discover(&self.fd, Ipv6PathMtuDiscovery::WANT)?,
            }
        }
        Ok(())
    }

    /// What was said, a bounded number of things.
    pub(super) fn reports(&self) -> impl Iterator<Item = Report> {
        std::iter::from_fn(|| self.next_report()).take(DATAGRAM_TURN)
    }

    /// The next thing that was said.
    #[expect(unsafe_code, reason = "a control message that rustix does not know")]
    fn next_report(&self) -> Option<Report> {
        loop {
            let (mut kept, mut control) = ([0u8; KEPT_BYTES], [0u64; 32]);
            // SAFETY: all zeros is an address, and a message without any memory.
            let (mut to, mut message): (libc::sockaddr_in6, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
            let mut room = libc::iovec { iov_base: kept.as_mut_ptr().cast(), iov_len: KEPT_BYTES };
            message.msg_name = (&raw mut to).cast();
            message.msg_namelen = size_of_val(&to) as socklen_t;
            message.msg_iov = &raw mut room;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            // SAFETY: the message names local memory, which outlives the call, with its length.
            let count = unsafe {
                libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
            };
            let count = usize::try_from(count).ok()?; // there is nothing
            let control: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let Some(error) = parse(&control[..control.len().min(message.msg_controllen as _)]) else { continue };
            // Both kinds of address have the port at the same place, and then 4 bytes: one kind's address.
            let ip: IpAddr = match self.is_v4 {
                true => Ipv4Addr::from(to.sin6_flowinfo.to_ne_bytes()).into(),
                false => Ipv6Addr::from(to.sin6_addr.s6_addr).into(),
            };
            let to = SocketAddr::new(ip, u16::from_be(to.sin6_port));
            return Some(Report { to, error, start: (count == KEPT_BYTES).then_some(kept) });
        }
    }
}

/// What the control message beside an error says; `None` when that is nothing for a guest.
fn parse(control: &[u8]) -> Option<IcmpError> {
    let word = |at: usize| control.get(at..at + 4)?.first_chunk::<4>().map(|bytes| c_int::from_ne_bytes(*bytes));
    let level_at = size_of::<usize>();
    let is_v4 = match (word(level_at)?, word(level_at + 4)?) {
        (libc::IPPROTO_IP, libc::IP_RECVERR) => true,
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => false,
        _ => return None,
    };
    // A `sock_extended_err`, and behind it the address of who says it.
    let said = control.get(size_of::<libc::cmsghdr>()..)?;
    let &[_, _, _, _, origin, kind, code, _, i0, i1, i2, i3, ..] = said else { return None };
    let info = u32::from_ne_bytes([i0, i1, i2, i3]);
    match origin {
        FROM_NETWORK => {
            let from = said.get(20..24)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))?;
            Some(IcmpError { from: from.into(), fate: PacketFate::of_message(kind, code, info)? })
        }
        FROM_NETWORK_V6 => {
            let from = said.get(24..40)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))?;
            Some(IcmpError { from: from.into(), fate: PacketFate::of_message_v6(kind, code, info)? })
        }
        FROM_HOST if word(size_of::<libc::cmsghdr>())? == libc::EMSGSIZE => {
            let mtu = u16::try_from(info).unwrap_or(u16::MAX);
            let from = if is_v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            Some(IcmpError { from, fate: PacketFate::TooLong { mtu } })
        }
        _ => None,
    }
}

#[expect(unsafe_code, reason = "a socket option that rustix does not know")]
fn keep_errors(fd: &OwnedFd, to: IpAddr) -> Result<(), Errno> {
    let (level, option) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: c_int = 1;
    // SAFETY: the kernel reads as many bytes of `on` as it is told that there are.
    let code = unsafe {
        let (start, len) = ((&raw const on).cast::<c_void>(), size_of_val(&on) as socklen_t);
        libc::setsockopt(fd.as_raw_fd(), level, option, start, len)
    };
    if code == 0 { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)) }
}

#[cfg(test)]
mod tests {
    use weft_wire::icmpv4::Unreachable;

    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let control = |level: c_int, errno: c_int, origin: u8, kind: u8, code: u8, info: u32| {
            let len = 16 + 16 + 16usize;
            let offender = [2, 0, 0, 0, 192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 0, 0];
            let said = [&errno.to_ne_bytes()[..], &[origin, kind, code, 0], &info.to_ne_bytes(), &[0; 4], &offender];
            [&len.to_ne_bytes()[..], &level.to_ne_bytes(), &libc::IP_RECVERR.to_ne_bytes(), &said.concat()].concat()
        };
        let check = |control: &[u8], expected: Option<(&str, PacketFate)>| {
            let expected = expected.map(|(from, fate)| IcmpError { from: from.parse().unwrap(), fate });
            assert_eq!(parse(control), expected);
        };
        let ip = libc::IPPROTO_IP;
        let router = control(ip, libc::EHOSTUNREACH, FROM_NETWORK, 11, 0, 0);
        check(&router, Some(("192.0.2.9", PacketFate::Expired { code: 0 })));
        let port = PacketFate::Unreachable(Unreachable::PORT);
        check(&control(ip, libc::ECONNREFUSED, FROM_NETWORK, 3, 3, 0), Some(("192.0.2.9", port)));
        let too_long = PacketFate::TooLong { mtu: 1400 };
        check(&control(ip, libc::EMSGSIZE, FROM_NETWORK, 3, 4, 1400), Some(("192.0.2.9", too_long)));
        check(&control(ip, libc::EMSGSIZE, FROM_HOST, 0, 0, 1400), Some(("127.0.0.1", too_long)));
        check(&control(ip, libc::ECONNREFUSED, FROM_HOST, 0, 0, 0), None);
        check(&control(ip, libc::EPROTO, FROM_NETWORK, 12, 0, 0), None);
        check(&control(libc::SOL_SOCKET, libc::EHOSTUNREACH, FROM_NETWORK, 11, 0, 0), None);
        let control_v6 = |errno: c_int, origin: u8, kind: u8, code: u8, info: u32| {
            let len = 16 + 16 + 28usize;
            let address: Ipv6Addr = "2001:db8::9".parse().unwrap();
            let said = [&errno.to_ne_bytes()[..], &[origin, kind, code, 0], &info.to_ne_bytes(), &[0; 4]].concat();
            let offender = [&[10, 0, 0, 0, 0, 0, 0, 0][..], &address.octets(), &[0; 4]].concat();
            let head = [&len.to_ne_bytes()[..], &libc::IPPROTO_IPV6.to_ne_bytes(), &libc::IPV6_RECVERR.to_ne_bytes()];
            [head.concat(), said, offender].concat()
        };
        let hop = control_v6(libc::EHOSTUNREACH, FROM_NETWORK_V6, 3, 0, 0);
        check(&hop, Some(("2001:db8::9", PacketFate::Expired { code: 0 })));
        let port = PacketFate::UnreachableV6(weft_wire::icmpv6::Unreachable::PORT);
        check(&control_v6(libc::ECONNREFUSED, FROM_NETWORK_V6, 1, 4, 0), Some(("2001:db8::9", port)));
        check(&control_v6(libc::EMSGSIZE, FROM_NETWORK_V6, 2, 0, 1400), Some(("2001:db8::9", too_long)));
        check(&control_v6(libc::EMSGSIZE, FROM_HOST, 0, 0, 1400), Some(("::1", too_long)));
        check(&control_v6(libc::EPROTO, FROM_NETWORK_V6, 4, 0, 0), None);
        for len in 0..hop.len() - 4 {
            check(&hop[..len], None);
        }
        for len in 0..router.len() - 8 {
            check(&router[..len], None);
        }
    }
}
