//! Where programs of the host ask for the names of machines: a datagram socket on the host's loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};
use weft_services::Services;
use weft_types::{Instant, Transport};

use super::{DATAGRAM_TURN, HOST_NAMES, open_listener};

/// The port of name servers, where we may have it, and one that everybody may have.
const PORTS: [u16; 2] = [53, 5300];

/// The socket, if there is to be one and the host gives it.
#[derive(Default)]
pub(super) struct HostNames {
    wanted: Option<Ipv4Addr>,
    open: Option<(SocketAddrV4, OwnedFd)>,
    why_not: Option<io::Error>,
}

impl HostNames {
    /// Answers at this address, or nowhere. What is open there already stays so.
    pub(super) fn set(&mut self, epoll: &OwnedFd, address: Option<Ipv4Addr>) {
        if self.wanted == address && self.why_not.is_none() {
            return;
        }
        *self = Self { wanted: address, ..Self::default() };
        let Some(ip) = address.filter(Ipv4Addr::is_loopback) else { return };
        for port in PORTS {
            let socket = SocketAddrV4::new(ip, port);
            let opened = open_listener((Transport::Udp, socket.into())).and_then(|fd| {
                epoll::add(epoll, &fd, EventData::new_u64(HOST_NAMES), EventFlags::IN)?;
                Ok(fd)
            });
            match opened {
                Ok(fd) => {
                    self.open = Some((socket, fd));
                    self.why_not = None;
                    return;
                }
                Err(error) => self.why_not = Some(error),
            }
        }
    }

    /// Where it answers.
    pub(super) fn address(&self) -> Option<SocketAddrV4> {
        self.open.as_ref().map(|(address, _)| *address)
    }

    /// What keeps it from answering.
    pub(super) fn note(&self) -> Option<String> {
        let (ip, error) = (self.wanted?, self.why_not.as_ref()?);
        Some(format!("names of machines cannot be asked for on this host: {ip} has no free port ({error})"))
    }

    /// Answers what is asked.
    pub(super) fn receive(&self, now: Instant, services: &Services, buffer: &mut [u8]) {
        let Some((_, fd)) = &self.open else { return };
        for _ in 0..DATAGRAM_TURN {
            match recvfrom(fd, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _, from)) => {
                    let answer = services.answer_host(now, &buffer[..count]);
                    if let Some((from, answer)) = from.and_then(|from| SocketAddr::try_from(from).ok()).zip(answer) {
                        let _ = sendto(fd, &answer, SendFlags::NOSIGNAL, &from); // who asks asks again
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}
